"""CT slice or X-ray: told where both checks agree, in doubt otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.phantom.projections import axial_picture, project_xray, slice_positions
from pneumonai.pipeline.picture_modality import modality_of
from pneumonai.pipeline.study import Modality

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def test_phantoms_are_told(small_phantom: Any) -> None:
    assert modality_of(project_xray(small_phantom)) is Modality.CXR
    for k in slice_positions(small_phantom, 3):
        assert modality_of(axial_picture(small_phantom, k)) is Modality.CT


def test_what_is_neither_is_in_doubt() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 240)).astype(np.uint8)
    assert modality_of(noise) is None
    assert modality_of(np.full((100, 100), 7, np.uint8)) is None
    page = np.full((300, 200), 250, np.uint8)
    page[20:280:10, 20:180] = 10
    assert modality_of(page) is None


@pytest.mark.parametrize(("folder", "modality"), [("cxr", Modality.CXR), ("ct2d", Modality.CT)])
def test_real_pictures_are_told(folder: str, modality: Modality) -> None:
    if not (DATA / folder).exists():
        pytest.skip("the shared pictures are not here")
    files = sorted(path for path in (DATA / folder).rglob("*") if path.suffix in (".jpg", ".png"))
    files = [path for path in files if "mask" not in str(path.relative_to(DATA))][::12][:15]
    told = [modality_of(np.asarray(Image.open(path).convert("L"))) for path in files]
    assert len(told) > 10
    assert sum(one is modality for one in told) >= 0.9 * len(told)
    assert told.count(None) + told.count(modality) == len(told)
