"""What a bundle must not be given, and the words in which it is refused."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonai.pipeline.checks import check, check_lungs
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, Modality, Study, open_checked
from pneumonai.pipeline.xray_checks import PICTURE_LOOKS

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
CHEST = made["chest"]().transpose(2, 1, 0)
AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])


def study(image: np.ndarray = CHEST, affine: np.ndarray = AFFINE, **values: Any) -> Study:
    kinds = {"modality": Modality.CT, "kind": InputKind.VOLUME} | values
    return Study("s", "some/study", image=image, affine=affine, **kinds)


def picture(image: np.ndarray, modality: Modality = Modality.CXR) -> Study:
    return study(image, np.eye(4), modality=modality, kind=InputKind.PICTURE, assumed_geometry=True)


def refusal(given: Study, **wanted: str) -> str:
    with pytest.raises(StudyError) as caught:
        check(given, **wanted)
    line = caught.value.line()
    assert line.startswith("some/study: ")
    assert caught.value.remedy
    return line


GREY = np.arange(100 * 100).reshape(100, 100) % 256


FEW = "only 24 slices through the lungs: small findings may not show; send the thinner series if there is one"


def test_a_chest_ct_passes_with_a_note_on_its_length() -> None:
    assert check(study()) == ["the slices cover only 120 mm from head to foot", FEW]
    assert check(study(np.repeat(CHEST, 2, axis=2))) == []
    assert check(study(), input_kind="slice") == []
    assert check(picture(GREY), modality="CXR", input_kind="picture")[0].startswith(PICTURE_LOOKS)
    assert check(picture(GREY, Modality.CT), modality="CT", input_kind="slice")[0].startswith(PICTURE_LOOKS)


def test_the_wrong_modality_and_kind() -> None:
    assert "is a chest X-ray, where a CT is wanted" in refusal(picture(GREY))
    assert "is a CT, where a chest X-ray is wanted" in refusal(study(), modality="CXR", input_kind="picture")
    single = study(CHEST[..., :1], kind=InputKind.SLICE)
    assert "is a single slice, where a CT volume is wanted; send the whole series" in refusal(single)
    assert "is a picture, where a CT volume is wanted" in refusal(picture(GREY, Modality.CT))
    assert "is a CT volume, where a picture is wanted" in refusal(study(), input_kind="picture")
    assert check(single, input_kind="slice") == []


GREYS = np.clip((CHEST.astype(int) + 1350) * 255 // 1500, 0, 255)
OFFSET = CHEST.astype(int) + 1024
PADDED = np.where(np.arange(64)[:, None, None] < 8, -1024, OFFSET)
VALUES = [
    (GREYS.astype(np.int16), "its values are grey values 59 to 244 of pictures, no Hounsfield units"),
    ((GREYS / 255).astype(np.float32), "its values are grey values 0.231373 to 0.956863 of pictures"),
    (OFFSET.astype(np.int16), "look like HU + 1024, no Hounsfield units; subtract 1024"),
    (PADDED.astype(np.int16), "look like HU + 1024"),
    (np.full(CHEST.shape, -1000, np.int16), "all its voxels have the value -1000"),
    (np.where(CHEST < -200, -200, CHEST), "hold no air"),
    (np.where(CHEST > 41, np.nan, CHEST).astype(np.float32), "no numbers (NaN or infinite)"),
]


@pytest.mark.parametrize(("image", "gist"), VALUES, ids=[gist[:30] for _, gist in VALUES])
def test_values_that_are_no_hounsfield_units(image: np.ndarray, gist: str) -> None:
    assert gist in refusal(study(image))


def test_grey_stacks_pass_where_the_geometry_is_assumed() -> None:
    assert check(study(GREYS.astype(np.int16), assumed_geometry=True)) == []


SHEARED = AFFINE.copy()
SHEARED[1, 2] = 1.0
GEOMETRY = [
    (CHEST[..., :6], AFFINE, "has only 6 slices over 30 mm"),
    (CHEST, np.diag([5.0, 5, 1, 1]), "has only 24 slices over 24 mm"),
    (CHEST, np.diag([0.05, 0.05, 5, 1]), "its spacing of 0.05 x 0.05 x 5 mm is no chest CT's"),
    (CHEST, np.diag([5.0, 5, 30, 1]), "its spacing of 5 x 5 x 30 mm"),
    (CHEST, np.diag([1.0, 1, 5, 1]), "its slices are only 64 mm wide"),
    (CHEST, SHEARED, "sheared by 11.3 degrees (gantry tilt)"),
    (CHEST, np.diag([np.nan, 5, 5, 1]), "its affine is not finite"),
]


@pytest.mark.parametrize(("image", "affine", "gist"), GEOMETRY, ids=[gist[:30] for *_, gist in GEOMETRY])
def test_geometry_that_is_no_chest_ct(image: np.ndarray, affine: np.ndarray, gist: str) -> None:
    assert gist in refusal(study(image, affine))


def test_the_head_foot_axis_is_found_whatever_the_order_of_axes() -> None:
    turned = np.array([[0, 5.0, 0, 0], [0, 0, 5.0, 0], [6.0, 0, 0, 0], [0, 0, 0, 1]])
    warnings = check(study(np.moveaxis(CHEST, 2, 0), turned))
    assert warnings == [
        "the slices cover only 144 mm from head to foot",
        "thick slices (6.0 mm): small findings may not show",
        FEW,
    ]


def test_an_oblique_header_is_told() -> None:
    def turned(degrees: float) -> np.ndarray:
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        turn = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
        return turn @ AFFINE

    tall = np.repeat(CHEST, 2, axis=2)
    assert check(study(tall, turned(4.9))) == []
    assert check(study(tall, turned(-12))) == [
        "the scan lies 12 degrees oblique, and is answered as it lies; reformat it to axial slices"
    ]


def test_lungs_that_are_small_or_unlike() -> None:
    lungs = np.zeros((10, 10, 10), np.uint8)
    lungs[:5], lungs[5:] = 1, 2
    assert check_lungs(lungs, 4.0) == check_lungs(lungs, None) == check_lungs(0 * lungs, 1.0) == []
    assert check_lungs(lungs, 1.4)[0].startswith("only 1400 ml of lung:")
    lungs[:5, :5] = 0  # 250 of 750
    assert check_lungs(lungs, None)[0].startswith("the right lung has only 33 % of the lung found:")
    # The left lung is the smaller one by nature: 40 % are usual for it, and too little for the right.
    lungs[:] = 1
    lungs[:4] = 2
    assert check_lungs(lungs, None) == []
    assert len(check_lungs((3 - lungs).astype(np.uint8), None)) == 1


def test_small_and_empty_pictures() -> None:
    wanted = {"modality": "CXR", "input_kind": "picture"}
    assert "50 x 40 pixels, too small" in refusal(picture(GREY[:40, :50]), **wanted)
    assert "is black throughout" in refusal(picture(np.zeros((90, 90))), **wanted)


def test_rescale_that_does_nothing_is_found_by_the_values(tmp_path: Path) -> None:
    """A DICOM series of stored values whose header claims that they are HU already."""
    made["write_series"](tmp_path, made["chest"]().astype(int) + 1024, intercept=0)
    with pytest.raises(StudyError, match=r"look like HU \+ 1024"):
        open_checked(tmp_path)


def test_an_xray_in_dicom_given_as_ct(tmp_path: Path) -> None:
    made["write_xray"](tmp_path / "x.dcm", GREY * 10)
    with pytest.raises(StudyError, match="is a chest X-ray, where a CT is wanted"):
        open_checked(tmp_path / "x.dcm")
    assert open_checked(tmp_path / "x.dcm", modality="CXR", input_kind="picture").image.shape == (100, 100)
