"""A checkpoint an epoch that holds all a training run needs to go on as if it had never stopped."""

from __future__ import annotations

import csv
import logging
import pickle
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.nn.parallel import DistributedDataParallel

from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.outputs.files import whole_file

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
HISTORY = "history.csv"


class Checkpoint:
    """Saves ``checkpoint.pt`` and ``history.csv`` after each epoch, and loads the former to resume.

    Random states are not in it: each epoch is seeded anew (:class:`~pneumonai.pipeline.training.seeding.EpochSeed`).

    Args:
        folder: of the files.
        trainer: the trainer; its epoch, and its gradient scaler under AMP, are saved.
        evaluator: the validation engine; its best score is saved, so that a resumed run keeps the best weights.
        objects: what else has a state (model, optimizer, lr_scheduler, early_stop), by name.
    """

    def __init__(self, folder: Path, trainer: Engine, evaluator: Engine, objects: Mapping[str, Any]) -> None:
        self.path = folder / CHECKPOINT
        self.trainer = trainer
        self.evaluator = evaluator
        # A wrapped network (DDP) is saved as itself, so that one process can go on where several stopped.
        self.objects = {
            name: item.module if isinstance(item, DistributedDataParallel) else item for name, item in objects.items()
        }
        self.history: list[dict[str, float]] = []
        self._epoch_began = time.perf_counter()
        trainer.add_event_handler(Events.STARTED, self._start_clock)

    def save(self) -> None:
        """Write the state after the epoch that just ended."""
        state = self.trainer.state
        row = {"epoch": state.epoch, "seconds": round(time.perf_counter() - self._epoch_began, 2)}
        self.history.append(row | self._scores(self.trainer) | self._scores(self.evaluator))
        self._start_clock()
        content = {name: item.state_dict() for name, item in self.objects.items()}
        content["trainer"] = {"epoch": state.epoch, "epoch_length": state.epoch_length}
        content["best"] = {"metric": self.evaluator.state.best_metric, "epoch": self.evaluator.state.best_metric_epoch}
        content["history"] = self.history
        scaler = getattr(self.trainer, "scaler", None)
        content["scaler"] = scaler.state_dict() if scaler is not None else None
        with whole_file(self.path) as temporary:
            torch.save(content, temporary)
        self._write_history()

    def _start_clock(self) -> None:
        self._epoch_began = time.perf_counter()

    @staticmethod
    def _scores(engine: Engine) -> dict[str, float]:
        return {name: float(value) for name, value in engine.state.metrics.items() if isinstance(value, (int, float))}

    def _write_history(self) -> None:
        columns = list(dict.fromkeys(name for row in self.history for name in row))
        with (
            whole_file(self.path.with_name(HISTORY)) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.history)

    def load(self) -> None:
        """Take up the state of the last epoch; a run that had reached its last epoch stays as it is.

        Raises:
            BundleError: the checkpoint is of another network or cannot be read.
        """
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            for name, item in self.objects.items():
                item.load_state_dict(content[name])
            state = content["trainer"]
            best, self.history, scaler = content["best"], content["history"], content["scaler"]
        except (RuntimeError, KeyError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise BundleError(
                self.path, f"this checkpoint cannot be resumed ({error})", "start again without --resume"
            ) from None
        last = self.trainer.state.max_epochs
        if state["epoch"] >= last:
            self.end_at_once()
        # One epoch more than it has had, or ignite would not even start.
        self.trainer.load_state_dict({"max_epochs": max(last, state["epoch"] + 1)} | state)
        self.evaluator.state.best_metric = best["metric"]
        self.evaluator.state.best_metric_epoch = best["epoch"]
        if scaler is not None:
            # MONAI makes the scaler as the run starts.
            self.trainer.add_event_handler(
                Events.STARTED, lambda engine: engine.scaler and engine.scaler.load_state_dict(scaler)
            )
        logger.info("resumed after epoch %d from %s", state["epoch"], self.path)

    def end_at_once(self) -> None:
        """Let the run end before an epoch: ignite would start over with one that has no epoch left."""
        logger.info("this run is finished already")
        self.trainer.add_event_handler(Events.STARTED, lambda engine: engine.terminate())
