"""The deformable convolution against its definition (eq. 1), an ordinary convolution and shifts by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from pneumonai.networks.blocks import DeformableConvolution
from pneumonai.networks.blocks.deformable_convolution import deformable_convolution


def by_definition(x, weight, bias, offsets, vertical):
    """Loop over samples, positions and taps; every tap reads x bilinearly, 0 outside."""
    samples, _, height, width = x.shape
    y = bias[None, :, None, None].repeat(samples, 1, height, width)
    for b in range(samples):
        for row in range(height):
            for column in range(width):
                for tap in range(9):
                    moved = float(offsets[b, tap, row, column])
                    place = [row + tap // 3 - 1, column + tap % 3 - 1]
                    place[0 if vertical else 1] += moved
                    y[b, :, row, column] += weight[:, :, tap // 3, tap % 3] @ bilinear(x[b], *place)
    return y


def bilinear(image, row, column):
    value = torch.zeros(len(image), dtype=image.dtype)
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                value += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return value


def drawn(seed, size=(2, 5, 4, 6), out_channels=3, reach=2.5, dtype=torch.float64):
    """Input, weight, bias and offsets at random."""
    torch.manual_seed(seed)
    samples, channels, height, width = size
    x = torch.randn(size, dtype=dtype)
    weight, bias = torch.randn(out_channels, channels, 3, 3, dtype=dtype), torch.randn(out_channels, dtype=dtype)
    return x, weight, bias, (torch.rand(samples, 9, height, width, dtype=dtype) * 2 - 1) * reach


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("size", [(2, 5, 4, 6), (1, 2, 6, 1), (1, 3, 1, 5)])
def test_it_is_the_loop_over_taps(size, vertical):
    inputs = drawn(0, size)
    expected = by_definition(*inputs, vertical)
    torch.testing.assert_close(deformable_convolution(*inputs, vertical), expected, rtol=0, atol=1e-9)
    single = deformable_convolution(*(part.float() for part in inputs), vertical)
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vertical", [False, True])
def test_gradients_are_those_of_finite_differences(vertical):
    x, weight, bias, offsets = drawn(1, (2, 2, 3, 4), 2)
    # Linear interpolation has a kink at whole pixels.
    part = offsets.remainder(1)
    offsets = offsets.floor() + part.clamp(0.05, 0.95)
    inputs = [part.requires_grad_() for part in (x, weight, bias, offsets)]
    torch.autograd.gradcheck(lambda *parts: deformable_convolution(*parts, vertical), inputs)


@pytest.mark.parametrize("vertical", [False, True])
def test_zero_offsets_are_an_ordinary_convolution(vertical):
    x, weight, bias, offsets = drawn(2)
    y = deformable_convolution(x, weight, bias, torch.zeros_like(offsets), vertical)
    torch.testing.assert_close(y, F.conv2d(x, weight, bias, padding=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("pixels", [-2, 1, 3])
def test_whole_pixel_offsets_are_a_shift(pixels, vertical):
    """Away from the border the shifted result is the result of the shifted image."""
    x, weight, bias, offsets = drawn(3, (1, 3, 12, 11))
    y = deformable_convolution(x, weight, bias, torch.full_like(offsets, pixels), vertical)
    axis = 2 if vertical else 3
    rolled = F.conv2d(torch.roll(x, -pixels, dims=axis), weight, bias, padding=1)
    inner = slice(4, -4)
    torch.testing.assert_close(y[:, :, inner, inner], rolled[:, :, inner, inner], rtol=0, atol=1e-12)


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("far", [7.3, -40.0, 1e6])
def test_offsets_that_leave_the_image_read_zeros(far, vertical):
    x, weight, bias, offsets = drawn(4)
    y = deformable_convolution(x, weight, bias, torch.full_like(offsets, far), vertical)
    assert torch.equal(y, bias[None, :, None, None].expand_as(y))


def test_a_tap_half_outside_reads_half_of_the_border():
    x = torch.tensor([[[[3.0, 5.0, 8.0]]]])
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 2.0
    y = deformable_convolution(x, weight, None, torch.full((1, 9, 1, 3), -0.5), False)
    assert y.flatten().tolist() == [3.0, 8.0, 13.0]


@pytest.mark.parametrize("vertical", [False, True])
def test_the_module_starts_as_a_convolution_and_its_offsets_learn(vertical):
    torch.manual_seed(5)
    module = DeformableConvolution(4, 3, vertical=vertical)
    x = torch.randn(2, 4, 6, 7)
    y, offsets = module.forward_offsets(x)
    torch.testing.assert_close(y, F.conv2d(x, module.weight, module.bias, padding=1), rtol=1e-5, atol=1e-5)
    assert offsets.shape == (2, 9, 6, 7)
    assert offsets.count_nonzero() == 0
    y.square().sum().backward()
    assert module.offset.weight.grad.abs().sum() > 0.1
    with torch.no_grad():
        module.offset.bias.fill_(1.0)
    moved = deformable_convolution(x, module.weight, module.bias, torch.ones(2, 9, 6, 7), vertical)
    torch.testing.assert_close(module(x), moved)


def test_under_autocast_places_keep_their_precision():
    x, weight, bias, offsets = (part.float() for part in drawn(6, (2, 5, 4, 64)))
    with torch.autocast("cpu", torch.bfloat16):
        y = deformable_convolution(x, weight, bias, offsets, False)
    expected = deformable_convolution(x, weight, bias, offsets, False)
    assert (y.float() - expected).norm() < 0.01 * expected.norm()
