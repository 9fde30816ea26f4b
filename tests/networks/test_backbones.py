"""The backbones that carry torchvision's names: ResNet, VGG, MobileNetV2, FUSA-ResNet."""

import re
from functools import partial

import pytest
import torch
from random_networks import randomise

from pneumonai.networks.nets import VGG, FUSAResNet, MobileNetV2, ResNet
from pneumonai.networks.nets.backbones import BACKBONES, Backbone, build_backbone

# One small network of each family, called as all are.
SMALL = {
    "resnet18": partial(ResNet, depth=18, base_channels=4),
    "resnet50": partial(ResNet, depth=50, base_channels=2),
    "vgg16": partial(VGG, depth=16, base_channels=2),
    "vgg19": partial(VGG, depth=19, base_channels=2),
    "mobilenet_v2": partial(MobileNetV2, width_mult=0.1),
    "fusa_resnet18": partial(FUSAResNet, depth=18, base_channels=4),
    "fusa_resnet50": partial(FUSAResNet, depth=50, base_channels=2),
}
PUBLISHED = {
    "mobilenet_v2": (3_504_872, (32, 96, 1280)),
    "resnet18": (11_689_512, (128, 256, 512)),
    "resnet34": (21_797_672, (128, 256, 512)),
    "resnet50": (25_557_032, (512, 1024, 2048)),
    "vgg16": (138_357_544, (512, 512, 512)),
    "vgg19": (143_667_240, (512, 512, 512)),
    "fusa_resnet18": (14_478_656, (128, 256, 512)),
    "fusa_resnet50": (106_065_496, (512, 1024, 2048)),
    "efficientnet_lite0": (4_652_008, (40, 112, 1280)),
    "efficientnet_lite1": (5_416_680, (40, 112, 1280)),
    "efficientnet_lite2": (6_092_072, (48, 120, 1280)),
    "efficientnet_lite3": (8_197_096, (48, 136, 1280)),
    "efficientnet_lite4": (13_006_568, (56, 160, 1280)),
}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def random_network(build, *arguments):
    """A network in eval mode, every parameter and buffer drawn at random so that values neither vanish nor grow."""
    return randomise(build(*arguments), gain=1.4, seed=7)


def resnet_names(depth):
    """torchvision's names, written from its rule: layer, block, convolution."""
    blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}[depth]
    names = ["conv1.weight", *(f"bn1.{part}" for part in NORM), "fc.weight", "fc.bias"]
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            prefix = f"layer{layer}.{block}"
            for index in range(1, 4 if depth == 50 else 3):
                names += [f"{prefix}.conv{index}.weight", *(f"{prefix}.bn{index}.{part}" for part in NORM)]
            if block == 0 and (layer > 1 or depth == 50):
                names += [f"{prefix}.downsample.0.weight", *(f"{prefix}.downsample.1.{part}" for part in NORM)]
    return names


def vgg_names(depth):
    """torchvision's names: the convolutions' places in ``features``, counting ReLUs and pools."""
    convolutions = {
        16: (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        19: (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    }[depth]
    layers = [f"features.{index}" for index in convolutions] + [f"classifier.{index}" for index in (0, 3, 6)]
    return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]


@pytest.mark.parametrize("name", BACKBONES)
def test_counts_and_stage_widths_are_the_published_ones(name):
    count, widths = PUBLISHED[name]
    with torch.device("meta"):
        network = BACKBONES[name](2, 3, 1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    assert network.out_channels == widths


@pytest.mark.parametrize(
    ("name", "expected"),
    [(f"resnet{depth}", resnet_names(depth)) for depth in (18, 34, 50)]
    + [(f"vgg{depth}", vgg_names(depth)) for depth in (16, 19)],
)
def test_names_are_those_of_torchvision(name, expected):
    with torch.device("meta"):
        assert sorted(BACKBONES[name](2, 3, 10).state_dict()) == sorted(expected)


@pytest.mark.parametrize("depth", [18, 50])
def test_attention_adds_names_and_changes_none(depth):
    with torch.device("meta"):
        names = set(FUSAResNet(2, 1, 2, depth=depth).state_dict())
        plain = set(FUSAResNet(2, 1, 2, depth=depth, fusa=False).state_dict())
    assert plain == set(resnet_names(depth))
    assert plain < names
    assert all(
        re.fullmatch(r"layer\d\.\d\.attention\.(channel|spatial|fuse)\.(weight|bias)", name) for name in names - plain
    )
    assert len(names - plain) == 6 * sum({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth])


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_stages_and_carry_the_logits(name, spatial_dims):
    network = random_network(SMALL[name], spatial_dims, 2, 5)
    x = torch.randn(1, 2, *[64, 96, 32][:spatial_dims])
    maps = network.forward_features(x)
    assert [part.shape[1] for part in maps] == list(network.out_channels)
    for part, stride in zip(maps, (8, 16, 32), strict=True):
        assert part.shape[2:] == tuple(side // stride for side in x.shape[2:])
    logits = network(x)
    assert logits.shape == (1, 5)
    assert 0.01 < logits.std() < 1e4
    head = network.fc if hasattr(network, "fc") else network.classifier
    torch.testing.assert_close(head(network.avgpool(maps[2]).flatten(1)), logits)


@pytest.mark.parametrize(("name", "stride_2_and_4"), [
    ("resnet18", (4, 4)), ("resnet50", (2, 8)), ("vgg16", (4, 8)), ("mobilenet_v2", (8, 8)), ("fusa_resnet18", (4, 4))
])  # fmt: skip
def test_five_stages_halve_and_end_with_the_features(name, stride_2_and_4):
    network = random_network(SMALL[name], 2, 2, 0)
    assert network.stage_channels == (*stride_2_and_4, *network.out_channels)
    x = torch.randn(1, 2, 64, 96)
    stages = network.forward_stages(x)
    for stage, channels, stride in zip(stages, network.stage_channels, (2, 4, 8, 16, 32), strict=True):
        assert stage.shape == (1, channels, 64 // stride, 96 // stride)
        assert stage.std() > 0.01
    assert all(torch.equal(*pair) for pair in zip(stages[2:], network.forward_features(x), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "fusa_resnet50", "vgg16", "mobilenet_v2"])
def test_scripted_and_exported_agree_with_eager(name):
    network = random_network(SMALL[name], 2, 1, 3)
    x = torch.randn(2, 1, 65, 70)
    expected = network(x)
    assert 0.01 < expected.std() < 1e4
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5 * expected.std().item())


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet_v2"])
def test_no_classes_leave_the_pooled_features(name):
    network = random_network(SMALL[name], 2, 1, 0)
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(network(x), network.avgpool(network.forward_features(x)[2]).flatten(1))
    assert not any("fc." in key or "classifier" in key for key in network.state_dict())


@pytest.mark.parametrize("depth", [18, 50])
def test_attention_stands_at_the_end_of_the_branch_before_the_sum(depth):
    """Blocks whose gate is 0 give their shortcut; that of the second block is its input."""
    network = random_network(partial(FUSAResNet, depth=depth, base_channels=2), 2, 1, 2)
    block = network.layer2[1]
    x = torch.rand(1, network.out_channels[0], 6, 6)
    assert not torch.allclose(block(x), x)
    block.attention.fuse.weight.data.zero_()
    block.attention.fuse.bias.data.fill_(-1000)
    assert torch.equal(block(x), x)


def test_widths_of_mobilenet_are_multiples_of_eight():
    network = MobileNetV2(2, 1, 2, width_mult=0.35)
    assert network.out_channels == (16, 32, 1280)
    assert MobileNetV2(2, 1, 0, width_mult=1.4).out_channels == (48, 136, 1792)
    assert all(module.out_channels % 8 == 0 for module in network.modules() if isinstance(module, torch.nn.Conv2d))


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (partial(ResNet, depth=20), (2, 1, 2), "depth must be one of 18, 34, 50, got 20"),
        (partial(VGG, depth=11), (2, 1, 2), "depth must be one of 16, 19, got 11"),
        (partial(ResNet, depth=18), (1, 1, 2), "spatial_dims must be 2 or 3, got 1"),
        (partial(VGG, depth=16, base_channels=0), (2, 1, 2), "base_channels must be at least 1, got 0"),
        (MobileNetV2, (2, 0, 2), "in_channels must be at least 1, got 0"),
        (MobileNetV2, (2, 1, -1), "num_classes must be at least 0, got -1"),
        (partial(MobileNetV2, width_mult=0), (2, 1, 2), "width_mult must be above 0, got 0"),
        (partial(build_backbone, "resnet19"), (2, 1), "backbone must be one of mobilenet_v2, .*got 'resnet19'"),
        (partial(build_backbone, torch.nn.Conv2d(1, 1, 1)), (2, 1), "out_channels.*forward_features; Conv2d does not"),
    ],
)
def test_bad_arguments_are_refused_in_words(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(*arguments)


def test_a_module_with_three_stages_is_taken_as_it_is():
    network = SMALL["resnet18"](2, 1, 0)
    assert isinstance(network, Backbone)
    assert build_backbone(network, 2, 1) is network
    network.out_channels = (1, 2)
    with pytest.raises(ValueError, match="out_channels"):
        build_backbone(network, 2, 1)
