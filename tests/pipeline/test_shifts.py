"""Shifts of a volume, each by what can be said of it by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pneumonai.pipeline.phantom import make_phantom, shifts

AFFINE = np.diag([-2.0, -3.0, 4.0, 1.0])
AFFINE[:3, 3] = 10, 20, -30


def generator() -> np.random.Generator:
    return np.random.default_rng(5)


def volume(shape: tuple[int, int, int] = (12, 14, 16)) -> np.ndarray:
    return generator().integers(-900, 900, shape).astype(np.int16)


def positions(image: np.ndarray, affine: np.ndarray) -> dict[tuple[float, ...], int]:
    """Value at each position in mm."""
    where = np.argwhere(np.ones(image.shape, bool))
    mm = np.round(where @ affine[:3, :3].T + affine[:3, 3], 6)
    return {tuple(place): int(value) for place, value in zip(mm.tolist(), image.ravel(), strict=True)}


def test_axes_of_the_patient_are_read_from_the_affine() -> None:
    assert [shifts.patient_axis(AFFINE, axis) for axis in range(3)] == [(0, -1), (1, -1), (2, 1)]
    turned = np.array([[0, 2.0, 0, 0], [0, 0, 3.0, 0], [-4.0, 0, 0, 0], [0, 0, 0, 1]])
    assert [shifts.patient_axis(turned, axis) for axis in range(3)] == [(1, 1), (2, 1), (0, -1)]


@pytest.mark.parametrize("sigma", [10, 30, 60])
def test_noise_has_its_deviation(sigma: float) -> None:
    image = np.zeros((40, 40, 40), np.int16)
    noisy, affine = shifts.add_noise(image, AFFINE, generator(), sigma=sigma)
    assert noisy.dtype == np.int16 and np.array_equal(affine, AFFINE) and not image.any()
    assert noisy.std() == pytest.approx(sigma, rel=0.02) and abs(noisy.mean()) < sigma / 50
    again, _ = shifts.add_noise(image, AFFINE, generator(), sigma=sigma)
    assert np.array_equal(noisy, again)


@pytest.mark.parametrize("count", [1, 3, 8, 16, 37])
def test_other_slices_keep_the_extent_and_the_mean(count: int) -> None:
    image = volume()
    out, affine = shifts.reslice(image, AFFINE, generator(), count=count)
    assert out.shape == (12, 14, count)
    assert affine[2, 2] * count == pytest.approx(16 * 4)
    lower = affine[2, 3] - affine[2, 2] / 2  # the lower face of the first slice
    assert lower == pytest.approx(-30 - 2)
    if count <= 16:
        assert out.mean() == pytest.approx(image.mean(), abs=0.6)  # rounding
    if count == 16:
        assert np.array_equal(out, image) and np.array_equal(affine, AFFINE)


def test_slices_are_means_of_what_they_cover() -> None:
    image = np.arange(8, dtype=np.int16)[None, None].repeat(2, 0).repeat(2, 1) * 100
    pairs, _ = shifts.reslice(image, AFFINE, generator(), count=4)
    assert pairs[0, 0].tolist() == [50, 250, 450, 650]
    doubled, _ = shifts.reslice(image, AFFINE, generator(), count=16)
    assert doubled[0, 0, :5].tolist() == [0, 25, 75, 125, 175]
    thick, affine = shifts.thicken(image, AFFINE, generator(), thickness=8.0)
    assert np.array_equal(thick, pairs) and affine[2, 2] == 8
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        shifts.reslice(image, AFFINE, generator(), count=0)


def test_rotation() -> None:
    image = volume((21, 21, 21))
    for axis in range(3):
        same, affine = shifts.rotate(image, AFFINE, generator(), axis=axis, degrees=0)
        assert np.array_equal(same, image) and np.array_equal(affine, AFFINE)
    cube = np.diag([-2.0, -2.0, 2.0, 1.0])
    turned, _ = shifts.rotate(image, cube, generator(), axis=2, degrees=90)
    assert np.abs(turned.astype(int) - np.rot90(image, 1, (0, 1))).max() <= 1 or (
        np.abs(turned.astype(int) - np.rot90(image, -1, (0, 1))).max() <= 1
    )
    # In millimetres: a round disc stays round where voxels are not square.
    x, y = np.meshgrid(np.arange(41) - 20, np.arange(41) - 20, indexing="ij")
    disc = np.repeat(np.where(np.hypot(2 * x, 3 * y) < 30, 500, -500)[..., None], 9, 2).astype(np.int16)
    out, _ = shifts.rotate(disc, AFFINE, generator(), axis=2, degrees=37)
    assert (np.abs(out[..., 4].astype(int) - disc[..., 4])[12:29, 12:29] > 500).mean() < 0.06
    corner, _ = shifts.rotate(np.zeros_like(image), cube, generator(), axis=2, degrees=10)
    assert corner[0, 0, 0] == -1024 and corner[10, 10, 10] == 0


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flipping_with_the_affine_changes_no_position(axes: tuple[int, ...]) -> None:
    image = volume((4, 5, 6))
    flipped, affine = shifts.flip(image, AFFINE, generator(), axes=axes)
    assert not np.array_equal(flipped, image)
    assert positions(flipped, affine) == positions(image, AFFINE)
    back, old = shifts.flip(flipped, affine, generator(), axes=axes)
    assert np.array_equal(back, image) and np.allclose(old, AFFINE)


def test_a_wrong_label_mirrors_the_patient() -> None:
    image = volume()
    for axis in range(3):
        once, affine = shifts.mislabel(image, AFFINE, generator(), axis=axis)
        assert np.array_equal(affine, AFFINE) and not np.array_equal(once, image)
        assert np.array_equal(shifts.mislabel(once, AFFINE, generator(), axis=axis)[0], image)


def test_a_lobe_is_lost_where_there_is_no_disease() -> None:
    phantom = make_phantom("cp", 3, shape=(80, 72, 40))
    parts = shifts.lobe_like_parts(phantom.affine, phantom.lungs)
    assert np.array_equal(parts > 0, phantom.lungs > 0)
    assert set(np.unique(parts[phantom.lungs == 1])) == {1, 2}
    # Cut about as the fissure runs.
    lower = np.isin(phantom.lobes, (3, 5))
    assert 2 * (lower & np.isin(parts, (2, 4))).sum() / (lower.sum() + np.isin(parts, (2, 4)).sum()) > 0.75
    out, _ = shifts.remove_lobe(
        phantom.image, phantom.affine, generator(), lungs=phantom.lungs, infection=phantom.infection
    )
    changed = out != phantom.image
    lost = [part for part in range(1, 5) if changed[parts == part].mean() > 0.9]
    assert len(lost) == 1 and not changed[parts != lost[0]].any()
    counts = [int(phantom.infection[parts == part].sum()) for part in range(1, 5)]
    assert counts[lost[0] - 1] == min(counts)
    assert abs(out[parts == lost[0]].mean() - 40) < 2


def test_metal_is_small_and_its_streaks_stay_in_its_slices() -> None:
    phantom = make_phantom("normal", 3, shape=(80, 72, 40))
    out, _ = shifts.add_metal(phantom.image, phantom.affine, generator())
    metal = out == shifts.METAL
    millilitres = metal.sum() * np.prod(phantom.spacing) / 1000
    assert 1 < millilitres < 10
    slices = np.flatnonzero(metal.any(axis=(0, 1)))
    assert np.array_equal(np.flatnonzero((out != phantom.image).any(axis=(0, 1))), slices)
    assert abs(len(slices) * phantom.spacing[2] - 40) < 2 * phantom.spacing[2]
    difference = (out.astype(int) - phantom.image)[:, :, slices[0]][~metal[:, :, slices[0]]]
    assert difference.min() < -150 and difference.max() > 150
