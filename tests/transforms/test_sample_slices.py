from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from pneumonai.transforms import SampleSlices, SampleSlicesD, SampleSlicesd, SampleSlicesDict

AFFINE = torch.tensor([[0, 0, -0.7, 90], [0, -0.8, 0, 70], [2.5, 0, 0, -40], [0, 0, 0, 1]], dtype=torch.float64)

KINDS = {
    "numpy": lambda tensor: tensor.numpy(),
    "torch": lambda tensor: tensor,
    "metatensor": lambda tensor: MetaTensor(tensor, affine=AFFINE),
}


def numbered(depth: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A scan whose slices hold their own number."""
    return torch.arange(depth).to(dtype)[None, :, None, None].repeat(1, 1, 2, 3)


def lungs_from(first: int, last: int, depth: int) -> torch.Tensor:
    lungs = torch.zeros(1, depth, 2, 3, dtype=torch.uint8)
    lungs[0, first, 1, 2] = 1
    lungs[0, last, 0, 0] = 2
    return lungs


@pytest.mark.parametrize("kind", KINDS)
def test_by_hand(kind: str) -> None:
    # Lung in slices 2 to 7, so n = 6: round(0, 5/3, 10/3, 5) = 0, 2, 3, 5 from slice 2 on.
    scan, lungs = KINDS[kind](numbered(10, torch.int16)), KINDS[kind](lungs_from(2, 7, 10))
    transform = SampleSlices(num_slices=4)
    drawn = transform(scan, lungs)
    assert drawn.dtype == torch.int16
    assert drawn[0, :, 1, 2].tolist() == [2, 4, 5, 7]
    back = transform.inverse(drawn)
    assert back.dtype == torch.int16
    assert back[0, :, 1, 2].tolist() == [0, 0, 2, 3, 4, 5, 6, 7, 0, 0]
    assert np.array_equal(np.asarray(scan), numbered(10, torch.int16).numpy())


def test_affine_by_hand() -> None:
    scan = MetaTensor(numbered(140), affine=AFFINE)
    transform = SampleSlices()
    drawn = transform(scan, lungs_from(7, 133, 140))
    # 127 slices: exactly every second one. The first lies at -40 + 7 * 2.5 mm, the step is 126 / 63 * 2.5 mm.
    assert drawn[0, :, 0, 0].tolist() == list(range(7, 134, 2))
    assert drawn.affine[:, 3].tolist() == [90, 70, -22.5, 1]
    assert drawn.affine[2].tolist() == [5, 0, 0, -22.5]
    assert torch.equal(drawn.affine[:2, :3], AFFINE[:2, :3])
    back = transform.inverse(drawn)
    assert torch.equal(back.affine, AFFINE)
    assert torch.equal(scan.affine, AFFINE)
    assert not back.applied_operations
    assert not scan.applied_operations


@pytest.mark.parametrize("number", [1, 2, 5, 31, 63, 64, 65, 100, 148, 301])
def test_positions_are_the_nearest_slices(number: int) -> None:
    drawn = SampleSlices()(numbered(number))[0, :, 0, 0].tolist()
    exact = [Fraction(i * (number - 1), 63) for i in range(64)]
    assert all(abs(position - place) < Fraction(1, 2) for position, place in zip(map(int, drawn), exact, strict=True))
    assert (drawn[0], drawn[-1]) == (0, number - 1)
    assert drawn == sorted(drawn)
    if number >= 64:
        assert len(set(drawn)) == 64
    else:
        assert set(drawn) == set(range(number))


def test_a_half_is_rounded_up() -> None:
    # 2 of 4 steps over 5 steps: 2.5 becomes 3 (Python's round would give 2); 0.5 and 1.5 over 2 become 1 and 2.
    assert SampleSlices(num_slices=3)(numbered(6))[0, :, 0, 0].tolist() == [0, 3, 5]
    assert SampleSlices(num_slices=5)(numbered(3))[0, :, 0, 0].tolist() == [0, 1, 1, 2, 2]


def test_without_lungs_all_slices_are_sampled_from() -> None:
    drawn = SampleSlicesd("image", source_key=None, num_slices=3)({"image": numbered(9)})["image"]
    assert drawn[0, :, 0, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("seed", range(10))
def test_a_linear_course_survives_the_way_there_and_back(seed: int) -> None:
    # Linear interpolation between the slices that were really drawn gives a linear course back exactly; positions
    # taken as evenly spaced would be off by up to half a slice.
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(2, 250))
    first, last = sorted(int(number) for number in rng.integers(0, depth, 2))
    transform = SampleSlices(num_slices=int(rng.integers(2, 100)))
    course = 3 + 0.5 * numbered(depth, torch.float64)
    back = transform.inverse(transform(MetaTensor(course, affine=AFFINE), lungs_from(first, last, depth)))
    assert back.dtype == torch.float64
    assert torch.allclose(back[:, first : last + 1], course[:, first : last + 1], atol=1e-9)
    assert not back[:, :first].any()
    assert not back[:, last + 1 :].any()


def test_repeated_slices_come_back_as_their_mean() -> None:
    # Two slices, drawn as 0 0 0 1 1 1 (the halves up): three maps of each.
    transform = SampleSlices(num_slices=6)
    drawn = transform(MetaTensor(numbered(2)))
    assert drawn[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    drawn[0, :, 0, 0] = torch.tensor([1.0, 2, 6, 10, 20, 60])
    assert transform.inverse(drawn)[0, :, 0, 0].tolist() == pytest.approx([3, 30])


def test_labels_take_the_nearest_sample() -> None:
    # Samples at 0, 3 and 6: slice 1 takes 0, slices 2 to 4 take 3, slice 5 takes 6. Nothing in between appears.
    labels = torch.tensor([2, 0, 0, 1, 0, 0, 2], dtype=torch.uint8).reshape(1, 7, 1, 1)
    transform = SampleSlices(num_slices=3, interp_mode="nearest")
    assert transform.inverse(transform(labels)).flatten().tolist() == [2, 2, 1, 1, 1, 2, 2]
    # Samples at 0 and 2 are equally near to slice 1: the lower.
    transform = SampleSlices(num_slices=2, interp_mode="nearest")
    assert transform.inverse(transform(labels[:, [0, 1, 3]])).flatten().tolist() == [2, 2, 1]


def test_invertd_takes_a_map_with_other_channels_back() -> None:
    d = {"image": MetaTensor(numbered(150), affine=AFFINE), "lungs": MetaTensor(lungs_from(3, 140, 150), affine=AFFINE)}
    preprocessing = Compose([SampleSlicesd(["image", "lungs"])])
    d = preprocessing(d)
    assert d["lungs"].dtype == torch.uint8
    d["heat_map"] = MetaTensor(torch.cat([d["image"].as_tensor(), torch.ones(1, 64, 2, 3)]))
    heat_map = Invertd("heat_map", preprocessing, "image", nearest_interp=False)(d)["heat_map"]
    assert heat_map.shape == (2, 150, 2, 3)
    assert torch.equal(heat_map.affine, AFFINE)
    assert heat_map[0, :, 0, 0].tolist() == pytest.approx([0] * 3 + list(range(3, 141)) + [0] * 9, abs=1e-4)
    assert heat_map[1, :, 0, 0].tolist() == pytest.approx([0] * 3 + [1] * 138 + [0] * 9)
    labels = preprocessing.inverse({"lungs": d["lungs"], "image": d["image"]})["lungs"]
    assert torch.unique(labels.as_tensor()).tolist() == [0, 1, 2]


def test_aliases() -> None:
    assert SampleSlicesD is SampleSlicesd is SampleSlicesDict


def test_input_that_is_refused() -> None:
    scan = numbered(5)
    with pytest.raises(ValueError, match=r"empty mask of shape \(1, 5, 2, 3\)"):
        SampleSlices()(scan, torch.zeros(1, 5, 2, 3))
    with pytest.raises(ValueError, match="5 slices, got 6"):
        SampleSlices()(scan, torch.ones(1, 6, 2, 3))
    with pytest.raises(ValueError, match=r"lungs \[C, D, H, W\], got \(5, 2, 3\)"):
        SampleSlices().find_span(torch.ones(5, 2, 3))
    with pytest.raises(ValueError, match=r"\[C, D, H, W\] with voxels in it, got \(5, 2, 3\)"):
        SampleSlices()(scan[0])
    with pytest.raises(ValueError, match="slices 0 to 4, got 2 to 5"):
        SampleSlices()(scan, span=(2, 5))
    with pytest.raises(KeyError, match="'lungs', got"):
        SampleSlicesd("image")({"image": scan})
    with pytest.raises(ValueError, match="got 5 for 'image' and 6 for 'lungs'"):
        SampleSlicesd("image")({"image": scan, "lungs": torch.ones(1, 6, 2, 3)})
    transform = SampleSlices(num_slices=4)
    drawn = transform(MetaTensor(scan))
    with pytest.raises(ValueError, match=r"inverse needs \[C, 4, H, W\], got \(1, 3, 2, 3\)"):
        transform.inverse(drawn[:, :3])


@pytest.mark.parametrize("arguments", [{"num_slices": 1}, {"num_slices": 2.5}, {"interp_mode": "bilinear"}])
def test_arguments_that_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="SampleSlices needs"):
        SampleSlices(**arguments)
