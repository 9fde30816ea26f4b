"""Does a map depend on what the network has learnt? Its weights are randomised layer by layer (Adebayo's test)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from pneumonai.pipeline.metrics.score_agreement import rank_correlation


def randomised_networks(network: nn.Module, *, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Copies of a network with more and more layers at random, from the output's to the input's.

    Adebayo et al., "Sanity Checks for Saliency Maps", https://arxiv.org/abs/1810.03292: cascading randomisation. A
    layer's parameters are permuted among themselves, so that their size stays what training made it; the running
    statistics of batch normalisation are its layer's. Layers are blocks of the network (:func:`layers_of`).

    Args:
        network: left as it is.
        seed: of the permutations.

    Yields:
        Name of the layer that was last randomised, and the same copy every time with one more of them at random.
    """
    changed = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    for name in reversed(layers_of(network)):
        layer = changed.get_submodule(name)
        with torch.no_grad():
            for tensor in [*layer.parameters(), *layer.buffers()]:
                if tensor.is_floating_point() and tensor.numel() > 1:
                    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                    tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))
        yield name, changed


def layers_of(network: nn.Module) -> list[str]:
    """Names of a network's layers with weights, from the input's on: a block (of a ResNet, a DenseNet) is one layer.

    Layers are those that the network holds, in the order in which it holds them, the classifier last; what holds the
    features (a teacher, a student, a backbone) is opened.
    """
    found: list[str] = []
    for name, child in sorted(network.named_children(), key=lambda pair: pair[0] in ("classifier", "fc")):
        if not any(True for _ in child.parameters()):
            continue
        opened = hasattr(child, "features") or name in ("features", "backbone")
        found += [f"{name}.{inner}" for inner in layers_of(child)] if opened and list(child.children()) else [name]
    return found


def randomisation_correlations(
    network: nn.Module,
    explain: Callable[[nn.Module, torch.Tensor], np.ndarray],
    images: torch.Tensor,
    *,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Rank correlation of every image's map with that of a network randomised as far as each layer.

    Args:
        network: the network.
        explain: network and images ``[B, ...]`` -> maps ``[B, ...]``; of the class that the trained network answers.
        images: the batch.
        seed: of the permutations.

    Returns:
        Layer -> correlation an image; near 1 means that the map does not depend on that layer or any after it. Nan
        where a map is constant.
    """
    own = explain(network, images)
    made: dict[str, list[float]] = {}
    for name, changed in randomised_networks(network, seed=seed):
        maps = explain(changed, images)
        made[name] = [rank_correlation(one, other) for one, other in zip(own, maps, strict=True)]
    return made
