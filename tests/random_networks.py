"""Networks with every parameter and buffer drawn at random: what starts as identity or zero would hide wrong code."""

from __future__ import annotations

from typing import TypeVar

import torch

Network = TypeVar("Network", bound=torch.nn.Module)


def randomise(network: Network, *, gain: float = 1.0, seed: int = 0) -> Network:
    """The network in eval mode with random parameters and buffers, sized so that values neither vanish nor grow.

    Args:
        network: changed in place.
        gain: of the weights; their deviation is ``gain / sqrt(inputs)``.
        seed: of PyTorch's generator, which is seeded for what follows too.
    """
    torch.manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            tensor.random_(1, 100)
        elif tensor.dim() > 1:
            tensor.normal_(0, gain * tensor[0].numel() ** -0.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.3)
        else:
            tensor.uniform_(0.5, 1.5)
    return network.eval()
