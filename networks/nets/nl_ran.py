"""NL-RAN: the deep residual 3D attention non-local network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Norm, Pool
from torch import nn

from pneumonai.networks.blocks.attention_module import AttentionMask, AttentionModule
from pneumonai.networks.blocks.non_local import NonLocal
from pneumonai.networks.blocks.residual_backbone import (
    WIDTH_FACTORS,
    check_arguments,
    initialise_convolutions,
    pooled_stem,
    residual_stage,
)
from pneumonai.networks.blocks.residual_unit import PreActivationBottleneck


class AttentionStage(nn.Module):
    """A residual unit that sets width and resolution, then attention modules one after the other.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output, a multiple of 4.
        stride: of the residual unit.
        modules: how many attention modules follow.
        attention: activation of their masks.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, stride: int, modules: int, attention: str
    ) -> None:
        super().__init__()
        self.unit = PreActivationBottleneck(spatial_dims, in_channels, out_channels, stride)
        self.attention = nn.ModuleList(AttentionModule(spatial_dims, out_channels, attention) for _ in range(modules))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to ``[B, out_channels, *ceil(spatial / stride)]``."""
        x = self.unit(x)
        for module in self.attention:
            x = module(x)
        return x


class NLRAN(nn.Module):
    """Deep residual attention non-local network for classifying CT volumes (or pictures, with ``spatial_dims=2``).

    "An Explainable Non-local Network for COVID-19 Diagnosis", https://arxiv.org/abs/2408.04300, Table I::

        stem        conv 7 stride 2, BN, ReLU, max pool 3 stride 2        C     1/4 of the input's size
        stages[0]   residual unit -> attention modules                    4 C   1/4
        stages[1]   residual unit (stride 2) -> attention modules         8 C   1/8
        stages[2]   residual unit (stride 2) -> attention modules         16 C  1/16
        non_local   non-local module                                      16 C  1/16
        tail        three residual units, the first with stride 2         32 C  1/32
        features    BN, ReLU
        head        global average pool, linear

    With C = ``base_channels`` = 64 it has 58.6 million parameters with ``attention_modules=(1, 1, 1)`` (NL-RAN3) and
    99.5 million with ``(1, 2, 3)`` (NL-RAN6); the table prints 58.3 and 95.7.

    Differs from the paper, or settles what it leaves open: widths double at each downsampling as the text says (the
    table prints 256 in each stage); units are pre-activation bottlenecks; the units around the attention mask are as in
    the Residual Attention Network; the non-local weights are divided by the number of positions; the BN-ReLU before
    the pooling is ours.

    Convolutions start from He et al.'s normal distribution (fan in), biases at 0, batch normalisations at weight 1 and
    bias 0, the non-local module's at 0 and 0, the classifier from PyTorch's default.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        attention_modules: how many attention modules in each of the three stages; at least one in all.
        base_channels: width C of the stem.
        attention: activation of the masks: ``mixed`` (sigmoid), ``channel`` (L2 norm over the channels) or ``spatial``
            (sigmoid of the standardised map).
        non_local: whether the non-local module follows the last attention module.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        classifier: the linear layer; its weight ``[num_classes, 32 C]`` times the map of :meth:`forward_features`
            is the class activation map.
    """

    #: Properties that ``torch.jit.script`` leaves out.
    __jit_unused_properties__ = ["first_attention"]  # noqa: RUF012 - the name and type that PyTorch reads

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        num_classes: int = 3,
        *,
        attention_modules: Sequence[int] = (1, 1, 1),
        base_channels: int = 64,
        attention: str = "mixed",
        non_local: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, in_channels=in_channels, num_classes=num_classes, base_channels=base_channels)
        modules = tuple(attention_modules)
        if len(modules) != 3 or min(modules) < 0 or sum(modules) == 0:
            raise ValueError(
                "attention_modules must be three counts, one a stage, none negative and at least one above 0, "
                f"got {attention_modules}."
            )
        widths = [base_channels * factor for factor in WIDTH_FACTORS]
        self.stem = pooled_stem(spatial_dims, in_channels, widths[0])
        self.stages = nn.ModuleList(
            AttentionStage(
                spatial_dims,
                widths[index],
                widths[index + 1],
                stride=1 if index == 0 else 2,
                modules=count,
                attention=attention,
            )
            for index, count in enumerate(modules)
        )
        self.non_local: nn.Module = NonLocal(spatial_dims, widths[3]) if non_local else nn.Identity()
        self.tail = residual_stage(spatial_dims, widths[3], widths[4], units=3)
        self.features = nn.Sequential(Norm[Norm.BATCH, spatial_dims](widths[4]), nn.ReLU(inplace=True))
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.classifier = nn.Linear(widths[4], num_classes)
        initialise_convolutions(self)

    @property
    def first_attention(self) -> AttentionMask:
        """The first attention module's mask: a forward hook on it captures M, ``[B, C, *spatial]``, in any pass."""
        return next(module for module in self.modules() if isinstance(module, AttentionMask))

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to the map that enters the pooling, ``[B, 32 C, *ceil(spatial / 32)]``."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.features(self.tail(self.non_local(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        return self.classifier(self.pool(self.forward_features(x)).flatten(1))

    def attention_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The attention maps M of all modules in order, each ``[B, width of the stage, *size of the stage]``.

        0..1; -1..1 with ``attention="channel"``. Not part of the scripted network.
        """
        maps: list[torch.Tensor] = []
        masks = [module for module in self.modules() if isinstance(module, AttentionMask)]
        hooks = [mask.register_forward_hook(lambda _mask, _inputs, output: maps.append(output)) for mask in masks]
        try:
            x = self.stem(x)
            for stage in self.stages:
                x = stage(x)
        finally:
            for hook in hooks:
                hook.remove()
        return maps
