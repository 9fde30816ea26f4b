"""Ignite handlers that the bundles' configs name: explanations, predictions and scores, compact weights, progress."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.outputs.files import whole_file, write_bytes
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


class PredictionsWriter:
    """Writes ``predictions.csv`` (``image, patient_id, label, pred, p_CLASS...``) and, with labels, ``metrics.json``.

    Args:
        output_dir: folder of the files; made where missing.
        class_names: names of the classes in index order.
        metrics: write ``metrics.json`` too; needs a label at every item.
    """

    def __init__(self, output_dir: str | Path, class_names: Sequence[str], *, metrics: bool = False) -> None:
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.metrics = metrics
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Collect after each batch, write at the end."""
        engine.add_event_handler(Events.STARTED, lambda: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            probabilities = output["pred"].flatten().tolist()
            label = item.get("label")
            self._rows.append(
                {
                    "image": _source(item["image"]),
                    "patient_id": item.get("patient_id", ""),
                    "label": "" if label is None else self.class_names[int(label)],
                    "pred": self.class_names[max(range(len(probabilities)), key=probabilities.__getitem__)],
                }
                | {f"p_{name}": p for name, p in zip(self.class_names, probabilities, strict=True)}
            )

    def _write(self) -> None:
        columns = ["image", "patient_id", "label", "pred", *map("p_{}".format, self.class_names)]
        with (
            whole_file(self.output_dir / "predictions.csv") as path,
            path.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)
        if self.metrics:
            self._write_metrics()

    def _write_metrics(self) -> None:
        patients = [row["patient_id"] for row in self._rows]
        report = classification_report(
            [self.class_names.index(row["label"]) for row in self._rows],
            np.array([[row[f"p_{name}"] for name in self.class_names] for row in self._rows]),
            self.class_names,
            patient_ids=patients if all(patients) else None,
        )
        write_bytes(self.output_dir / "metrics.json", (json.dumps(report, indent=2) + "\n").encode())


def _source(image: Any) -> str:
    """The file that an item came from, where the tensor still knows it."""
    return str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""


class CompactWeights:
    """Rewrites the best weights as they ship (float16 convolutions) when training ends.

    Args:
        path: the weights file, ``output_dir/model.pt``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Run once, at the end of training."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self) -> None:
        """Rewrite the file."""
        if self.path.exists():
            save_compact(torch.load(self.path, map_location="cpu", weights_only=True), self.path)


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
