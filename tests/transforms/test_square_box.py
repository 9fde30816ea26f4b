"""The square around a mask, and the way back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Resized

from pneumonai.transforms import SquareBox, SquareBoxd


def masked(rows: int, columns: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, rows, columns, dtype=torch.uint8)
    mask[0, top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "margin", "expected"),
    [
        ((20, 30, 6, 10, 12, 14), 0, (6, 9, 12, 15)),  # 6 x 4: a column at each side
        ((20, 30, 6, 10, 12, 14), 0.2, (5, 8, 13, 16)),  # and one pixel of margin
        ((20, 30, 0, 26, 6, 30), 0, (0, 24, 6, 30)),  # moved off the right edge
        ((20, 30, 0, 0, 4, 6), 0.5, (0, 0, 12, 12)),  # off two
        ((20, 8, 2, 1, 18, 7), 0, (2, -4, 18, 12)),  # the picture is too narrow: 4 columns of 0 at each side
    ],
)
def test_the_square_by_hand(mask: Any, margin: float, expected: tuple[int, ...]) -> None:
    start, end = SquareBox(margin).compute_bounding_box(masked(*mask))
    assert (*start.tolist(), *end.tolist()) == expected


def test_a_narrow_picture_is_filled_with_0() -> None:
    cut = SquareBox()(torch.ones(1, 20, 8), masked(20, 8, 2, 1, 18, 7))
    assert cut.shape == (1, 16, 16)
    assert cut[0].sum(dim=0).tolist() == [0] * 4 + [16] * 8 + [0] * 4


@pytest.mark.parametrize("shape", [(40, 60), (60, 24)])
def test_the_way_back_puts_a_map_where_it_was(shape: tuple[int, int]) -> None:
    lungs = masked(*shape, 10, 4, 34, 20)
    picture = MetaTensor(lungs.float() * 100, meta={"warnings": ["seen"]})
    both = ["image", "lungs"]
    forward = Compose(
        [
            SquareBoxd(both, margin=0.125),
            Resized(both, (60, 60), mode=["bilinear", "nearest"]),
        ]
    )
    done = forward({"image": picture, "lungs": MetaTensor(lungs)})
    assert done["image"].shape == done["lungs"].shape == (1, 60, 60)
    assert done["image"].meta["warnings"] == ["seen"]
    done["heat_map"] = done["image"].clone()
    back = Invertd("heat_map", forward, "image", nearest_interp=False)(done)["heat_map"]
    assert back.shape == (1, *shape)
    inside = back[0, 12:32, 6:18]
    assert inside.min() > 95
    outside = back.as_tensor().clone()
    outside[0, 8:36, 2:22] = 0
    assert outside.abs().max() < 5


def test_what_has_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="a margin of 0 or more, got -1"):
        SquareBox(-1)
    with pytest.raises(ValueError, match=r"not empty, got shape \(1, 4, 5\)"):
        SquareBox()(torch.ones(1, 4, 5), torch.zeros(1, 4, 5))
