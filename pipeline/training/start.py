"""What a training run needs around MONAI's trainer: starting weights, a checkpoint every epoch, early stop, resume.

These hold on to the trainer itself, which a config cannot name inside the trainer's own handlers (a circle), so the
train configs call :func:`prepare_trainer` in their ``run`` list, right before ``trainer.run()``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.handlers import EarlyStopHandler

from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.weights import load_weights

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


def starting_network(network: torch.nn.Module, pretrained: str | Path | None) -> torch.nn.Module:
    """The network with the weights that training starts from; the log says which.

    Args:
        network: fresh network.
        pretrained: path of a weights file, or None for random weights.
    """
    if pretrained is None:
        logger.info("training starts from random weights")
        return network
    logger.info("training starts from the weights in %s", pretrained)
    return load_weights(network, pretrained)


def prepare_trainer(
    trainer: Engine,
    evaluator: Engine,
    output_dir: str | Path,
    *,
    patience: int,
    resume: bool,
    **objects: Any,
) -> None:
    """Give a trainer its checkpoint an epoch and its early stop, and load the last checkpoint to resume.

    Args:
        trainer: the trainer; its own state is saved with ``objects``.
        evaluator: the validation engine; its best score is saved too, so that a resumed run keeps the best weights.
        output_dir: folder of ``checkpoint.pt``.
        patience: epochs without a better key metric after which training stops.
        resume: go on from ``checkpoint.pt``, where there is one.
        objects: what else has a state (model, optimizer, lr_scheduler), by name.

    Raises:
        BundleError: where the checkpoint is of another network or cannot be read.
    """
    path = Path(output_dir) / CHECKPOINT
    path.parent.mkdir(parents=True, exist_ok=True)
    # A wrapped network (DDP) is saved as itself, so that one process can go on where several stopped.
    objects = {name: getattr(item, "module", item) for name, item in objects.items()}
    key_metric = evaluator.state.key_metric_name
    stop = EarlyStopHandler(
        patience=patience,
        score_function=lambda engine: engine.state.metrics[key_metric],
        trainer=trainer,
        epoch_level=True,
    )
    stop.attach(evaluator)
    if resume and path.exists():
        _load_checkpoint(path, trainer, evaluator, objects)
    if not dist.is_initialized() or dist.get_rank() == 0:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, _save_checkpoint, path, evaluator, objects)


def _save_checkpoint(trainer: Engine, path: Path, evaluator: Engine, objects: dict[str, Any]) -> None:
    content = {name: item.state_dict() for name, item in objects.items()}
    content["trainer"] = {"epoch": trainer.state.epoch, "epoch_length": trainer.state.epoch_length}
    content["best"] = {"metric": evaluator.state.best_metric, "epoch": evaluator.state.best_metric_epoch}
    content["random_state"] = torch.get_rng_state()
    with whole_file(path) as temporary:
        torch.save(content, temporary)


def _load_checkpoint(path: Path, trainer: Engine, evaluator: Engine, objects: dict[str, Any]) -> None:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        for name, item in objects.items():
            item.load_state_dict(content[name])
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        raise BundleError(
            path, f"this checkpoint cannot be resumed ({error})", "start again without --resume"
        ) from None
    trainer.load_state_dict({"max_epochs": trainer.state.max_epochs} | content["trainer"])
    evaluator.state.best_metric = content["best"]["metric"]
    evaluator.state.best_metric_epoch = content["best"]["epoch"]
    torch.set_rng_state(content["random_state"])
    logger.info("resumed after epoch %d from %s", trainer.state.epoch, path)
