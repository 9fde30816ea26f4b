import pytest
import torch
from torch.nn import functional as F

from pneumonai.networks.losses import SoftDistanceLoss


def logits_of(*rows):
    """Logits whose softmax is these probabilities."""
    return torch.tensor(rows).log()


def test_soft_distance_by_hand():
    # The first picture is sure (0.8 > 0.7, and wrong), so its own prediction is the target; the second is not.
    primary = logits_of([0.8, 0.1, 0.1], [0.5, 0.3, 0.2])
    auxiliary = torch.stack([logits_of([0.6, 0.2, 0.2], [0.5, 0.3, 0.2]), logits_of([0.8, 0.1, 0.1], [0.1, 0.8, 0.1])])
    labels = torch.tensor([1, 0])
    first = [0.2 + 0.1 + 0.1, 0.5 + 0.3 + 0.2]
    second = [0.0, 0.9 + 0.8 + 0.1]
    expected = F.cross_entropy(primary, labels) + (sum(first) + sum(second)) / 4
    torch.testing.assert_close(SoftDistanceLoss()(primary, auxiliary, labels), expected)


def test_l2_by_hand():
    primary, auxiliary = logits_of([0.8, 0.2]), logits_of([0.5, 0.5]).unsqueeze(0)
    squares = (0.2**2 + 0.2**2) + (0.5**2 + 0.5**2)
    labels = torch.tensor([0])
    expected = F.cross_entropy(primary, labels) + squares / 2
    torch.testing.assert_close(SoftDistanceLoss("l2")(primary, auxiliary, labels), expected)


@pytest.mark.parametrize(("threshold", "sure"), [(0.7, False), (0.69, True)])
def test_confidence_must_exceed_the_threshold(threshold, sure):
    primary = torch.tensor([[0.7, 0.3]], dtype=torch.float32).log()
    labels = torch.tensor([0])
    distance = SoftDistanceLoss(threshold=threshold)(primary, primary[None], labels) - F.cross_entropy(primary, labels)
    assert distance.item() == pytest.approx(0.0 if sure else 0.6, abs=1e-6)


def test_the_target_is_detached():
    primary = logits_of([0.9, 0.1], [0.6, 0.4]).requires_grad_()
    auxiliary = torch.randn(3, 2, 2, requires_grad=True)
    labels = torch.tensor([1, 1])
    SoftDistanceLoss()(primary, auxiliary, labels).backward()
    alone = primary.detach().clone().requires_grad_()
    F.cross_entropy(alone, labels).backward()
    torch.testing.assert_close(primary.grad, alone.grad)
    assert auxiliary.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["soft_distance", "l2"])
def test_without_augmentations(kind):
    primary, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    own = (primary.softmax(1) - F.one_hot(labels, 3)).square().sum(1).mean() if kind == "l2" else 0
    expected = F.cross_entropy(primary, labels) + own
    torch.testing.assert_close(SoftDistanceLoss(kind)(primary, torch.empty(0, 4, 3), labels), expected)


@pytest.mark.parametrize("kind", ["soft_distance", "l2"])
def test_extreme_logits_in_half_precision_and_one_class_stay_finite(kind):
    primary = torch.tensor([[6e4, -6e4], [0.0, 0.0]], dtype=torch.float16, requires_grad=True)
    auxiliary = torch.tensor([[[-6e4, 6e4], [0.0, 0.0]]], dtype=torch.float16, requires_grad=True)
    loss = SoftDistanceLoss(kind)(primary, auxiliary, torch.tensor([0, 0]))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    loss.backward()
    assert torch.isfinite(primary.grad).all()
    assert torch.isfinite(auxiliary.grad).all()


def test_class_weights_apply_to_the_cross_entropy_alone():
    primary, auxiliary, labels = torch.randn(5, 3), torch.randn(2, 5, 3), torch.tensor([0, 1, 2, 1, 0])
    weight = torch.tensor([1.0, 2.0, 5.0])
    difference = SoftDistanceLoss(weight=weight)(primary, auxiliary, labels) - SoftDistanceLoss()(
        primary, auxiliary, labels
    )
    expected = F.cross_entropy(primary, labels, weight) - F.cross_entropy(primary, labels)
    torch.testing.assert_close(difference, expected)


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="kind must be one of soft_distance, l2, got 'l1'"):
        SoftDistanceLoss("l1")
    with pytest.raises(ValueError, match=r"threshold must lie in 0..1, got 70"):
        SoftDistanceLoss(threshold=70)
    with pytest.raises(ValueError, match=r"must agree, got \[2, 3\], \[6, 3\] and \[2\]"):
        SoftDistanceLoss()(torch.zeros(2, 3), torch.zeros(6, 3), torch.zeros(2))
