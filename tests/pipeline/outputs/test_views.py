from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from pneumonai.pipeline.outputs.pictures import plane_of
from pneumonai.pipeline.outputs.views import PLANES, display_of, heat_colours, telling_plane, telling_slices
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import InputKind, Modality, Study

ORIENTATIONS = ("LPS", "RAS", "LAI", "SAR", "PIL")


def oriented_study(codes: str) -> Study:
    """20 x 24 x 10 voxels of 1 x 1.5 x 3 mm: a dense block at the patient's right, in front, at the head."""
    orientations = nib.orientations
    image = np.full((20, 24, 10), -1000, np.int16)  # indexed to left, to posterior, to head
    image[2:7, 3:9, 6:9] = 100
    affine = np.diag([-1.0, -1.5, 3.0, 1.0])
    affine[:3, 3] = (10.0, 20.0, -50.0)
    turn = orientations.ornt_transform(orientations.axcodes2ornt("LPS"), orientations.axcodes2ornt(codes))
    affine = affine @ orientations.inv_ornt_aff(turn, image.shape)
    turned = orientations.apply_orientation(image, turn)
    return Study("s", "s", Modality.CT, InputKind.VOLUME, turned, affine)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_any_orientation_is_shown_the_same_radiological_way(codes: str) -> None:
    study = oriented_study(codes)
    display = display_of(study, Maps(lungs=(study.image > 0).astype(np.uint8)))
    expected = np.full((10, 24, 20), -1000, np.int16)  # feet to head, to posterior, to left
    expected[6:9, 3:9, 2:7] = 100
    np.testing.assert_array_equal(display.image, expected)
    assert display.lungs is not None
    np.testing.assert_array_equal(display.lungs, expected > 0)
    np.testing.assert_allclose(display.spacing, (3.0, 1.5, 1.0))
    assert np.shares_memory(display.image, study.image)
    assert display.tilt_degrees == pytest.approx(0.0, abs=1e-3)
    # Every plane shows the block in its upper left quarter: right, in front, at the head.
    for plane, index in zip(PLANES, (7, 5, 4), strict=True):
        rows, columns = np.nonzero(plane_of(display.image, plane, index) > 0)
        picture = plane_of(display.image, plane, index)
        assert rows.max() < picture.shape[0] / 2
        assert columns.max() < picture.shape[1] / 2


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_positions_are_dicom_patient_coordinates(codes: str) -> None:
    display = display_of(oriented_study(codes), Maps())
    np.testing.assert_allclose(display.positions(0), (-50.0, 3.0))  # z, up
    np.testing.assert_allclose(display.positions(1), (-20.0, 1.5))  # y, to posterior
    np.testing.assert_allclose(display.positions(2), (-10.0, 1.0))  # x, to left


def test_an_oblique_scan_tells_its_tilt() -> None:
    study = oriented_study("LPS")
    turn = np.radians(12.0)
    rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    study.affine[:3, :3] = rotation @ study.affine[:3, :3]
    assert display_of(study, Maps()).tilt_degrees == pytest.approx(12.0, abs=1e-6)


def test_lung_window_and_grey_values() -> None:
    study = oriented_study("RAS")
    display = display_of(study, Maps())
    hu = np.array([[-2000, -1350, -600, 150, 3000]], np.int16)
    expected = [[0, 0, 128, 255, 255]]
    np.testing.assert_allclose(display.grey(hu), expected, atol=1)
    study.image = study.image.astype(np.float32)
    np.testing.assert_allclose(display_of(study, Maps()).grey(hu.astype(np.float32)), expected, atol=1)
    picture = Study("p", "p", Modality.CXR, InputKind.PICTURE, np.array([[0, 77, 255]], np.uint8), np.eye(4))
    shown = display_of(picture, Maps())
    np.testing.assert_array_equal(shown.grey(shown.image[0]), [[0, 77, 255]])
    assert [plane.name for plane in shown.planes] == ["picture"]


def test_one_slice_has_only_its_own_plane() -> None:
    study = Study("s", "s", Modality.CT, InputKind.SLICE, np.zeros((16, 16, 1), np.int16), np.eye(4))
    assert [plane.name for plane in display_of(study, Maps()).planes] == ["axial"]
    study.image = np.zeros((4, 4, 4), np.int16)
    assert [plane.name for plane in display_of(study, Maps()).planes] == ["axial"]


def test_colours_begin_transparent_and_end_opaque() -> None:
    colours = heat_colours()
    assert (colours.shape, colours.dtype) == ((256, 4), np.uint8)
    assert colours[0].tolist() == [0, 0, 4, 0]
    assert colours[255].tolist() == [252, 255, 164, 255]
    assert (np.diff(colours[:, 3].astype(int)) >= 0).all()
    brightness = colours[:, :3].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > -1).all()


def test_telling_slices_prefer_infection_then_heat_then_lung() -> None:
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros((16, 16, 40), np.int16), np.diag([-1, -1, 1, 1.0]))
    lungs, heat, infection = (np.zeros((16, 16, 40), np.uint8) for _ in range(3))
    lungs[..., 5:35] = 1
    heat[..., 10] = 200
    heat[..., 20] = 100
    infection[2:4, 2:4, 30] = 1
    everything = Maps(lungs=lungs, heat_map=heat, infection=infection)
    assert telling_slices(display_of(study, everything), 0, 3) == [30]
    assert telling_slices(display_of(study, Maps(lungs=lungs, heat_map=heat)), 0, 3) == [10, 20]
    found = telling_slices(display_of(study, Maps(lungs=lungs)), 0, 3)
    assert len(found) == 3
    assert set(found) <= set(range(5, 35))
    assert min(np.diff(found)) >= 5
    assert telling_slices(display_of(study, Maps(heat_map=np.zeros_like(heat))), 0, 4) == [4, 14, 24, 34]


def test_the_telling_plane_of_several_maps_is_where_they_are_strong_together_inside_the_lungs() -> None:
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros((16, 16, 40), np.int16), np.diag([-1, -1, 1, 1.0]))
    lungs, one, two = (np.zeros((16, 16, 40), np.uint8) for _ in range(3))
    lungs[:, :8, 5:35] = 1
    one[..., 38], one[:, :8, 10], one[:, :8, 20] = 255, 100, 60
    two[..., 2], two[:, :8, 20], two[:, :8, 30] = 255, 10, 9
    with_lungs = [display_of(study, Maps(lungs=lungs, heat_map=heat)) for heat in (one, two)]
    assert telling_plane(with_lungs[:1], 0) == 10
    assert telling_plane(with_lungs, 0) == 20
    assert telling_plane([display_of(study, Maps(heat_map=one))], 0) == 38
    assert telling_plane([display_of(study, Maps(heat_map=np.zeros_like(one)))], 0) == 20


def test_the_truth_colours_only_where_there_is_infection_to_compare() -> None:
    study = oriented_study("RAS")
    infection, truth = np.zeros(study.image.shape, np.uint8), np.zeros(study.image.shape, np.uint8)
    infection[0, 0, :2], truth[0, 0, 1:3] = 1, 1
    alone = display_of(study, Maps(truth=truth))
    assert (alone.truth, alone.regions) == (None, ())
    with pytest.raises(ValueError, match="only where there is an infection mask"):
        alone.region_codes(lambda whole: whole)
    display = display_of(study, Maps(infection=infection))
    assert [(region.code, region.colour) for region in display.regions] == [(1, "turquoise")]
    display = display_of(study, Maps(infection=infection, truth=truth))
    assert {region.colour: region.code for region in display.regions} == {"blue": 3, "green": 1, "red": 2}
    codes = display.region_codes(lambda whole: whole)
    assert codes.dtype == np.uint8
    # RAS: the first voxel lies at the patient's left, behind, at the feet, so in the last column of the last row.
    assert codes[:4, -1, -1].tolist() == [1, 3, 2, 0]
    assert np.count_nonzero(codes) == 3
    with pytest.raises(ValueError, match="must have the image's shape"):
        display_of(study, Maps(infection=infection, truth=truth[1:]))


def test_a_missed_infection_makes_a_slice_telling() -> None:
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros((16, 16, 40), np.int16), np.diag([-1, -1, 1, 1.0]))
    lungs, infection, truth = (np.zeros((16, 16, 40), np.uint8) for _ in range(3))
    lungs[..., 5:35], truth[2:6, 2:6, 30] = 1, 1
    assert telling_slices(display_of(study, Maps(lungs=lungs, infection=infection, truth=truth)), 0, 1) == [30]
    infection[4:12, 4:12, 12] = 1
    assert telling_slices(display_of(study, Maps(lungs=lungs, infection=infection, truth=truth)), 0, 2) == [12, 30]


def test_a_ct_picture_of_fractions_is_grey_and_no_hu() -> None:
    picture = Study("p", "p", Modality.CT, InputKind.PICTURE, np.array([[0.0, 77.4, 255.0]], np.float32), np.eye(4))
    shown = display_of(picture, Maps())
    assert not shown.is_hu
    np.testing.assert_array_equal(shown.grey(shown.image[0]), [[0, 77, 255]])


def test_a_map_of_another_shape_is_refused() -> None:
    study = oriented_study("LPS")
    with pytest.raises(ValueError, match="must have the image's shape"):
        display_of(study, Maps(heat_map=np.zeros((3, 3, 3), np.uint8)))
