"""Reports on disk: JSON, long CSV, and pictures that can be opened."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.metrics.segmentation import score_case, segmentation_report
from pneumonai.pipeline.metrics.tables import write_report

NAMES = ["noncovid", "covid"]
FILES = ["metrics.json", "metrics.csv", "roc.png", "pr.png", "confusion.png", "reliability.png"]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_classification_on_disk(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1, 1]
    probabilities = np.array([[0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9], [0.7, 0.3]])
    report = classification_report(labels, probabilities, NAMES, resamples=50)
    files = write_report(report, tmp_path / "new", labels=labels, probabilities=probabilities)
    assert files == [tmp_path / "new" / name for name in FILES]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(FILES)
    assert json.loads(files[0].read_text()) == report
    rows = {(row["score"], row["class"]): row for row in read(files[1])}
    assert rows["n_images", ""] == {"score": "n_images", "class": "", "value": "5", "low": "", "high": ""}
    assert rows["support", "covid"]["value"] == "3"
    kappa = rows["kappa", ""]
    assert float(kappa["value"]) == report["kappa"]["value"]
    assert [float(kappa["low"]), float(kappa["high"])] == report["kappa"]["interval"]
    assert float(rows["recall", "covid"]["value"]) == pytest.approx(2 / 3)
    for path in files[2:]:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.parametrize("labels", [[1], [0, 0, 0]])
def test_one_class_has_figures_too(labels: list[int], tmp_path: Path) -> None:
    probabilities = np.array([[0.2, 0.8]] * len(labels))
    report = classification_report(labels, probabilities, NAMES, resamples=10)
    files = write_report(report, tmp_path, labels=labels, probabilities=probabilities)
    assert all(path.is_file() for path in files)
    assert {row["score"]: row["value"] for row in read(files[1]) if not row["class"]}["auc"] == ""


def test_a_segmentation_on_disk(tmp_path: Path) -> None:
    report = segmentation_report([score_case(np.eye(3), np.eye(3), patient_id=p) for p in "ab"], resamples=10)
    files = write_report(report, tmp_path)
    assert [path.name for path in files] == ["metrics.json", "metrics.csv"]
    rows = {row["score"]: row for row in read(files[1])}
    assert (rows["dice_slice_mean"]["value"], rows["dice_slice_mean"]["low"]) == ("1.0", "1.0")
    assert rows["hausdorff95_mm"]["value"] == ""


def test_a_file_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    report = segmentation_report([score_case(np.eye(3), np.eye(3))])
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_report(report, tmp_path / "out")
