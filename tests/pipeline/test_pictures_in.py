"""Pictures and X-rays: grey values as displayed."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, Modality, open_study

write_xray = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))["write_xray"]


def ramp(rows: int = 70, columns: int = 90) -> np.ndarray:
    return np.add.outer(np.arange(rows), np.arange(columns)).astype(np.uint8)


def test_grey_png_is_kept(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    study = open_study(tmp_path / "a.png")
    assert np.array_equal(study.image, ramp())
    assert study.image.dtype == np.uint8
    assert (study.kind, study.modality) == (InputKind.PICTURE, Modality.CXR)
    assert study.assumed_geometry
    assert open_study(tmp_path / "a.png", modality="CT").modality is Modality.CT


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(ramp())
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned: shown a quarter turn clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    study = open_study(tmp_path / "a.png")
    assert np.array_equal(study.image, np.rot90(ramp(), -1))
    assert study.converted[0] == "turned as its EXIF orientation says"


def test_colour_and_transparency_become_grey_and_are_noted(tmp_path: Path) -> None:
    rgb = np.repeat(ramp()[..., None], 3, axis=2)
    Image.fromarray(rgb).save(tmp_path / "grey.png")
    study = open_study(tmp_path / "grey.png")
    assert np.array_equal(study.image, ramp())
    assert study.converted == ["RGB to grey by luminance"]
    assert not study.warnings
    rgb[10:30, 10:30] = (255, 0, 0)
    Image.fromarray(rgb).save(tmp_path / "painted.png")
    assert "colours" in open_study(tmp_path / "painted.png").warnings[0]
    alpha = np.dstack([ramp(), np.where(ramp() > 50, 255, 0).astype(np.uint8)])
    Image.fromarray(alpha, mode="LA").save(tmp_path / "alpha.png")
    assert np.array_equal(open_study(tmp_path / "alpha.png").image, np.where(ramp() > 50, ramp(), 0))


def test_16_bit_is_scaled_by_percentiles(tmp_path: Path) -> None:
    values = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100) * 5 + 1000
    Image.fromarray(values).save(tmp_path / "a.png")
    image = open_study(tmp_path / "a.png").image
    assert image.dtype == np.float32
    assert (image.min(), image.max()) == (0, 255)
    # The 0.5 and 99.5 percentiles lie at the 50th and 9950th of 10,000 even steps.
    assert image.ravel()[5000] == pytest.approx(255 * (5000 - 50) / 9900, abs=0.1)
    assert image.ravel()[49] == 0
    assert image.ravel()[9960] == 255


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_damaged_pictures_give_words(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for cut in (0, 20, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(StudyError, match="is damaged or no picture; copy it again"):
            open_study(path)


def test_black_and_white_and_several_pages_are_refused(tmp_path: Path) -> None:
    Image.fromarray(ramp() > 60).save(tmp_path / "a.png")
    with pytest.raises(StudyError, match="black and white"):
        open_study(tmp_path / "a.png")
    pages = [Image.fromarray(ramp()), Image.fromarray(ramp())]
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(StudyError, match="holds 2 pictures"):
        open_study(tmp_path / "b.tif")


STORED = (np.add.outer(np.arange(80), np.arange(80)) * 20).astype(np.uint16)


def window(ds: Dataset, k: int) -> None:
    ds.WindowCenter, ds.WindowWidth = 1500, 1001


def test_the_window_of_an_xray_is_applied(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", STORED, edit=window)
    study = open_study(tmp_path / "x.dcm")
    assert (study.modality, study.kind) == (Modality.CXR, InputKind.PICTURE)
    # PS3.3 C.11.2.1.2: centre - 0.5, width - 1: black at 999.5 and below, white above 1999.5.
    expected = np.clip((STORED - 999.5) / 1000, 0, 1) * 255
    assert np.allclose(study.image, expected, atol=0.1)
    assert study.converted == ["PA image chosen", "VOI LUT applied"]


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        window(ds, k)
        ds.PhotometricInterpretation = "MONOCHROME1"

    write_xray(tmp_path / "x.dcm", STORED, edit=edit)
    study = open_study(tmp_path / "x.dcm")
    assert np.allclose(study.image, 255 - np.clip((STORED - 999.5) / 1000, 0, 1) * 255, atol=0.1)
    assert study.converted[-1] == "MONOCHROME1 inverted"


def test_modality_and_voi_lut_sequences(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 2, 0, "US"
        lut = Dataset()
        lut.LUTDescriptor = [8192, 0, 8]
        lut.LUTData = np.minimum(np.arange(8192) // 16, 255).astype(np.uint16).tolist()
        lut["LUTDescriptor"].VR = "US"
        lut["LUTData"].VR = "US"
        ds.VOILUTSequence = [lut]

    write_xray(tmp_path / "x.dcm", STORED, edit=edit)
    study = open_study(tmp_path / "x.dcm")
    assert np.allclose(study.image, np.minimum(STORED * 2 // 16, 255))
    assert study.converted[1:] == ["modality LUT applied", "VOI LUT applied"]


def test_without_a_window_percentiles_scale(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", STORED)
    study = open_study(tmp_path / "x.dcm")
    assert (study.image.min(), study.image.max()) == (0, 255)
    assert "percentiles" in study.converted[-1]


def test_the_frontal_image_for_presentation_is_chosen(tmp_path: Path) -> None:
    def edit(view: str, intent: str) -> Callable[[Dataset, int], None]:
        def change(ds: Dataset, k: int) -> None:
            ds.ViewPosition, ds.PresentationIntentType = view, intent

        return change

    write_xray(tmp_path / "1.dcm", STORED, edit=edit("LL", "FOR PRESENTATION"))
    write_xray(tmp_path / "2.dcm", STORED, edit=edit("PA", "FOR PROCESSING"))
    write_xray(tmp_path / "3.dcm", STORED[:, :70], edit=edit("PA", "FOR PRESENTATION"))
    assert open_study(tmp_path).image.shape == (80, 70)
    (tmp_path / "2.dcm").unlink()
    (tmp_path / "3.dcm").unlink()
    with pytest.raises(StudyError, match="is a lateral view, where a frontal one is wanted"):
        open_study(tmp_path)


def test_broken_xrays_give_words(tmp_path: Path) -> None:
    write_xray(tmp_path / "x.dcm", STORED, edit=window)
    whole, random = (tmp_path / "x.dcm").read_bytes(), np.random.default_rng(5)
    for cut in random.integers(0, len(whole) - 1, 20):
        (tmp_path / "x.dcm").write_bytes(whole[:cut])
        with pytest.raises(StudyError):
            open_study(tmp_path / "x.dcm")
    for _ in range(60):
        broken = bytearray(whole)
        for at in random.integers(0, 1000, 3):
            broken[at] = random.integers(0, 256)
        (tmp_path / "x.dcm").write_bytes(broken)
        try:
            found: Any = open_study(tmp_path / "x.dcm")
        except StudyError:
            continue
        assert found.image.ndim == 2
