from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.pictures import draw_plane, write_pictures
from pneumonai.pipeline.outputs.views import PLANES, display_of
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


def test_lungs_alone_are_coloured_right_and_left(tmp_path: Path) -> None:
    grey, lungs = np.full((40, 60), 100, np.uint8), np.zeros((40, 60), np.uint8)
    lungs[10:30, 5:25], lungs[10:30, 35:55] = 1, 2
    study = Study("xray", "xray.png", Modality.CXR, InputKind.PICTURE, grey, np.eye(4))
    write_pictures(study, Maps(lungs=lungs), tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "pictures" / "overlay.png")).astype(int)
    right, left, beside = drawn[20, 15], drawn[20, 45], drawn[5, 30]
    assert beside.tolist() == [100, 100, 100]
    assert right[1] > right[0] + 20 and left[0] > left[2] + 20  # turquoise, orange
    heat = np.zeros_like(lungs)
    write_pictures(study, Maps(lungs=lungs, heat_map=heat), tmp_path)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "pictures" / "overlay.png"))[20, 15])) == 1


def test_true_and_false_positives_and_false_negatives_have_their_colours(tmp_path: Path) -> None:
    study = volume()
    infection, truth = np.zeros(study.image.shape, np.uint8), np.zeros(study.image.shape, np.uint8)
    infection[0:24, 0:24], truth[12:36, 0:24] = 1, 1  # from the right: marked, both, truth, neither
    shown = np.asarray(draw_plane(display_of(study, Maps(infection=infection, truth=truth)), PLANES[0], 12)).astype(int)
    assert shown.shape == (360, 360, 3)
    # Half of each colour over black.
    for column, colour in ((45, (0, 107, 48)), (135, (28, 68, 128)), (225, (128, 28, 24)), (315, (0, 0, 0))):
        np.testing.assert_allclose(shown[45, column], colour, atol=1)
        assert shown[315, column].max() == 0
    upright = np.asarray(draw_plane(display_of(study, Maps(infection=infection, truth=truth)), PLANES[1], 4))
    np.testing.assert_allclose(upright[180, [45, 135, 225]], [(0, 107, 48), (28, 68, 128), (128, 28, 24)], atol=1)
    without = np.asarray(draw_plane(display_of(study, Maps(infection=infection)), PLANES[0], 12))
    np.testing.assert_allclose(without[45, 45], (32, 112, 104), atol=1)
    np.testing.assert_array_equal(without[45, 45], without[45, 135])


def test_a_picture_with_a_truth_has_a_legend_below(tmp_path: Path) -> None:
    for width in (50, 400):
        picture = Study("p", "p", Modality.CT, InputKind.PICTURE, np.full((width, width), 40, np.uint8), np.eye(4))
        infection, truth = np.zeros((width, width), np.uint8), np.zeros((width, width), np.uint8)
        infection[10:20, 10:30], truth[10:20, 20:40] = 1, 1
        write_pictures(picture, Maps(infection=infection, truth=truth), tmp_path)
        shown = np.asarray(Image.open(tmp_path / "pictures" / "overlay.png")).astype(int)
        assert shown.shape[1] == width
        legend = shown[width:]
        assert len(legend) > 20
        for colour in ((56, 136, 255), (0, 214, 96), (255, 56, 48)):
            assert (legend == colour).all(axis=2).sum() >= 9
        np.testing.assert_allclose(shown[15, 15], (20, 127, 68), atol=1)
        np.testing.assert_allclose(shown[15, 25], (48, 88, 148), atol=1)
        np.testing.assert_allclose(shown[15, 35], (148, 48, 44), atol=1)


def test_a_file_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        write_pictures(volume(), Maps(), tmp_path)
