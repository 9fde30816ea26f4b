"""Boxes around what a map marks, and intersection over union, on maps that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.localisation import (
    agreement,
    boxes_around,
    fill_boxes,
    intersection_over_union,
    marked_region,
)
from pneumonai.pipeline.mask_in import is_box_table, open_boxes


def test_a_threshold_is_a_share_of_the_range_and_zeros_mark_nothing() -> None:
    heat_map = np.array([[0, 127, 128, 255]], np.uint8)
    assert marked_region(heat_map, 0.5).tolist() == [[False, False, True, True]]
    assert marked_region(heat_map, 1.0).tolist() == [[False, False, False, True]]
    assert not marked_region(np.zeros((3, 3), np.uint8), 1e-9).any()


def test_each_component_has_its_smallest_box_the_brightest_first() -> None:
    heat_map = np.zeros((6, 8), np.uint8)
    heat_map[0, 0] = heat_map[1, 1] = 153  # touching at a corner: one component
    heat_map[3:5, 4:7] = 255
    heat_map[4, 4] = 204
    boxes = boxes_around(heat_map > 0, heat_map)
    assert boxes == [
        {"x": 4, "y": 3, "width": 3, "height": 2, "score": round((5 * 255 + 204) / 6 / 255, 4)},
        {"x": 0, "y": 0, "width": 2, "height": 2, "score": 0.6},
    ]
    assert boxes_around(np.zeros((3, 3), bool), heat_map[:3, :3]) == []


def test_boxes_fill_the_pixels_whose_centres_they_cover() -> None:
    boxes = [{"x": 1, "y": 0, "width": 2, "height": 1}, {"x": 3.6, "y": 1.4, "width": 5, "height": 9}]
    filled = fill_boxes(boxes, (3, 5))
    assert filled.tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]]
    region = np.random.default_rng(0).random((20, 30)) > 0.8
    assert (fill_boxes(boxes_around(region), region.shape) >= region).all()


def test_intersection_over_union_by_hand() -> None:
    one, two = np.array([[1, 1, 0, 0]]), np.array([[0, 255, 255, 0]])
    assert intersection_over_union(one, two) == pytest.approx(1 / 3)
    assert intersection_over_union(one, one) == 1
    assert intersection_over_union(one, 0 * two) == 0
    assert intersection_over_union(0 * one, 0 * two) is None


def test_masks_are_held_against_the_map_and_boxes_against_its_boxes() -> None:
    heat_map = np.array([[255, 0], [255, 255]], np.uint8)
    assert agreement(heat_map, 0.5, heat_map, of_boxes=False) == 1
    assert agreement(heat_map, 0.5, np.ones((2, 2)), of_boxes=False) == 0.75
    assert agreement(heat_map, 0.5, np.ones((2, 2)), of_boxes=True) == 1


def test_a_table_s_boxes_of_a_study_are_filled_and_misfits_refused(tmp_path: Path) -> None:
    table = tmp_path / "Boxes.CSV"
    table.write_text("study,x,y,width,height\nchest.png,0,0,1,2\nchest,2,0,1,1\nother,,,,\nwide,0,0,9,1\n")
    assert is_box_table(table) and not is_box_table("mask.png")
    filled = open_boxes(table, "chest", (2, 3))
    assert filled is not None and filled.tolist() == [[1, 0, 1], [1, 0, 0]]
    empty = open_boxes(table, "other", (2, 3))
    assert empty is not None and not empty.any()
    assert open_boxes(table, "third", (2, 3)) is None
    with pytest.raises(StudyError, match=r"wide: the box .* goes beyond the picture, 3 x 2 pixels"):
        open_boxes(table, "wide", (2, 3))
    with pytest.raises(StudyError, match="is a volume, where boxes mark pictures"):
        open_boxes(table, "chest", (2, 3, 4))
