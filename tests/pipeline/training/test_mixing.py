"""Mixup."""

from __future__ import annotations

import pytest
import torch

from pneumonai.pipeline.training.mixing import MixedBatch

CPU = torch.device("cpu")


def batch() -> dict[str, torch.Tensor]:
    # Each picture is its label everywhere, so that pictures and labels must be mixed alike.
    labels = torch.tensor([0, 1, 2, 2, 1])
    return {"image": labels.float()[:, None, None, None].expand(5, 1, 4, 4).clone(), "label": labels}


def test_pictures_and_labels_are_mixed_alike() -> None:
    torch.manual_seed(0)
    images, shares = MixedBatch(3, 0.4)(batch(), CPU)
    assert images.shape == (5, 1, 4, 4)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(images.mean(dim=(1, 2, 3)), shares @ torch.tensor([0.0, 1.0, 2.0]))
    assert ((shares > 0) & (shares < 1)).any()


def test_the_same_seed_mixes_the_same() -> None:
    mixed = []
    for _ in range(2):
        torch.manual_seed(3)
        mixed.append(MixedBatch(3, 0.2)(batch(), CPU)[0])
    assert torch.equal(*mixed)


def test_nothing_is_mixed_at_zero() -> None:
    images, labels = MixedBatch(3, 0)(batch(), CPU)
    assert torch.equal(images, batch()["image"])
    assert torch.equal(labels, batch()["label"])


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match="mix_alpha"):
        MixedBatch(2, -1)
