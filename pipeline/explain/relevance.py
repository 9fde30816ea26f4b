"""Layer-wise relevance propagation (LRP) through this project's DenseNets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks.gamma_dense import DenseLayer, GammaDenseBlock
from pneumonai.networks.blocks.normalised_linear import NormalisedLinear
from pneumonai.networks.nets.attention_transfer import AttentionTransferNet
from pneumonai.networks.nets.densenet import DenseNet
from pneumonai.pipeline.explain.attention_transfer import student_and_input
from pneumonai.pipeline.explain.one_pass import as_it_was, class_indices, run_bare
from pneumonai.pipeline.explain.scaling import scale_to_unit

Layer = Callable[[torch.Tensor], torch.Tensor]


class RelevanceMap:
    """LRP by the epsilon rule: the class's score shared out over the pixels, layer by layer.

    Bach et al., "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation",
    https://doi.org/10.1371/journal.pone.0130140. What a layer's output y_j = sum_i w_ij x_i + b_j holds of relevance
    goes to its inputs by their shares of y_j, ``x_i w_ij / (y_j + epsilon sign(y_j))``; what belongs to a bias is
    lost. ReLU hands it on as it is, maximum pooling to the largest, and what several layers read gets the sum.

    Batch normalisation is folded into the convolution before it (the first one and each bottleneck's; gamma is folded
    into the convolution behind it); where a ReLU or another layer's output lies before it, it is a layer of its own.
    A cosine head is ``s f . w / |f| |w|``: as the score does not change with the features' length, that length is held
    constant, or the relevances would sum to 0. Of attention transfer it is the student's score that is shared out,
    over the fused input, which is held fixed.

    Args:
        network: a :class:`DenseNet` without deformable attention, or an :class:`AttentionTransferNet` whose student
            is one.
        epsilon: of the rule, above 0; keeps shares finite where y_j is near 0.

    Raises:
        ValueError: another network, or an epsilon that is not above 0.
    """

    name = "lrp"
    method = "layer-wise relevance propagation (LRP)"
    shows = (
        "Which pixels the answered class's score is made up of, when each layer's part in it is shared out over what "
        "the layer read; only what adds to the score is shown, not what was taken from it."
    )

    def __init__(self, network: nn.Module, epsilon: float = 1e-4) -> None:
        part = network.student if isinstance(network, AttentionTransferNet) else network
        if not isinstance(part, DenseNet) or part.attention1 is not None:
            raise ValueError(
                f"the map {self.name!r} needs a DenseNet without deformable attention, whose layers it knows, "
                f"got {type(network).__name__}{' with it' if isinstance(part, DenseNet) else ''}"
            )
        if epsilon <= 0:
            raise ValueError(f"epsilon must be above 0, got {epsilon}")
        self.network = network
        self.epsilon = epsilon

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, H, W]`` -> heat map ``[B, 1, H, W]`` float32 in 0..1: positive relevance, scaled.

        Args:
            images: the batch.
            classes: index of the class to explain, one for all or ``[B]``; the predicted ones when None.
        """
        return scale_to_unit(self.relevance(images, classes)[0].sum(dim=1, keepdim=True).relu().float())

    def relevance(
        self, images: torch.Tensor, classes: torch.Tensor | int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Relevance of every value that the explained part sees, and the scores that it is shared out from.

        Args:
            images: ``[B, C, H, W]``.
            classes: as above.

        Returns:
            ``[B, C, H, W]``, whose sums over an image are its score but for what biases and epsilon take; ``[B]``.
        """
        with torch.inference_mode(False), torch.no_grad(), as_it_was(self.network):
            part, seen = student_and_input(self.network, images.as_subclass(torch.Tensor).clone())
            with torch.enable_grad(), torch.autocast(seen.device.type, enabled=False):
                pixels = seen.detach().clone().to(next(part.parameters()).dtype).requires_grad_(True)
                logits = run_bare(_SharingOut(part, self.epsilon), pixels)
                scores = logits.detach().gather(1, class_indices(logits, classes)[:, None])
                start = torch.zeros_like(logits).scatter(1, class_indices(logits, classes)[:, None], scores)
                (relevance,) = torch.autograd.grad(logits, pixels, start)
        return relevance, scores[:, 0]


class _SharingOut(nn.Module):
    """A DenseNet whose backward pass carries relevance instead of gradients."""

    def __init__(self, network: nn.Module, epsilon: float) -> None:
        super().__init__()
        self.network = network
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images ``[B, C, H, W]`` -> logits ``[B, num_classes]``, the network's own."""
        network = self.network
        layers = dict(network.get_submodule("features").named_children())
        conv, norm = layers.pop("conv0"), layers.pop("norm0")
        x = _relu(self._linear(lambda seen: norm(conv(seen)), x))
        for name, layer in layers.items():
            if isinstance(layer, GammaDenseBlock):
                x = self._block(layer, x)
            elif name.startswith("transition"):
                x = self._transition(layer, x)
            elif name == "norm5":
                x = _relu(self._linear(layer, x))
            elif name == "pool0":
                x = layer(x)  # its gradient goes to the largest, as its relevance does
        return self._linear(_head(network, x.detach()), x)

    def _block(self, block: GammaDenseBlock, x: torch.Tensor) -> torch.Tensor:
        scale = block.scale()
        for layer in cast(Iterable[DenseLayer], block):
            x = torch.cat([x, self._dense(layer, x, None if scale is None else scale[: x.shape[1]])], dim=1)
        return x

    def _dense(self, layer: DenseLayer, x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        read = _relu(self._linear(layer.norm1, x))
        inner = self._linear(lambda seen: layer.norm2(layer.conv1(seen if scale is None else seen * scale)), read)
        return self._linear(layer.conv2, _relu(inner))

    def _transition(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        norm, _, conv, pool = layer.children()
        return self._linear(lambda seen: pool(conv(seen)), _relu(self._linear(norm, x)))

    def _linear(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        shared: torch.Tensor = _EpsilonRule.apply(x, layer, self.epsilon)
        return shared


def _head(network: nn.Module, features: torch.Tensor) -> Layer:
    """Pooling and classifier as a linear function of the features, a cosine's length of them held as it is."""
    classifier = network.get_submodule("classifier")
    if not isinstance(classifier, NormalisedLinear):
        return lambda seen: classifier(seen.mean(dim=(2, 3)))
    length = features.mean(dim=(2, 3)).norm(dim=1, keepdim=True).clamp_min(torch.finfo(features.dtype).tiny)
    weight = classifier.scale * F.normalize(classifier.weight, dim=1)
    return lambda seen: F.linear(seen.mean(dim=(2, 3)) / length, weight)


class _EpsilonRule(torch.autograd.Function):
    """A layer that is linear, with or without a bias; its backward pass shares relevance out by the epsilon rule."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Layer, epsilon: float) -> torch.Tensor:
        with torch.enable_grad():
            ctx.seen = x.detach().requires_grad_(True)
            ctx.given = layer(ctx.seen)
        ctx.epsilon = epsilon
        output: torch.Tensor = ctx.given.detach()
        return output

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        given = ctx.given.detach()
        stable = given + ctx.epsilon * torch.where(given < 0, -1.0, 1.0)
        (weighed,) = torch.autograd.grad(ctx.given, ctx.seen, relevance[0] / stable)
        return ctx.seen.detach() * weighed, None, None


class _HandOn(torch.autograd.Function):
    """ReLU; relevance goes through as it is."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *relevance: torch.Tensor) -> torch.Tensor:
        return relevance[0]


def _relu(x: torch.Tensor) -> torch.Tensor:
    handed: torch.Tensor = _HandOn.apply(x)
    return handed
