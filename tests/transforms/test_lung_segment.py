from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pneumonai.pipeline.phantom import Phantom, make_phantom
from pneumonai.transforms import LungSegment, LungSegmentD, LungSegmentd, LungSegmentDict, LungsNotFoundError
from pneumonai.transforms.lung_anatomy import close, part_sides
from pneumonai.transforms.lung_envelope import costal_depth
from pneumonai.transforms.lung_grid import Grid, as_int16, block_mean

SHAPE = (160, 160, 64)


@cache
def phantom(kind: str, seed: int) -> Phantom:
    return make_phantom(kind, seed, shape=SHAPE)


def image_of(made: Phantom) -> MetaTensor:
    return MetaTensor(torch.from_numpy(made.image)[None], affine=torch.tensor(made.affine))


@cache
def labels_of(kind: str, seed: int) -> np.ndarray:
    return np.asarray(LungSegment()(image_of(phantom(kind, seed))))[0]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def chest(slices: int, millimetres: float, radius: float = 60.0, lung_hu: float = -850.0) -> tuple[MetaTensor, float]:
    """An elliptic body with two cylinders of lung along its whole height; their cross section in cm2."""
    step = 4.0
    y, x = (np.mgrid[:80, :100] - np.array([40, 50])[:, None, None]) * step
    plane = np.full(y.shape, -1000.0)
    plane[(x / 180) ** 2 + (y / 120) ** 2 < 1] = 40.0
    lung = (np.abs(np.abs(x) - 85) ** 2 + y**2) < radius**2
    plane[lung] = lung_hu
    volume = np.repeat(plane[None], slices, axis=0).astype(np.float32)
    # Array axes S, P, L; RAS+ millimetres.
    affine = np.array([[0, 0, -step, 0], [0, -step, 0, 0], [millimetres, 0, 0, 0], [0, 0, 0, 1]])
    return MetaTensor(torch.from_numpy(volume)[None], affine=torch.tensor(affine)), lung.sum() * step * step / 100


@pytest.mark.parametrize(("kind", "seed", "least"), [("normal", 300, 0.97), ("ncp", 306, 0.93), ("cp", 301, 0.93)])
def test_finds_the_lungs_of_phantoms(kind: str, seed: int, least: float) -> None:
    truth, labels = phantom(kind, seed).lungs, labels_of(kind, seed)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1, 2}
    assert dice(labels > 0, truth > 0) >= least
    for side in (1, 2):
        assert dice(labels == side, truth == side) >= least


@pytest.mark.parametrize(("kind", "seed"), [("ncp", 306), ("cp", 301)])
def test_keeps_disease_at_the_pleura(kind: str, seed: int) -> None:
    infection = phantom(kind, seed).infection > 0
    assert np.count_nonzero(infection & (labels_of(kind, seed) > 0)) >= 0.97 * np.count_nonzero(infection)


def test_leaves_trachea_table_and_bowel_gas_out() -> None:
    made, labels = phantom("normal", 300), labels_of("normal", 300)
    assert np.count_nonzero((made.airway > 0) & (labels > 0)) <= 0.03 * np.count_nonzero(made.airway)
    gas = (made.image < -900) & (made.lungs == 0) & (made.airway == 0)
    assert np.count_nonzero(gas & (labels > 0)) <= 0.002 * np.count_nonzero(labels)


def test_orientation_does_not_matter() -> None:
    rng = np.random.default_rng(7)
    made, expected = phantom("ncp", 306), labels_of("ncp", 306)
    orders = list(itertools.permutations(range(3)))
    for order in (orders[i] for i in rng.choice(len(orders), 3, replace=False)):
        flips = rng.integers(0, 2, 3).astype(bool)
        move = np.eye(4)
        move[:3, :3] = np.eye(3)[:, list(order)]
        image, truth = made.image.transpose(order), expected.transpose(order)
        for axis in np.flatnonzero(flips):
            image, truth = np.flip(image, axis), np.flip(truth, axis)
            flip = np.eye(4)
            flip[axis, axis], flip[axis, 3] = -1, image.shape[axis] - 1
            move = move @ flip
        turned = MetaTensor(torch.from_numpy(image.copy())[None], affine=torch.tensor(made.affine @ move))
        labels = LungSegment()(turned)
        assert np.array_equal(np.asarray(labels)[0], truth)
        assert torch.equal(labels.affine, turned.affine)


def test_array_types_agree_and_the_input_stays() -> None:
    image, _ = chest(40, 5.0)
    before = image.clone()
    labels = LungSegment()(image)
    assert isinstance(labels, MetaTensor)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.affine, image.affine)
    assert torch.equal(image.as_tensor(), before.as_tensor())
    whole = MetaTensor(image.as_tensor().to(torch.int16), affine=image.affine)
    assert torch.equal(LungSegment()(whole).as_tensor(), labels.as_tensor())
    # Without an affine: S, P, L at 1 mm, so that this chest is a small one; its slices are 1 mm thick, 40 mm in all.
    array = LungSegment()(np.asarray(image))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.uint8
    tensor = LungSegment()(image.as_tensor())
    assert type(tensor) is torch.Tensor
    assert np.array_equal(tensor.numpy(), array)


def test_right_and_left_come_from_the_affine() -> None:
    image, cm2 = chest(40, 5.0)
    labels = np.asarray(LungSegment()(image))[0]
    # Columns run to the patient's left, so the right lung has the low ones; 3 % for blocks at the border.
    assert not (labels[:, :, 50:] == 1).any()
    assert not (labels[:, :, :50] == 2).any()
    assert np.count_nonzero(labels) * 0.16 * 0.5 == pytest.approx(cm2 * 20, rel=0.03)
    mirrored = MetaTensor(image.as_tensor(), affine=image.affine @ torch.diag(torch.tensor([1.0, 1, -1, 1])).double())
    assert set(np.unique(np.asarray(LungSegment()(mirrored))[0][:, :, :50])) == {0, 2}


def test_padding_outside_the_field_of_view_does_no_harm() -> None:
    image, _ = chest(40, 5.0)
    padded = image.clone()
    y, x = np.mgrid[:80, :100]
    padded[:, :, torch.from_numpy((y - 40) ** 2 + (x - 50) ** 2 > 48**2)] = -3024
    assert torch.equal(LungSegment()(padded).as_tensor(), LungSegment()(image).as_tensor())


@pytest.mark.parametrize("millimetres", [1.0, 8.0])
def test_single_slice_and_thick_slices(millimetres: float) -> None:
    for slices in (1, 3, 20):
        image, cm2 = chest(slices, millimetres)
        labels = np.asarray(LungSegment()(image))[0]
        assert labels.shape == (slices, 80, 100)
        assert np.count_nonzero(labels[slices // 2]) * 0.16 == pytest.approx(cm2, rel=0.03)


def water(shape: tuple[int, int, int]) -> np.ndarray:
    _, y, x = np.mgrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return np.where(x**2 + y**2 < 0.7, 0.0, -1000.0)


def head() -> np.ndarray:
    """Skull, brain, and 60 ml of sinuses and throat at 2.5 mm."""
    z, y, x = np.mgrid[-50:50, -45:45, -45:45] * 2.5
    radius = np.sqrt((x / 75) ** 2 + (y / 95) ** 2 + (z / 100) ** 2)
    volume = np.where(radius < 1, 40.0, -1000.0)
    volume[(radius < 0.95) & (radius > 0.88)] = 900
    volume[(x**2 + (y + 60) ** 2 + (z + 40) ** 2) < 22**2] = -1000
    volume[(x**2 + y**2 < 8**2) & (z < -40)] = -1000
    return volume


@pytest.mark.parametrize(
    ("name", "volume", "millimetres"),
    [
        ("air", np.full((60, 64, 64), -1000.0), 2.5),
        ("water", water((60, 64, 64)), 2.5),
        ("nothing", np.full((60, 64, 64), np.nan), 2.5),
        ("grey values", np.random.default_rng(0).integers(0, 256, (40, 64, 64)).astype(float), 2.5),
        ("head", head(), 2.5),
    ],
)
def test_no_lungs(name: str, volume: np.ndarray, millimetres: float) -> None:
    affine = torch.diag(torch.tensor([millimetres] * 3 + [1.0])).double()
    image = MetaTensor(torch.from_numpy(volume.transpose(2, 1, 0).copy())[None], affine=affine)
    with pytest.raises(LungsNotFoundError, match="chest CT"):
        LungSegment()(image)
    assert issubclass(LungsNotFoundError, ValueError)


def test_too_little_lung_counts_as_none() -> None:
    # Two lungs of radius 24 mm: 36 cm2 a slice. 10 cm of them are 360 ml, too little; 16 cm are 580 ml.
    tall, cm2 = chest(40, 4.0, radius=24.0)
    assert 16 * cm2 > 500 > 10 * cm2
    assert np.asarray(LungSegment()(tall)).any()
    with pytest.raises(LungsNotFoundError, match="10 cm of scan"):
        LungSegment()(chest(25, 4.0, radius=24.0)[0])
    # The same in a shorter stack shows over 10 cm2 in a slice; two lungs of radius 10 mm show 6 cm2.
    assert np.asarray(LungSegment()(chest(20, 4.0, radius=24.0)[0])).any()
    with pytest.raises(LungsNotFoundError):
        LungSegment()(chest(1, 4.0, radius=10.0)[0])


def test_says_where_the_lungs_are_cut_off() -> None:
    made = phantom("normal", 300)
    slices = np.flatnonzero(made.lungs.any(axis=(0, 1)))
    middle = int(slices.mean())
    for part, ends in (
        (slice(None), []),
        (slice(middle, None), ["feet"]),
        (slice(0, middle), ["head"]),
        (slice(slices[0] + 12, slices[-1] - 12), ["feet", "head"]),
    ):
        affine = made.affine.copy()
        affine[:3, 3] += affine[:3, 2] * (part.start or 0)
        image = MetaTensor(torch.from_numpy(made.image[:, :, part].copy())[None], affine=torch.tensor(affine))
        _, warnings = LungSegment().with_warnings(image)
        assert [w.split(" end of the scan")[0] for w in warnings] == [f"lungs cut off at the {end}" for end in ends]


def test_dictionary_form() -> None:
    image, _ = chest(40, 5.0)
    image.meta["warnings"] = ["earlier"]
    data = {"image": image, "label": 1}
    out = LungSegmentd(keys="image")(data)
    assert "lungs" not in data
    assert torch.equal(out["lungs"].as_tensor(), LungSegment()(image).as_tensor())
    assert out["image"].meta["warnings"][0] == "earlier"
    assert len(out["image"].meta["warnings"]) == 3
    given = {"image": image, "lungs": "as they are"}
    assert LungSegmentd()(given)["lungs"] == "as they are"
    assert LungSegmentd(keys="ct", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    assert LungSegmentd(lungs_key="mask")(data)["mask"].shape == image.shape
    assert LungSegmentD is LungSegmentDict is LungSegmentd


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"\[1, X, Y, Z\].*got shape \[2, 4, 4, 4\]"):
        LungSegment()(np.zeros((2, 4, 4, 4)))
    with pytest.raises(ValueError, match="got shape"):
        LungSegment()(np.zeros((64, 64, 64)))
    with pytest.raises(ValueError, match="one key"):
        LungSegmentd(keys=("image", "label"))
    with pytest.raises(KeyError):
        LungSegmentd()({"label": 1})


def test_block_means_by_hand() -> None:
    volume = np.arange(2 * 4 * 5).reshape(2, 4, 5)
    # 1.5 mm slices, 1.6 mm pixels: blocks of 2 x 2 x 2 voxels, the last column hangs over and repeats its edge.
    grid = Grid.over(volume.shape, (1.5, 1.6, 1.6))
    assert grid.factors == (2, 2, 2)
    assert grid.block_shape == (1, 2, 3)
    means = block_mean(as_int16(volume), grid)
    assert means.tolist() == [[[13.0, 15.0, 16.5], [23.0, 25.0, 26.5]]]
    clipped = as_int16(np.array([[[-3600.0, np.nan, 2999.0, -0.6]]]))
    assert clipped.tolist() == [[[-1024, -1024, 1500, -1]]]


def test_closing_fills_what_is_narrower_than_the_ball() -> None:
    mask = np.ones((9, 30, 30), bool)
    mask[:, :4, :] = mask[:, :, :4] = False
    mask[:, 10:20, 14:17] = False
    closed = close(mask, 3.0, (1.0, 1.0, 1.0))
    assert closed[:, 10:20, 14:17].all()
    assert np.array_equal(closed[:, :4], mask[:, :4])
    mask[:, 4:, 10:20] = False
    assert not close(mask, 3.0, (1.0, 1.0, 1.0))[:, :, 15].any()


def test_costal_surface_goes_on_over_a_gap() -> None:
    # A cylinder of radius 100 mm with a bite of 50 mm width and 40 mm depth at the wall, 60 mm high.
    y, x = np.mgrid[-40:41, -40:41] * 3.0
    lungs = np.repeat((np.hypot(y, x) < 100)[None], 60, axis=0)
    lungs[20:40, (x > 60) & (np.abs(y) < 25)] = False
    depth = costal_depth(lungs, (3.0, 3.0, 3.0))
    assert depth[30, 40, 40 + 30] == pytest.approx(10, abs=2)
    assert depth[30, 40, 40 - 30] == pytest.approx(10, abs=2)
    assert depth[30, 40 + 30, 40] == pytest.approx(10, abs=2)


def test_touching_lungs_part_along_the_seam() -> None:
    # One block of lung, 40 columns of 3 mm, with a faint bright plane at column 23.
    hu = np.full((10, 30, 60), 40.0, np.float32)
    lungs = np.zeros(hu.shape, bool)
    lungs[:, 5:25, 10:50] = True
    hu[lungs] = -850
    hu[:, 5:25, 33] = -600
    sides = part_sides(lungs, hu, np.ones(hu.shape, bool), (3.0, 3.0, 3.0))
    assert (sides[:, 5:25, 10:33] == 1).all()
    assert (sides[:, 5:25, 34:50] == 2).all()
    assert not sides[~lungs].any()
