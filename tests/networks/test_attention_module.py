import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks import AttentionMask, AttentionModule, ChannelActivation, SpatialActivation


def test_channel_activation_is_the_l2_norm_over_channels():
    x = torch.tensor([[[3.0, 0.0, -1.0]], [[4.0, 0.0, 0.0]]]).reshape(1, 2, 3, 1)
    expected = torch.tensor([[[0.6, 0.0, -1.0]], [[0.8, 0.0, 0.0]]]).reshape(1, 2, 3, 1)
    torch.testing.assert_close(ChannelActivation()(x), expected)


def test_spatial_activation_is_the_sigmoid_of_the_standardised_map():
    # Channel 0: mean 1, biased standard deviation 1. Channel 1: mean 3, standard deviation 1e-5, so 1e-5 halves it.
    x = torch.tensor([[[0.0, 2.0], [3.0 - 1e-5, 3.0 + 1e-5]]], dtype=torch.float64).reshape(1, 2, 2, 1, 1)
    high = 1 / (1 + math.exp(-1 / (1 + 1e-5)))
    half = 1 / (1 + math.exp(-0.5))
    expected = torch.tensor([1 - high, high, 1 - half, half], dtype=torch.float64).reshape(1, 2, 2, 1, 1)
    torch.testing.assert_close(SpatialActivation()(x), expected, rtol=1e-6, atol=1e-9)


def test_spatial_activation_of_a_constant_map_is_a_half_with_finite_gradients():
    x = torch.full((2, 3, 4, 4), 7.0, requires_grad=True)
    result = SpatialActivation()(x)
    result.sum().backward()
    assert torch.equal(result, torch.full_like(result, 0.5))
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("name", "low"), [("mixed", 0.0), ("channel", -1.0), ("spatial", 0.0)])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 2), (4, 4, 4)])
def test_mask_has_the_input_size_and_the_range_of_its_activation(name, low, size):
    torch.manual_seed(0)
    mask = AttentionMask(3, 8, name).eval()(torch.randn(2, 8, *size))
    assert mask.shape == (2, 8, *size)
    assert mask.min() >= low
    assert mask.max() <= 1.0


def test_mask_adds_the_skip_at_half_resolution():
    mask = AttentionMask(2, 4)
    for unit in (mask.down, mask.bottom, mask.up):
        nn.init.zeros_(unit.residual[-1].weight)  # each unit is then the identity
    mask.head = nn.Identity()
    mask.activation = nn.Identity()
    x = torch.randn(1, 4, 11, 8)

    half = F.max_pool2d(x, 3, 2, 1)
    quarter = F.max_pool2d(half, 3, 2, 1)
    assert half.shape[2:] == (6, 4)
    assert quarter.shape[2:] == (3, 2)
    merged = half + F.interpolate(quarter, size=(6, 4), mode="bilinear", align_corners=False)
    expected = F.interpolate(merged, size=(11, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(mask(x), expected)


def test_module_weights_the_trunk_by_one_plus_the_mask():
    torch.manual_seed(1)
    module = AttentionModule(3, 4).eval()
    seen = []
    module.mask.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    x = torch.randn(1, 4, 3, 4, 5)
    result = module(x)
    before = module.before(x)
    expected = module.after((1 + seen[0]) * module.trunk(before))
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(seen[0], module.mask(before))


def test_module_has_seven_units():
    module = AttentionModule(3, 4)
    assert sum(type(part).__name__ == "PreActivationBottleneck" for part in module.modules()) == 7


def test_unknown_activation_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="mixed, channel, spatial, got 'softmax'"):
        AttentionMask(3, 4, "softmax")
