from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.pictures import write_pictures
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import InputKind, Modality, Study


def volume() -> Study:
    """48 x 48 x 24 voxels of 1 x 1 x 2 mm, all at the lung window's black end."""
    image = np.full((48, 48, 24), -1350, np.int16)
    return Study("s", "s", Modality.CT, InputKind.VOLUME, image, np.diag([-1.0, -1.0, 2.0, 1.0]))


def test_heat_at_the_patient_s_right_is_drawn_at_the_left(tmp_path: Path) -> None:
    study = volume()
    heat = np.zeros(study.image.shape, np.uint8)
    heat[4:16, 4:16, 4:20] = 255  # to the left and posterior run the indices: right, in front
    names = write_pictures(study, Maps(heat_map=heat), tmp_path)
    assert names == ["pictures/axial.png", "pictures/coronal.png"]
    sheet = np.asarray(Image.open(tmp_path / "pictures" / "axial.png").convert("RGB")).astype(int)
    tile = sheet[:360, :360]
    # Pale yellow at half opacity over black, and nothing at the mirrored place.
    np.testing.assert_allclose(tile[75, 75], [126, 127, 82], atol=3)
    assert tile[75, 360 - 75].max() == 0


def test_tiles_keep_the_scan_s_aspect(tmp_path: Path) -> None:
    study = volume()
    study.image = study.image[:, :, :12]
    write_pictures(study, Maps(), tmp_path)
    axial = Image.open(tmp_path / "pictures" / "axial.png")
    coronal = Image.open(tmp_path / "pictures" / "coronal.png")
    assert axial.size == (3 * 360 + 8, 2 * 360 + 4)
    assert coronal.size == (3 * 360 + 8, 180)


def test_a_picture_gives_one_overlay_of_its_own_size(tmp_path: Path) -> None:
    picture = Study("p", "p", Modality.CXR, InputKind.PICTURE, np.full((50, 80), 40, np.uint8), np.eye(4))
    infection = np.zeros((50, 80), np.uint8)
    infection[10:20, 60:70] = 1
    assert write_pictures(picture, Maps(infection=infection), tmp_path) == ["pictures/overlay.png"]
    shown = np.asarray(Image.open(tmp_path / "pictures" / "overlay.png"))
    assert shown.shape == (50, 80, 3)
    assert shown[40, 20].tolist() == [40, 40, 40]
    red, green, _ = shown[15, 65].tolist()
    assert green > red + 50


def test_a_file_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_pictures(volume(), Maps(), tmp_path)
