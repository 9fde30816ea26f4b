from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, set_track_meta
from monai.transforms import Compose, Invertd

from pneumonai.transforms import (
    RandForegroundScaleCrop,
    RandForegroundScaleCropD,
    RandForegroundScaleCropd,
    RandForegroundScaleCropDict,
)

AFFINE = torch.tensor([[0, 0, -0.7, 90], [0, -0.8, 0, 70], [2.5, 0, 0, -40], [0, 0, 0, 1]], dtype=torch.float64)
FRACTIONS = (1.0, 0.5, 0.25, 0.125)

KINDS = {
    "numpy": lambda tensor: tensor.numpy(),
    "torch": lambda tensor: tensor,
    "metatensor": lambda tensor: MetaTensor(tensor, affine=AFFINE),
}


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An image whose voxels all differ, counted from 1."""
    return torch.arange(1, 1 + np.prod(shape)).reshape(1, *shape).to(dtype)


def voxel(shape: tuple[int, ...], place: tuple[int, ...], label: int = 1) -> torch.Tensor:
    """A mask with one foreground voxel."""
    mask = torch.zeros(1, *shape, dtype=torch.uint8)
    mask[(0, *place)] = label
    return mask


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind: str) -> None:
    # Half of 4 x 4 around row 0, column 3, moved inwards: rows 0 and 1, columns 2 and 3, each pixel twice as large.
    image, mask = KINDS[kind](numbered(4, 4, dtype=torch.int16)), KINDS[kind](voxel((4, 4), (0, 3), label=2))
    crop = RandForegroundScaleCrop(fractions=(0.5,), mode="nearest")
    assert crop(image, mask)[0].tolist() == [[3, 3, 4, 4]] * 2 + [[7, 7, 8, 8]] * 2
    assert crop(mask, mask)[0].tolist() == [[0, 0, 2, 2]] * 2 + [[0] * 4] * 2
    assert crop(mask, mask).dtype == torch.uint8
    # Bilinear: the quarters between 3 and 4, and between 3 and 7.
    linear = crop(image, mask, mode="bilinear")
    assert linear.dtype == torch.float32
    assert linear[0, 0].tolist() == [3, 3.25, 3.75, 4]
    assert linear[0, :, 0].tolist() == [3, 4, 6, 7]
    assert np.array_equal(np.asarray(image), numbered(4, 4).numpy())


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("shape", [(16, 24), (13, 7), (9, 17, 8), (40,)])
def test_window_holds_the_voxel_and_is_as_large_as_the_fraction_says(shape: tuple[int, ...], fraction: float) -> None:
    crop = RandForegroundScaleCrop(fractions=(fraction,)).set_random_state(3)
    rng = np.random.default_rng(1)
    for _ in range(40):
        place = tuple(int(rng.integers(side)) for side in shape)
        window = crop.draw_window(shape, voxel(shape, place))
        for (first, last), where, side in zip(window, place, shape, strict=True):
            assert 0 <= first <= where < last <= side
            assert last - first == max(1, round(side * fraction))
            # In the middle, where the border lets it.
            assert abs((first + last - 1) / 2 - where) <= 0.5 or first == 0 or last == side


def test_every_foreground_voxel_of_every_channel_is_drawn_and_nothing_else() -> None:
    mask = torch.zeros(2, 8, 8)
    places = [(0, 1, 1), (0, 6, 2), (1, 3, 7), (1, 6, 2)]
    for place in places:
        mask[place] = 0.3
    crop = RandForegroundScaleCrop(fractions=(0.125,)).set_random_state(0)
    drawn = Counter(crop.draw_window((8, 8), mask) for _ in range(300))
    assert set(drawn) == {((row, row + 1), (column, column + 1)) for _, row, column in places}
    # Three places, each in a third of the draws: 100, deviation 8.
    assert all(70 < number < 130 for number in drawn.values())


def test_fraction_one_is_the_identity_and_no_view() -> None:
    image = MetaTensor(torch.randn(2, 7, 9), affine=AFFINE)
    image[0, 2, 3] = torch.inf
    result = RandForegroundScaleCrop(fractions=(1,))(image, voxel((7, 9), (2, 2)))
    assert torch.equal(result.as_tensor(), image.as_tensor())
    assert torch.equal(result.affine, AFFINE)
    result.zero_()
    assert image.abs().sum() > 0


def test_fractions_are_drawn_equally_often_or_as_weighted() -> None:
    shape, mask = (16, 16), voxel((16, 16), (5, 5))

    def counts(**options: object) -> list[int]:
        crop = RandForegroundScaleCrop(**options).set_random_state(11)
        sides = Counter(np.diff(crop.draw_window(shape, mask))[0, 0] for _ in range(2000))
        return [sides[side] for side in (16, 8, 4, 2)]

    # 500 each, standard deviation 19.
    assert all(abs(number - 500) < 70 for number in counts())
    weighted = counts(weights=(0, 3, 1, 0))
    assert weighted[::3] == [0, 0]
    assert abs(weighted[1] - 1500) < 70
    # Half of all draws leave the picture whole, a quarter of the others do.
    assert abs(counts(prob=0.5)[0] - 1250) < 80


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 16, 12)])
def test_without_foreground_the_window_lies_anywhere(mask: torch.Tensor | None) -> None:
    crop = RandForegroundScaleCrop(fractions=(0.25,)).set_random_state(5)
    starts = [[first for first, _ in crop.draw_window((16, 12), mask)] for _ in range(1000)]
    rows, columns = (Counter(axis) for axis in zip(*starts, strict=True))
    # 13 rows with 77 draws each (deviation 8), 10 columns with 100 (deviation 9).
    assert set(rows) == set(range(13))
    assert set(columns) == set(range(10))
    assert min(rows.values()) > 40
    assert max(rows.values()) < 120
    assert min(columns.values()) > 60
    assert max(columns.values()) < 145


@pytest.mark.parametrize("shape", [(33, 47), (12, 17, 9)])
def test_image_and_mask_stay_aligned(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    image = torch.rand(1, *shape)
    data = {"image": image, "mask": (image > 0.8).to(torch.uint8) + (image > 0.9).to(torch.uint8)}
    crop = RandForegroundScaleCropd(["image", "mask"], modes="nearest").set_random_state(4)
    sizes = set()
    for _ in range(30):
        result = crop(data)
        cut = result["image"]
        assert cut.shape == image.shape
        assert torch.equal(result["mask"], (cut > 0.8).to(torch.uint8) + (cut > 0.9).to(torch.uint8))
        sizes.add(len(cut.unique()))
    assert len(sizes) == 4


def test_mask_keeps_its_labels_beside_an_interpolated_image() -> None:
    torch.manual_seed(2)
    mask = (torch.rand(1, 30, 31) > 0.95).to(torch.int64) * 5
    image = 100.0 * (mask > 0)
    crop = RandForegroundScaleCropd(["image", "mask"]).set_random_state(4)
    for _ in range(20):
        result = crop({"image": image, "mask": mask})
        assert result["mask"].dtype == torch.int64
        assert set(result["mask"].unique().tolist()) <= {0, 5}
        assert (result["mask"] == 5).any()
        # A pixel's nearest source pixel has at least a quarter of the weight in 2D.
        assert (result["image"][result["mask"] == 5] >= 25 - 1e-4).all()
        assert (result["image"][result["mask"] == 0] <= 75 + 1e-4).all()


def test_mask_need_not_be_cut() -> None:
    data = {"image": numbered(8, 8), "mask": voxel((8, 8), (6, 1))}
    result = RandForegroundScaleCropd("image", fractions=(0.125,))(data)
    assert result["image"].unique().tolist() == [8 * 6 + 1 + 1]
    assert torch.equal(result["mask"], data["mask"])
    anywhere = RandForegroundScaleCropd("image", source_key=None, fractions=(0.125,)).set_random_state(0)
    assert len({anywhere(data)["image"].unique().item() for _ in range(20)}) > 10


def test_same_seed_same_crops() -> None:
    data = {"image": torch.rand(1, 20, 20), "mask": (torch.rand(1, 20, 20) > 0.9).float()}

    def crops(seed: int) -> torch.Tensor:
        transform = Compose([RandForegroundScaleCropd(["image", "mask"])]).set_random_state(seed)
        return torch.stack([torch.cat([*transform(data).values()]) for _ in range(8)])

    assert torch.equal(crops(1), crops(1))
    assert not torch.equal(crops(1), crops(2))


def test_size_is_that_of_every_result_whatever_is_drawn() -> None:
    data = {"image": numbered(20, 30), "mask": voxel((20, 30), (3, 3))}
    crop = RandForegroundScaleCropd(["image", "mask"], prob=0.5, size=(8, 12)).set_random_state(0)
    shapes = {tuple(part.shape) for _ in range(20) for part in crop(data).values()}
    assert shapes == {(1, 8, 12)}
    assert RandForegroundScaleCrop(size=6)(numbered(5, 4, 3)).shape == (1, 6, 6, 6)
    # Where the picture shrinks, nothing is passed over: the mean of stripes of one pixel is in the middle.
    stripes = (torch.arange(64) % 2).float().repeat(1, 64, 1)
    shrunk = RandForegroundScaleCrop(fractions=(1,), size=12)(stripes)
    assert shrunk[..., 1:-1].sub(0.5).abs().max() < 0.06


def test_affine_by_hand() -> None:
    # Rows 4 and 5 of 16, columns 14 and 15, become 16 rows and columns: a step of an eighth, the first pixel's centre
    # a sixteenth inside the edge, which lies at row 3.5 and column 13.5.
    image = MetaTensor(numbered(16, 16), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0])).double())
    cut = RandForegroundScaleCrop(fractions=(0.125,))(image, voxel((16, 16), (5, 15)))
    assert cut.affine[:2].tolist() == [[0.25, 0, 0, 2 * 3.5625], [0, 0.375, 0, 3 * 13.5625]]
    assert image.affine.diagonal().tolist() == [2, 3, 1, 1]


@pytest.mark.parametrize("shape", [(32, 24), (33, 47), (16, 24, 40)])
def test_voxels_keep_their_place_in_millimetres(shape: tuple[int, ...]) -> None:
    # A linear course stays linear inside the window, so that its value tells the place in the source.
    grids = torch.meshgrid(*(torch.arange(side).double() for side in shape), indexing="ij")
    image = MetaTensor(torch.stack(grids), affine=AFFINE)
    crop = RandForegroundScaleCrop(fractions=(0.5, 0.25)).set_random_state(7)
    for _ in range(5):
        cut = crop(image, torch.ones(1, *shape))
        middle = tuple(side // 2 for side in shape)
        place = [*cut[(slice(None), *middle)].tolist(), *[0.0] * (3 - len(shape)), 1.0]
        index = [*map(float, middle), *[0.0] * (3 - len(shape)), 1.0]
        assert (cut.affine @ torch.tensor(index).double()).tolist() == pytest.approx(
            (AFFINE @ torch.tensor(place).double()).tolist()
        )


@pytest.mark.parametrize("shape", [(32, 48), (33, 50), (16, 24, 9)])
def test_inverse_puts_the_window_back_at_its_place(shape: tuple[int, ...]) -> None:
    mask = (torch.rand(1, *shape, generator=torch.Generator().manual_seed(6)) > 0.97).to(torch.uint8)
    data = {"image": MetaTensor(numbered(*shape), affine=AFFINE), "mask": MetaTensor(mask, affine=AFFINE)}
    crop = RandForegroundScaleCropd(["image", "mask"], modes="nearest").set_random_state(8)
    for _ in range(12):
        result = crop(data)
        window = [slice(*edges) for edges in result["image"].applied_operations[-1]["extra_info"]["window"]]
        back = crop.inverse(result)
        for key in data:
            expected = torch.zeros_like(data[key].as_tensor())
            expected[(0, *window)] = data[key].as_tensor()[(0, *window)]
            assert torch.equal(back[key].as_tensor(), expected)
            assert back[key].dtype == data[key].dtype
            assert torch.equal(back[key].affine, AFFINE)
            assert not back[key].applied_operations


@pytest.mark.parametrize("nearest_interp", [False, True])
def test_invertd_takes_a_map_with_other_channels_back(nearest_interp: bool) -> None:
    preprocessing = Compose([RandForegroundScaleCropd(["image", "mask"], fractions=(0.25,), size=20)])
    d = preprocessing({"image": MetaTensor(numbered(32, 40), affine=AFFINE), "mask": voxel((32, 40), (16, 20))})
    d["pred"] = MetaTensor(torch.stack([torch.ones(20, 20), torch.linspace(0, 1, 20).repeat(20, 1)]))
    back = Invertd("pred", preprocessing, "image", nearest_interp=nearest_interp)(d)["pred"]
    assert back.shape == (2, 32, 40)
    assert torch.equal(back.affine, AFFINE)
    # Rows 12 to 19 and columns 15 to 24.
    assert torch.allclose(back[0, 12:20, 15:25].as_tensor(), torch.ones(8, 10))
    assert torch.count_nonzero(back[0]) == 8 * 10
    values = back[1, 12, 15:25]
    assert (values.diff() > 0).all()
    assert torch.isin(values, d["pred"][1]).all() == nearest_interp


def test_without_tracking_plain_tensors_come_out() -> None:
    set_track_meta(False)
    try:
        cut = RandForegroundScaleCrop()(MetaTensor(numbered(8, 8)), voxel((8, 8), (1, 1)))
    finally:
        set_track_meta(True)
    assert type(cut) is torch.Tensor


def test_aliases() -> None:
    assert RandForegroundScaleCropD is RandForegroundScaleCropd is RandForegroundScaleCropDict


def test_input_that_is_refused() -> None:
    image, crop = numbered(5, 6), RandForegroundScaleCrop()
    with pytest.raises(ValueError, match=r"mask of the image's shape \(5, 6\), got \(6, 6\)"):
        crop(image, torch.ones(1, 6, 6))
    with pytest.raises(ValueError, match=r"one to three spatial dimensions and voxels, got \(1, 0, 6\)"):
        crop(image[:, :0])
    with pytest.raises(ValueError, match=r"one to three spatial dimensions and voxels, got \(1,\)"):
        crop(image[:, 0, 0])
    with pytest.raises(ValueError, match=r"window inside \(5, 6\), got \(\(0, 5\), \(2, 7\)\)"):
        crop(image, window=((0, 5), (2, 7)))
    with pytest.raises(KeyError, match="'mask', got"):
        RandForegroundScaleCropd("image")({"image": image})
    with pytest.raises(ValueError, match=r"one grid, got {'image': \(5, 6\), 'mask': \(6, 6\)}"):
        RandForegroundScaleCropd("image")({"image": image, "mask": torch.ones(1, 6, 6)})
    crop = RandForegroundScaleCrop(size=4)
    cut = crop(MetaTensor(image))
    with pytest.raises(ValueError, match=r"inverse needs \[C, 4, 4\], got \(1, 4, 3\)"):
        crop.inverse(cut[..., :3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fractions": ()}, r"fractions above 0 and at most 1, got \(\)"),
        ({"fractions": (0.5, 0)}, "fractions above 0 and at most 1"),
        ({"fractions": (1.5,)}, "fractions above 0 and at most 1"),
        ({"weights": (1, 2)}, r"one weight of 0 or more for each fraction, .*got \(1, 2\)"),
        ({"weights": (1, 2, -1, 1)}, "one weight of 0 or more"),
        ({"weights": (0, 0, 0, 0)}, "one of them above 0"),
        ({"mode": "area"}, "'bilinear' or 'nearest', got 'area'"),
        ({"size": (8, 0)}, r"whole numbers of 1 or more, got \(8, 0\)"),
        ({"size": 2.5}, "whole numbers of 1 or more, got 2.5"),
    ],
)
def test_arguments_that_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandForegroundScaleCrop(**arguments)
