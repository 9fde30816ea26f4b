"""What ``pneumonai inspect`` says of an input."""

from __future__ import annotations

import io
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.inspection import Inspection, inspect_input

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
write_series, chest = made["write_series"], made["chest"]


def shown(inspection: Inspection) -> str:
    out = io.StringIO()
    inspection.render(Console(file=out, width=160))
    return out.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inspected")

    def scout(ds, k):  # type: ignore[no-untyped-def]
        ds.ImageType, ds.SeriesDescription, ds.SeriesNumber = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "Topogram", 0

    write_series(root / "P1", chest(1), series="1.1", edit=scout, prefix="S")
    write_series(root / "P1", chest(48), series="1.2", prefix="A")
    thick = {"series": "1.3", "spacing": (5.0, 5.0, 10.0), "prefix": "B"}
    write_series(root / "P1", chest(24), edit=lambda ds, k: setattr(ds, "SeriesNumber", 3), **thick)
    gap = write_series(root / "P2", chest(24), study="1.9", patient="QQ2")
    gap[10].unlink()
    return root


def test_series_are_listed_with_the_reasons(folder: Path) -> None:
    first, second = inspect_input(folder).studies
    assert [(row.uid, row.slices, row.chosen) for row in first.series] == [
        ("1.1", 1, False),
        ("1.2", 48, True),
        ("1.3", 24, False),
    ]
    assert first.series[0].why == "is a localizer"
    assert first.series[1].why == "of 2 CT series the one with 48 slices, 5 mm apart, axial"
    assert first.series[2].why == "has fewer slices"
    assert first.series[1].spacing_mm == (5.0, 5.0, 5.0)
    assert (first.refused, first.shape, first.modality) == (None, (64, 64, 48), "CT")
    assert second.refused is not None
    assert second.refused.startswith("a gap in the slices: about 1 of 24 missing")
    assert second.series[0].problems[0].startswith("a gap in the slices")
    assert not second.series[0].chosen


def test_json_and_text_carry_no_identifiers(folder: Path) -> None:
    inspection = inspect_input(folder)
    text = json.dumps(inspection.as_dict()) + shown(inspection)
    assert not [word for word in ("QQ1", "QQ2", "Name^", "19700101", "ACC7", "Hospital") if word in text]
    assert "Topogram" in text
    printed = shown(inspection)
    assert "would be read: CT, 64 x 64 x 48, 5 x 5 x 5 mm" in printed
    assert "refused: a gap in the slices" in printed


def test_pictures_and_missing_inputs(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.arange(100 * 90, dtype=np.uint8).reshape(100, 90)).save(tmp_path / "[a].png")
    (row,) = inspect_input(tmp_path).studies
    assert (row.form, row.modality, row.shape, row.spacing_mm, row.refused) == ("picture", "CXR", (100, 90), None, None)
    assert "[a].png" in shown(inspect_input(tmp_path))
    with pytest.raises(StudyError, match="no such file or folder"):
        inspect_input(tmp_path / "none")
