"""The rectangle around the lungs in pictures of slices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pneumonai.pipeline.phantom import make_phantom
from pneumonai.transforms import LungBox, LungBoxd


def slice_of(*, margin: int = 24, light: float = 200.0) -> torch.Tensor:
    """A body with two lungs on a dark ground, [1, 1, 96, 128]; the lungs span rows 30..69, columns 40..87."""
    picture = np.full((96, 128), 10.0, np.float32)
    picture[96 - 72 - 10 : 96 - 10, margin : 128 - margin] = light
    picture[30:70, 40:60] = 40.0
    picture[30:70, 68:88] = 40.0
    return torch.from_numpy(picture)[None, None]


def bounds(mask: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask[0, 0].any(1).nonzero().flatten(), mask[0, 0].any(0).nonzero().flatten()
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@pytest.mark.parametrize("light", [90.0, 200.0, 255.0])
def test_the_lungs_of_a_whole_body_are_boxed_in_any_window(light: float) -> None:
    box = LungBox()(slice_of(light=light))
    assert box.dtype == torch.uint8
    assert bounds(box) == (30, 69, 40, 87)
    assert bool(box[0, 0, 30:70, 40:88].all())


def test_lungs_that_the_picture_cuts_count() -> None:
    whole = slice_of()
    cut = whole[..., 20:80, 45:88]  # both lungs reach the picture's sides, the body fills its edge
    assert bounds(LungBox()(cut)) == (10, 49, 0, 42)


def test_without_lungs_the_whole_picture_is_taken() -> None:
    assert bool(LungBox()(torch.full((1, 1, 64, 64), 7.0)).all())
    body = torch.zeros(1, 1, 64, 64)
    body[..., 16:48, 16:48] = 200.0
    assert bool(LungBox()(body).all())


def test_every_slice_has_its_own_rectangle() -> None:
    both = torch.cat([slice_of(), torch.full((1, 1, 96, 128), 7.0)], dim=1)
    box = LungBox()(both)
    assert bounds(box[:, :1]) == (30, 69, 40, 87)
    assert bool(box[0, 1].all())


def test_a_phantoms_lungs_lie_in_the_rectangle() -> None:
    phantom = make_phantom("ncp", 3, shape=(128, 128, 48))
    for index in (18, 24, 30):
        hu, lungs = phantom.image[..., index].T, phantom.lungs[..., index].T > 0
        grey = np.clip((hu.astype(np.float32) + 1350) * (255 / 1500), 0, 255)
        box = LungBox()(torch.from_numpy(grey)[None, None])[0, 0].numpy() > 0
        assert (box & lungs).sum() > 0.97 * lungs.sum()
        assert box.mean() < 0.75


def test_the_dictionary_form_leaves_hounsfield_units_and_known_lungs_alone() -> None:
    grey = slice_of()
    assert "lungs" in LungBoxd(keys="image")({"image": grey})
    assert "lungs" not in LungBoxd(keys="image")({"image": grey - 1000})
    known = {"image": grey, "lungs": torch.zeros(1)}
    assert LungBoxd(keys="image")(known)["lungs"] is known["lungs"]


def test_other_input_is_refused() -> None:
    with pytest.raises(ValueError, match="LungBox needs"):
        LungBox()(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="one key"):
        LungBoxd(keys=["image", "mask"])
