import pytest
import torch
from random_networks import randomise

from pneumonai.networks.blocks import FUSA
from pneumonai.networks.nets import FUSAResUNet

CHANNELS = (2, 3, 4, 5, 6)


def random_network(spatial_dims=2, **options):
    """A small network in eval mode with every parameter and buffer drawn at random."""
    return randomise(FUSAResUNet(spatial_dims, 1, 2, **{"channels": CHANNELS, **options}), seed=9)


@pytest.mark.parametrize(("base", "millions"), [(64, 40.1), (32, 10.0), (16, 2.5)])
def test_count_of_parameters(base, millions):
    with torch.device("meta"):
        network = FUSAResUNet(2, 1, 2, channels=[base * factor for factor in (1, 2, 4, 8, 16)])
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_attention_is_in_all_modules_but_the_stem():
    with torch.device("meta"):
        network = FUSAResUNet(2, 1, 2)
        plain = FUSAResUNet(2, 1, 2, fusa=False)
    places = [name for name, module in network.named_modules() if isinstance(module, FUSA)]
    assert places == [f"{part}.{index}.attention" for part in ("encoder", "decoder") for index in range(4)]
    assert not any(isinstance(module, FUSA) for module in plain.modules())
    assert [module.shortcut.in_channels for module in network.decoder] == [1536, 768, 384, 192]
    assert [module.shortcut.out_channels for module in network.decoder] == [512, 256, 128, 64]


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 48), (75, 50), (16, 20, 33)])
def test_any_size_from_16_up_gives_a_map_of_that_size(size):
    logits = random_network(len(size))(torch.randn(2, 1, *size))
    assert logits.shape == (2, 2, *size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.1


def test_smaller_sides_are_refused_in_words():
    with pytest.raises(ValueError, match=r"each side must be at least 16, got .*40, 15"):
        random_network()(torch.randn(1, 1, 40, 15))


@pytest.mark.parametrize("size", [(35, 52), (16, 20, 18)])
def test_scripted_and_exported_agree_with_eager(size):
    network = random_network(len(size))
    x = torch.randn(2, 1, *size)
    expected = network(x)
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_finite_gradient():
    network = random_network().train()
    network(torch.randn(2, 1, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_finest_skip_reaches_the_output_without_passing_the_bottom():
    network = random_network()
    for parameter in network.encoder.parameters():
        parameter.data.zero_()
    x = torch.randn(1, 1, 32, 32)
    changed = x.clone()
    changed[0, 0, 5, 7] += 1
    # The decoder's attention pools over the whole picture, so the change is seen everywhere, but most where it is.
    difference = (network(changed) - network(x)).abs().amax(1)[0]
    assert difference.argmax() in [32 * row + column for row in range(2, 9) for column in range(4, 11)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        ({"channels": (1, 2, 3)}, "channels must be five widths of at least 1, got \\(1, 2, 3\\)"),
        ({"channels": (1, 2, 0, 3, 4)}, "channels must be five widths"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        FUSAResUNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": CHANNELS, **options})
