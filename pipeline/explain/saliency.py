"""Saliency: how much the answered class's score changes with each pixel."""

from __future__ import annotations

import torch
from torch import nn

from pneumonai.pipeline.explain.attention_transfer import student_and_input
from pneumonai.pipeline.explain.one_pass import as_it_was, class_indices, run_bare
from pneumonai.pipeline.explain.scaling import scale_to_unit


class Saliency:
    """The size of the gradient of the class's score at each pixel, the largest of the channels.

    Simonyan et al., "Deep Inside Convolutional Networks", https://arxiv.org/abs/1312.6034; MONAI's ``VanillaGrad``,
    which takes one image and leaves gradients in the parameters. Of attention transfer the gradient is the student's,
    with its fused input held fixed.

    Args:
        network: a 2D network that gives logits ``[B, num_classes]``.

    Raises:
        ValueError: a 3D network, where gradients at every voxel take gigabytes.
    """

    name = "saliency"
    method = "saliency (gradient)"
    shows = (
        "How much the answered class's score would change with each single pixel, up or down; edges and noise show "
        "as well as findings, since it says what the score is sensitive to, not what it rests on."
    )

    def __init__(self, network: nn.Module) -> None:
        if any(isinstance(layer, nn.Conv3d) for layer in network.modules()):
            raise ValueError(f"the map {self.name!r} is for 2D networks, got the 3D {type(network).__name__}")
        self.network = network

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, H, W]`` -> heat map ``[B, 1, H, W]`` float32 in 0..1.

        The network goes through one pass in eval mode and is left as it was.

        Args:
            images: the batch.
            classes: index of the class to explain, one for all or ``[B]``; the predicted ones when None.
        """
        with torch.inference_mode(False), torch.no_grad(), as_it_was(self.network):
            part, seen = student_and_input(self.network, images.as_subclass(torch.Tensor).clone())
            with torch.enable_grad():
                pixels = seen.detach().clone().requires_grad_(True)
                logits = run_bare(part, pixels)
                chosen = logits.gather(1, class_indices(logits, classes)[:, None])
                (gradient,) = torch.autograd.grad(chosen.sum(), pixels)
            return scale_to_unit(gradient.float().abs().amax(dim=1, keepdim=True))
