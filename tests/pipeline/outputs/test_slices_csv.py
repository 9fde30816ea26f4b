from __future__ import annotations

from pathlib import Path

import pytest

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.slices_csv import write_slices
from pneumonai.pipeline.result import Result


def classified(index: int, covid: float) -> dict:
    classes = [{"name": "noncovid", "probability": 1.0 - covid}, {"name": "covid", "probability": covid}]
    return {"index": index, "position_mm": None, "classes": classes, "infection_percent": None}


def measured(index: int, percent: float | None) -> dict:
    return {"index": index, "position_mm": 2.5 * index - 100.0, "classes": None, "infection_percent": percent}


def written(folder: Path, slices: list[dict] | None) -> list[str]:
    write_slices(Result(study={"id": "s"}, bundle={}, slices=slices), folder / "slices.csv")
    return (folder / "slices.csv").read_text(encoding="utf-8").splitlines()


def test_a_segmentation_gives_percent_and_a_classification_probabilities(tmp_path: Path) -> None:
    assert written(tmp_path, [measured(3, 0.0123), measured(4, None)]) == [
        "index,position_mm,infection_percent",
        "3,-92.500,0.0123",
        "4,-90.000,",
    ]
    assert written(tmp_path, [classified(0, 0.25), classified(7, 1.0)]) == [
        "index,position_mm,p_noncovid,p_covid",
        "0,,0.750000,0.250000",
        "7,,0.000000,1.000000",
    ]
    assert written(tmp_path, []) == ["index,position_mm"]


def test_both_at_once_and_fields_left_out(tmp_path: Path) -> None:
    both = classified(1, 0.5) | {"infection_percent": 2.0}
    bare = {"index": 2, "classes": None}
    assert written(tmp_path, [both, bare]) == [
        "index,position_mm,p_noncovid,p_covid,infection_percent",
        "1,,0.500000,0.500000,2.0000",
        "2,,,,",
    ]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s: slices are needed, the result has none"):
        written(tmp_path, None)
    other = classified(1, 0.5)
    other["classes"] = [{"name": "normal", "probability": 0.5}, {"name": "ncp", "probability": 0.5}]
    with pytest.raises(ValueError, match="not in fieldnames: 'p_n"):
        written(tmp_path, [classified(0, 0.5), other])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "slices.csv").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        written(tmp_path, [measured(0, 1.0)])
