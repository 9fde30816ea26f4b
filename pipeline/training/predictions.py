"""What an evaluation writes: ``predictions.csv`` and, with a truth, the scores; and the way back from the file."""

from __future__ import annotations

import csv
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.metrics.segmentation import SegmentationScores
from pneumonai.pipeline.metrics.tables import write_report
from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.outputs.views import display_turn
from pneumonai.pipeline.study import study_name

_COLUMNS = ("image", "patient_id", "label", "pred")


class PredictionsWriter:
    """Writes ``predictions.csv`` (``image, patient_id, label, pred, p_CLASS...``) and, with labels, the report.

    ``patient_id`` is the item's, else its ``group`` (pictures that belong together); both are empty where unknown.

    Args:
        output_dir: folder of the files; made where missing.
        class_names: names of the classes in index order.
        metrics: write ``metrics.json``, ``metrics.csv`` and the figures too; needs a label at every item.
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
            if self.metrics and label is None:
                raise ManifestError(source_of(item), "has no label", "scores need one at every item")
            self._rows.append(
                {
                    "image": source_of(item),
                    "patient_id": patient_of(item),
                    "label": "" if label is None else self.class_names[int(label)],
                    "pred": self.class_names[max(range(len(probabilities)), key=probabilities.__getitem__)],
                }
                | {f"p_{name}": p for name, p in zip(self.class_names, probabilities, strict=True)}
            )

    def _write(self) -> None:
        columns = [*_COLUMNS, *map("p_{}".format, self.class_names)]
        write_rows(self.output_dir / "predictions.csv", columns, self._rows)
        if self.metrics:
            labels = [self.class_names.index(row["label"]) for row in self._rows]
            probabilities = np.array([[row[f"p_{name}"] for name in self.class_names] for row in self._rows])
            patients = [row["patient_id"] for row in self._rows]
            report = classification_report(labels, probabilities, self.class_names, patient_ids=patients)
            write_report(report, self.output_dir, labels=labels, probabilities=probabilities)


class MaskPredictionsWriter(ABC):
    """Writes what a network marks in each image: ``predictions.csv``, the masks and, with true ones, the report.

    The frame alone: a subclass says what is measured, scored and written of an image. Masks are kept for one batch
    only. Prediction and truth are compared on the grid on which the postprocessing left the prediction.

    Args:
        output_dir: folder of the files; made where missing.
        metrics: write ``metrics.json`` and ``metrics.csv`` too; needs a mask at every item.
        truth_key: of the true mask ``[1, *spatial]``, in the engine's output or else in the batch.
        masks: write every prediction too.

    Attributes:
        columns: of ``predictions.csv``; the first are ``image`` and ``patient_id``.
    """

    columns: ClassVar[tuple[str, ...]]

    def __init__(
        self, output_dir: str | Path, *, metrics: bool = False, truth_key: str = "mask", masks: bool = False
    ) -> None:
        self.output_dir = Path(output_dir)
        self.metrics = metrics
        self.truth_key = truth_key
        self.masks = masks
        self.start()

    def attach(self, engine: Engine) -> None:
        """Collect after each batch, write at the end."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def start(self) -> None:
        """Forget an earlier run."""
        self._rows: list[dict[str, Any]] = []

    @abstractmethod
    def measure(self, item: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """Columns that need no truth, from an item of the batch and of the engine's output."""

    @abstractmethod
    def score(self, row: dict[str, Any], item: dict[str, Any], prediction: Any, truth: Any) -> dict[str, Any]:
        """Columns that need one, both masks ``[1, *spatial]``; keeps what the report is made of."""

    @abstractmethod
    def write_mask(self, name: str, prediction: Any) -> None:
        """Write one prediction under a name that no other has."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """What ``metrics.json`` holds."""

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, prediction = source_of(item), output["pred"]
            row = {"image": image, "patient_id": patient_of(item)} | self.measure(item, output)
            truth = output.get(self.truth_key, item.get(self.truth_key))
            if truth is not None:
                true, found = tuple(truth.shape[1:]), tuple(prediction.shape[1:])
                if true != found:
                    remedy = "let the postprocessing invert both, or neither"
                    raise ManifestError(image, f"the mask is {true}, the prediction {found}", remedy)
                row |= self.score(row, item, prediction, truth)
            elif self.metrics:
                raise ManifestError(image, f"has no {self.truth_key}", "scores need one at every item")
            if self.masks:
                self.write_mask(_mask_name(image, taken=[str(other["image"]) for other in self._rows]), prediction)
            self._rows.append(row)

    def _write(self) -> None:
        write_rows(self.output_dir / "predictions.csv", self.columns, self._rows)
        if self.metrics:
            write_report(self.report(), self.output_dir)


class SegmentationPredictionsWriter(MaskPredictionsWriter):
    """Writes ``predictions.csv`` of an infection segmentation and, with true masks, the report.

    Columns: ``image, patient_id, dice, precision, recall, infection_ml, infection_percent``. The scores are empty
    without a truth, ``infection_ml`` for pictures and where the spacing is assumed (``assumed_geometry`` in the image's
    meta data). ``infection_percent`` is the share of the lungs where ``lungs`` lies beside the prediction, and of
    the picture otherwise (empty for a volume without lungs).

    A mask is ``NAME_infection.nii.gz`` (0, 1) or, of a picture, ``.png`` (0, 255).
    """

    columns = ("image", "patient_id", "dice", "precision", "recall", "infection_ml", "infection_percent")

    def start(self) -> None:
        """Forget an earlier run."""
        super().start()
        self._scores = SegmentationScores()

    def measure(self, item: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """The infection's size."""
        prediction = output["pred"]
        row: dict[str, Any] = {"infection_percent": _percent(prediction, output.get("lungs", item.get("lungs")))}
        if _spacing(prediction, item["image"]) is not None:
            row["infection_ml"] = round(_ml(prediction, prediction), 3)
        return row

    def score(self, row: dict[str, Any], item: dict[str, Any], prediction: Any, truth: Any) -> dict[str, Any]:
        """Overlap with the truth."""
        axis, spacing = _slice_axis(prediction), _spacing(prediction, item["image"])
        case = self._scores.add(
            np.moveaxis(_mask(prediction), axis, 0),
            np.moveaxis(_mask(truth), axis, 0),
            spacing_mm=None if spacing is None else [spacing[axis], *spacing[:axis], *spacing[axis + 1 :]],
            image=row["image"],
            patient_id=row["patient_id"],
        )
        return {"dice": case.dice, "precision": case.precision, "recall": case.recall}

    def write_mask(self, name: str, prediction: Any) -> None:
        """A volume as NIfTI, a picture as PNG."""
        import nibabel as nib
        from PIL import Image

        mask = _mask(prediction).astype(np.uint8)
        if mask.ndim == 2:
            with whole_file(self.output_dir / f"{name}_infection.png") as temporary:
                Image.fromarray(mask * np.uint8(255)).save(temporary, format="PNG")
            return
        with whole_file(self.output_dir / f"{name}_infection.nii.gz") as temporary:
            nib.save(nib.Nifti1Image(mask, prediction.affine.numpy()), temporary)

    def report(self) -> dict[str, Any]:
        """The scores of all images."""
        return self._scores.report()


class Predictions(NamedTuple):
    """What a classification's ``predictions.csv`` holds.

    Attributes:
        images: path or name of each image.
        patient_ids: of each image; empty where unknown.
        labels: true class indices, ``[N]``; None where the file has none.
        probabilities: ``[N, C]``.
        class_names: C names in index order.
    """

    images: list[str]
    patient_ids: list[str]
    labels: np.ndarray | None
    probabilities: np.ndarray
    class_names: list[str]


def read_predictions(path: str | Path) -> Predictions:
    """Read a ``predictions.csv`` back.

    Raises:
        ManifestError: no such file, missing columns, no rows, an unknown label, labels in some rows only, or numbers
            that are no probabilities; it names the row (the file's line, the header is 1).
    """
    remedy = "write it anew with the bundle's evaluate.json"
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except FileNotFoundError:
        raise ManifestError(path, "no such file", "run the bundle's evaluate.json first") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(path, f"not a readable CSV file ({error})", remedy) from error
    class_names = [column.removeprefix("p_") for column in columns if column.startswith("p_")]
    missing = [column for column in _COLUMNS if column not in columns]
    if missing or len(class_names) < 2:
        wanted = ", ".join(missing) or "p_CLASS of at least two classes"
        raise ManifestError(path, f"has no column {wanted}", remedy)
    if not rows:
        raise ManifestError(path, "holds no rows", remedy)
    probabilities = [_row_probabilities(row, f"{path}, row {n}", class_names) for n, row in enumerate(rows, 2)]
    labelled = [n for n, row in enumerate(rows, 2) if row["label"]]
    if labelled and len(labelled) < len(rows):
        first = next(n for n, row in enumerate(rows, 2) if not row["label"])
        raise ManifestError(f"{path}, row {first}", "has no label, while other rows have", "give all rows a label")
    for n, row in enumerate(rows, 2):
        if row["label"] and row["label"] not in class_names:
            raise ManifestError(
                f"{path}, row {n}", f"unknown label {row['label']!r}", f"use one of {', '.join(class_names)}"
            )
    labels = np.array([class_names.index(row["label"]) for row in rows]) if labelled else None
    return Predictions(
        [row["image"] for row in rows],
        [row["patient_id"] or "" for row in rows],
        labels,
        np.array(probabilities),
        class_names,
    )


class DiceOfImages(NamedTuple):
    """What a segmentation's ``predictions.csv`` says of each image.

    Attributes:
        images: path or name of each image.
        patient_ids: of each image; empty where unknown.
        dice: 0..1, ``[N]``.
    """

    images: list[str]
    patient_ids: list[str]
    dice: np.ndarray


def read_dice(path: str | Path) -> DiceOfImages:
    """Read the Dice of each image from a segmentation's ``predictions.csv``.

    Raises:
        ManifestError: no such file, or an image without a Dice; it names the row (the file's line, the header is 1).
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(path, f"not a readable CSV file ({error})", "run the bundle's evaluate.json") from None
    missing = next((line for line, row in enumerate(rows, 2) if not row.get("dice")), None)
    if missing is not None or not rows:
        where = path if missing is None else f"{path}, row {missing}"
        raise ManifestError(where, "has no dice", "evaluate a segmentation on images with masks")
    return DiceOfImages(
        [row["image"] for row in rows],
        [row["patient_id"] or "" for row in rows],
        np.array([float(row["dice"]) for row in rows]),
    )


def _row_probabilities(row: dict[str, Any], where: str, class_names: Sequence[str]) -> list[float]:
    try:
        values = [float(row[f"p_{name}"]) for name in class_names]
    except (TypeError, ValueError):
        raise ManifestError(where, "a probability is no number, or the row is cut off", "write it anew") from None
    if not all(value >= 0 for value in values) or not abs(sum(values) - 1) < 1e-3:
        raise ManifestError(where, f"{values} are no probabilities that sum to 1", "write it anew")
    return values


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; what a row lacks is empty."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def source_of(item: dict[str, Any]) -> str:
    """The file that an item came from: its ``source``, or what the image tensor still knows of it."""
    image = item["image"]
    known = str(image.meta.get("filename_or_obj", "")) if isinstance(image, MetaTensor) else ""
    return str(item.get("source") or known)


def patient_of(item: dict[str, Any]) -> str:
    """An item's patient, else its group (pictures that belong together); empty where unknown."""
    return str(item.get("patient_id") or item.get("group") or "")


def _mask(tensor: Any) -> np.ndarray:
    """One channel as bool ``[*spatial]``."""
    return np.asarray(tensor.detach().cpu())[0] > 0.5


def _percent(prediction: Any, lungs: Any) -> float | None:
    """Share of the lungs, which may lie on another grid of the same space; of a picture, the share of the picture."""
    marked = _mask(prediction)
    if marked.ndim == 2:
        return round(100.0 * float(marked.mean()), 3)
    if lungs is None or not _mask(lungs).any():
        return None
    return round(100.0 * _ml(prediction, prediction) / _ml(lungs, prediction), 3)


def _ml(mask: Any, prediction: Any) -> float:
    """Volume of a mask in ml; one that knows no affine lies on the prediction's grid."""
    known = mask if isinstance(mask, MetaTensor) else prediction
    voxel = math.prod(known.pixdim[:3].tolist()) / 1000.0 if isinstance(known, MetaTensor) else 1.0
    return float(np.count_nonzero(_mask(mask)) * voxel)


def _slice_axis(prediction: Any) -> int:
    """The axis of a volume that is nearest to the body's, from feet to head; the first where no affine says."""
    if not isinstance(prediction, MetaTensor) or prediction.ndim != 4:
        return 0
    turn, _ = display_turn(prediction.affine.numpy(), tuple(prediction.shape[1:]))
    return int(np.flatnonzero(turn[:, 0] == 0)[0])


def _mask_name(image: str, taken: Sequence[str]) -> str:
    """How an image's masks are named: after it; a name that an image before it has gets a number."""
    name = study_name(image or "image")
    clashes = sum(study_name(other or "image") == name for other in taken)
    return f"{name}-{clashes + 1}" if clashes else name


def _spacing(prediction: Any, image: Any) -> list[float] | None:
    """Millimetres along the axes of a volume; None for pictures and where the spacing is assumed."""
    if not isinstance(prediction, MetaTensor) or prediction.ndim != 4 or not isinstance(image, MetaTensor):
        return None
    if image.meta.get("assumed_geometry", False):
        return None
    return [float(length) for length in prediction.pixdim[:3]]
