"""Teacher and student in turn: whose gradients, which statistics, exact resume, two processes as one.

Run as a script (``test_alternating.py OUTPUT BATCH_SIZE``, under torchrun) it is one training of the last
test, on a network without batch statistics.
"""

from __future__ import annotations

import copy
import csv
import math
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.metrics import Accuracy, Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler, ValidationHandler, from_engine
from monai.transforms import Activationsd, RandFlipd
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pneumonai.networks.losses import DiscriminativeCosineLoss, JensenShannonLoss, learning_rate_ramp, ramp_up
from pneumonai.networks.nets import AttentionTransferNet
from pneumonai.pipeline.training.alternating import AlternatingTrainer, TransferUpdate
from pneumonai.pipeline.training.distributed import end_process_group, start_process_group
from pneumonai.pipeline.training.samplers import EpochSampler
from pneumonai.pipeline.training.seeding import EpochSeed
from pneumonai.pipeline.training.start import prepare_trainer

# MONAI's trainer makes a scaler that a CPU has no use for, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning", "ignore:.*GradScaler:UserWarning")

EPOCHS = 4
OPTIMIZERS = {"adam": (torch.optim.Adam, {"lr": 1e-3, "betas": (0.5, 0.999)}), "sgd": (torch.optim.SGD, {"lr": 1e-3})}


def small_network() -> AttentionTransferNet:
    torch.manual_seed(0)
    return AttentionTransferNet(2, 1, 2, growth_rate=4, block_config=(1, 2))


def without_statistics(network: nn.Module) -> None:
    """Group normalisation in place of batch normalisation."""
    for name, module in network.named_children():
        if isinstance(module, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(1, module.num_features))
        else:
            without_statistics(module)


def items(number: int, seed: int) -> list[dict[str, Any]]:
    """Noise, brighter on one side by the class."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index in range(number):
        image = torch.randn(1, 32, 32, generator=generator)
        image[:, :, 16:] += 2 * (index % 2)
        found.append({"image": image, "label": index % 2, "patient_id": f"{seed}-{index}"})
    return found


class Training:
    """A trainer as a bundle's config builds it, prepared to save and to resume."""

    def __init__(
        self,
        folder: Path,
        *,
        network: AttentionTransferNet | None = None,
        batch_size: int = 4,
        optimizer: str = "adam",
        flips: bool = True,
        amp: bool = False,
        handlers: list[Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.network = small_network() if network is None else network
        assert self.network.teacher is not None
        parts = {"teacher": self.network.teacher, "student": self.network.student}
        updates: dict[str, nn.Module] = {name: TransferUpdate(self.network, name) for name in parts}  # type: ignore[arg-type]
        if dist.is_initialized():
            updates = {name: DistributedDataParallel(update) for name, update in updates.items()}
        make, options = OPTIMIZERS[optimizer]
        optimizers = {name: make(part.parameters(), **options) for name, part in parts.items()}
        ramps = {
            name: torch.optim.lr_scheduler.LambdaLR(item, lambda epoch: learning_rate_ramp(epoch, EPOCHS))
            for name, item in optimizers.items()
        }
        data = Dataset(items(12, 1), RandFlipd("image", prob=0.5, spatial_axis=0) if flips else None)
        loader = DataLoader(data, batch_size=batch_size, sampler=EpochSampler(data, seed=3))
        accuracy = from_engine(["pred", "label"])
        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=DataLoader(Dataset(items(6, 2)), batch_size=6),
            network=self.network,
            key_val_metric={"val_accuracy": Accuracy(accuracy)},
            postprocessing=Activationsd("pred", softmax=True),
        )
        self.trainer = AlternatingTrainer(
            device="cpu",
            max_epochs=EPOCHS,
            train_data_loader=loader,
            teacher=updates["teacher"],
            student=updates["student"],
            teacher_optimizer=optimizers["teacher"],
            student_optimizer=optimizers["student"],
            teacher_loss=DiscriminativeCosineLoss(parts["teacher"].classifier.weight),
            student_loss=DiscriminativeCosineLoss(parts["student"].classifier.weight),
            transfer_loss=JensenShannonLoss(),
            transfer_weight=lambda epoch: ramp_up(epoch, EPOCHS / 2),
            key_train_metric={"train_accuracy": Accuracy(accuracy)},
            additional_metrics={
                "train_loss": Average(from_engine(["loss"], first=True)),
                "teacher_loss": Average(from_engine(["teacher_loss"], first=True)),
            },
            postprocessing=Activationsd("pred", softmax=True),
            amp=amp,
            train_handlers=[
                EpochSeed(3),
                *(LrScheduleHandler(ramp, print_lr=False) for ramp in ramps.values()),
                ValidationHandler(1, self.evaluator, epoch_level=True),
                *(handlers or []),
            ],
        )
        states: dict[str, Any] = {f"{name}_optimizer": item for name, item in optimizers.items()}
        states |= {f"{name}_lr_scheduler": item for name, item in ramps.items()}
        prepare_trainer(self.trainer, self.evaluator, folder, patience=50, resume=resume, model=self.network, **states)

    def run(self, stop_after: int | None = None) -> AttentionTransferNet:
        """Train; a stop comes like a kill, right after an epoch's checkpoint."""
        if stop_after is not None:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), _kill)
        with suppress(KeyboardInterrupt):
            self.trainer.run()
        return self.network


def _kill(engine: Engine) -> None:
    raise KeyboardInterrupt


class CpuScaler:
    """A gradient scaler that scales on a CPU too, and grows every second step."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        engine.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)  # type: ignore[attr-defined]


def states_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


def history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None:
    """See ``one_thread``."""


def test_one_step_is_two_updates_in_turn(tmp_path: Path) -> None:
    """By hand: the teacher on its loss; the student on the new teacher's maps and answer, in eval mode."""
    training = Training(tmp_path, optimizer="sgd", flips=False)
    network = copy.deepcopy(training.network)
    assert network.teacher is not None
    batches: list[Any] = []
    training.trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: batches.append(engine.state.batch))
    training.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=1), _kill)
    trained = training.run()

    images, labels = batches[0]["image"], batches[0]["label"]
    rate = 1e-3 * math.exp(-5)
    loss = DiscriminativeCosineLoss(network.teacher.classifier.weight)(network.teacher.train()(images), labels)
    step(network.teacher, loss, rate)
    network.teacher.eval()
    answer = network.forward_all(images)
    loss = DiscriminativeCosineLoss(network.student.classifier.weight)(answer.student, labels)
    transfer = JensenShannonLoss()(answer.student, answer.teacher.detach())
    step(network.student, loss + math.exp(-5) * transfer, rate)
    assert largest_difference(states_of(trained), states_of(network)) < 1e-6
    counts = {int(tensor) for name, tensor in trained.state_dict().items() if name.endswith("num_batches_tracked")}
    assert counts == {1}


def step(part: nn.Module, loss: torch.Tensor, rate: float) -> None:
    parameters = list(part.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.data -= rate * gradient


def test_the_output_has_both_answers_and_all_losses(tmp_path: Path) -> None:
    training = Training(tmp_path)
    seen: list[Any] = []
    training.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output))
    training.run(stop_after=1)
    first = seen[0][0]
    assert len(seen) == 3
    assert len(seen[0]) == 4
    assert first["pred"].shape == first["teacher_pred"].shape == (2,)
    assert first["pred"].sum().item() == pytest.approx(1)  # postprocessed
    assert 0 <= first["transfer_loss"] <= math.log(2) + 1e-6
    assert {row["epoch"] for row in history(tmp_path)} == {1}
    assert {"train_loss", "teacher_loss", "train_accuracy", "val_accuracy"} <= history(tmp_path)[0].keys()


@pytest.mark.parametrize("amp", [False, True])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, amp: bool) -> None:
    options: dict[str, Any] = {"amp": amp}

    def scaler() -> list[Any]:
        return [CpuScaler()] if amp else []

    unbroken = Training(tmp_path / "unbroken", handlers=scaler(), **options).run()
    before = states_of(small_network())
    Training(tmp_path / "broken", handlers=scaler(), **options).run(stop_after=2)
    assert [row["epoch"] for row in history(tmp_path / "broken")] == [1, 2]
    resumed = Training(tmp_path / "broken", handlers=scaler(), resume=True, **options).run()
    assert largest_difference(states_of(unbroken), states_of(resumed)) <= 1e-6
    assert largest_difference(states_of(unbroken.student), states_of(resumed.student)) <= 1e-6
    assert largest_difference(before, states_of(resumed)) > 1e-3
    for row, expected in zip(history(tmp_path / "broken"), history(tmp_path / "unbroken"), strict=True):
        assert row == pytest.approx(expected, abs=1e-5)
    saved = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("unbroken", "broken")]
    for part in ("teacher_optimizer", "student_optimizer"):
        one, other = (content[part]["state"] for content in saved)
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[k]["exp_avg"], other[k]["exp_avg"], atol=1e-6, rtol=0) for k in one)
        assert {int(state["step"]) for state in one.values()} == {12}
    assert saved[0]["scaler"] == saved[1]["scaler"]


def test_the_gradient_scaler_is_in_the_checkpoint(tmp_path: Path) -> None:
    Training(tmp_path, amp=True, handlers=[CpuScaler()]).run(stop_after=1)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["scaler"]
    # Three steps, one update of the scaler each, grown after the second.
    assert state["scale"] == 16.0
    assert state["_growth_tracker"] == 1


def test_bfloat16_trains_close_to_float32(tmp_path: Path) -> None:
    losses = []
    for amp in (False, True):
        Training(tmp_path / str(amp), amp=amp, flips=False).run(stop_after=1)
        losses.append(history(tmp_path / str(amp))[0]["train_loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.2)


def test_an_update_has_its_part_s_parameters_alone() -> None:
    network = small_network()
    update = TransferUpdate(network, "student")
    assert {id(p) for p in update.parameters()} == {id(p) for p in network.student.parameters()}
    assert network.teacher is not None
    network.train()
    update.eval()
    assert network.teacher.training
    assert not network.student.training


def test_bad_parts_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="part must be teacher or student, got 'pupil'"):
        TransferUpdate(small_network(), "pupil")  # type: ignore[arg-type]
    alone = AttentionTransferNet(2, 1, 2, growth_rate=4, block_config=(1, 1), transfer=False)
    with pytest.raises(ValueError, match="no teacher to update in turn"):
        TransferUpdate(alone, "teacher")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # Standalone takes a port that is free: other tests may be at work beside this one.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*torchrun, __file__, str(tmp_path / "two"), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    train_plainly(tmp_path / "one", 4)
    rows = [history(tmp_path / name) for name in ("two", "one")]
    assert len(rows[0]) == EPOCHS
    for two, one in zip(*rows, strict=True):
        assert two == pytest.approx(one, abs=1e-6)
    networks = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("two", "one")]
    assert largest_difference(*networks) < 1e-6
    fresh = small_network()
    without_statistics(fresh)
    assert largest_difference(networks[0], fresh.state_dict()) > 1e-3


def train_plainly(folder: Path, batch_size: int) -> None:
    """A training in float64 without what draws other numbers in each process.

    The loss's scale of 64 makes rounding grow from step to step; Adam makes steps of gradients that are rounding alone.
    """
    torch.set_default_dtype(torch.float64)
    try:
        plain = small_network()
        without_statistics(plain)
        Training(folder, network=plain, batch_size=batch_size, optimizer="sgd", flips=False).run()
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    start_process_group()
    train_plainly(Path(sys.argv[1]), int(sys.argv[2]))
    end_process_group()
