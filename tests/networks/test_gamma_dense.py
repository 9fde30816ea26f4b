import pytest
import torch
from monai.networks.nets.densenet import _DenseBlock
from random_networks import randomise
from torch import nn

from pneumonai.networks.blocks import GammaDenseBlock, NormalisedLinear


def plain_of(block, spatial_dims, in_channels):
    """MONAI's dense block with the same weights."""
    plain = _DenseBlock(spatial_dims, len(block), in_channels, 4, 3, 0.0).eval()
    plain.load_state_dict(
        {name.replace(".", ".layers.", 1): tensor for name, tensor in block.state_dict().items() if name != "gamma"}
    )
    return plain


@pytest.mark.parametrize("size", [(2, 5, 6, 7), (1, 5, 4, 3, 6)])
def test_gamma_of_one_is_monai_s_dense_block(size):
    dims = len(size) - 2
    block = randomise(GammaDenseBlock(dims, 5, layers=4, growth_rate=3))
    with torch.no_grad():
        block.gamma.fill_(1.0)
    x = torch.randn(size)
    torch.testing.assert_close(block(x), plain_of(block, dims, 5)(x))
    assert block(x).shape[1] == block.out_channels == 17


def test_gamma_scales_what_every_layer_reads():
    """Equal to a plain block whose 1x1 convolutions have their columns multiplied, source by source."""
    block = randomise(GammaDenseBlock(2, 5, layers=4, growth_rate=3))
    plain = plain_of(block, 2, 5)
    x = torch.randn(2, 5, 6, 7)
    assert (plain(x) - block(x)).abs().max() > 0.01
    scale = block.gamma.repeat_interleave(torch.tensor([5, 3, 3, 3]))[:, None, None]
    with torch.no_grad():
        for layer in plain:
            layer.layers.conv1.weight *= scale[: layer.layers.conv1.in_channels]
    torch.testing.assert_close(block(x), plain(x))


def test_gamma_learns_in_train_mode():
    """Batch normalisation does not cancel it."""
    torch.manual_seed(0)
    block = GammaDenseBlock(2, 5, layers=3, growth_rate=3)
    assert torch.equal(block.gamma, torch.ones(3))
    x = torch.randn(4, 5, 6, 7)
    before = block(x)
    before.square().sum().backward()
    assert (block.gamma.grad.abs() > 1e-3).all()
    with torch.no_grad():
        block.gamma[1] = 2.0
    after = block(x)
    assert torch.equal(after[:, :8], before[:, :8])  # the input and the first layer, which reads the input alone
    assert (after[:, 8:] - before[:, 8:]).abs().max() > 0.01


def test_without_gamma_the_parameters_are_those_of_a_plain_block():
    plain, weighted = (GammaDenseBlock(2, 5, layers=3, growth_rate=3, gamma=gamma) for gamma in (False, True))
    assert set(weighted.state_dict()) - set(plain.state_dict()) == {"gamma"}
    plain.load_state_dict({name: part for name, part in weighted.state_dict().items() if name != "gamma"})
    x = torch.randn(2, 5, 6, 7)
    assert torch.equal(plain(x), weighted(x))


@pytest.mark.parametrize("gamma", [False, True])
def test_scripted_and_exported_agree_with_eager(gamma):
    block = randomise(GammaDenseBlock(2, 5, layers=3, growth_rate=3, gamma=gamma))
    x = torch.randn(2, 5, 6, 7)
    for other in (torch.jit.script(block), torch.export.export(block, (x,)).module()):
        torch.testing.assert_close(other(x), block(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"), ({"layers": 0}, "layers must be at least 1, got 0")],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        GammaDenseBlock(**{"spatial_dims": 2, "in_channels": 5, "layers": 3, **options})


def test_normalised_linear_gives_scaled_cosines():
    head = NormalisedLinear(2, 3)
    head.weight = nn.Parameter(torch.tensor([[5.0, 0.0], [0.0, 0.2], [-3.0, -4.0]]))
    x = torch.tensor([[3.0, 4.0], [0.0, -7.0]])
    torch.testing.assert_close(head(x), torch.tensor([[38.4, 51.2, -64.0], [0.0, -64.0, 51.2]]))
    torch.testing.assert_close(head(100 * x), head(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(head(x), torch.tensor([[38.4, 51.2, -64.0], [0.0, -64.0, 51.2]]))
