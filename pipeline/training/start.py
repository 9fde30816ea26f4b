"""What a training run needs around MONAI's trainer: starting weights, a checkpoint every epoch, early stop, resume.

These hold on to the trainer itself, which a config cannot name inside the trainer's own handlers (a circle), so the
train configs call :func:`prepare_trainer` in their ``run`` list, right before ``trainer.run()``.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from pneumonai.networks.pretrained import load_imagenet_weights
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.training.checkpoint import Checkpoint
from pneumonai.pipeline.training.memory import keep_freed_memory
from pneumonai.pipeline.weights import load_weights

logger = logging.getLogger(__name__)

RECORD = "training.json"


def starting_network(
    network: torch.nn.Module, pretrained: str | Path | None, imagenet: str | Path | None = None
) -> torch.nn.Module:
    """The network with the weights that training starts from; the log says which.

    Args:
        network: fresh network.
        pretrained: path of a weights file of this network, or None. Where it was trained for another number of
            classes, the last layer starts from random weights.
        imagenet: path of ImageNet weights for it or for its backbone
            (:func:`pneumonai.networks.pretrained.load_imagenet_weights`), where ``pretrained`` is None.
    """
    if pretrained is not None:
        logger.info("training starts from the weights in %s", pretrained)
        return load_weights(network, pretrained, other_classes=True)
    if imagenet is not None:
        fresh = load_imagenet_weights(network, imagenet)
        logger.info("training starts from the ImageNet weights in %s; %d parameters are random", imagenet, len(fresh))
        return network
    logger.info("training starts from random weights")
    return network


def prepare_trainer(
    trainer: Engine,
    evaluator: Engine,
    output_dir: str | Path,
    *,
    patience: int,
    resume: bool,
    record: Mapping[str, Any] | None = None,
    **objects: Any,
) -> None:
    """Give a trainer its checkpoint an epoch and its early stop, and load the last checkpoint to resume.

    On a CPU the process keeps the memory that a step frees
    (:func:`pneumonai.pipeline.training.memory.keep_freed_memory`).

    Args:
        trainer: the trainer.
        evaluator: the validation engine; its key metric decides on the best epoch and the early stop.
        output_dir: folder of ``checkpoint.pt``, ``history.csv`` and ``training.json``.
        patience: epochs without a better key metric after which training stops.
        resume: go on from ``checkpoint.pt``, where there is one.
        record: what ``training.json`` says of the run, for :func:`pneumonai.pipeline.derive.derive_bundle`: the
            bundle, the class names and the changes to its inference config.
        objects: what has a state (model, optimizer, lr_scheduler), by name.

    Raises:
        BundleError: where the checkpoint is of another network or cannot be read.
    """
    if torch.device(trainer.state.device).type == "cpu":
        keep_freed_memory()
    folder = Path(output_dir)
    key_metric = evaluator.state.key_metric_name
    stop = EarlyStopping(patience, lambda engine: engine.state.metrics[key_metric], trainer)
    checkpoint = Checkpoint(folder, trainer, evaluator, objects | {"early_stop": stop})
    if resume and checkpoint.path.exists():
        checkpoint.load()
        if stop.counter >= patience:
            checkpoint.end_at_once()
    evaluator.add_event_handler(Events.COMPLETED, stop)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, _refuse_infinite_loss)
    if not dist.is_initialized() or dist.get_rank() == 0:
        write_bytes(folder / RECORD, (json.dumps(_absolute(record or {}), indent=2) + "\n").encode())
        trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint.save)


def recorded_change(weights: str | Path, name: str) -> Any:
    """What the training behind a weights file changed in its bundle's inference config, by its ``training.json``.

    Args:
        weights: the file; a training's record lies beside it.
        name: id in the inference config.

    Returns:
        The value, or None where no record lies there or it says nothing of that id: the bundle's own then holds.

    Raises:
        BundleError: the record cannot be read.
    """
    path = Path(weights).with_name(RECORD)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("inference_changes", {}).get(name)
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(path, f"cannot be read ({error})", "train again") from None


def _absolute(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with paths that hold from anywhere."""
    paths = ("bundle_root", "datalist", "pretrained")
    return dict(record) | {key: str(Path(record[key]).absolute()) for key in paths if record.get(key)}


def _refuse_infinite_loss(trainer: Engine) -> None:
    loss = trainer.state.metrics.get("train_loss", 0.0)
    if not math.isfinite(loss):
        raise BundleError(
            "training", f"the loss is {loss} in epoch {trainer.state.epoch}", "lower the learning rate, check the data"
        )
