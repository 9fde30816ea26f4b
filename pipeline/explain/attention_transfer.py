"""What attention transfer's teacher shows of itself: where it gathers from, and how far its taps move."""

from __future__ import annotations

import torch
from torch import nn

from pneumonai.networks.nets.attention_transfer import AttentionTransferNet, AttentionTransferOutput
from pneumonai.pipeline.explain.one_pass import as_it_was
from pneumonai.pipeline.explain.scaling import resize_map, scale_to_unit


class TeacherAttention:
    """A0' + A1', the attention maps that the student's input is multiplied by, as a heat map.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III.C and Fig. 10: the final attention map.

    Args:
        network: an :class:`AttentionTransferNet` with deformable attention.

    Raises:
        ValueError: another network, or one without attention.
    """

    name = "teacher-attention"
    method = "attention of the teacher (A0 + A1)"
    shows = (
        "Which places the teacher's two attention modules lay stress on, by which the picture that the student answers "
        "for was multiplied; it knows no class, so it tells where the network looks, not what speaks for its answer."
    )

    def __init__(self, network: nn.Module) -> None:
        self.network = _with_attention(network, self.name)

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, H, W]`` -> heat map ``[B, 1, H, W]`` float32 in 0..1, whatever the class."""
        return scale_to_unit(torch.stack(_attended(self.network, images).maps).sum(dim=0).float())


class OffsetMap:
    """How far the taps of the deformable convolutions move, a position: the offset fields of Fig. 10 in one picture.

    Args:
        network: an :class:`AttentionTransferNet` with deformable attention.

    Raises:
        ValueError: another network, or one without attention.
    """

    name = "offsets"
    method = "offsets of the deformable convolutions"
    shows = (
        "How far from the usual grid the two attention modules read around each place; far means that they drew "
        "together what lies apart there, not that anything there speaks for the answer."
    )

    def __init__(self, network: nn.Module) -> None:
        self.network = _with_attention(network, self.name)

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, H, W]`` -> heat map ``[B, 1, H, W]`` float32 in 0..1, whatever the class.

        The mean of :meth:`lengths` over both modules, scaled to 0..1.
        """
        lengths = [resize_map(one, images.shape[2:]) for one in self.lengths(images)]
        return scale_to_unit(torch.stack(lengths).mean(dim=0))

    def lengths(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Mean length of the offsets over the taps of both convolutions, a module: ``[B, 1, h, w]`` float32.

        Lengths are in pixels of the input, since a pixel of a module's map is several of them.
        """
        offsets = [moved.float() for moved in _attended(self.network, images).offsets]
        height, width = images.shape[2:]
        found = []
        for moved in offsets:
            # The first convolution's taps move along the columns, the second one's along the rows.
            scale = torch.tensor([width / moved.shape[4], height / moved.shape[3]], device=moved.device)
            found.append((moved.abs() * scale[:, None, None, None]).mean(dim=(1, 2))[:, None])
        return found


def student_and_input(network: nn.Module, images: torch.Tensor) -> tuple[nn.Module, torch.Tensor]:
    """The part of a network that answers, and what it sees: the student and its fused input, which is held fixed.

    Any other network is itself that part, and sees the images.
    """
    if not isinstance(network, AttentionTransferNet):
        return network, images
    return network.student, _attended(network, images).fused


def _attended(network: AttentionTransferNet, images: torch.Tensor) -> AttentionTransferOutput:
    """The teacher's part of a pass (the whole one where there is no teacher), in eval mode and without gradients."""
    with as_it_was(network), torch.no_grad():
        return network.forward_all(images.as_subclass(torch.Tensor), None if network.teacher is None else "teacher")


def _with_attention(network: nn.Module, name: str) -> AttentionTransferNet:
    if not isinstance(network, AttentionTransferNet):
        raise ValueError(f"the map {name!r} needs an AttentionTransferNet, got {type(network).__name__}")
    attending = network.student if network.teacher is None else network.teacher
    if attending.attention1 is None:
        raise ValueError(f"the map {name!r} needs deformable attention, which this network is without")
    return network
