"""Attention transfer: a teacher whose attention maps are multiplied into what its student sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.nets.densenet import DenseNet


class AttentionTransferOutput(NamedTuple):
    """What :meth:`AttentionTransferNet.forward_all` gives.

    Attributes:
        student: logits ``[B, num_classes]``, the network's answer; None where they were left out.
        teacher: logits ``[B, num_classes]``; None without transfer.
        maps: A0' and A1', each ``[B, 1, *spatial]`` on the input's grid in 0..1; empty without attention.
        offsets: of both attention modules, ``[B, 2, 9, h, w]`` in pixels of the module's own map, along its columns
            before along its rows; empty without attention.
        fused: what the student sees, ``[B, in_channels, *spatial]``; the input itself without transfer.
    """

    student: torch.Tensor | None
    teacher: torch.Tensor | None
    maps: list[torch.Tensor]
    offsets: list[torch.Tensor]
    fused: torch.Tensor


def attention_maps(gathered: list[torch.Tensor], image: torch.Tensor) -> list[torch.Tensor]:
    """A0' and A1' of eq. 4: channel means of A0 and A1, resized bilinearly, scaled to 0..1 an image.

    Args:
        gathered: maps ``[B, C, h, w]``.
        image: ``[B, C, H, W]``, whose grid and data type the result has.

    Returns:
        as many maps ``[B, 1, H, W]``; one that is constant becomes 0.
    """
    maps: list[torch.Tensor] = []
    for part in gathered:
        mean = part.to(image.dtype).mean(dim=1, keepdim=True)
        mean = F.interpolate(mean, size=image.shape[2:], mode="bilinear", align_corners=False)
        low, high = mean.amin(dim=[1, 2, 3], keepdim=True), mean.amax(dim=[1, 2, 3], keepdim=True)
        span = high - low
        maps.append((mean - low) / torch.where(span > 0, span, torch.ones_like(span)))
    return maps


def fuse(image: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
    """What the student sees, eq. 4: ``(I + I A0' + I A1') / 3``, the maps cut from the teacher's graph.

    Args:
        image: ``[B, C, H, W]``.
        maps: ``[B, 1, H, W]`` each.

    Returns:
        ``[B, C, H, W]``
    """
    weight = torch.ones_like(image[:, :1])
    for part in maps:
        weight = weight + part.detach()
    return image * weight / (1 + len(maps))


class AttentionTransferNet(nn.Module):
    """Teacher with deformable attention and gamma-dense student, for classifying slices and X-rays.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section III and Fig. 3::

        teacher    :class:`DenseNet` with deformable attention    image -> logits, A0 and A1
        fusion     eq. 4                                          (I + I A0' + I A1') / 3
        student    :class:`DenseNet` with gamma-dense blocks      fused image -> logits

    With one input channel, three classes and the defaults, teacher and student have 15.8 million parameters together.
    The five rows of the paper's ablation (Table V) are, as ``(deformable_attention, gamma, cosine_head, transfer)``:
    ``(F, F, F, F)``, ``(F, T, F, F)``, ``(T, F, F, F)``, ``(F, F, T, F)`` with the DC loss, and all True.

    Settles what the paper leaves open: the layers are DenseNet-121's, as the paper's list of blocks is (it says
    DenseNet-169, whose list is ``(6, 12, 32, 32)``); A0' and A1' are scaled to 0..1 an image; no gradient flows from
    the student into the teacher; the network's answer is the student's.

    Args:
        spatial_dims: 2.
        in_channels: channels of the input.
        num_classes: how many logits.
        growth_rate: channels that each dense layer appends.
        block_config: layers of each dense block, at least two blocks with deformable attention.
        deformable_attention: of the teacher, or of the one network without transfer. Transfer needs it.
        gamma: weighted connections of the student, or of the one network without transfer.
        cosine_head: of both networks; linear layers when False.
        transfer: False builds one DenseNet, ``student``, and no teacher.
        temperature: of the attention's softmax.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        student: the network that answers.
        teacher: None without transfer.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        growth_rate: int = 32,
        block_config: Sequence[int] = (6, 12, 24, 16),
        deformable_attention: bool = True,
        gamma: bool = True,
        cosine_head: bool = True,
        transfer: bool = True,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError(
                "spatial_dims must be 2, since offsets are horizontal and vertical, and attention compares every "
                f"position with every other, which a volume has too many of, got {spatial_dims}."
            )
        if transfer and not deformable_attention:
            raise ValueError(
                "transfer=True needs deformable_attention=True, since its maps are what is transferred; "
                "transfer=False builds one network without."
            )

        def network(*, gamma: bool, deformable_attention: bool) -> DenseNet:
            return DenseNet(
                spatial_dims,
                in_channels,
                num_classes,
                growth_rate=growth_rate,
                block_config=block_config,
                gamma=gamma,
                deformable_attention=deformable_attention,
                cosine_head=cosine_head,
                temperature=temperature,
            )

        self.teacher: DenseNet | None = network(gamma=False, deformable_attention=True) if transfer else None
        self.student = network(gamma=gamma, deformable_attention=deformable_attention and not transfer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, H, W]`` to the student's logits ``[B, num_classes]``."""
        if self.teacher is not None:
            gathered = self.teacher.forward_attention(x)[1]
            x = fuse(x, attention_maps(gathered, x))
        return self.student(x)

    @torch.jit.unused
    def forward_all(
        self, x: torch.Tensor, trained: Literal["teacher", "student"] | None = None
    ) -> AttentionTransferOutput:
        """Everything in one pass.

        Args:
            x: ``[B, in_channels, H, W]``.
            trained: saves what the update of one part does not need: ``teacher`` leaves the student out, ``student``
                runs the teacher without gradients; None does neither.

        Raises:
            ValueError: ``trained`` is given without transfer.
        """
        if self.teacher is None:
            if trained is not None:
                raise ValueError(f"a network without transfer has no parts to train in turn, got {trained!r}.")
            logits, gathered, offsets = self.student.forward_attention(x)
            return AttentionTransferOutput(logits, None, attention_maps(gathered, x), offsets, x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained != "student"):
            teacher, gathered, offsets = self.teacher.forward_attention(x)
            maps = attention_maps(gathered, x)
        fused = fuse(x, maps)
        student = None if trained == "teacher" else self.student(fused)
        return AttentionTransferOutput(student, teacher, maps, offsets, fused)
