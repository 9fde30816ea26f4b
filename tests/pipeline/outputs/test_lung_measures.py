from __future__ import annotations

import numpy as np
import pytest

from pneumonai.pipeline.outputs.lung_measures import hu_histogram, infection_measures, lung_measures


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
