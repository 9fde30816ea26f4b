from functools import partial

import pytest
import torch
from random_networks import randomise

from pneumonai.networks.nets import DeepLabV3, LinkNet, PSPNet, ResNet
from pneumonai.networks.nets.resnet_segmentation import LinkNetDecoder, PooledContext, dilate_stages
from pneumonai.networks.pretrained import load_torchvision_weights

NETWORKS = {
    "linknet": LinkNet,
    "pspnet": PSPNet,
    "deeplabv3": DeepLabV3,
    "deeplabv3_stride_8": partial(DeepLabV3, output_stride=8),
}


def small(name, spatial_dims=2, **options):
    """A network in eval mode with every parameter and buffer drawn at random."""
    return randomise(NETWORKS[name](spatial_dims, 1, 2, **{"base_channels": 4, **options}), seed=5)


def conv(size, in_channels, out_channels):
    """Parameters of a 2D convolution without bias and the normalisation after it."""
    return size * size * in_channels * out_channels + 2 * out_channels


# ResNet-18 at width 4 with one input channel: a stem, then stages of four 3x3 convolutions, the last three with a
# shortcut of size 1.
TRUNK = conv(7, 1, 4) + 4 * conv(3, 4, 4)
TRUNK += sum(conv(3, c, 2 * c) + 3 * conv(3, 2 * c, 2 * c) + conv(1, c, 2 * c) for c in (4, 8, 16))


def decoder(in_channels, out_channels):
    hidden = in_channels // 4
    return conv(1, in_channels, hidden) + conv(3, hidden, hidden) + conv(1, hidden, out_channels)


BY_HAND = {
    "linknet": decoder(32, 16) + decoder(16, 8) + decoder(8, 4) + decoder(4, 4)
    # The last full convolution, of size 2, has a bias a class.
    + conv(3, 4, 2) + conv(3, 2, 2) + 2 * 2 * 2 * 2 + 2,
    "pspnet": 4 * conv(1, 32, 8) + conv(3, 64, 8) + 8 * 2 + 2,
    "deeplabv3": 2 * conv(1, 32, 16) + 3 * conv(3, 32, 16) + conv(1, 5 * 16, 16) + 16 * 2 + 2,
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_count_of_parameters_by_hand(name):
    network = NETWORKS[name](2, 1, 2, base_channels=4)
    assert sum(parameter.numel() for parameter in network.parameters()) == TRUNK + BY_HAND[name]


@pytest.mark.parametrize(
    ("build", "classes", "count"),
    [
        # The paper: 11.5 million.
        (LinkNet, 20, 11_535_764),
        # torchvision's 42,004,074 without the auxiliary head and the 3x3 convolution that the paper does not have.
        (partial(DeepLabV3, depth=50), 21, 42_004_074 - conv(3, 1024, 256) - 257 * 21 - conv(3, 256, 256)),
    ],
)
def test_count_of_parameters_published(build, classes, count):
    with torch.device("meta"):
        network = build(2, 3, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("size", [(32, 32), (33, 75), (47, 64), (32, 34, 33)])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_from_32_up_gives_a_map_of_that_size(name, size):
    logits = small(name, len(size))(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.05


@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_sides_are_refused_in_words(name):
    with pytest.raises(ValueError, match=r"each side must be at least 32, got .*40, 31"):
        small(name)(torch.randn(1, 1, 40, 31))


@pytest.mark.parametrize(("name", "depth"), [*((name, 18) for name in NETWORKS), ("linknet", 50)])
def test_scripted_and_exported_agree_with_eager(name, depth):
    network = small(name, depth=depth, base_channels=2)
    x = torch.randn(2, 1, 37, 50)
    expected = network(x)
    assert expected.std() > 0.01
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(("depth", "size"), [(18, (70, 97)), (50, (64, 33)), (18, (40, 33, 64))])
def test_dilated_stages_hold_the_original_maps_at_every_second_position(depth, size, output_stride):
    plain = randomise(ResNet(len(size), 1, 0, depth=depth, base_channels=2))
    dilated = ResNet(len(size), 1, 0, depth=depth, base_channels=2).eval()
    names = list(dilated.state_dict())
    dilate_stages(dilated, output_stride)
    assert list(dilated.state_dict()) == names
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, *size)
    for original, dense, stride in zip(
        plain.forward_features(x), dilated.forward_features(x), (8, 16, 32), strict=True
    ):
        kept = min(stride, output_stride)
        assert dense.shape[2:] == tuple(-(-side // kept) for side in size)
        every = (..., *(slice(None, None, stride // kept) for _ in size))
        torch.testing.assert_close(dense[every], original, rtol=1e-4, atol=1e-5)
        assert original.std() > 1e-3


@pytest.mark.parametrize(("name", "sizes"), [("pspnet", (5, 9)), ("deeplabv3", (3, 5)), ("deeplabv3_stride_8", (5, 9))])
def test_output_strides(name, sizes):
    network = small(name)
    features = network.backbone.forward_features(torch.randn(1, 1, 40, 65))[2]
    assert features.shape[2:] == sizes
    assert network.conv(network.pyramid(features)).shape[2:] == sizes


def test_dilations_of_deeplab_are_the_papers_and_doubled_at_stride_8():
    for output_stride, rates in ((16, [6, 12, 18]), (8, [12, 24, 36])):
        network = DeepLabV3(2, 1, 2, base_channels=1, output_stride=output_stride)
        assert [branch.conv.dilation for branch in network.pyramid.branches[1:4]] == [(rate, rate) for rate in rates]


@pytest.mark.parametrize("name", NETWORKS)
def test_torchvision_weights_load_into_the_backbone(name, tmp_path):
    state = {
        key: torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(7)
        for key, value in ResNet(2, 3, 1000, depth=18, base_channels=4).state_dict().items()
    }
    torch.save(state, tmp_path / "resnet18.pth")
    network = NETWORKS[name](2, 3, 2, base_channels=4)
    left = load_torchvision_weights(network, tmp_path / "resnet18.pth")
    assert left == [key for key, _ in network.named_parameters() if not key.startswith("backbone.")]
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(("name", "pooled"), [("pspnet", (1, 2, 3, 4)), ("deeplabv3", (4,))])
def test_a_far_position_reaches_the_map_through_the_pooled_branches_alone(name, pooled):
    network = small(name)
    # The widest dilated branch reaches 18 positions, the corners lie 23 apart.
    features = torch.rand(1, 32, 24, 24)
    changed = features.clone()
    changed[..., 0, 0] += 100

    def change_at_the_far_corner():
        with torch.no_grad():
            return (network.pyramid(changed) - network.pyramid(features)).abs()[..., -1, -1].max()

    assert change_at_the_far_corner() > 1e-3
    for index in pooled:
        network.pyramid.branches[index].conv.weight.data.zero_()
    assert change_at_the_far_corner() == 0


def test_pooled_context_by_hand():
    context = PooledContext(2, 1, 1, cells=2).eval()
    context.conv.weight.data.fill_(2.0)
    context.norm.eps = 0.0
    x = torch.tensor([[1.0, 3, -2, -2], [1, 3, -2, -2], [0, 0, 4, 4], [0, 4, 4, 4]])
    # Means 2, -2, 1, 4; doubled, below 0 cut off: 4, 0, 2, 8, whose centres lie between the four source positions.
    rows = [[4, 3, 1, 0], [3.5, 3.125, 2.375, 2], [2.5, 3.375, 5.125, 6], [2, 3.5, 6.5, 8]]
    assert context(x[None, None])[0, 0].tolist() == rows


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_finite_gradient(name):
    network = small(name).train()
    network(torch.randn(2, 1, 64, 64)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_one_trains(name):
    network = small(name).train()
    network(torch.randn(1, 1, 64, 64)).sum().backward()


@pytest.mark.parametrize("scripted", [False, True])
def test_one_value_a_channel_is_normalised_by_the_running_statistics(scripted):
    context = randomise(PooledContext(2, 3, 4, cells=1))
    x = torch.randn(1, 3, 5, 6)
    expected = context(x)
    mean = context.norm.running_mean.clone()
    context.train()
    trained = torch.jit.script(context) if scripted else context
    torch.testing.assert_close(trained(x), expected)
    assert torch.equal(context.norm.running_mean, mean)
    assert not torch.allclose(trained(torch.cat([x, x + 1])), context.eval()(torch.cat([x, x + 1])))
    assert not torch.equal(context.norm.running_mean, mean)


def test_each_decoder_of_linknet_adds_the_input_of_its_encoder():
    decoder = randomise(LinkNetDecoder(2, 8, 4))
    x, link = torch.randn(1, 8, 3, 4), torch.randn(1, 4, 5, 8)
    assert not torch.allclose(decoder(x, link), link)
    close(decoder)
    assert torch.equal(decoder(x, link), link)
    # Closed at decoder k, all that comes after layer k - 1 is unseen; layer k - 1 is seen.
    x = torch.randn(1, 1, 33, 40)
    for closed in (1, 2, 3, 4):
        network = small("linknet", base_channels=16)
        close(network.get_submodule(f"decoder{closed}"))
        before = network(x)
        for layer in range(closed, 5):
            randomise(network.backbone.get_submodule(f"layer{layer}"), seed=100 + layer)
        assert torch.equal(network(x), before)
        if closed > 1:
            randomise(network.backbone.get_submodule(f"layer{closed - 1}"), seed=99)
            assert not torch.allclose(network(x), before)


def close(decoder):
    """Let a decoder give its link alone."""
    norm = decoder.expand.get_submodule("adn.N")
    norm.weight.data.zero_()
    norm.bias.data.zero_()


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (LinkNet, {"spatial_dims": 4}, "spatial_dims must be 2 or 3, got 4"),
        (PSPNet, {"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        (PSPNet, {"out_channels": 0}, "out_channels must be at least 1, got 0"),
        (DeepLabV3, {"depth": 20}, "depth must be one of 18, 34, 50, got 20"),
        (DeepLabV3, {"output_stride": 32}, "output_stride must be 8 or 16, got 32"),
        (LinkNet, {"base_channels": 0}, "base_channels must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **options})
