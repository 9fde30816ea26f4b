import warnings

import pytest
import torch
from random_networks import randomise
from torch.utils.flop_counter import FlopCounterMode

from pneumonai.networks.blocks import AttentionMask, NonLocal, PreActivationBottleneck
from pneumonai.networks.nets import NLRAN

SIZE = (1, 1, 64, 160, 160)


def random_network(**options):
    """A small network in eval mode, every parameter and buffer drawn at random so that the logits stay near 1."""
    return randomise(NLRAN(base_channels=4, **options), gain=0.7, seed=5)


def counts(**options):
    """Millions of parameters and thousands of millions of multiply-adds at the paper's input."""
    with torch.device("meta"):
        network = NLRAN(**options).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(SIZE))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("modules", "non_local", "parameters", "multiply_adds"),
    [
        ((1, 1, 1), False, 56.5, 47.5),
        ((1, 2, 3), False, 97.4, 66.5),
        ((1, 1, 1), True, 58.6, 48.5),
        ((1, 2, 3), True, 99.5, 67.5),
    ],
)
def test_counts_are_those_of_the_wiring_and_within_bars_of_table_1(modules, non_local, parameters, multiply_adds):
    got = counts(attention_modules=modules, non_local=non_local)
    assert got == pytest.approx((parameters, multiply_adds), abs=0.05)
    printed = {3: (58.3, 49.4), 6: (95.7, 68.7)}[sum(modules)]
    assert got[0] == pytest.approx(printed[0], rel=0.05)
    assert got[1] == pytest.approx(printed[1], rel=0.06)


def test_the_slim_network_has_3_7_million_parameters():
    with torch.device("meta"):
        network = NLRAN(base_channels=16)
    assert sum(parameter.numel() for parameter in network.parameters()) == 3_683_123


def test_stages_have_the_sizes_of_table_1():
    with torch.device("meta"):
        network = NLRAN().eval()
        x = network.stem(torch.empty(SIZE))
        sizes = [tuple(x.shape[1:])]
        for stage in network.stages:
            x = stage(x)
            sizes.append(tuple(x.shape[1:]))
        sizes.append(tuple(network.forward_features(torch.empty(SIZE)).shape[1:]))
    assert sizes == [(64, 16, 40, 40), (256, 16, 40, 40), (512, 8, 20, 20), (1024, 4, 10, 10), (2048, 2, 5, 5)]


@pytest.mark.parametrize(
    ("spatial_dims", "attention", "modules"),
    [(3, "mixed", (1, 1, 1)), (3, "channel", (1, 0, 0)), (3, "spatial", (0, 0, 1)), (2, "spatial", (1, 0, 1))],
)
def test_scripted_agrees_with_eager(spatial_dims, attention, modules):
    network = random_network(spatial_dims=spatial_dims, attention=attention, attention_modules=modules)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scripted = torch.jit.script(network)
    assert all("torch.jit" in str(warning.message) for warning in caught)
    for size in (33, 48):
        x = torch.randn(2, 1, *[size] * spatial_dims)
        expected = network(x)
        assert 0.1 < expected.abs().max() < 10
        with torch.no_grad():
            torch.testing.assert_close(scripted(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "modules"), [("mixed", (1, 1, 1)), ("channel", (1, 0, 0)), ("spatial", (0, 0, 1))]
)
def test_exported_agrees_with_eager(attention, modules):
    network = random_network(attention=attention, attention_modules=modules)
    exported = torch.export.export(network, (torch.randn(2, 1, 32, 40, 48),))
    x = torch.randn(2, 1, 32, 40, 48)
    assert 0.1 < network(x).abs().max() < 10
    torch.testing.assert_close(exported.module()(x), network(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1, 1), (7, 30, 13), (16, 37, 65)])
def test_any_size_works_in_eval_mode(size):
    network = random_network()
    logits = network(torch.randn(2, 1, *size))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


def test_samples_do_not_mix_in_eval_mode():
    network = random_network(in_channels=2, num_classes=5)
    x = torch.randn(3, 2, 20, 24, 28)
    torch.testing.assert_close(network(x), torch.cat([network(sample[None]) for sample in x]), rtol=1e-4, atol=1e-5)


def test_non_local_changes_nothing_at_first():
    torch.manual_seed(0)
    network = NLRAN(base_channels=4).eval()
    x = torch.randn(1, 1, 16, 32, 32)
    before = network(x)
    assert isinstance(network.non_local, NonLocal)
    network.non_local = torch.nn.Identity()
    assert torch.equal(network(x), before)


def test_every_parameter_gets_a_finite_gradient():
    network = random_network().train()
    network(torch.randn(2, 1, 32, 32, 32)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_attention_maps_are_the_masks_of_the_pass():
    network = random_network(attention_modules=(2, 1, 1))
    seen = []
    for module in network.modules():
        if isinstance(module, AttentionMask):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    x = torch.randn(1, 1, 32, 48, 40)
    network(x)
    from_pass = list(seen)
    maps = network.attention_maps(x)
    assert [tuple(part.shape[1:]) for part in maps] == [(16, 8, 12, 10)] * 2 + [(32, 4, 6, 5), (64, 2, 3, 3)]
    assert all(torch.equal(one, other) for one, other in zip(maps, from_pass, strict=True))
    assert network.first_attention is network.stages[0].attention[0].mask
    assert all(((part > 0) & (part < 1)).all() for part in maps)


def test_first_attention_is_that_of_the_first_stage_that_has_one():
    network = NLRAN(base_channels=1, attention_modules=(0, 1, 1))
    assert network.first_attention is network.stages[1].attention[0].mask


def test_logits_are_the_mean_of_the_class_activation_map():
    network = random_network()
    x = torch.randn(2, 1, 40, 70, 65)
    features = network.forward_features(x)
    assert features.shape == (2, 128, 2, 3, 3)
    assert features.min() == 0
    maps = torch.einsum("kc,bcdhw->bkdhw", network.classifier.weight, features)
    torch.testing.assert_close(maps.mean(dim=(2, 3, 4)) + network.classifier.bias, network(x), rtol=1e-4, atol=1e-5)


def test_channels_last_agrees():
    network = random_network()
    x = torch.randn(2, 1, 32, 48, 48)
    expected = network(x)
    network.to(memory_format=torch.channels_last_3d)
    result = network(x.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_convolutions_start_from_he_and_keep_the_scale():
    torch.manual_seed(0)
    network = NLRAN(base_channels=8)
    weight = network.stages[2].unit.residual[3].weight
    assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.02)
    units = [unit for unit in network.modules() if isinstance(unit, PreActivationBottleneck)]
    assert len(units) == 3 + 3 * 7 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"base_channels": -4}, "base_channels must be at least 1, got -4"),
        ({"attention": "soft"}, "attention must be one of mixed, channel, spatial, got 'soft'"),
        ({"attention_modules": (1, 1)}, "attention_modules must be three counts.*got \\(1, 1\\)"),
        ({"attention_modules": (1, -1, 1)}, "none negative"),
        ({"attention_modules": (0, 0, 0)}, "at least one above 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        NLRAN(**{"base_channels": 1, **options})
