"""Training teacher and student in turn: each step updates the teacher, then the student on what the teacher says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from ignite.metrics import Metric
from monai.engines.trainer import Trainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn, default_prepare_batch
from monai.transforms import Transform
from monai.utils.enums import CommonKeys
from torch import nn
from torch.optim.optimizer import Optimizer

from pneumonai.networks.nets.attention_transfer import AttentionTransferNet, AttentionTransferOutput

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class TransferUpdate(nn.Module):
    """Teacher or student of a network as the module that one optimizer updates; its ``forward`` is ``forward_all``.

    It has the parameters and buffers of that part alone, so that ``DistributedDataParallel`` around it, whose hooks
    live in ``forward``, waits for no others; and ``train()`` and ``eval()`` concern that part alone.

    Args:
        network: the network with both.
        part: ``teacher`` or ``student``.

    Raises:
        ValueError: another word, or a network without transfer.
    """

    def __init__(self, network: AttentionTransferNet, part: Literal["teacher", "student"]) -> None:
        super().__init__()
        if part not in ("teacher", "student"):
            raise ValueError(f"part must be teacher or student, got {part!r}.")
        if network.teacher is None:
            raise ValueError(
                "a network without transfer has no teacher to update in turn; train it with SupervisedTrainer."
            )
        self.part: nn.Module = network.teacher if part == "teacher" else network.student
        self.trained: Literal["teacher", "student"] = part
        # In a tuple, which hides the other part from DDP.
        self._network = (network,)

    def forward(self, images: torch.Tensor) -> AttentionTransferOutput:
        """Images ``[B, C, H, W]`` -> all that the update of this part needs."""
        return self._network[0].forward_all(images, trained=self.trained)


class AlternatingTrainer(Trainer):
    """MONAI's trainer for attention transfer: two updates a step, each by its own loss and optimizer.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III.C, eq. 8::

        teacher    teacher_loss
        student    student_loss + transfer_weight(epochs done) * transfer_loss(student, teacher)

    The student's update runs the teacher once more, after its update and without gradient. While one part is updated
    the other is in eval mode: its statistics move once a step, and the student learns on the very maps that it will
    be given later. (Settles what the paper leaves open.)

    ``engine.state.output`` has ``image``, ``label``, ``pred`` (the student's logits), ``loss`` (the student's), and
    ``teacher_pred``, ``teacher_loss``, ``transfer_loss``. MONAI's iteration events are those of the student's update.

    Mixed precision is ``SupervisedTrainer``'s, with one gradient scaler for both optimizers; on a CPU it is bfloat16,
    which needs no scaling.

    Args:
        device: where to run.
        max_epochs: how many.
        train_data_loader: of the training items.
        teacher: :class:`TransferUpdate` of the teacher, or DDP around it.
        student: of the student.
        teacher_optimizer: of the teacher's parameters.
        student_optimizer: of the student's.
        teacher_loss: logits ``[B, K]`` and class indices ``[B]`` to a scalar.
        student_loss: of the student; another object where it holds the classifier's weights.
        transfer_loss: student's and teacher's logits to a scalar.
        transfer_weight: epochs done to the weight of ``transfer_loss``.
        epoch_length: iterations an epoch; that of the loader when None.
        non_blocking: of the transfer to the device.
        prepare_batch: batch to images and labels.
        postprocessing: of the output's items.
        key_train_metric: as ``SupervisedTrainer`` has it, as are the arguments below.
        additional_metrics: as there.
        metric_cmp_fn: as there.
        train_handlers: as there.
        amp: mixed precision.
        decollate: as there.
        optim_set_to_none: as there.
        to_kwargs: as there.
        amp_kwargs: of ``torch.autocast``.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        teacher: nn.Module,
        student: nn.Module,
        teacher_optimizer: Optimizer,
        student_optimizer: Optimizer,
        teacher_loss: Loss,
        student_loss: Loss,
        transfer_loss: Loss,
        transfer_weight: Callable[[int], float],
        *,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        postprocessing: Transform | None = None,
        key_train_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        metric_cmp_fn: Callable[[Any, Any], bool] = default_metric_cmp_fn,
        train_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        decollate: bool = True,
        optim_set_to_none: bool = False,
        to_kwargs: dict[str, Any] | None = None,
        amp_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            handlers=train_handlers,
            amp=amp,
            decollate=decollate,
            to_kwargs=to_kwargs,
            amp_kwargs=amp_kwargs,
        )
        self.teacher = teacher
        self.student = student
        self.teacher_optimizer = teacher_optimizer
        self.student_optimizer = student_optimizer
        self.teacher_loss = teacher_loss
        self.student_loss = student_loss
        self.transfer_loss = transfer_loss
        self.transfer_weight = transfer_weight
        self.optim_set_to_none = optim_set_to_none

    def _iteration(self, engine: AlternatingTrainer, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        """One update of each part; see the class for what is returned."""
        images, labels = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        output: dict[str, Any] = {CommonKeys.IMAGE: images, CommonKeys.LABEL: labels}
        engine.state.output = output

        engine.student.eval()
        engine.teacher.train()
        engine.teacher_optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with engine._autocast():
            output["teacher_loss"] = engine.teacher_loss(engine.teacher(images).teacher, labels)
        engine._step(output["teacher_loss"], engine.teacher_optimizer)

        engine.teacher.eval()
        engine.student.train()
        engine.student_optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with engine._autocast():
            answer = engine.student(images)
            output[CommonKeys.PRED], output["teacher_pred"] = answer.student, answer.teacher
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            output["transfer_loss"] = engine.transfer_loss(answer.student, answer.teacher)
            weight = engine.transfer_weight(engine.state.epoch - 1)
            output[CommonKeys.LOSS] = engine.student_loss(answer.student, labels) + weight * output["transfer_loss"]
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
        engine._step(output[CommonKeys.LOSS], engine.student_optimizer, IterationEvents.BACKWARD_COMPLETED)
        if engine.scaler is not None:
            engine.scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        # What decollation and postprocessing left there.
        result: dict[str, Any] = engine.state.output
        return result

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, enabled=self.amp, **self.amp_kwargs)

    def _step(self, loss: torch.Tensor, optimizer: Optimizer, completed: IterationEvents | None = None) -> None:
        """Backward pass and optimizer step; ``completed`` is fired between them."""
        if self.scaler is None:
            loss.backward()
        else:
            self.scaler.scale(loss).backward()
        if completed is not None:
            self.fire_event(completed)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
