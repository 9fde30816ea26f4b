"""A rectangle painted black, or all but it."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from pneumonai.transforms import BlackOut, BlackOutd


def test_the_rectangle_around_the_mask_is_painted_by_hand() -> None:
    picture = torch.arange(1.0, 21.0).reshape(1, 4, 5)
    mask = torch.zeros(1, 4, 5, dtype=torch.uint8)
    mask[0, 1, 1] = 1
    mask[0, 2, 3] = 2
    inside = BlackOut("inside")(picture, mask)
    outside = BlackOut("outside")(picture, mask)
    assert inside.tolist() == [[[1, 2, 3, 4, 5], [6, 0, 0, 0, 10], [11, 0, 0, 0, 15], [16, 17, 18, 19, 20]]]
    assert torch.equal(inside + outside, picture)
    given = MetaTensor(picture, meta={"warnings": ["seen"]})
    done = BlackOutd("image", "inside")({"image": given, "lungs": mask})
    assert torch.equal(done["image"].as_tensor(), inside)
    assert done["image"].meta["warnings"] == ["seen"]
    assert torch.equal(BlackOutd("image", "nothing")({"image": picture, "lungs": mask})["image"], picture)


def test_what_cannot_be_painted_is_refused() -> None:
    picture = torch.ones(1, 4, 5)
    with pytest.raises(ValueError, match=r"that is not empty, got \(4, 5\) with 0 pixels"):
        BlackOut("inside")(picture, torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match=r"of the picture's size \(4, 5\)"):
        BlackOut("inside")(picture, torch.ones(1, 5, 4))
    with pytest.raises(ValueError, match="'nothing', 'inside' or 'outside', got 'both'"):
        BlackOut("both")  # type: ignore[arg-type]
