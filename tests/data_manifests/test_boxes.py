"""Boxes: what a datalist and a table may hold, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pneumonai.data_manifests.boxes import read_box_table, read_boxes
from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.data_manifests.errors import ManifestError

BOX = {"x": 1, "y": 2.5, "width": 3, "height": 4}


def test_boxes_are_read_as_numbers_and_extras_are_dropped() -> None:
    assert read_boxes([BOX | {"score": 0.5}], "here") == [{"x": 1.0, "y": 2.5, "width": 3.0, "height": 4.0}]
    assert read_boxes([], "here") == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": 1}, "are no list"),
        ([{"x": 1, "y": 2, "width": 3}], "is no box with x, y, width, height"),
        ([[1, 2, 3, 4]], "is no box"),
        ([BOX | {"x": "left"}], "no number"),
        ([BOX | {"y": -1}], "begins outside the picture"),
        ([BOX | {"x": float("nan")}], "begins outside the picture"),
        ([BOX | {"width": 0}], "has no area"),
    ],
)
def test_what_is_no_box_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ManifestError, match=f"training.0.: .*{message}"):
        read_boxes(value, "training[0]")


def test_a_table_holds_several_boxes_a_study_and_studies_without(tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("Study,X,Y,Width,Height\na,1,2.5,3,4\nb,,,,\na,5,6,7,8\n")
    second = {"x": 5.0, "y": 6.0, "width": 7.0, "height": 8.0}
    assert read_box_table(table) == {"a": [{**BOX}, second], "b": []}
    table.write_text("study,x,y,width,height\na,1,2,3,\n")
    with pytest.raises(ManifestError, match=r"boxes.csv, row 2: .* no number"):
        read_box_table(table)
    table.write_text("study,x,y,w,h\na,1,2,3,4\n")
    with pytest.raises(ManifestError, match="no column 'width'; the columns are study, x, y, w, h"):
        read_box_table(table)
    table.write_text("study,x,y,width,height\n,1,2,3,4\n")
    with pytest.raises(ManifestError, match="row 2: names no study"):
        read_box_table(table)


def test_a_datalist_gives_its_boxes_checked(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    path = tmp_path / "datalist.json"
    items = [{"image": "a.png", "boxes": [BOX]}, {"image": "a.png", "boxes": []}, {"image": "a.png"}]
    path.write_text(json.dumps({"test": items}))
    read = load_datalist(path, "test", keys=("image", "boxes"))
    assert [item.get("boxes") for item in read] == [[BOX], [], None]
    path.write_text(json.dumps({"test": [{"image": "a.png", "boxes": [BOX | {"height": -4}]}]}))
    with pytest.raises(ManifestError, match=r"test\[0\]: .* has no area"):
        load_datalist(path, "test", keys=("image", "boxes"))
