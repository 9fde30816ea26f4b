"""The attention map as a heat map: scaling, resizing, and no second pass through the network."""

from __future__ import annotations

import torch
from torch import nn

from pneumonai.networks.nets import NLRAN
from pneumonai.pipeline.explain import AttentionMap, scale_to_unit


class Counting(nn.Module):
    """A network of one attention module, which is the identity; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first_attention = nn.Identity()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.first_attention(x).flatten(1).mean(1)


def test_scale_to_unit_by_hand() -> None:
    maps = torch.tensor([[[2.0, 4.0, 3.0]], [[5.0, 5.0, 5.0]]])
    assert torch.equal(scale_to_unit(maps), torch.tensor([[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]))


def test_the_map_of_the_last_pass_is_used_and_only_for_its_own_input() -> None:
    network = Counting()
    explainer = AttentionMap(network)
    x, y = torch.rand(2, 3, 4, 6, 5), torch.rand(2, 3, 4, 6, 5)
    network(x)
    assert torch.allclose(explainer(x), scale_to_unit(x.mean(1, keepdim=True)))
    assert network.passes == 1
    network(x)
    assert torch.allclose(explainer(y), scale_to_unit(y.mean(1, keepdim=True)))
    assert network.passes == 3


def test_nl_ran_s_map_equals_its_attention_maps() -> None:
    torch.manual_seed(0)
    network = NLRAN(base_channels=4).eval()
    explainer = AttentionMap(network)
    x = torch.rand(1, 1, 32, 64, 64)
    with torch.no_grad():
        mask = network.attention_maps(x)[0].mean(1, keepdim=True)
        heat_map = explainer(x)
    resized = nn.functional.interpolate(mask, size=x.shape[2:], mode="trilinear", align_corners=False)
    assert heat_map.shape == (1, 1, 32, 64, 64)
    assert heat_map.min() == 0
    assert heat_map.max() == 1
    assert torch.allclose(heat_map, scale_to_unit(resized), atol=1e-6)
