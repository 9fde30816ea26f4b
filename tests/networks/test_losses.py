"""Losses and ramps against values computed by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.losses import (
    DiscriminativeCosineLoss,
    JensenShannonLoss,
    learning_rate_ramp,
    ramp_down,
    ramp_up,
)


def test_dc_loss_by_hand():
    """s = 2, m = 0.5: 1 is taken from the true logit."""
    logits = torch.tensor([[2.0, 0.0], [1.0, -1.0]])
    target = torch.tensor([0, 1])
    # Differences of the true logit, less 1, to the other: 1 and -3.
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(3))) / 2
    loss = DiscriminativeCosineLoss(scale=2.0, margin=0.5)
    assert loss(logits, target).item() == pytest.approx(expected, abs=1e-6)
    # Rows (1, 0), (0.6, 0.8), (0, -1) once normalised: cosines 0.6, 0, -0.8.
    head = nn.Parameter(torch.tensor([[3.0, 0.0], [0.3, 0.4], [0.0, -7.0]]))
    pushed = DiscriminativeCosineLoss(head, scale=2.0, margin=0.5)
    assert pushed(logits, target).item() == pytest.approx(expected - 0.2 / 3, abs=1e-6)
    pushed(logits, target).backward()
    assert head.grad.abs().sum() > 0
    assert not list(pushed.parameters())
    assert not pushed.state_dict()


def test_dc_loss_is_equation_6():
    torch.manual_seed(0)
    cosines = torch.rand(7, 4, dtype=torch.float64) * 2 - 1
    target = torch.randint(4, (7,))
    head = torch.randn(4, 9, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for row, true in zip(cosines, target, strict=True):
        top = math.exp(64 * (row[true] - 0.15))
        expected -= math.log(top / (top + sum(math.exp(64 * row[j]) for j in range(4) if j != true))) / 7
    w = head / head.norm(dim=1, keepdim=True)
    expected += sum(w[i] @ w[j] for i in range(4) for j in range(4) if i != j) / 12
    loss = DiscriminativeCosineLoss(head)(64 * cosines, target)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_dc_loss_without_margin_is_cross_entropy_also_with_class_weights():
    torch.manual_seed(1)
    logits, target, weight = torch.randn(6, 3), torch.randint(3, (6,)), torch.rand(3)
    loss = DiscriminativeCosineLoss(margin=0.0, weight=weight)
    torch.testing.assert_close(loss(logits, target), F.cross_entropy(logits, target, weight=weight))


def test_dc_loss_works_for_two_classes_with_one_absent():
    head = nn.Parameter(torch.randn(2, 5))
    logits = torch.tensor([[64.0, -64.0], [-64.0, 64.0]], requires_grad=True)
    loss = DiscriminativeCosineLoss(head)(logits, torch.tensor([1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert head.grad.isfinite().all()
    single = DiscriminativeCosineLoss(torch.randn(1, 5))(torch.zeros(2, 1), torch.tensor([0, 0]))
    assert single.item() == pytest.approx(0, abs=1e-6)


def test_js_loss_by_hand():
    """Distributions (1/2, 1/2) and (1/4, 3/4), and equal ones: the mean of their divergence and 0."""
    one = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    two = torch.tensor([[0.0, math.log(3.0)], [2.0, 4.0]])
    middle = (0.375, 0.625)
    divergence = 0.5 * sum(p * math.log(p / m) for p, m in zip((0.5, 0.5), middle, strict=True))
    divergence += 0.5 * sum(p * math.log(p / m) for p, m in zip((0.25, 0.75), middle, strict=True))
    assert JensenShannonLoss()(one, two).item() == pytest.approx(divergence / 2, abs=1e-6)
    assert JensenShannonLoss()(two, one).item() == pytest.approx(divergence / 2, abs=1e-6)


def test_js_loss_of_opposite_one_hot_answers_is_log_2_with_a_finite_gradient():
    one = torch.tensor([[1e4, -1e4, 0.0], [64.0, -64.0, -64.0]], requires_grad=True)
    two = torch.tensor([[-1e4, 1e4, 0.0], [-64.0, 64.0, -64.0]], requires_grad=True)
    loss = JensenShannonLoss()(one, two)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert one.grad.isfinite().all()
    assert two.grad.isfinite().all()
    same = torch.tensor([[64.0, -64.0]], requires_grad=True)
    JensenShannonLoss()(same, same.detach()).backward()
    assert same.grad.abs().max() < 1e-6


def test_js_loss_s_gradient_is_that_of_finite_differences():
    torch.manual_seed(2)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(JensenShannonLoss(), (logits, torch.randn(3, 4, dtype=torch.float64)))


def test_ramps_at_their_ends():
    assert ramp_up(0) == pytest.approx(math.exp(-5))
    assert ramp_up(49.999) == pytest.approx(1, abs=1e-6)
    assert ramp_up(50) == ramp_up(100) == 1
    assert ramp_down(0) == ramp_down(50) == 1
    assert ramp_down(100) == ramp_down(150) == pytest.approx(math.exp(-12.5))
    assert learning_rate_ramp(0) == pytest.approx(math.exp(-5))
    assert learning_rate_ramp(50) == 1
    assert learning_rate_ramp(100) == pytest.approx(math.exp(-12.5))
    assert [learning_rate_ramp(epoch, 20) for epoch in (0, 5, 10, 15, 20)] == pytest.approx(
        [learning_rate_ramp(epoch) for epoch in (0, 25, 50, 75, 100)]
    )
    assert ramp_up(0, 0) == ramp_down(7, 0, 10) == 1
    values = [learning_rate_ramp(epoch) for epoch in range(101)]
    assert values[:51] == sorted(values[:51])
    assert values[50:] == sorted(values[50:], reverse=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ramp_up(-1), "at least 0, got -1 and 50"),
        (lambda: ramp_down(3, -2), "at least 0, got 3 and -2"),
        (lambda: DiscriminativeCosineLoss(torch.zeros(3)), "head_weight must be \\[classes, features\\]"),
        (lambda: DiscriminativeCosineLoss(scale=0), "scale must be above 0, got 0"),
        (lambda: DiscriminativeCosineLoss(margin=-0.1), "margin must be at least 0, got -0.1"),
    ],
)
def test_bad_arguments_are_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()
