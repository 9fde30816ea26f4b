from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from pneumonai.transforms import CLAHE, CLAHED, CLAHEd, CLAHEDict

KINDS = {
    "numpy": lambda array: array,
    "torch": torch.from_numpy,
    "metatensor": lambda array: MetaTensor(torch.from_numpy(array), affine=torch.diag(torch.tensor([2.0, 3, 4, 1]))),
}


def reflected(position: int, length: int) -> int:
    """The index that a position beyond a side stands for, the edge not repeated."""
    while not 0 <= position < length:
        position = -position if position < 0 else 2 * (length - 1) - position
        if length == 1:
            return 0
    return position


def curve_by_definition(tile: list[int], clip_limit: float, bins: int) -> np.ndarray:
    """Grey level curve of one tile, in float64, not rounded."""
    histogram = [0] * bins
    for level in tile:
        histogram[level] += 1
    if clip_limit > 0:
        limit = max(1, int(clip_limit * len(tile) / bins))
        excess = sum(max(count - limit, 0) for count in histogram)
        histogram = [min(count, limit) + excess // bins for count in histogram]
        remainder = excess % bins
        if remainder:
            step = max(bins // remainder, 1)
            for number in range(remainder):
                histogram[number * step] += 1
    return np.cumsum(np.array(histogram, dtype=np.float64)) * (bins - 1) / len(tile)


def equalized_by_definition(levels: np.ndarray, clip_limit: float, tile_grid: tuple[int, int], bins: int) -> np.ndarray:
    """One slice of levels, pixel by pixel, in float64: the paper's method with OpenCV's conventions."""
    height, width = levels.shape
    columns, rows = tile_grid
    below = right = 0
    if height % rows or width % columns:
        below, right = rows - height % rows, columns - width % columns
    tile_height, tile_width = (height + below) // rows, (width + right) // columns
    curves = {}
    for row in range(rows):
        for column in range(columns):
            tile = [
                int(levels[reflected(y, height), reflected(x, width)])
                for y in range(row * tile_height, (row + 1) * tile_height)
                for x in range(column * tile_width, (column + 1) * tile_width)
            ]
            curves[row, column] = np.rint(curve_by_definition(tile, clip_limit, bins))
    result = np.zeros((height, width))
    for y in range(height):
        down = y / tile_height - 0.5
        for x in range(width):
            across = x / tile_width - 0.5
            upper, left = int(np.floor(down)), int(np.floor(across))
            for row, of_row in ((upper, upper + 1 - down), (upper + 1, down - upper)):
                for column, of_column in ((left, left + 1 - across), (left + 1, across - left)):
                    curve = curves[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)]
                    result[y, x] += of_row * of_column * curve[levels[y, x]]
    return result


def random_case(seed: int, largest: int) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Levels with a peak, steps and ties in them; clip limit and grid over all their cases."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, largest, 2)
    levels = rng.normal(rng.uniform(0, 255), rng.uniform(5, 90), (height, width))
    if rng.random() < 0.3:
        levels[: height // 2] = rng.uniform(0, 255)
    clip_limit = float(rng.choice([0.0, rng.uniform(0.01, 1), rng.uniform(1, 8), 40.0]))
    grid = tuple(int(tiles) for tiles in rng.integers(1, 10, 2))
    return levels.clip(0, 255).astype(np.uint8), clip_limit, grid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["array", "dictionary"])
def test_a_slice_of_eight_pixels_by_hand(kind: str, form: str) -> None:
    # Histogram 6 1 0 1, cut at 2: 2 1 0 1, the 4 cut off spread: 3 2 1 2, cumulated 3 5 6 8, times 3 / 8: 1 2 2 3.
    levels = np.array([[[0, 0, 0, 0, 0, 0, 1, 3]]], dtype=np.float32)
    image = KINDS[kind](levels / 3)
    arguments = {"clip_limit": 1, "tile_grid": (1, 1), "num_bins": 4}
    result = (
        CLAHE(**arguments)(image)
        if form == "array"
        else CLAHEd("image", **arguments)({"image": image, "a": 1})["image"]
    )
    assert (result * 3).flatten().tolist() == pytest.approx([1, 1, 1, 1, 1, 1, 2, 3])
    assert result.dtype == torch.float32
    assert isinstance(result, MetaTensor)
    if kind == "metatensor":
        assert result.affine.diagonal().tolist() == [2, 3, 4, 1]
    assert np.array_equal(np.asarray(image), levels / 3)  # the input stays as it was


def test_pixels_between_two_tile_centres_mix_their_curves() -> None:
    # Two tiles of four pixels without clipping, two levels. Left tile 0 0 0 1: curve 0.75 1, rounded 1 1. Right tile
    # 0 1 1 1: curve 0.25 1, rounded 0 1. Ways to the right curve (x / 4 - 0.5): 0, 0, 0, 0.25, 0.5, 0.75, 1, 1.
    row = torch.tensor([[[0.0, 0, 0, 1, 0, 1, 1, 1]]])
    result = CLAHE(clip_limit=0, tile_grid=(2, 1), num_bins=2)(row)
    assert result.tolist() == [[[1, 1, 1, 1, 0.5, 1, 1, 1]]]


@pytest.mark.parametrize("seed", range(16))
def test_equals_the_definition(seed: int) -> None:
    levels, clip_limit, grid = random_case(seed, 40)
    bins = 256 if seed % 3 else int(np.random.default_rng(seed).integers(2, 256))
    levels = levels.astype(np.int64) % bins
    expected = equalized_by_definition(levels, clip_limit, grid, bins)
    result = CLAHE(clip_limit, grid, bins)(torch.from_numpy(levels)[None].double() / (bins - 1))[0] * (bins - 1)
    # Where a curve lies half way between two levels, float32 and float64 may round it to either.
    difference = np.abs(result.numpy() - expected)
    assert difference.max() <= 1.001
    assert difference.mean() <= 0.05


@pytest.mark.parametrize("seed", range(24))
def test_equals_opencv_within_a_grey_level(seed: int) -> None:
    cv2 = pytest.importorskip("cv2")
    levels, clip_limit, grid = random_case(100 + seed, 200)
    expected = cv2.createCLAHE(clip_limit, grid).apply(levels).astype(int)
    result = CLAHE(clip_limit, grid)(levels[None])
    assert result.dtype == torch.uint8
    difference = np.abs(result[0].numpy().astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.01
    as_float = CLAHE(clip_limit, grid)(levels[None].astype(np.float32) / 255)[0].numpy() * 255
    assert np.abs(as_float - expected).max() <= 1.001


def test_slices_do_not_influence_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = torch.rand(2, 5, 33, 47, generator=torch.Generator().manual_seed(0)) ** 2
    equalize = CLAHE(3.0, (4, 3))
    whole = equalize(scan)
    for channel in range(2):
        for number in range(5):
            alone = equalize(scan[channel, number][None])[0]
            assert torch.equal(whole[channel, number], alone)
    monkeypatch.setattr("pneumonai.transforms.clahe.PIXELS_AT_ONCE", 33 * 47 * 3)
    assert torch.equal(equalize(scan), whole)


def test_a_constant_slice_stays_constant_and_padding_is_dropped() -> None:
    result = CLAHE()(torch.full((1, 13, 29), 0.5))
    assert result.shape == (1, 13, 29)
    assert float(result.max() - result.min()) < 1e-6


def test_values_beyond_the_range_are_clipped() -> None:
    inside = torch.tensor([[[0.0, 0.2, 1.0, 1.0]]])
    beyond = torch.tensor([[[-3.0, 0.2, 7.0, float("inf")]]])
    assert torch.equal(CLAHE(tile_grid=(1, 1))(beyond), CLAHE(tile_grid=(1, 1))(inside))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8])
def test_the_data_type_stays(dtype: torch.dtype) -> None:
    levels = torch.randint(0, 256, (1, 24, 24), generator=torch.Generator().manual_seed(1))
    image = levels.to(torch.uint8) if dtype == torch.uint8 else (levels / 255).to(dtype)
    result = CLAHE(tile_grid=(2, 2))(image)
    assert result.dtype == dtype
    assert 0 <= float(result.min()) <= float(result.max()) <= (255 if dtype == torch.uint8 else 1)


def test_aliases() -> None:
    assert CLAHED is CLAHEd is CLAHEDict


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (torch.tensor([[[0.5, float("nan")]]]), "NaN"),
        (torch.tensor([[[float("inf"), float("-inf"), float("nan")]]]), "NaN"),
        (torch.zeros(1, 4, 4, dtype=torch.int16), "int16"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), "bool"),
        (torch.zeros(4), r"\(4,\)"),
        (torch.zeros(1, 0, 4), r"\(1, 0, 4\)"),
    ],
)
def test_images_that_are_refused(image: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CLAHE()(image)


@pytest.mark.parametrize(
    "arguments",
    [
        {"clip_limit": -1},
        {"clip_limit": float("nan")},
        {"clip_limit": float("inf")},
        {"tile_grid": (8,)},
        {"tile_grid": (0, 8)},
        {"tile_grid": (2.5, 8)},
        {"num_bins": 1},
        {"num_bins": 100000},
        {"num_bins": 65536, "tile_grid": (64, 64)},
    ],
)
def test_arguments_that_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="CLAHE needs"):
        CLAHE(**arguments)
