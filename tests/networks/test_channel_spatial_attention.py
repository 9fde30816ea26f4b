import pytest
import torch
from monai.networks.blocks import ChannelSELayer
from torch.nn import functional as F

from pneumonai.networks.blocks import CHANNEL_SPATIAL_ATTENTION, MeanMaxChannelAttention, SpatialAttention


def with_random_state(block):
    torch.manual_seed(4)
    for parameter in block.parameters():
        parameter.data.normal_(0, 0.1)
    return block.eval()


def test_mean_max_channel_attention_is_one_weight_a_channel_by_hand():
    block = MeanMaxChannelAttention(2)
    hidden, _, last = block.fc
    hidden.weight.data = torch.tensor([[1.0, 1.0]])
    hidden.bias.data = torch.tensor([0.5])
    last.weight.data = torch.tensor([[0.2], [-0.1]])
    last.bias.data = torch.tensor([0.1, 0.0])
    x = torch.tensor([[[0.0, 2.0, 4.0], [-3.0, 0.0, 0.0]]])[..., None]
    # mean 2 and -1: hidden 1.5; maximum 4 and 0: hidden 4.5; summed logits 0.2 x 6 + 2 x 0.1 and -0.1 x 6.
    weights = torch.sigmoid(torch.tensor([1.4, -0.6]))
    torch.testing.assert_close(block(x), x * weights[None, :, None, None])


@pytest.mark.parametrize("dims", [2, 3])
def test_spatial_attention_is_one_weight_a_position(dims):
    block = with_random_state(SpatialAttention(dims))
    x = torch.randn(2, 5, *[6, 7, 4][:dims])
    pooled = torch.stack([x.mean(1), x.max(1).values], dim=1)
    conv = F.conv2d if dims == 2 else F.conv3d
    assert block.conv.weight.shape == (1, 2, *[7] * dims)
    torch.testing.assert_close(block(x), x * conv(pooled, block.conv.weight, padding=3).sigmoid())
    assert block.conv.bias is None


def test_names_build_what_they_say():
    blocks = {name: build(3, 32) for name, build in CHANNEL_SPATIAL_ATTENTION.items()}
    assert isinstance(blocks["channel"], ChannelSELayer)
    assert isinstance(blocks["spatial"], SpatialAttention)
    assert [type(part) for part in blocks["channel_spatial"]] == [ChannelSELayer, SpatialAttention]
    assert [type(part) for part in blocks["cbam"]] == [MeanMaxChannelAttention, SpatialAttention]
    # Reduction 16: 32 -> 2 -> 32 with biases; one convolution of 2 x 7 x 7 x 7.
    counts = {name: sum(p.numel() for p in block.parameters()) for name, block in blocks.items()}
    assert counts == {"channel": 162, "spatial": 686, "channel_spatial": 848, "cbam": 848}


@pytest.mark.parametrize("name", CHANNEL_SPATIAL_ATTENTION)
@pytest.mark.parametrize("channels", [3, 32])
def test_weights_lie_between_0_and_1_whatever_the_width(name, channels):
    block = with_random_state(CHANNEL_SPATIAL_ATTENTION[name](3, channels))
    x = torch.randn(2, channels, 4, 5, 6)
    share = block(x) / x
    assert ((share > 0) & (share < 1)).all()
    torch.testing.assert_close(torch.cat([block(sample[None]) for sample in x]), block(x))
