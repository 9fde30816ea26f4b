from functools import partial

import pytest
import torch
from random_networks import randomise
from torch.nn import functional as F

from pneumonai.networks.nets import VGG, BackboneUNet, FUSAResNet, MobileNetV2, ResNet
from pneumonai.networks.nets.backbones import BACKBONES, StagedBackbone

# One small backbone of each family; EfficientNet-Lite has no narrow variant.
SMALL = {
    "resnet": partial(ResNet, depth=18, base_channels=4),
    "bottleneck": partial(ResNet, depth=50, base_channels=2),
    "fusa_resnet": partial(FUSAResNet, depth=18, base_channels=4),
    "vgg": partial(VGG, depth=16, base_channels=4),
    "mobilenet": partial(MobileNetV2, width_mult=0.1),
    "lite0": BACKBONES["efficientnet_lite0"],
}
DECODER = (10, 8, 6, 4, 3)


def small(name, spatial_dims=2, in_channels=1):
    """A network with every parameter and buffer drawn at random."""
    backbone = SMALL[name](spatial_dims, in_channels, 0)
    return randomise(
        BackboneUNet(spatial_dims, in_channels, 2, backbone=backbone, decoder_channels=DECODER), gain=1.4, seed=5
    )


def test_count_of_parameters_by_hand():
    network = small("resnet")
    trunk = sum(parameter.numel() for parameter in network.backbone.parameters())
    # Stages of 4, 4, 8, 16, 32 channels; two 3x3 convolutions a step, each with scale and shift.
    inputs = (32 + 16, 10 + 8, 8 + 4, 6 + 4, 4)
    steps = sum(9 * (i * o + o * o) + 4 * o for i, o in zip(inputs, DECODER, strict=True))
    assert sum(parameter.numel() for parameter in network.parameters()) == trunk + steps + 3 * 2 + 2


def test_count_of_parameters_of_the_default():
    with torch.device("meta"):
        network = BackboneUNet(2, 1, 1)
    # lite2 without its classifier of 1,000 classes and two of the stem's three planes.
    trunk = 6_092_072 - 1281 * 1000 - 2 * 32 * 9
    inputs = (1280 + 120, 256 + 48, 128 + 24, 64 + 16, 32)
    steps = sum(9 * (i * o + o * o) + 4 * o for i, o in zip(inputs, (256, 128, 64, 32, 16), strict=True))
    assert trunk + steps + 17 == 9_289_169
    assert sum(parameter.numel() for parameter in network.parameters()) == 9_289_169


@pytest.mark.parametrize("name", BACKBONES)
def test_every_named_backbone_serves(name):
    with torch.device("meta"):
        network = BackboneUNet(2, 1, 2, backbone=name)
    assert isinstance(network.backbone, StagedBackbone)
    assert network.backbone.stage_channels[2:] == network.backbone.out_channels


@pytest.mark.parametrize("size", [(32, 32), (33, 75), (47, 64), (32, 34, 33)])
@pytest.mark.parametrize("name", SMALL)
def test_any_size_from_32_up_gives_a_map_of_that_size(name, size):
    logits = small(name, len(size))(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.05


@pytest.mark.parametrize("name", SMALL)
def test_decoder_joins_the_encoders_maps_from_coarse_to_fine(name):
    network = small(name)
    x = torch.randn(1, 1, 37, 50)
    half, quarter, eighth, sixteenth, decoded = network.backbone.forward_stages(x)
    for step, skip in zip(network.decoder, (sixteenth, eighth, quarter, half), strict=True):
        upsampled = F.interpolate(decoded, skip.shape[2:], mode="bilinear", align_corners=False)
        decoded = step.conv(torch.cat([upsampled, skip], 1))
    upsampled = F.interpolate(decoded, (37, 50), mode="bilinear", align_corners=False)
    assert torch.equal(network(x), network.head(network.last(upsampled)))


@pytest.mark.parametrize("name", ["resnet", "vgg", "lite0"])
def test_scripted_and_exported_agree_with_eager(name):
    network = small(name)
    x = torch.randn(2, 1, 37, 50)
    expected = network(x)
    assert expected.std() > 0.05
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-5 * expected.std().item())


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_every_parameter_gets_a_finite_gradient(name):
    network = small(name).train()
    network(torch.randn(1, 1, 64, 64)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


def test_smaller_sides_are_refused_in_words():
    with pytest.raises(ValueError, match=r"each side must be at least 32, got .*40, 31"):
        small("resnet")(torch.randn(1, 1, 40, 31))


class ThreeStages(torch.nn.Module):
    out_channels = (2, 2, 2)

    def forward_features(self, x):
        return x, x, x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
        ({"backbone": "lite2"}, "backbone must be one of .*efficientnet_lite2.*got 'lite2'"),
        ({"backbone": ThreeStages()}, "must publish stage_channels.*forward_stages; ThreeStages does not"),
        ({"decoder_channels": (8, 8, 8, 8)}, r"decoder_channels must be 5 numbers of at least 1, got \(8, 8, 8, 8\)"),
        ({"decoder_channels": (8, 8, 8, 8, 0)}, "decoder_channels must be 5 numbers of at least 1"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        BackboneUNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 1, **options})
