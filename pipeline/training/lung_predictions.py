"""What an evaluation or inference of X-ray lungs writes: ``predictions.csv``, masks and, with a truth, the scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from pneumonai.pipeline.metrics.segmentation import SegmentationScores
from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.training.predictions import MaskPredictionsWriter

LUNGS = {"right": 1, "left": 2}


class LungPredictionsWriter(MaskPredictionsWriter):
    """Writes ``predictions.csv`` of a lung segmentation of pictures and, with true masks, the report.

    Columns: ``image, patient_id``; ``dice`` of both lungs as one mask, ``dice_right, dice_left`` (empty without a
    truth); ``right_percent, left_percent`` of the picture. ``metrics.json`` holds the report of both lungs as one mask,
    and under ``classes`` the Dice of each.

    Predictions and truths hold 0, 1 (right) and 2 (left). A mask is ``NAME_lungs.png`` (0, 1, 2).
    """

    columns = ("image", "patient_id", "dice", "dice_right", "dice_left", "right_percent", "left_percent")

    def start(self) -> None:
        """Forget an earlier run."""
        super().start()
        self._scores = {name: SegmentationScores() for name in ("both", *LUNGS)}

    def measure(self, item: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """Each lung's share of the picture."""
        found = _labels(output["pred"])
        return {f"{name}_percent": round(100 * float((found == n).mean()), 3) for name, n in LUNGS.items()}

    def score(self, row: dict[str, Any], item: dict[str, Any], prediction: Any, truth: Any) -> dict[str, Any]:
        """Overlap with the truth, of both lungs and of each."""
        found, true = _labels(prediction), _labels(truth)
        pairs = {"both": (found > 0, true > 0)} | {name: (found == n, true == n) for name, n in LUNGS.items()}
        of = {"image": row["image"], "patient_id": row["patient_id"]}
        dice = {name: self._scores[name].add(*pair, **of).dice for name, pair in pairs.items()}
        return {"dice": dice["both"], "dice_right": dice["right"], "dice_left": dice["left"]}

    def write_mask(self, name: str, prediction: Any) -> None:
        """As labels, in PNG."""
        with whole_file(self.output_dir / f"{name}_lungs.png") as temporary:
            Image.fromarray(_labels(prediction)).save(temporary, format="PNG")

    def report(self) -> dict[str, Any]:
        """The scores of both lungs, and each lung's Dice."""
        reports = {name: scores.report() for name, scores in self._scores.items()}
        classes = {
            f"{name} lung": {
                "support": sum(bool(case.true_positive + case.false_negative) for case in self._scores[name].cases),
                "dice_pooled": reports[name]["dice_pooled"],
                "dice_picture_mean": reports[name]["dice_slice_mean"],
            }
            for name in LUNGS
        }
        return reports["both"] | {"classes": classes}


def _labels(tensor: Any) -> np.ndarray:
    """One channel of labels as uint8 ``[H, W]``."""
    return np.asarray(tensor.detach().cpu())[0].round().astype(np.uint8)
