"""One pass of a network for MONAI's class activation maps, which leaves the network as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from monai.visualize.class_activation_maps import ModelWithHooks
from torch import nn

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class OnePass(ModelWithHooks):
    """One layer's output, and the gradient of the class scores with respect to it, as MONAI's maps read them.

    MONAI's own version leaves its hooks on the network, turns in-place activations off for good, writes a gradient
    into every parameter, and lets the samples of a batch see each other's classes. Here the graph begins at the layer,
    so a pass costs little more than one without gradients.

    Args:
        network: the network.
        layer: name of the layer.
        images: ``[B, C, *spatial]``.
        classes: see :meth:`Explainer.__call__`.
        gradients: whether gradients are needed.
    """

    def __init__(
        self,
        network: nn.Module,
        layer: str,
        images: torch.Tensor,
        classes: torch.Tensor | int | None,
        *,
        gradients: bool,
    ) -> None:
        super().__init__(network, ())  # without names MONAI registers no hooks
        found: list[torch.Tensor] = []

        def begin_graph(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            found[:] = [output.detach().clone()]
            if gradients:
                torch.set_grad_enabled(True)  # until the no_grad block around the pass ends
                found[0].requires_grad_(True)
            return found[0].clone()  # what follows may work in place

        if images.dim() in _CHANNELS_LAST:  # as run_network does: the faster layout
            images = images.contiguous(memory_format=_CHANNELS_LAST[images.dim()])
        with as_it_was(network), torch.no_grad():
            handle = network.get_submodule(layer).register_forward_hook(begin_graph)
            try:
                logits = run_bare(network, images)
            finally:
                handle.remove()
            features = _checked(found, layer, images)
            self.class_idx: torch.Tensor = class_indices(logits, classes)
            gradient = features
            if gradients:
                chosen = logits.gather(1, self.class_idx[:, None])
                (gradient,) = torch.autograd.grad(chosen.sum(), features)
        # MONAI takes view()s, which channels-last memory does not allow.
        self._logits = logits.detach().float()
        self._features = features.detach().float().contiguous()
        self._gradient = gradient.detach().float().contiguous()
        if gradients:
            self._bring_to_scale()
        # Grad-CAM++ multiplies a scan's weights by exp(score), which overflows and falls out when the map is scaled.
        self.score = torch.zeros(len(images), *[1] * (features.dim() - 1), device=images.device)

    def _bring_to_scale(self) -> None:
        """Gradients to 1 at most, features inversely: no map changes but for a factor.

        MONAI's Grad-CAM++ adds 1e-7 to sums of squared gradients, which are smaller where a map has many places.
        """
        axes = tuple(range(1, self._gradient.dim()))
        largest = self._gradient.abs().amax(axes, keepdim=True)
        scale = torch.where(largest > 0, largest, torch.ones_like(largest))
        self._gradient, self._features = self._gradient / scale, self._features * scale

    def __call__(self, x: torch.Tensor, class_idx: Any = None, retain_graph: bool = False, **kwargs: Any) -> Any:
        """Logits, features and gradients of the pass that was made; the arguments do not count."""
        return self._logits, (self._features,), (self._gradient,)


class _Bare(nn.Module):
    """A network without the hooks on itself; those on its layers stay."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, num_classes]``."""
        logits: torch.Tensor = self.network.forward(images)
        return logits


def run_bare(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits by a pass around the hooks on the network itself: it is not the pass that others wait for."""
    logits: torch.Tensor = torch.func.functional_call(_Bare(network), _ordinary_tensors(network), (images,))
    return logits


def _ordinary_tensors(network: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of those weights that became inference tensors (by a change of memory format): autograd refuses them."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {f"network.{name}": tensor.clone() for name, tensor in named if tensor.is_inference()}


@contextmanager
def as_it_was(network: nn.Module) -> Iterator[None]:
    """Eval mode inside, each layer's own mode afterwards."""
    training = [layer for layer in network.modules() if layer.training]
    network.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


def _checked(found: list[torch.Tensor], layer: str, images: torch.Tensor) -> torch.Tensor:
    if not found:
        raise ValueError(f"the network's forward pass does not reach its layer {layer!r}")
    features = found[0]
    if len(features) != len(images) or features.dim() != images.dim():
        raise ValueError(
            f"layer {layer!r} must give {len(images)} maps of {images.dim() - 2} spatial axes, "
            f"got shape {tuple(features.shape)}"
        )
    return features


def class_indices(logits: torch.Tensor, classes: torch.Tensor | int | None) -> torch.Tensor:
    """Indices ``[B]`` of the classes to explain."""
    if classes is None:
        return logits.argmax(dim=1)
    return torch.as_tensor(classes, device=logits.device).expand(len(logits)).clone()
