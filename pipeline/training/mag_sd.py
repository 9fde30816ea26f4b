"""MAG-SD's training step: the images, then what their own attention maps made of them, and one loss of all.

"Multiscale Attention Guided Network for COVID-19 Diagnosis Using Chest X-ray Images", https://arxiv.org/abs/2012.02278,
Fig. 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer, Trainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from pneumonai.networks.losses import SoftDistanceLoss
from pneumonai.transforms.attention_augmentation import GUIDED_AUGMENTATIONS


class GuidedPasses(nn.Module):
    """The passes of one training step as one module, so that ``DistributedDataParallel`` can wrap them.

    A pass of the images gives logits and attention maps; each augmentation makes a batch of the images by these maps;
    one pass of all these batches together gives the auxiliary logits. Both are the network's ``forward_all``, which
    DDP would not see on the network itself, as its hooks live in ``forward``; so wrapped, it runs them once a step.

    Under DDP a network with global pooling in place of attention pooling leaves the attention generator without
    gradients, which needs ``find_unused_parameters``.

    Without augmentations any classifier fits, so that networks without attention train by the same config.

    Args:
        network: its ``forward_all`` gives logits and attention maps, as :class:`pneumonai.networks.nets.MANet`'s.
        augmentations: some of ``mix_up``, ``patching``, ``dimming`` (Table 7); with none the images are all.
        mix_threshold: theta_m, above which a scaled attention map marks the box of mix-up and patching.
        dim_threshold: theta_d, above which it is dimmed.
        gamma: share of the image itself in mix-up.

    Raises:
        ValueError: an augmentation of another name or given twice, or a network without ``forward_all`` that is to
            guide augmentations.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        augmentations: Sequence[str] = tuple(GUIDED_AUGMENTATIONS),
        mix_threshold: float = 0.5,
        dim_threshold: float = 0.5,
        gamma: float = 0.5,
    ) -> None:
        super().__init__()
        self.gives_maps = hasattr(network, "forward_all")
        if augmentations and not self.gives_maps:
            raise ValueError(
                f"the network must give logits and attention maps by forward_all; {type(network).__name__} does not."
            )
        if not {*augmentations} <= {*GUIDED_AUGMENTATIONS} or len({*augmentations}) < len(augmentations):
            raise ValueError(
                f"augmentations must be some of {', '.join(GUIDED_AUGMENTATIONS)}, each once, got {augmentations}."
            )
        options = {
            "mix_up": {"threshold": mix_threshold, "gamma": gamma},
            "patching": {"threshold": mix_threshold},
            "dimming": {"threshold": dim_threshold},
        }
        # Of no one type: forward_all is no part of torch.nn.Module.
        self.network: Any = network
        self.augmentations = [partial(GUIDED_AUGMENTATIONS[name], **options[name]) for name in augmentations]

    def forward(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map ``[B, C, *spatial]`` to logits ``[B, classes]`` and those of K augmentations ``[K, B, classes]``.

        Args:
            images: the batch.
            generator: of the augmentations, on the images' device; None is PyTorch's own.
        """
        logits, maps = self.network.forward_all(images) if self.gives_maps else (self.network(images), None)
        if not self.augmentations:
            return logits, logits.new_empty((0, *logits.shape))
        with torch.no_grad():
            augmented = torch.cat([augment(images, maps, generator) for augment in self.augmentations])
        auxiliary = self.network.forward_all(augmented)[0]
        return logits, auxiliary.unflatten(0, (len(self.augmentations), len(images)))


class MAGSDTrainer(SupervisedTrainer):
    """MONAI's trainer with MAG-SD's step; ``pred`` in its output are the logits of the images themselves.

    The augmentations draw from a generator of the trainer's own, on its device, which each epoch seeds anew from
    PyTorch's. With :class:`~pneumonai.pipeline.training.seeding.EpochSeed` among the handlers a resumed run therefore
    equals an unbroken one, on several processes too.

    ``amp`` is autocast on any device (bfloat16 on a CPU, float16 with a scaled loss on a GPU); the loss is in float32.

    Args:
        device: of the network and of each batch.
        max_epochs: how many.
        train_data_loader: gives dictionaries with ``image`` and ``label``.
        network: :class:`GuidedPasses`, or ``DistributedDataParallel`` of one.
        optimizer: of the network's parameters.
        loss_function: of logits, auxiliary logits and labels.
        options: all else of :class:`monai.engines.SupervisedTrainer` but ``accumulation_steps``, ``compile`` and
            ``inferer``.

    Raises:
        ValueError: another network, or one of these three options.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: SoftDistanceLoss,
        **options: Any,
    ) -> None:
        if not isinstance(getattr(network, "module", network), GuidedPasses):
            raise ValueError(f"the network must be GuidedPasses, or DDP of it, got {type(network).__name__}.")
        unfit = {"accumulation_steps", "compile", "inferer"} & {*options}
        if unfit:
            raise ValueError(f"{', '.join(sorted(unfit))} cannot be combined with the two passes of MAG-SD.")
        super().__init__(
            torch.device(device), max_epochs, train_data_loader, network, optimizer, loss_function, **options
        )
        self.generator = torch.Generator(self.state.device)
        self.add_event_handler(Events.EPOCH_STARTED, self._seed_generator)

    def run(self) -> None:
        """Train; the loss is scaled on a GPU alone."""
        scaled = self.amp and self.state.device.type == "cuda"
        self.scaler = torch.amp.GradScaler("cuda") if scaled else None
        # Past MONAI's own, which makes a scaler for a GPU whatever the device.
        super(Trainer, self).run()

    def _seed_generator(self, engine: Engine) -> None:
        engine.generator.manual_seed(int(torch.randint(2**62, ())))

    def _iteration(self, engine: MAGSDTrainer, batchdata: dict[str, torch.Tensor]) -> Any:
        """One step on one batch; the output's keys are those of MONAI's trainer, a dictionary a sample by default."""
        images, labels = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        output: dict[str, torch.Tensor] = {Keys.IMAGE: images, Keys.LABEL: labels}
        engine.state.output = output
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        # MetaTensor would slow every operation down.
        images, labels = images.as_subclass(torch.Tensor), labels.as_subclass(torch.Tensor)
        with torch.autocast(images.device.type, enabled=engine.amp, **engine.amp_kwargs):
            logits, auxiliary = engine.network(images, engine.generator)
            output[Keys.PRED] = logits.float()
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            loss = engine.loss_function(logits, auxiliary, labels)
            output[Keys.LOSS] = loss
            engine.fire_event(IterationEvents.LOSS_COMPLETED)
        scaler = engine.scaler
        (loss if scaler is None else scaler.scale(loss)).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if scaler is None:
            engine.optimizer.step()
        else:
            scaler.step(engine.optimizer)
            scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        # Not the dictionary above: decollating and postprocessing have put their own in its place.
        return engine.state.output
