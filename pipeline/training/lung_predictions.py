"""What an evaluation or inference of X-ray lungs writes: ``predictions.csv``, masks and, with a truth, the scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.metrics.segmentation import SegmentationScores
from pneumonai.pipeline.metrics.tables import write_report
from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.training.predictions import mask_name, patient_of, source_of, write_rows

COLUMNS = ("image", "patient_id", "dice", "dice_right", "dice_left", "right_percent", "left_percent")
LUNGS = {"right": 1, "left": 2}


class LungPredictionsWriter:
    """Writes ``predictions.csv`` of a lung segmentation of pictures and, with true masks, the report.

    Columns: ``image, patient_id``; ``dice`` of both lungs as one mask, ``dice_right, dice_left`` (empty without a
    truth); ``right_percent, left_percent`` of the picture. ``metrics.json`` holds the report of both lungs as one mask,
    and under ``classes`` the Dice of each.

    Args:
        output_dir: folder of the files; made where missing.
        metrics: write ``metrics.json`` and ``metrics.csv`` too; needs a mask at every item.
        truth_key: of the true labels ``[1, H, W]`` (0, 1 right, 2 left), in the engine's output or else in the batch.
        masks: write every prediction too, ``NAME_lungs.png`` (0, 1, 2).
    """

    def __init__(
        self, output_dir: str | Path, *, metrics: bool = False, truth_key: str = "mask", masks: bool = False
    ) -> None:
        self.output_dir = Path(output_dir)
        self.metrics = metrics
        self.truth_key = truth_key
        self.masks = masks
        self._start()

    def attach(self, engine: Engine) -> None:
        """Collect after each batch, write at the end."""
        engine.add_event_handler(Events.STARTED, lambda _: self._start())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, lambda _: self._write())

    def _start(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._scores = {name: SegmentationScores() for name in ("both", *LUNGS)}

    def _collect(self, engine: Engine) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            image, found = source_of(item), _labels(output["pred"])
            row: dict[str, Any] = {"image": image, "patient_id": patient_of(item)}
            row |= {f"{name}_percent": round(100 * float((found == n).mean()), 3) for name, n in LUNGS.items()}
            truth = output.get(self.truth_key, item.get(self.truth_key))
            if truth is not None:
                row |= self._score(row, found, _labels(truth))
            elif self.metrics:
                raise ManifestError(image, f"has no {self.truth_key}", "scores need one at every item")
            if self.masks:
                name = mask_name(image, taken=[str(other["image"]) for other in self._rows])
                with whole_file(self.output_dir / f"{name}_lungs.png") as temporary:
                    Image.fromarray(found).save(temporary, format="PNG")
            self._rows.append(row)

    def _score(self, row: dict[str, Any], found: np.ndarray, true: np.ndarray) -> dict[str, float]:
        image, patient = row["image"], row["patient_id"]
        if true.shape != found.shape:
            raise ManifestError(
                image, f"the mask is {true.shape}, the prediction {found.shape}", "let the postprocessing invert"
            )
        pairs = {"both": (found > 0, true > 0)} | {name: (found == n, true == n) for name, n in LUNGS.items()}
        dice = {
            name: self._scores[name].add(*pair, image=image, patient_id=patient).dice for name, pair in pairs.items()
        }
        return {"dice": dice["both"], "dice_right": dice["right"], "dice_left": dice["left"]}

    def _write(self) -> None:
        write_rows(self.output_dir / "predictions.csv", COLUMNS, self._rows)
        if not self.metrics:
            return
        reports = {name: scores.report() for name, scores in self._scores.items()}
        classes = {
            f"{name} lung": {
                "support": sum(bool(case.true_positive + case.false_negative) for case in self._scores[name].cases),
                "dice_pooled": reports[name]["dice_pooled"],
                "dice_picture_mean": reports[name]["dice_slice_mean"],
            }
            for name in LUNGS
        }
        write_report(reports["both"] | {"classes": classes}, self.output_dir)


def _labels(tensor: Any) -> np.ndarray:
    """One channel of labels as uint8 ``[H, W]``."""
    return np.asarray(tensor.detach().cpu())[0].round().astype(np.uint8)
