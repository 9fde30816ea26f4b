import pytest
import torch
from monai.networks.nets import DenseNet as MonaiDenseNet
from random_networks import randomise
from torch import nn

from pneumonai.networks.blocks import DeformableAttention, GammaDenseBlock, NormalisedLinear
from pneumonai.networks.nets import DenseNet


def counted(*arguments, **options):
    with torch.device("meta"):
        network = DenseNet(*arguments, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def test_counts_of_densenet_121_and_169():
    assert counted(2, 3, 1000) == 7_978_856
    assert counted(2, 3, 1000, block_config=(6, 12, 32, 32)) == 14_149_480


@pytest.mark.parametrize(("dims", "side"), [(2, 64), (3, 32)])
def test_the_plain_network_is_monai_s(dims, side):
    network = randomise(DenseNet(dims, 2, 5, growth_rate=4, block_config=(2, 3, 2)))
    other = MonaiDenseNet(dims, 2, 5, init_features=8, growth_rate=4, block_config=(2, 3, 2)).eval()
    state = {}
    for name, tensor in network.state_dict().items():
        layer, dot, part = name.partition("denselayer")
        number, _, rest = part.partition(".")
        name = f"{layer}denselayer{number}.layers.{rest}" if dot else name.replace("classifier", "class_layers.out")
        state[name] = tensor
    other.load_state_dict(state)
    x = torch.randn(2, 2, *[side] * dims)
    torch.testing.assert_close(network(x), other(x), rtol=1e-5, atol=1e-5)


def test_names_are_torchvision_s():
    names = set(DenseNet(2, 3, 4, growth_rate=4, block_config=(2, 1)).state_dict())
    for name in (
        "features.conv0.weight",
        "features.norm0.running_var",
        "features.denseblock1.denselayer2.norm1.weight",
        "features.denseblock1.denselayer2.conv2.weight",
        "features.transition1.conv.weight",
        "features.denseblock2.denselayer1.conv1.weight",
        "features.norm5.bias",
        "classifier.bias",
    ):
        assert name in names
    assert not any("gamma" in name or "attention" in name for name in names)


def test_attention_stands_after_the_first_two_blocks():
    network = randomise(DenseNet(2, 1, 3, growth_rate=4, block_config=(2, 3, 2), deformable_attention=True))
    x = torch.randn(2, 1, 64, 48)
    logits, maps, offsets = network.forward_attention(x)
    assert [part.shape for part in maps] == [(2, 16, 16, 12), (2, 20, 8, 6)]
    assert [part.shape for part in offsets] == [(2, 2, 9, 16, 12), (2, 2, 9, 8, 6)]
    features = dict(network.features.named_children())
    step = network.features[:5](x)
    torch.testing.assert_close(maps[0], network.attention1.attend(step)[0])
    step = features["denseblock2"](features["transition1"](network.attention1(step)))
    torch.testing.assert_close(maps[1], network.attention2.attend(step)[0])
    step = features["denseblock3"](features["transition2"](network.attention2(step)))
    torch.testing.assert_close(logits, network.classifier(features["norm5"](step).relu().mean(dim=(2, 3))))


def test_paper_s_attention_sees_256_and_512_channels():
    with torch.device("meta"):
        network = DenseNet(2, 1, 3, deformable_attention=True)
    assert [network.attention1.w.in_channels, network.attention2.w.in_channels] == [256, 512]


def test_attention_starts_with_offsets_at_zero():
    modules = list(DenseNet(2, 1, 3, growth_rate=4, block_config=(1, 1), deformable_attention=True).modules())
    found = [m for m in modules if isinstance(m, DeformableAttention)]
    assert len(found) == 2
    assert all(part.count_nonzero() == 0 for m in found for part in (*m.u.offset.parameters(), m.v.offset.weight))


def test_parts_are_there_when_asked_for():
    network = DenseNet(2, 1, 3, growth_rate=4, block_config=(2, 1), gamma=True, cosine_head=True)
    blocks = [module for module in network.modules() if isinstance(module, GammaDenseBlock)]
    assert [block.gamma.tolist() for block in blocks] == [[1.0, 1.0], [1.0]]
    assert isinstance(network.classifier, NormalisedLinear)
    assert network.attention1 is None
    assert isinstance(DenseNet(2, 1, 3, growth_rate=4, block_config=(1,)).classifier, nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"block_config": ()}, "at least 1 blocks of at least one layer, got \\(\\)"),
        ({"block_config": (2, 0)}, "got \\(2, 0\\)"),
        ({"block_config": (2,), "deformable_attention": True}, "at least 2 blocks"),
        ({"spatial_dims": 3, "deformable_attention": True}, "spatial_dims must be 2.*got 3"),
        ({"growth_rate": 0}, "growth_rate must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        DenseNet(**{"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "growth_rate": 4, **options})
