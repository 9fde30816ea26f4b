"""MAG-SD's trainer: its step, its extremes, a resumed run against an unbroken one, two processes against one."""

from __future__ import annotations

import runpy
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler
from random_networks import randomise
from torch import nn

from pneumonai.networks.losses import SoftDistanceLoss
from pneumonai.networks.nets import MANet, ResNet
from pneumonai.pipeline.training.mag_sd import GuidedPasses, MAGSDTrainer
from pneumonai.pipeline.training.samplers import EpochSampler
from pneumonai.pipeline.training.seeding import EpochSeed
from pneumonai.pipeline.training.start import prepare_trainer
from pneumonai.transforms.attention_augmentation import GUIDED_AUGMENTATIONS

CPU = torch.device("cpu")

PROCESSES = Path(__file__).with_name("mag_sd_processes.py")


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None:
    """See ``one_thread``."""


def network(**options: Any) -> MANet:
    backbone = ResNet(2, 1, 0, depth=18, base_channels=2)
    return randomise(MANet(2, 1, 3, backbone=backbone, **{"num_attention_maps": 4, **options}))


def pictures(number: int = 6, side: int = 64) -> list[dict[str, Any]]:
    drawn = torch.randn(number, 1, side, side, generator=torch.Generator().manual_seed(2))
    return [{"image": drawn[index], "label": index % 3} for index in range(number)]


def trainer_of(
    passes: nn.Module, items: list[dict[str, Any]], batch_size: int = 4, max_epochs: int = 1, **options: Any
) -> MAGSDTrainer:
    dataset = Dataset(items)
    loader = DataLoader(dataset, batch_size=batch_size, sampler=EpochSampler(dataset, seed=0), num_workers=0)
    optimizer = torch.optim.SGD(passes.parameters(), lr=0.01, momentum=0.9)
    options = {"loss_function": SoftDistanceLoss(), "train_handlers": [EpochSeed(3)], "decollate": False, **options}
    return MAGSDTrainer(
        device=CPU, max_epochs=max_epochs, train_data_loader=loader, network=passes, optimizer=optimizer, **options
    )


def losses_of(trainer: MAGSDTrainer) -> list[float]:
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    return losses


@pytest.mark.parametrize("names", [(), ("mix_up",), ("dimming", "mix_up"), tuple(GUIDED_AUGMENTATIONS)])
def test_passes_by_hand_with_each_augmentation_switched(names: tuple[str, ...]) -> None:
    plain = network()
    sizes: list[int] = []
    plain.backbone.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    plain.register_forward_hook(lambda *_: pytest.fail("forward gives no maps"))
    counted: list[int] = []
    original = plain.forward_all
    plain.forward_all = lambda x: counted.append(len(x)) or original(x)  # type: ignore[method-assign]
    images = torch.randn(2, 1, 64, 64)
    logits, auxiliary = GuidedPasses(plain, augmentations=names)(images, torch.Generator().manual_seed(1))
    assert counted == ([2, 2 * len(names)] if names else [2])
    expected, maps = original(images)
    torch.testing.assert_close(logits, expected)
    assert auxiliary.shape == (len(names), 2, 3)
    generator = torch.Generator().manual_seed(1)
    for name, rows in zip(names, auxiliary, strict=True):
        torch.testing.assert_close(rows, original(GUIDED_AUGMENTATIONS[name](images, maps, generator))[0])


def test_thresholds_and_gamma_reach_the_augmentations() -> None:
    images = torch.randn(2, 1, 64, 64)
    kept = GuidedPasses(network(), mix_threshold=1.0, dim_threshold=1.0)
    logits, auxiliary = kept(images)
    torch.testing.assert_close(auxiliary, logits.expand(3, -1, -1))
    mixed = GuidedPasses(network(), augmentations=["mix_up"], gamma=1.0)
    logits, auxiliary = mixed(images)
    torch.testing.assert_close(auxiliary[0], logits)


def test_a_step_is_that_of_the_optimizer_on_the_loss() -> None:
    items = pictures(4)
    trained, expected = (
        GuidedPasses(network(), augmentations=["dimming"]),
        GuidedPasses(network(), augmentations=["dimming"]),
    )
    trainer = trainer_of(trained, items)
    seen: list[Any] = []
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: seen.extend([engine.state.batch, engine.generator.get_state()])
    )
    (loss,) = losses_of(trainer)
    batch, state = seen
    generator = torch.Generator()
    generator.set_state(state)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.01, momentum=0.9)
    by_hand = SoftDistanceLoss()(*expected.train()(batch["image"], generator), batch["label"])
    by_hand.backward()
    optimizer.step()
    assert loss == pytest.approx(by_hand.item(), rel=1e-6)
    for one, two in zip(trained.state_dict().values(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two)
    assert {*trainer.state.output} == {"image", "label", "pred", "loss"}
    assert trainer.state.output["pred"].shape == (4, 3)


def test_the_output_is_decollated_and_postprocessed_as_monais() -> None:
    from ignite.metrics import Accuracy
    from monai.handlers import from_engine
    from monai.transforms import Activationsd

    trainer = trainer_of(
        GuidedPasses(network()),
        pictures(4),
        decollate=True,
        postprocessing=Activationsd("pred", softmax=True),
        key_train_metric={"train_accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
        additional_metrics={"train_loss": Average(output_transform=from_engine(["loss"], first=True))},
    )
    (loss,) = losses_of_batches(trainer)
    assert [one["pred"].sum().item() for one in trainer.state.output] == pytest.approx([1.0] * 4)
    assert trainer.state.metrics["train_loss"] == pytest.approx(loss)
    assert 0 <= trainer.state.metrics["train_accuracy"] <= 1


def losses_of_batches(trainer: MAGSDTrainer) -> list[float]:
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output[0]["loss"]))
    )
    trainer.run()
    return losses


def test_networks_without_attention_train_by_the_plain_loss() -> None:
    plain = randomise(ResNet(2, 1, 3, depth=18, base_channels=2))
    trainer = trainer_of(GuidedPasses(plain, augmentations=[]), pictures(4))
    seen: list[Any] = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output))
    (loss,) = losses_of(trainer)
    expected = nn.functional.cross_entropy(seen[0]["pred"], seen[0]["label"])
    assert loss == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["soft_distance", "l2"])
@pytest.mark.parametrize("case", ["one picture", "one class", "no attention", "bfloat16"])
def test_extremes_train_without_nan(case: str, kind: str) -> None:
    passes = GuidedPasses(network())
    items = pictures(1 if case == "one picture" else 4)
    if case == "one class":
        items = [item | {"label": 1} for item in items]
    if case == "no attention":
        for branch in passes.network.generator.branches:
            branch[1].weight.data.zero_()
            branch[1].bias.data.fill_(-1)
        assert passes.network.attention_maps(torch.randn(2, 1, 64, 64))[0].abs().max() == 0
    trainer = trainer_of(passes, items, max_epochs=3, amp=case == "bfloat16", loss_function=SoftDistanceLoss(kind))
    losses = losses_of(trainer)
    assert len(losses) == 3
    assert torch.isfinite(torch.tensor(losses)).all()
    for name, value in passes.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert value.dtype in (torch.float32, torch.int64), name
    assert trainer.state.output["pred"].dtype == torch.float32


def test_bfloat16_comes_close_to_float32() -> None:
    losses = [losses_of(trainer_of(GuidedPasses(network()), pictures(4), amp=amp))[0] for amp in (False, True)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


class Killed(Exception):
    """The run stops like a kill, right after an epoch's checkpoint."""


def train(folder: Path, *, resume: bool = False, stop_after: int | None = None) -> tuple[MANet, list[float]]:
    """Four epochs, or up to a stop; the network and the losses of each step."""
    torch.manual_seed(0)
    plain = network()
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=DataLoader(Dataset(pictures(2)), batch_size=2),
        network=plain,
        key_val_metric={"val_mean": Average(output_transform=lambda output: output[0]["pred"].mean())},
    )
    trainer = trainer_of(
        GuidedPasses(plain), pictures(), 3, 4, train_handlers=[EpochSeed(3), ValidationHandler(1, evaluator)]
    )
    losses: list[float] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    prepare_trainer(trainer, evaluator, folder, patience=9, resume=resume, model=plain, optimizer=trainer.optimizer)

    def kill(engine: Engine) -> None:
        if engine.state.epoch == stop_after:
            raise Killed

    trainer.add_event_handler(Events.EPOCH_COMPLETED, kill)
    with suppress(Killed):
        trainer.run()
    return plain, losses


def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, losses = train(tmp_path / "unbroken")
    _, first = train(tmp_path / "broken", stop_after=2)
    torch.rand(5)
    resumed, second = train(tmp_path / "broken", resume=True)
    assert len(losses) == 8
    assert first + second == losses
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, unbroken.state_dict()[name]), name


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, str(PROCESSES), str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    one = runpy.run_path(str(PROCESSES))["steps"](frozen=True)
    for process in started:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error[-2000:]
    # Batch statistics differ between halves and the whole, so only frozen ones compare; the others must just train.
    two, batchwise = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("frozen", "batchwise"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)
        assert torch.isfinite(batchwise[name]).all(), name


def test_bad_arguments_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="augmentations must be some of mix_up, patching, dimming, each once"):
        GuidedPasses(network(), augmentations=["cutout"])
    with pytest.raises(ValueError, match="each once, got"):
        GuidedPasses(network(), augmentations=["mix_up", "mix_up"])
    with pytest.raises(ValueError, match="by forward_all; Identity does not"):
        GuidedPasses(nn.Identity())
    with pytest.raises(ValueError, match="the network must be GuidedPasses, or DDP of it, got MANet"):
        trainer_of(network(), pictures())
    with pytest.raises(ValueError, match="accumulation_steps cannot be combined"):
        trainer_of(GuidedPasses(network()), pictures(), accumulation_steps=2)
