from __future__ import annotations

from itertools import permutations

import nibabel as nib
import numpy as np
import pytest

from pneumonai.pipeline.outputs.lung_measures import (
    hu_histogram,
    infection_densities,
    infection_measures,
    infection_profile,
    lung_measures,
)
from pneumonai.pipeline.outputs.views import display_of
from pneumonai.pipeline.result import Maps
from pneumonai.pipeline.study import InputKind, Modality, Study


def two_lungs() -> np.ndarray:
    """10 x 10 x 10 voxels: 100 of the right lung, 50 of the left."""
    lungs = np.zeros((10, 10, 10), np.uint8)
    lungs[:5, :5, :4] = 1
    lungs[5:, :5, :2] = 2
    return lungs


def test_volumes_of_right_and_left() -> None:
    assert lung_measures(two_lungs(), 0.5) == {"right_ml": 50.0, "left_ml": 25.0, "total_ml": 75.0}
    assert lung_measures(two_lungs()[0], None) == {"right_pixels": 20, "left_pixels": 0, "total_pixels": 20}


def test_infection_of_each_lung() -> None:
    infection = np.zeros((10, 10, 10), np.uint8)
    infection[0, :5, :2] = 1  # 10 voxels of the right lung
    infection[9, 9, 9] = 1  # one outside
    expected = {"right_ml": 5.0, "left_ml": 0.0, "total_ml": 5.5}
    shares = {"right_percent": 10.0, "left_percent": 0.0, "total_percent": pytest.approx(6.67)}
    assert infection_measures(infection, two_lungs(), 0.5) == {**expected, **shares}
    assert infection_measures(infection, two_lungs(), None) == shares
    only_right = np.where(two_lungs() == 1, 1, 0)
    assert infection_measures(infection, only_right, None)["left_percent"] is None
    assert infection_measures(infection, None, None) == {"percent_of_picture": 1.1}


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_histogram_is_numpy_s_with_the_ends_gathered(axes: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(-1200, 600, size=(8, 9, 10)).astype(dtype).transpose(axes)
    lungs = rng.integers(0, 3, size=(8, 9, 10), dtype=np.uint8).transpose(axes)
    made = hu_histogram(image, lungs)
    expected, _ = np.histogram(np.clip(image[lungs > 0], -1050, 199), bins=made["edges"])
    assert made["counts"] == expected.tolist()
    assert sum(made["counts"]) == np.count_nonzero(lungs)
    assert made["edges"][:2] == [-1050, -1025]


def test_profile_by_hand() -> None:
    lungs, infection = np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 6), np.uint8)
    lungs[:2, :, 1:5], lungs[2:, :, 2] = 1, 2  # 10 voxels in slices 1, 3, 4, and 20 in slice 2
    infection[0, 0, 2] = 1
    infection[:, :, 4] = 1  # 10 of its 20 lie outside the lungs
    infection[:, :, 5] = 1  # no lung there
    affine = np.diag([-1.0, -1.0, 2.5, 1.0])
    affine[2, 3] = -100.0
    found = infection_profile(infection, lungs, affine)
    assert [one["index"] for one in found] == [1, 2, 3, 4]
    assert [one["position_mm"] for one in found] == [-97.5, -95.0, -92.5, -90.0]
    assert [one["infection_percent"] for one in found] == [0.0, 5.0, 0.0, 100.0]
    assert all(one["classes"] is None for one in found)
    everywhere = infection_profile(infection, None, affine, assumed_geometry=True)
    assert [one["infection_percent"] for one in everywhere] == [0.0, 0.0, 5.0, 0.0, 100.0, 100.0]
    assert {one["position_mm"] for one in everywhere} == {None}


@pytest.mark.parametrize("seed", range(8))
def test_profile_is_a_slow_loop_over_the_displayed_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 40, size=3).tolist())
    codes = "".join(rng.choice(list(pair)) for pair in rng.permutation(["RL", "AP", "SI"]))
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    affine = np.diag([*rng.uniform(0.5, 5.0, size=3), 1.0])
    affine[:3, 3] = rng.uniform(-300, 300, size=3)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    laid = list(permutations(range(3)))[int(rng.integers(6))]
    infection = (rng.random(shape) < rng.random()).astype(rng.choice([np.uint8, bool]))
    lungs = (rng.integers(1, 3, size=shape) * (rng.random(shape) < rng.random() * 0.05)).astype(np.uint8)
    infection = np.ascontiguousarray(infection.transpose(laid)).transpose(np.argsort(laid))
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros(shape, np.int16), affine)
    display = display_of(study, Maps(lungs=lungs, infection=infection.astype(np.uint8)))
    assert display.lungs is not None
    assert display.infection is not None
    start, step = display.positions(0)
    expected = []
    for index in range(display.image.shape[0]):
        lung, marked = display.lungs[index] > 0, display.infection[index] > 0
        if lung.any():
            percent = round(100.0 * float((lung & marked).sum() / lung.sum()), 4)
            expected.append((index, round(start + index * step, 3), percent))
    found = infection_profile(infection, lungs, affine)
    assert [(one["index"], one["position_mm"], pytest.approx(one["infection_percent"])) for one in found] == expected
    whole = [one["infection_percent"] for one in infection_profile(infection, None, affine)]
    np.testing.assert_allclose(whole, 100.0 * display.infection.mean(axis=(1, 2)), atol=1e-4)


def test_densities_inside_the_infection_by_hand() -> None:
    # Just below and at -750, -300 and 50; the last two are not infected.
    image = np.array([[[-1500, -751, -750, -500, -301, -300, 49, 50, -500, 0]]], np.int16)
    infection = np.array([[[1, 1, 1, 1, 1, 1, 1, 1, 0, 0]]], np.uint8)
    found = infection_densities(image, infection)
    assert (found["ground_glass_percent"], found["consolidation_percent"]) == (37.5, 25.0)
    assert sum(found["hu_histogram"]["counts"]) == 8
    assert found["hu_histogram"]["counts"][0] == 1
    assert infection_densities(image.astype(np.float32) - 0.5, infection)["consolidation_percent"] == 25.0
    nothing = infection_densities(image, np.zeros_like(infection))
    assert (nothing["ground_glass_percent"], nothing["consolidation_percent"]) == (None, None)
    assert set(nothing["hu_histogram"]["counts"]) == {0}
