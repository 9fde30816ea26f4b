"""Ignite handlers that the bundles' configs name: explanations, compact weights, progress."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pneumonai.pipeline.weights import save_compact


class ExplanationHandler:
    """Puts ``heat_map`` beside ``pred`` in the engine's output, before the postprocessing inverts both.

    Args:
        explainer: images ``[B, C, *spatial]`` -> heat map ``[B, 1, *spatial]`` in 0..1.
    """

    def __init__(self, explainer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.explainer = explainer

    def attach(self, engine: Engine) -> None:
        """Explain after each forward pass."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Explain the batch that just went through the network."""
        engine.state.output["heat_map"] = self.explainer(engine.state.output["image"])


class BestWeights:
    """Writes the weights as they ship (float16 convolutions) whenever validation finds them the best so far.

    Attached to the validation engine, which remembers its best score and epoch (a resumed run knows them too).

    Args:
        network: the network; a wrapped one (DDP) is saved as itself.
        path: the weights file, ``output_dir/model.pt``.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path) -> None:
        self.network = network
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Look after each validation."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Write the file where this epoch is the best one."""
        if engine.state.best_metric_epoch == engine.state.epoch:
            network = getattr(self.network, "module", self.network)
            save_compact(network.state_dict(), self.path)


class ProgressHandler:
    """A progress bar over the iterations of an epoch on stderr; silent where stderr is no terminal.

    Args:
        label: what is going on, as "training".
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self._progress: Progress | None = None

    def attach(self, engine: Engine) -> None:
        """One bar an epoch; nothing is drawn with ``PNEUMONAI_PROGRESS=0``."""
        if os.environ.get("PNEUMONAI_PROGRESS", "1") == "0":
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED | Events.EXCEPTION_RAISED, self._stop)

    def _start(self, engine: Engine) -> None:
        from rich.console import Console

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._progress.start()
        epoch = f"{self.label}, epoch {engine.state.epoch} of {engine.state.max_epochs}"
        self._task = self._progress.add_task(epoch, total=engine.state.epoch_length)

    def _step(self, engine: Engine) -> None:
        if self._progress is not None:
            self._progress.advance(self._task)

    def _stop(self, engine: Engine, *_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
