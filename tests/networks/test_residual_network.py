import re

import pytest
import torch
from random_networks import randomise
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pneumonai.networks.nets import NLRAN, ResidualNetwork

ROWS = {
    "resnet": {},
    "senet": {"unit_attention": "channel"},
    "cbam": {"unit_attention": "cbam"},
    "res_csa": {"unit_attention": "channel_spatial"},
    "ca": {"stage_attention": "channel"},
    "sa": {"stage_attention": "spatial"},
    "csa": {"stage_attention": "channel_spatial"},
    "aspp": {"stage_attention": "aspp"},
}


def draw(network):
    """Every parameter and buffer at random so that the logits stay near 1; eval mode."""
    return randomise(network, gain=1.2, seed=5)


def unit_parameters(before, after, changes):
    """Of a pre-activation bottleneck, by hand: three batch normalisations, three convolutions, the shortcut."""
    width = after // 4
    own = 2 * before + 4 * width + before * width + 27 * width**2 + width * after
    return own + (before * after if changes else 0)


def expected_parameters(c, name):
    total = 343 * c + 2 * c + 2 * 32 * c + 3 * 32 * c + 3  # stem, last normalisation, classifier
    before = c
    for after, units in zip((4 * c, 8 * c, 16 * c, 32 * c), (3, 4, 6, 3), strict=True):
        squeeze = 2 * after * (after // 16) + after // 16 + after
        added = {"senet": squeeze, "cbam": squeeze + 686, "res_csa": squeeze + 686}.get(name, 0)
        for index in range(units):
            total += unit_parameters(before, after, index == 0) + added
            before = after
    squeeze = 2 * 16 * c * c + c + 16 * c
    # Four branches with bias, sizes 1, 27, 27, 27; a convolution of size 1; a normalisation.
    pyramid = 16 * c * 4 * c * (1 + 3 * 27) + 16 * c + (16 * c) ** 2 + 2 * 16 * c
    return total + {"ca": squeeze, "sa": 686, "csa": squeeze + 686, "aspp": pyramid}.get(name, 0)


@pytest.mark.parametrize("name", ROWS)
def test_parameters_are_those_counted_by_hand(name):
    with torch.device("meta"):
        network = ResidualNetwork(base_channels=16, **ROWS[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == expected_parameters(16, name)


def test_costs_at_the_paper_s_width_and_input():
    with torch.device("meta"):
        network = ResidualNetwork().eval()
        with FlopCounterMode(display=False) as counter:
            features = network.forward_features(torch.empty(1, 1, 64, 160, 160))
    assert features.shape == (1, 2048, 2, 5, 5)
    assert (
        sum(parameter.numel() for parameter in network.parameters()) == 46_153_667 == expected_parameters(64, "resnet")
    )
    assert counter.get_total_flops() / 2e9 == pytest.approx(31.7, abs=0.05)


def test_shares_stem_and_tail_with_nl_ran():
    """With one unit a stage and no attention modules the two are one network."""
    ours = draw(ResidualNetwork(base_channels=2, units=(1, 1, 1, 3)))
    theirs = NLRAN(base_channels=2, attention_modules=(1, 0, 0), non_local=False).eval()
    theirs.stages[0].attention = torch.nn.ModuleList()
    state = {re.sub(r"^(stages\.\d)\.0", r"\1.unit", key): value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    x = torch.randn(2, 1, 24, 32, 40)
    assert 0.1 < ours(x).abs().max() < 10
    assert torch.equal(ours(x), theirs(x))


def test_unit_attention_ends_the_residual_branch_of_every_unit():
    network = draw(ResidualNetwork(2, base_channels=4, units=(2, 1, 1, 1), unit_attention="channel"))
    unit = network.stages[0][1]
    x = torch.randn(2, 16, 6, 7)
    branch = unit.residual[:7](unit.pre_activation(x))
    hidden, _, last, _ = unit.residual[7].fc
    squeezed = F.linear(branch.mean((2, 3)), hidden.weight, hidden.bias).relu()
    weights = F.linear(squeezed, last.weight, last.bias).sigmoid()
    torch.testing.assert_close(unit(x), x + branch * weights[..., None, None])
    units = [unit for stage in (*network.stages, network.tail) for unit in stage]
    assert [len(unit.residual) for unit in units] == [8] * 5
    assert [len(unit.residual) for stage in ResidualNetwork(2, base_channels=1).stages for unit in stage] == [7] * 13


@pytest.mark.parametrize("name", ["ca", "csa", "aspp"])
def test_stage_attention_stands_once_between_third_stage_and_tail(name):
    network = draw(ResidualNetwork(base_channels=2, units=(1, 1, 1, 1), **ROWS[name]))
    x = torch.randn(2, 1, 33, 40, 48)
    third = network.stages[2](network.stages[1](network.stages[0](network.stem(x))))
    attended = network.stage_attention(third)
    assert attended.shape == third.shape == (2, 32, 3, 3, 3)
    assert not torch.allclose(attended, third)
    torch.testing.assert_close(network.forward_features(x), network.features(network.tail(attended)))


def test_pyramid_has_rates_1_2_3():
    pyramid = ResidualNetwork(base_channels=2, stage_attention="aspp").stage_attention
    assert [(conv.kernel_size[0], conv.dilation[0]) for conv in pyramid.convs] == [(1, 1), (3, 1), (3, 2), (3, 3)]


@pytest.mark.parametrize("name", ["cbam", "csa", "aspp"])
def test_scripted_and_exported_agree_with_eager(name):
    network = draw(ResidualNetwork(base_channels=2, units=(1, 2, 1, 1), **ROWS[name]))
    x = torch.randn(2, 1, 24, 32, 40)
    with torch.no_grad():
        expected = network(x)
        exported = torch.export.export(network, (torch.randn_like(x),))
        assert 0.1 < expected.abs().max() < 10
        torch.testing.assert_close(torch.jit.script(network)(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(exported.module()(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["cbam", "aspp"])
def test_every_parameter_gets_a_finite_gradient(name):
    network = draw(ResidualNetwork(base_channels=2, units=(1, 2, 1, 1), **ROWS[name])).train()
    network(torch.randn(3, 1, 32, 48, 48)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key


def test_logits_are_the_mean_of_the_class_activation_map():
    network = draw(ResidualNetwork(in_channels=2, num_classes=5, base_channels=2, unit_attention="cbam"))
    x = torch.randn(2, 2, 20, 70, 65)
    maps = torch.einsum("kc,bcdhw->bkdhw", network.classifier.weight, network.forward_features(x))
    assert maps.shape == (2, 5, 1, 3, 3)
    torch.testing.assert_close(maps.mean(dim=(2, 3, 4)) + network.classifier.bias, network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"base_channels": 0}, "base_channels must be at least 1, got 0"),
        ({"units": (3, 4, 6)}, "units must be four counts of at least 1, got \\(3, 4, 6\\)"),
        ({"units": (3, 0, 6, 3)}, "units must be four counts"),
        ({"unit_attention": "aspp"}, "unit_attention must be one of none, channel, .*got 'aspp'"),
        ({"stage_attention": "se"}, "stage_attention must be one of none, .*aspp, got 'se'"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualNetwork(**{"base_channels": 1, **options})
