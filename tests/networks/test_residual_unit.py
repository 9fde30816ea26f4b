import pytest
import torch
from torch.nn import functional as F

from pneumonai.networks.blocks import PreActivationBottleneck


def with_random_state(unit):
    torch.manual_seed(3)
    for tensor in (*unit.parameters(), *unit.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return unit.eval()


def normalise(norm, x):
    return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (4, 1), (8, 2)])
def test_follows_the_written_order_and_leaves_its_input_alone(in_channels, stride):
    unit = with_random_state(PreActivationBottleneck(2, in_channels, 8, stride))
    x = torch.randn(2, in_channels, 5, 7)
    before = x.clone()
    result = unit(x)

    activated = normalise(unit.pre_activation[0], x)
    first, norm_1, _, middle, norm_2, _, last = unit.residual
    inner = normalise(norm_1, F.conv2d(activated, first.weight))
    inner = normalise(norm_2, F.conv2d(inner, middle.weight, stride=stride, padding=1))
    same = in_channels == 8 and stride == 1
    shortcut = x if same else F.conv2d(activated, unit.shortcut.weight, stride=stride)
    torch.testing.assert_close(result, shortcut + F.conv2d(inner, last.weight))
    assert torch.equal(x, before)
    assert first.weight.shape[0] == middle.weight.shape[0] == 2  # a quarter of the output


@pytest.mark.parametrize("channels", [0, 2, 6])
def test_refuses_widths_that_have_no_quarter(channels):
    with pytest.raises(ValueError, match=f"multiple of 4, got {channels}"):
        PreActivationBottleneck(3, 4, channels)
