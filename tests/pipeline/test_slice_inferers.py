"""2D networks over the slices of volumes."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SliceInferer
from torch import nn

from pneumonai.pipeline.explain import ClassActivationMap, SliceBySlice
from pneumonai.pipeline.slice_inferers import MirroredInferer, SliceClassifier


def by_mean(images: torch.Tensor) -> torch.Tensor:
    """Logits of two classes that depend on the slice's mean alone."""
    mean = images.mean(dim=(1, 2, 3))
    return torch.stack([-mean, mean], dim=1)


def test_every_slice_is_classified_as_if_alone() -> None:
    images = torch.randn(2, 1, 7, 6, 5, generator=torch.Generator().manual_seed(0))
    logits = SliceClassifier(batch_size=3).slice_logits(images, by_mean)
    assert logits.shape == (2, 2, 7)
    for volume in range(2):
        for index in range(7):
            alone = by_mean(images[volume, :, index][None])[0]
            torch.testing.assert_close(logits[volume, :, index], alone)


def test_the_volume_is_the_mean_of_its_most_suspicious_slices() -> None:
    images = torch.linspace(-2, 2, 8).reshape(1, 1, 8, 1, 1).expand(1, 1, 8, 4, 4)
    probabilities = SliceClassifier(highest=3)(images, by_mean).softmax(dim=1)
    each = SliceClassifier().slice_logits(images, by_mean)[0].softmax(dim=0)
    torch.testing.assert_close(probabilities[0], each[:, -3:].mean(dim=1))


def test_of_few_slices_all_speak_and_one_speaks_for_itself() -> None:
    images = torch.randn(1, 1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    each = SliceClassifier().slice_logits(images, by_mean).softmax(dim=1)
    torch.testing.assert_close(SliceClassifier()(images, by_mean).softmax(dim=1), each.mean(dim=2))
    one = SliceClassifier()(images[:, :, :1], by_mean).softmax(dim=1)
    torch.testing.assert_close(one, each[:, :, 0])


def test_logits_of_a_slice_and_its_mirror_image_are_averaged() -> None:
    images = torch.randn(1, 1, 3, 4, 6, generator=torch.Generator().manual_seed(5))

    def by_left_half(slices: torch.Tensor) -> torch.Tensor:
        return by_mean(slices[..., :3])

    logits = SliceClassifier(batch_size=2, mirrors=[[], [-1]]).slice_logits(images, by_left_half)
    # Both halves have a say, so that it is the whole slice's mean.
    torch.testing.assert_close(logits, SliceClassifier().slice_logits(images, by_mean))


def test_wrong_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 or more, got 0, 5"):
        SliceClassifier(batch_size=0)
    with pytest.raises(ValueError, match="needs slices"):
        SliceClassifier().slice_logits(torch.zeros(1, 1, 4, 4), by_mean)


class Small(nn.Module):
    """A convolution, pooling and one linear layer; all parameters random."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 3, 3, padding=1)
        self.classifier = nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(3)
    return Small(3).eval()


def test_a_slices_map_is_weighted_by_its_probability(network: nn.Module) -> None:
    images = torch.rand(2, 1, 5, 8, 8, generator=torch.Generator().manual_seed(2))
    explainer = ClassActivationMap(network)
    maps = SliceBySlice(network, explainer, batch_size=4)(images, classes=1)
    assert maps.shape == (2, 1, 5, 8, 8)
    for volume in range(2):
        for index in range(5):
            alone = images[volume, :, index][None]
            share = network(alone).softmax(dim=1)[0, 1].detach()
            torch.testing.assert_close(maps[volume, :, index][None], explainer(alone, 1) * share)


def test_a_pictures_map_is_the_explainers_own_and_shows_the_likeliest_finding(network: nn.Module) -> None:
    image = torch.rand(1, 1, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    finding = 1 + int(network(image[:, :, 0])[0, 1:].argmax())
    explainer = ClassActivationMap(network)
    torch.testing.assert_close(SliceBySlice(network, explainer)(image)[:, :, 0], explainer(image[:, :, 0], finding))


def test_mirrored_answers_are_mirrored_back_and_averaged() -> None:
    images = torch.randn(1, 1, 5, 6, 4, generator=torch.Generator().manual_seed(2))
    plain = SliceInferer(roi_size=(6, 4), spatial_dim=0, sw_batch_size=2)

    def right_of_the_middle(slices: torch.Tensor) -> torch.Tensor:
        return slices * (torch.arange(4) >= 2)

    mirrored = MirroredInferer(plain, [(), (-1,), (-2,), (-2, -1)])
    # Left in two of the four answers, right in the other two: half of everything.
    torch.testing.assert_close(mirrored(images, right_of_the_middle), images / 2)
    torch.testing.assert_close(mirrored(images, lambda slices: 3 * slices), 3 * images)
    alone = MirroredInferer(plain, [()])
    torch.testing.assert_close(alone(images, right_of_the_middle), plain(images, right_of_the_middle))


def test_no_mirror_is_no_answer() -> None:
    with pytest.raises(ValueError, match="at least one mirror"):
        MirroredInferer(SliceInferer(roi_size=(6, 4)), [])
    with pytest.raises(ValueError, match="at least one mirror"):
        SliceClassifier(mirrors=[])
