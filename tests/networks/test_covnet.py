import pytest
import torch
from monai.networks.nets import ResNet
from random_networks import randomise
from torch.utils.flop_counter import FlopCounterMode

from pneumonai.networks.nets import CovNet

RESNET50_PARAMETERS = 25_557_032  # three input channels, a thousand classes


def random_network(**options):
    """A slim network in eval mode, every parameter and buffer drawn at random so that the logits stay near 1."""
    return randomise(CovNet(base_channels=2, **options), gain=0.8, seed=6)


def test_parameters_are_those_of_resnet_50_with_another_first_and_last_layer():
    with torch.device("meta"):
        network = CovNet().eval()
        with FlopCounterMode(display=False) as counter:
            features = network.forward_features(torch.empty(1, 1, 4, 160, 160))
    expected = RESNET50_PARAMETERS - 2 * 64 * 7 * 7 - (2048 + 1) * 1000 + (2048 + 1) * 3
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert features.shape == (1, 2048, 4, 5, 5)
    # ResNet-50 takes 4.09 thousand millions at 224 x 224 in three channels, nearly all in proportion to the area.
    assert counter.get_total_flops() / 2e9 / 4 == pytest.approx(4.09 * (160 / 224) ** 2, rel=0.03)


def test_is_the_2d_network_on_each_slice_and_the_maximum_over_slices():
    network = random_network(in_channels=2, num_classes=4)
    resnet = ResNet(
        "bottleneck",
        [3, 4, 6, 3],
        [2, 4, 8, 16],
        spatial_dims=2,
        n_input_channels=2,
        conv1_t_stride=2,
        feed_forward=False,
        bias_downsample=False,
    ).eval()
    resnet.load_state_dict({k.removeprefix("backbone."): v for k, v in network.state_dict().items() if "backbone" in k})
    x = torch.randn(2, 2, 5, 40, 70)
    pooled = torch.stack([resnet(x[:, :, index]) for index in range(5)])
    expected = network.classifier(pooled.max(dim=0).values)
    assert 0.1 < expected.abs().max() < 20
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    maps = network.forward_features(x)
    assert maps.shape == (2, 64, 5, 2, 3)
    torch.testing.assert_close(maps.mean((3, 4)).permute(2, 0, 1), pooled, rtol=1e-4, atol=1e-5)


def test_the_order_of_slices_does_not_count():
    network = random_network()
    x = torch.randn(2, 1, 6, 40, 40)
    torch.testing.assert_close(network(x.flip(2)), network(x), rtol=1e-5, atol=1e-5)


def test_fewer_slices_at_once_change_nothing_but_the_size_of_a_pass():
    network = random_network()
    x = torch.randn(2, 1, 5, 40, 40)
    expected = network(x)
    sizes = []
    network.backbone.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    network.slices_at_once = 4
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    network.train()(x)
    assert sizes == [4, 4, 2, 10]


def test_takes_the_memory_format_of_a_volume_s_network():
    network = random_network()
    x = torch.randn(2, 1, 4, 40, 40)
    expected = network(x)
    assert network.to(torch.device("cpu"), memory_format=torch.channels_last_3d) is network
    assert network.backbone.layer1[0].conv2.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        network(x.contiguous(memory_format=torch.channels_last_3d)), expected, rtol=1e-4, atol=1e-5
    )


def test_scripted_and_exported_agree_with_eager():
    network = random_network()
    x = torch.randn(2, 1, 4, 33, 48)
    with torch.no_grad():
        expected = network(x)
        assert 0.1 < expected.abs().max() < 20
        exported = torch.export.export(network, (torch.randn_like(x),))
        torch.testing.assert_close(exported.module()(x), expected, rtol=0, atol=1e-5)
        for slices_at_once in (None, 3):
            network.slices_at_once = slices_at_once
            torch.testing.assert_close(torch.jit.script(network)(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 2}, "spatial_dims must be 3.*got 2"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"base_channels": 0}, "base_channels must be at least 1, got 0"),
        ({"slices_at_once": 0}, "slices_at_once must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        CovNet(**{"base_channels": 1, **options})
