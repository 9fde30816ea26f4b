from functools import partial

import pytest
import torch
from random_networks import randomise
from torch import nn

from pneumonai.networks.blocks.attention_pooling import AttentionGenerator, AttentionPooling, GlobalPooling
from pneumonai.networks.nets import MANet, MobileNetV2, ResNet
from pneumonai.networks.nets.backbones import BACKBONES
from pneumonai.networks.pretrained import load_torchvision_weights

BACKBONE = partial(ResNet, 2, 1, 0, depth=18, base_channels=2)


def small(**options):
    return randomise(MANet(2, 1, 3, backbone=BACKBONE(), **{"num_attention_maps": 4, **options}))


@pytest.mark.parametrize(
    ("options", "in_channels", "millions"),
    [
        ({"backbone": "resnet50"}, 3, 23.8),
        ({"backbone": "resnet18", "base_channels": 48}, 1, 6.3),
        ({"backbone": "mobilenet_v2"}, 1, 2.4),
    ],
)
def test_count_of_parameters(options, in_channels, millions):
    with torch.device("meta"):
        network = MANet(2, in_channels, 3, **options)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_sizes_of_the_paper():
    with torch.device("meta"):
        logits, maps = MANet(2, 1, 4, stages=(4, 5, 6)).forward_all(torch.empty(2, 1, 224, 224))
        assert MANet(2, 1, 4).classifier.in_features == 65_536
    assert logits.shape == (2, 4)
    assert maps.shape == (2, 32, 7, 7)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_named_backbone_carries_it(name):
    # FUSA asks for the device's autocast type, and the meta device has none.
    with torch.device("cpu" if name.startswith("fusa") else "meta"), torch.no_grad():
        logits, maps = MANet(2, 1, 3, backbone=name, stages=(4, 5, 6)).forward_all(torch.empty(2, 1, 64, 96))
    assert logits.shape == (2, 3)
    assert maps.shape == (2, 32, 2, 3)


def test_pooling_is_the_mean_of_each_weighted_copy():
    torch.manual_seed(0)
    features, maps = torch.randn(2, 5, 3, 4), torch.rand(2, 6, 3, 4)
    expected = torch.stack([(maps[:, j, None] * features).mean(dim=(2, 3)) for j in range(6)], dim=1).flatten(1)
    torch.testing.assert_close(AttentionPooling(None)(features, maps), expected)
    rows = AttentionPooling(100.0)(features, maps)
    torch.testing.assert_close(rows.norm(dim=1), torch.full((2,), 100.0))
    roots = expected.sign() * expected.abs().sqrt()
    torch.testing.assert_close(rows, 100 * roots / roots.norm(dim=1, keepdim=True))


def test_maps_of_zeros_give_zeros_and_finite_gradients():
    features = torch.randn(2, 5, 3, 4, requires_grad=True)
    maps = torch.zeros(2, 6, 3, 4, requires_grad=True)
    rows = AttentionPooling()(features, maps)
    assert torch.equal(rows, torch.zeros(2, 30))
    rows.sum().backward()
    assert torch.isfinite(features.grad).all()
    assert torch.isfinite(maps.grad).all()


def test_global_poolings_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    assert GlobalPooling(maximum=False)(features, features).tolist() == [[3.0]]
    assert GlobalPooling(maximum=True)(features, features).tolist() == [[6.0]]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_generator_sums_the_averaged_maps_of_each_stage(spatial_dims):
    generator = randomise(AttentionGenerator(spatial_dims, [3, 5], num_maps=4))
    fine, coarse = torch.randn(2, 3, *[4] * spatial_dims), torch.randn(2, 5, *[2] * spatial_dims)
    pool = nn.AvgPool2d(2) if spatial_dims == 2 else nn.AvgPool3d(2)
    expected = pool(generator.branches[0](fine)) + generator.branches[1](coarse)
    maps = generator([fine, coarse])
    torch.testing.assert_close(maps, expected)
    assert maps.shape == (2, 4, *[2] * spatial_dims)
    assert maps.min() >= 0
    assert maps.max() > 0


@pytest.mark.parametrize("stages", [(6,), (5, 6), (4, 5, 6), (4, 6)])
def test_one_pass_gives_the_logits_and_the_maps(stages):
    network = small(stages=stages)
    x = torch.randn(2, 1, 70, 90)
    logits, maps = network.forward_all(x)
    assert torch.equal(logits, network(x))
    assert torch.equal(maps, network.attention_maps(x)[0])
    assert maps.shape == (2, 4, 3, 3)
    features = network.backbone.forward_features(x)[2]
    torch.testing.assert_close(network.classifier(network.pool(features, maps)), logits)


@pytest.mark.parametrize("pooling", ["attention", "gap", "gmp"])
def test_scripted_and_exported_agree_with_eager(pooling):
    network = small(pooling=pooling, feature_scale=None if pooling == "gap" else 100.0)
    x = torch.randn(2, 1, 65, 70)
    expected = network(x)
    assert expected.std() > 0.01
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("block", [AttentionPooling(), AttentionPooling(None)])
def test_pooling_alone_scripts_and_exports(block):
    inputs = torch.randn(2, 5, 3, 4), torch.rand(2, 6, 3, 4)
    expected = block(*inputs)
    for other in (torch.jit.script(block), torch.export.export(block, inputs).module()):
        torch.testing.assert_close(other(*inputs), expected)


def test_generator_alone_scripts_and_exports():
    generator = randomise(AttentionGenerator(2, [3, 5], num_maps=4))
    features = [torch.randn(2, 3, 7, 9), torch.randn(2, 5, 4, 5)]
    expected = generator(features)
    for other in (torch.jit.script(generator), torch.export.export(generator, (features,)).module()):
        torch.testing.assert_close(other(features), expected)


def test_torchvision_weights_load_into_the_backbone(tmp_path):
    state = randomise(ResNet(2, 3, 10, depth=18, base_channels=2)).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    network = small()
    left = load_torchvision_weights(network, tmp_path / "resnet18.pth")
    assert left == [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]
    torch.testing.assert_close(network.backbone.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


def test_volumes_work():
    network = randomise(MANet(3, 1, 2, backbone=ResNet(3, 1, 0, depth=18, base_channels=2)))
    assert network.attention_maps(torch.randn(1, 1, 32, 40, 64))[0].shape == (1, 32, 1, 2, 2)


def test_every_parameter_gets_a_finite_gradient():
    network = small(stages=(4, 5, 6)).train()
    network(torch.randn(3, 1, 64, 64)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ()}, "stages must be some of 4, 5, 6 in order, ending with 6, got \\(\\)"),
        ({"stages": (4, 5)}, "ending with 6"),
        ({"pooling": "mean"}, "pooling must be one of attention, gap, gmp, got 'mean'"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_attention_maps": 0}, "num_maps must be at least 1, got 0"),
        ({"backbone": "mobilenet_v2", "base_channels": 32}, "base_channels applies to a named ResNet.*got 32"),
        ({"backbone": "efficientnet_lite0", "base_channels": 32}, "base_channels applies to a named ResNet.*got 32"),
        ({"backbone": MobileNetV2(2, 1, 0, width_mult=0.1), "base_channels": 32}, "base_channels applies"),
        ({"backbone": "lenet"}, "backbone must be one of"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        MANet(**{"spatial_dims": 2, "in_channels": 1, "num_classes": 3, "backbone": BACKBONE(), **options})
