"""Which pictures are told to be no CT slice: silent on slices in all windows, in words on anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from pneumonai.pipeline.ct_picture_checks import look_at_slice, measure
from pneumonai.pipeline.phantom import make_phantom, project_xray
from pneumonai.pipeline.phantom.projections import axial_picture, slice_positions
from pneumonai.pipeline.study import open_checked
from pneumonai.pipeline.xray_checks import PICTURE_LOOKS

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# Every so many pictures of a pack, and how many of those may be warned of.
PACKS = {"ct2d": (6, 0.03), "ct2d_infseg/images": (1, 0.03), "sars_cov_2_ct": (20, 0.02)}


@pytest.mark.parametrize("kind", ["normal", "ncp", "cp"])
def test_phantoms_slices_raise_nothing_and_their_xrays_do(kind: str) -> None:
    phantom = make_phantom(kind, 5, shape=(96, 96, 48))
    for k in slice_positions(phantom, 6)[1:-1]:
        picture = axial_picture(phantom, k)
        grey = picture.astype(np.float32)
        for one in (picture, np.rot90(picture), grey / 2 + 60, np.pad(picture, 12, mode="edge")):
            assert look_at_slice(one) == []
    (warning,) = look_at_slice(project_xray(phantom))
    assert warning.startswith(f"{PICTURE_LOOKS} like no CT slice") and "X-ray" in warning


def test_a_slice_in_the_window_for_soft_tissue_raises_nothing() -> None:
    phantom = make_phantom("normal", 5, shape=(128, 128, 48))
    for k in slice_positions(phantom, 6)[1:-1]:
        hounsfield = phantom.image[:, :, k].T.astype(np.float32)
        assert look_at_slice(np.clip((hounsfield + 160) * 255 / 400, 0, 255)) == []


def test_photographs_and_pages_are_told() -> None:
    paper = 235 + np.random.default_rng(1).normal(0, 3, (300, 200))
    pictures = [data.chelsea(), data.coffee(), data.page(), data.grass(), data.text(), data.moon(), data.brick(), paper]
    for picture in pictures:
        grey = picture if picture.ndim == 2 else picture.mean(axis=2)
        (warning,) = look_at_slice(grey)
        assert warning.startswith(PICTURE_LOOKS)
    assert "nearly blank" in look_at_slice(paper)[0]


def test_measures_by_hand() -> None:
    """Two dark squares in a bright one on black: two greys alone, and an eighth of the picture is enclosed."""
    picture = np.zeros((128, 128), np.uint8)
    picture[16:112, 16:112] = 200
    picture[32:96, 24:56] = picture[32:96, 72:104] = 0
    found = measure(picture)
    assert found["separability"] == pytest.approx(1, abs=1e-3)
    assert found["between"] == found["bright_spread"] == found["dark_spread"] == 0
    assert found["enclosed"] == pytest.approx(2 * 64 * 32 / 128**2, rel=0.1)
    bright = 96**2 - 2 * 64 * 32
    outline = 4 * 96 - 4 + 2 * (2 * 64 + 2 * 32)
    assert found["border"] == pytest.approx(outline / 128**2, rel=0.05)
    middle = (picture[25:-25, 25:-25] == 0).mean()
    assert found["black_middle"] == pytest.approx(middle)
    assert (picture > 0).sum() == bright


def test_a_coloured_picture_is_told_and_drawings_are_another_warning(tmp_path: Path) -> None:
    phantom = make_phantom("ncp", 5, shape=(128, 128, 48))
    grey = axial_picture(phantom, slice_positions(phantom, 3)[1])
    drawn = np.repeat(grey[..., None], 3, axis=2)
    drawn[:20, :20] = (255, 0, 0)
    for name, picture in (("photograph", data.coffee()), ("drawn", drawn)):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    wanted = {"modality": "CT", "input_kind": "slice"}
    assert any(
        "photograph or a colour map" in one for one in open_checked(tmp_path / "photograph.png", **wanted).warnings
    )
    (warning,) = open_checked(tmp_path / "drawn.png", **wanted).warnings
    assert warning.startswith("the picture has colours (drawings")


@pytest.mark.parametrize("pack", PACKS)
def test_real_slices_hardly_ever_raise_a_warning(pack: str) -> None:
    step, share = PACKS[pack]
    files = sorted(path for path in (DATA / pack).rglob("*") if path.suffix in (".jpg", ".png"))[::step]
    if not files:
        pytest.skip(f"the shared slices of {pack} are not here")
    warned = [file for file in files if look_at_slice(np.asarray(Image.open(file).convert("L")))]
    assert len(warned) <= share * len(files), warned


def test_real_xrays_are_told() -> None:
    folders = [DATA / "cxr" / label for label in ("covid", "cap", "normal")]
    files = sorted(path for folder in folders for path in folder.glob("*.jpg"))[::4]
    if not files:
        pytest.skip("the shared chest X-rays are not here")
    told = [bool(look_at_slice(np.asarray(Image.open(file).convert("L")))) for file in files]
    assert np.mean(told) > 0.97
