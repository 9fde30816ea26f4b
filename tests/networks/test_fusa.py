import pytest
import torch
from torch import nn

from pneumonai.networks.blocks import FUSA
from pneumonai.networks.blocks import fusa as module_under_test


class LiteralFUSA(nn.Module):
    """The module as the paper words it: both branches spread to the map's shape, joined, convolved."""

    def __init__(self, spatial_dims, channels):
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.channel = nn.Linear(2 * channels, channels)
        self.spatial = conv(2, 1, 1)
        self.fuse = conv(2 * channels, channels, 1)

    def forward(self, x):
        axes = list(range(2, x.dim()))
        c = self.channel(torch.cat([x.mean(axes), x.amax(axes)], 1))
        s = self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        spread = torch.cat([c.reshape(*c.shape, *[1] * len(axes)).expand_as(x), s.expand_as(x)], 1)
        return torch.sigmoid(self.fuse(spread)) * x


def pair(spatial_dims, channels, dtype=torch.float32):
    """The module and the literal form, every parameter drawn at random and the same in both."""
    torch.manual_seed(3)
    module, literal = FUSA(spatial_dims, channels).to(dtype), LiteralFUSA(spatial_dims, channels).to(dtype)
    for parameter in literal.parameters():
        parameter.data.normal_(0, max(1, parameter[0].numel()) ** -0.5)
    module.load_state_dict(literal.state_dict(), strict=True)
    return module, literal


def values_and_gradients(module, x, weights):
    x = x.clone().requires_grad_()
    output = module(x)
    gradients = torch.autograd.grad((output * weights).sum(), [x, *module.parameters()])
    return [output, *gradients]


def memory_formats(x):
    return x, x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


@pytest.mark.parametrize("size", [(3, 24, 17, 13), (2, 6, 5, 7, 4), (2, 5, 1, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("block", [64, 700, 2**17])
def test_factorised_form_is_the_literal_one(size, dtype, tolerance, block, monkeypatch):
    monkeypatch.setattr(module_under_test, "CPU_BLOCK", block)
    module, literal = pair(len(size) - 2, size[1], dtype)
    x, weights = torch.randn(2, *size, dtype=dtype)
    weights /= weights.numel() ** 0.5
    expected = values_and_gradients(literal, x, weights)
    for layout in memory_formats(x):
        got = values_and_gradients(module, layout, weights)
        assert got[0].stride() == layout.stride()
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert (expected[0] - x / 2).abs().max() > 0.1


@pytest.mark.parametrize("block", [8, 2**17])
def test_equal_maxima_share_their_gradient(block, monkeypatch):
    monkeypatch.setattr(module_under_test, "CPU_BLOCK", block)
    module, literal = pair(2, 4, torch.float64)
    x = torch.randint(0, 3, (3, 4, 5, 2)).double()
    x[0] = 0
    weights = torch.randn_like(x)
    for one, other in zip(
        values_and_gradients(module, x, weights), values_and_gradients(literal, x, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gate_of_one_channel_by_hand():
    module = FUSA(2, 1)
    values = {
        "channel.weight": [[2.0, 0.5]],
        "channel.bias": [1.0],
        "spatial.weight": [[[[0.25]], [[0.75]]]],
        "spatial.bias": [-1.0],
        "fuse.weight": [[[[0.1]], [[2.0]]]],
        "fuse.bias": [0.2],
    }
    module.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    x = torch.tensor([[[[0.0, 1.0, 2.0]]]])
    # c = 2 * mean 1 + 0.5 * maximum 2 + 1 = 4; s = x - 1; logit = 0.1 c + 2 s + 0.2
    gate = torch.sigmoid(torch.tensor([-1.4, 0.6, 2.6]))
    torch.testing.assert_close(module.attention(x)[0, 0, 0], gate)
    torch.testing.assert_close(module(x)[0, 0, 0], x[0, 0, 0] * gate)


@pytest.mark.parametrize(("spatial_dims", "channels"), [(2, 64), (3, 5), (2, 1)])
def test_count_of_parameters(spatial_dims, channels):
    count = sum(parameter.numel() for parameter in FUSA(spatial_dims, channels).parameters())
    assert count == 4 * channels**2 + 2 * channels + 3


def test_gradients_are_those_of_finite_differences():
    module, _ = pair(2, 3, torch.float64)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *inputs: module(inputs[0]), (x, *module.parameters()))


def test_bfloat16_maps_keep_their_type_and_come_close():
    module, _ = pair(2, 16)
    x, weights = torch.randn(2, 4, 16, 9, 9)
    expected = values_and_gradients(module, x, weights)
    with torch.autocast("cpu", torch.bfloat16):
        got = values_and_gradients(module, x.bfloat16(), weights.bfloat16())
    assert [part.dtype for part in got] == [torch.bfloat16] * 2 + [torch.float32] * 6
    for one, other in zip(got, expected, strict=True):
        assert (one.float() - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize("size", [(2, 6, 8, 9), (1, 6, 3, 4, 5)])
def test_scripted_and_exported_agree_with_eager(size):
    module, _ = pair(len(size) - 2, 6)
    x = torch.randn(size)
    expected = module(x)
    for other in (torch.jit.script(module), torch.export.export(module, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(x * module.attention(x), expected, rtol=0, atol=1e-6)


def test_second_derivative_is_refused():
    module, _ = pair(2, 2)
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


def test_reset_draws_every_parameter_again():
    module, _ = pair(3, 7)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.reset_parameters()
    assert not any(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(("options", "message"), [((1, 4), "spatial_dims must be 2 or 3, got 1"), ((2, 0), "got 0")])
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        FUSA(*options)
