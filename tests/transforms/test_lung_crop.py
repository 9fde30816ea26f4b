from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd

from pneumonai.transforms import LungCrop, LungCropD, LungCropd, LungCropDict, SampleSlicesd

AFFINE = torch.tensor([[0, 0, -0.7, 90], [0, -0.8, 0, 70], [2.5, 0, 0, -40], [0, 0, 0, 1]], dtype=torch.float64)

KINDS = {
    "numpy": lambda tensor: tensor.numpy(),
    "torch": lambda tensor: tensor,
    "metatensor": lambda tensor: MetaTensor(tensor, affine=AFFINE),
}


def boxed(shape: tuple[int, ...], top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    """Lungs that fill a box in every slice."""
    lungs = torch.zeros(1, *shape, dtype=torch.uint8)
    lungs[..., top:bottom, left:right] = 1
    lungs[..., top:bottom, (left + right) // 2 : right] = 2
    return lungs


def blob(shape: tuple[int, ...], centre: tuple[float, ...], sigma: float) -> torch.Tensor:
    """A bright spot of width sigma, 1 at its centre."""
    grids = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in shape), indexing="ij")
    squares = sum((grid - place) ** 2 for grid, place in zip(grids, centre, strict=True))
    return torch.exp(-squares / (2 * sigma**2)).float()[None]


def centre_of_mass_mm(image: Any) -> np.ndarray:
    """Where the spot lies, in millimetres by the image's own affine."""
    values = image.as_tensor()[0].double()
    grids = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in values.shape), indexing="ij")
    index = [float((grid * values).sum() / values.sum()) for grid in grids]
    affine = image.affine.numpy()
    return (affine @ np.array([*index, *[0.0] * (3 - len(index)), 1.0]))[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_halved_by_hand(kind: str) -> None:
    # A box of 4 x 8 pixels into 4 x 4: the factor is min(4 / 4, 4 / 8, 1.25) = 0.5, so 2 x 4 with a row of air
    # above and below. Antialiased halving weighs four pixels 1 3 3 1 over 8; at the box's edge 3 3 1 over 7.
    ramp = torch.arange(12, dtype=torch.int16).expand(1, 2, 6, 12) * 8
    lungs = boxed((2, 6, 12), 1, 2, 5, 10)
    image = KINDS[kind](ramp)
    result = LungCrop(size=(4, 4))(image, KINDS[kind](lungs))
    assert result.shape == (1, 2, 4, 4)
    assert result.dtype == torch.float32
    first = 8 * (3 * 2 + 3 * 3 + 1 * 4) / 7
    last = 8 * (3 * 9 + 3 * 8 + 1 * 7) / 7
    expected = [first, 8 * 4.5, 8 * 6.5, last]
    for slice_ in result[0]:
        assert slice_[0].tolist() == slice_[3].tolist() == [-1024.0] * 4
        assert slice_[1].tolist() == pytest.approx(expected, abs=1e-3)
        assert slice_[2].tolist() == pytest.approx(expected, abs=1e-3)
    labels = LungCrop(size=(4, 4), interp_mode="nearest")(KINDS[kind](lungs), KINDS[kind](lungs))
    assert labels.dtype == torch.uint8
    assert labels[0, 0].tolist() == [[0] * 4, [1, 1, 2, 2], [1, 1, 2, 2], [0] * 4]
    assert image.shape == (1, 2, 6, 12)


def test_affine_by_hand() -> None:
    # Rows 1..4 become rows 1..2: row 1 of the crop has its centre between source rows 1 and 2.
    lungs = MetaTensor(boxed((2, 6, 12), 1, 2, 5, 10), affine=AFFINE)
    crop = LungCrop(size=(4, 4), interp_mode="nearest")(lungs, lungs)
    assert (crop.affine @ torch.tensor([1.0, 1, 0, 1]).double()).tolist() == pytest.approx(
        (AFFINE @ torch.tensor([1, 1.5, 2.5, 1]).double()).tolist()
    )
    assert torch.linalg.norm(crop.affine[:3, :3], dim=0).tolist() == pytest.approx([2.5, 1.6, 1.4])
    assert lungs.affine.equal(AFFINE)
    assert not lungs.applied_operations


@pytest.mark.parametrize(
    ("box", "zoom"),
    [((10, 20, 90, 60), 0.5), ((5, 5, 45, 45), 1.0), ((30, 40, 50, 60), 1.25), ((0, 0, 96, 80), 5 / 12)],
)
def test_one_scale_for_rows_and_columns_and_no_more_than_max_zoom(box: tuple[int, ...], zoom: float) -> None:
    lungs = boxed((1, 96, 80), *box)
    crop = LungCrop(size=(40, 40), interp_mode="nearest")(lungs, lungs)
    rows, columns = (int((crop[0, 0] > 0).any(axis).sum()) for axis in (1, 0))
    assert rows == round((box[2] - box[0]) * zoom)
    assert columns == round((box[3] - box[1]) * zoom)
    top = int((crop[0, 0] > 0).any(1).nonzero()[0])
    assert top == (40 - rows) // 2


def test_one_box_for_all_slices() -> None:
    lungs = torch.zeros(2, 3, 50, 50)
    lungs[0, 0, 10:15, 20:25] = 1
    lungs[1, 2, 30:40, 5:8] = 1
    assert LungCrop().find_box(lungs) == (10, 5, 40, 25)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", ["lung", "center"])
def test_a_spot_keeps_its_place_in_millimetres(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(70, 130, 2))
    top, left = (int(n) for n in rng.integers(0, 15, 2))
    bottom, right = height - int(rng.integers(0, 15)), width - int(rng.integers(0, 15))
    centre = (2.0, (top + bottom) / 2 + rng.uniform(-4, 4), (left + right) / 2 + rng.uniform(-4, 4))
    image = MetaTensor(blob((5, height, width), centre, 4.0), affine=torch.from_numpy(rng.normal(size=(4, 4))))
    image.affine[3] = torch.tensor([0, 0, 0, 1])
    lungs = boxed((5, height, width), top, left, bottom, right)
    size = tuple(int(n) for n in rng.integers(40, 90, 2))
    crop = LungCrop(size=size, mode=mode, padding=0, resize_to=(100, 90))(image, lungs)
    assert np.abs(centre_of_mass_mm(crop) - centre_of_mass_mm(image)).max() < 0.05


def test_center_cuts_the_middle_of_a_resized_slice() -> None:
    ramp = torch.arange(512, dtype=torch.float32).expand(1, 1, 512, 512)
    crop = LungCrop(mode="center")(ramp)
    # 512 -> 256 puts pixel j at 2 j + 0.5; the middle 160 of 256 begin at 48.
    assert crop.shape == (1, 1, 160, 160)
    assert crop[0, 0, 80].tolist() == pytest.approx([2 * j + 0.5 for j in range(48, 208)], abs=1e-2)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("mode", ["lung", "center"])
def test_a_smooth_map_survives_the_way_there_and_back(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(60, 120, 2))
    rows = torch.linspace(0, rng.uniform(0.5, 3), height)[:, None]
    columns = torch.linspace(0, rng.uniform(0.5, 3), width)
    image = MetaTensor((1.5 + torch.sin(rows + columns)).expand(1, 3, -1, -1), affine=AFFINE)
    top, left = (int(n) for n in rng.integers(0, 20, 2))
    box = (top, left, height - int(rng.integers(0, 20)), width - int(rng.integers(0, 20)))
    transform = LungCrop(size=tuple(int(n) for n in rng.integers(30, 90, 2)), mode=mode, resize_to=(81, 95))
    crop = transform(image, boxed((3, height, width), *box))
    back = transform.inverse(crop)
    assert back.shape == image.shape
    assert torch.equal(back.affine, AFFINE)
    assert not back.applied_operations
    filled = back != 0
    assert (back - image)[filled].abs().max() < 0.06
    if mode == "lung":
        assert torch.equal(filled[0, 0], boxed((height, width), *box)[0] > 0)
    else:
        shares = [min(full / resized, 1) for full, resized in zip(transform.size, (81, 95), strict=True)]
        assert filled[0, 0].float().mean() == pytest.approx(shares[0] * shares[1], abs=0.04)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float32, torch.float64])
def test_the_inverse_takes_any_number_of_channels_and_keeps_the_data_type(dtype: torch.dtype) -> None:
    image = MetaTensor(torch.zeros(1, 2, 40, 50, dtype=torch.int16), affine=AFFINE)
    transform = LungCrop(size=(20, 20))
    crop = transform(image, boxed((2, 40, 50), 4, 6, 34, 46))
    heat = MetaTensor(torch.full((3, 2, 20, 20), 100).to(dtype), meta=crop.meta)
    heat.applied_operations = crop.applied_operations
    back = transform.inverse(heat)
    assert back.dtype == dtype
    assert back.shape == (3, 2, 40, 50)
    assert torch.unique(back.as_tensor()).tolist() == [0, 100]
    assert int((back == 100).sum()) == 3 * 2 * 30 * 40


def test_labels_come_back_as_they_were() -> None:
    lungs = MetaTensor(boxed((4, 60, 70), 8, 10, 48, 60), affine=AFFINE)
    d = LungCropd(["image", "lungs"], size=(80, 100), max_zoom=2)({"image": lungs.float(), "lungs": lungs})
    assert d["lungs"].dtype == torch.uint8
    transform = LungCropd(["lungs"], size=(80, 100), max_zoom=2)
    assert torch.equal(transform.inverse(transform({"lungs": lungs}))["lungs"], lungs)


def test_two_dimensional_slices() -> None:
    image = MetaTensor(blob((90, 80), (40, 45), 4.0), affine=torch.diag(torch.tensor([0.7, 0.8, 1, 1])).double())
    transform = LungCrop(size=(40, 40), padding=0)
    crop = transform(image, boxed((90, 80), 10, 12, 80, 70))
    assert crop.shape == (1, 40, 40)
    assert centre_of_mass_mm(crop) == pytest.approx(centre_of_mass_mm(image), abs=0.02)
    back = transform.inverse(crop)
    assert back.shape == image.shape
    assert torch.equal(back.affine, image.affine)


def test_dictionary_gives_each_key_its_interpolation_and_padding() -> None:
    d = {
        "image": torch.full((1, 2, 30, 40), 50.0),
        "lungs": boxed((2, 30, 40), 5, 5, 15, 35),
        "mask": torch.full((1, 2, 30, 40), 3, dtype=torch.uint8),
    }
    modes = ["bilinear", "nearest", "nearest"]
    result = LungCropd(["image", "lungs", "mask"], size=(15, 15), padding=[None, None, 9], interp_mode=modes)(d)
    assert torch.unique(result["image"].as_tensor()).tolist() == [-1024, 50]
    assert torch.unique(result["lungs"].as_tensor()).tolist() == [0, 1, 2]
    assert torch.unique(result["mask"].as_tensor()).tolist() == [3, 9]
    assert d["image"].shape == (1, 2, 30, 40)
    assert LungCropD is LungCropd is LungCropDict


def test_blocks_of_slices_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    image = MetaTensor(torch.rand(2, 7, 40, 50, generator=torch.Generator().manual_seed(0)), affine=AFFINE)
    transform, lungs = LungCrop(size=(20, 24)), boxed((7, 40, 50), 3, 4, 38, 47)
    crop = transform(image, lungs)
    back = transform.inverse(crop.clone())
    monkeypatch.setattr("pneumonai.transforms.lung_crop.PIXELS_AT_ONCE", 3000)
    again = transform(image, lungs)
    assert torch.allclose(again.as_tensor(), crop.as_tensor(), atol=1e-6)
    assert torch.allclose(transform.inverse(again).as_tensor(), back.as_tensor(), atol=1e-6)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SPL", "ILA", "PIR"])
def test_a_network_sized_map_comes_back_to_the_study_s_own_grid(axcodes: str) -> None:
    # The chain of the bundle on a study in any orientation: a heat map that is the network's input itself must lie
    # where the study has it, on the study's shape and affine.
    shape, spacing = (36, 60, 50), (2.0, 1.5, 1.2)
    study = 1 + blob(shape, (17, 31, 24), 9.0)
    lungs = torch.zeros(1, *shape, dtype=torch.uint8)
    lungs[:, 3:30, 8:52, 6:44] = 1
    affine = torch.diag(torch.tensor([*spacing, 1.0])).double()
    affine[:3, 3] = torch.tensor([-30.0, 12, 5])
    loaded = Orientationd(["image", "lungs"], axcodes=axcodes, labels=(("L", "R"), ("P", "A"), ("I", "S")))(
        {"image": MetaTensor(study, affine=affine), "lungs": MetaTensor(lungs, affine=affine)}
    )
    for key in loaded:
        loaded[key].applied_operations = []
    preprocessing = Compose(
        [
            Orientationd(["image", "lungs"], axcodes="SPL", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            LungCropd(["image", "lungs"], size=(40, 40)),
            SampleSlicesd(["image", "lungs"], num_slices=24),
        ]
    )
    d = preprocessing(loaded)
    assert d["image"].shape == (1, 24, 40, 40)
    d["heat_map"] = MetaTensor(d["image"].as_tensor().clone())
    post = Invertd(keys="heat_map", transform=preprocessing, orig_keys="image", nearest_interp=False)
    heat_map = post(d)["heat_map"]
    assert heat_map.shape == loaded["image"].shape
    assert torch.equal(heat_map.affine, loaded["image"].affine)
    inside = loaded["lungs"] > 0
    assert (heat_map - loaded["image"])[inside].abs().max() < 0.06
    assert torch.equal(heat_map != 0, inside)

    d["pred"] = MetaTensor(d["lungs"].as_tensor().clone())
    labels = Invertd(keys="pred", transform=preprocessing, orig_keys="image", nearest_interp=True)(d)["pred"]
    assert labels.dtype == torch.uint8
    assert torch.equal(labels, loaded["lungs"])


def test_input_that_is_refused() -> None:
    image, lungs = torch.zeros(1, 2, 20, 20), torch.zeros(1, 2, 20, 20)
    with pytest.raises(ValueError, match=r"empty mask of shape \(1, 2, 20, 20\)"):
        LungCrop()(image, lungs)
    with pytest.raises(ValueError, match="empty mask"):
        LungCropd(["image"])({"image": image, "lungs": lungs})
    with pytest.raises(ValueError, match="needs the lungs"):
        LungCrop()(image)
    with pytest.raises(ValueError, match=r"got \(2, 20, 21\) and \(2, 20, 20\)"):
        LungCrop()(image, torch.ones(1, 2, 20, 21))
    with pytest.raises(ValueError, match=r"one grid, got \(2, 20, 20\) for 'image' and \(3, 20, 20\) for 'lungs'"):
        LungCropd(["image"])({"image": image, "lungs": torch.ones(1, 3, 20, 20)})
    with pytest.raises(KeyError, match="'lungs', got"):
        LungCropd(["image"])({"image": image})
    with pytest.raises(ValueError, match=r"\[C, D, H, W\] or \[C, H, W\]"):
        LungCrop(mode="center")(torch.zeros(20, 20))
    with pytest.raises(ValueError, match=r"box inside the plane of 20 x 20"):
        LungCrop()(image, box=(0, 0, 21, 5))
    transform = LungCrop(mode="center")
    crop = transform(MetaTensor(image))
    with pytest.raises(ValueError, match=r"inverse needs \[C, 2, 160, 160\], got \(1, 2, 160, 80\)"):
        transform.inverse(crop[..., :80])


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "centre"},
        {"interp_mode": "cubic"},
        {"size": (160,)},
        {"size": (0, 160)},
        {"resize_to": (2.5, 3)},
        {"max_zoom": 0},
        {"max_zoom": float("nan")},
    ],
)
def test_arguments_that_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="LungCrop needs"):
        LungCrop(**arguments)
