"""Mean 0 and deviation 1, slice by slice."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor

from pneumonai.transforms import StandardiseSlices, StandardiseSlicesd


def test_every_slice_is_standardised_by_itself() -> None:
    volume = np.random.default_rng(0).normal(3, 5, (1, 4, 6, 7)) * np.array([1, 10, 0, 1e-3])[:, None, None]
    made = StandardiseSlices()(volume)
    whole = StandardiseSlices()(torch.from_numpy(volume))
    for index in (0, 1, 3):
        one = volume[0, index]
        expected = (one - one.mean()) / one.std()
        assert np.allclose(np.asarray(made)[0, index], expected, atol=1e-4)
        assert torch.allclose(StandardiseSlices()(torch.from_numpy(one[None])), whole[:, index], atol=1e-6)
    assert np.asarray(made).dtype == np.float32
    assert not np.asarray(made)[0, 2].any()
    assert not StandardiseSlices()(torch.full((1, 9, 7), 0.1)).any()


def test_meta_data_and_missing_keys() -> None:
    image = MetaTensor(torch.rand(1, 4, 4), meta={"warnings": ["seen"]})
    done = StandardiseSlicesd(["image", "other"], allow_missing_keys=True)({"image": image})
    assert done["image"].meta["warnings"] == ["seen"]
    assert abs(float(done["image"].mean())) < 1e-6
