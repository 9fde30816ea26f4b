"""A classification backbone with deep spatial pyramid pooling and infection detection on top."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Pool
from torch import nn

from pneumonai.networks.blocks.cid import CID
from pneumonai.networks.blocks.dspp import DSPP
from pneumonai.networks.blocks.residual_backbone import check_arguments
from pneumonai.networks.nets.backbones import STAGE_STRIDES, build_backbone


class DSPPCIDNet(nn.Module):
    """Backbone with the D-SPP and CID modules, for classifying slices and X-rays.

    "Multi-scale alignment and Spatial ROI Module for COVID-19 Diagnosis", https://arxiv.org/abs/2207.01345, Fig. 2::

        backbone     maps of stages 4, 5, 6                    1/8, 1/16, 1/32 of the input's size
        dspp         :class:`DSPP` of the chosen stages        width + C_6   1/32
        cid          :class:`CID`                              the same
        classifier   global average pool, linear

    With MobileNetV2 and both modules at the defaults it has 6.26 million parameters. Without either module a named
    backbone keeps its own classifier. The paper's ablation (Table IV) is ``stages`` of ``()``, ``(6,)``, ``(5, 6)``
    and ``(4, 5, 6)``, each with ``cid`` False and True.

    A backbone of your own plugs in by two attributes, and stands beside the named ones in a bundle's config as a
    ``_target_``::

        class Small(torch.nn.Module):
            out_channels = (16, 32, 64)

            def __init__(self, in_channels):
                super().__init__()
                self.stage_4 = torch.nn.Conv2d(in_channels, 16, 9, stride=8, padding=4)
                self.stage_5 = torch.nn.Conv2d(16, 32, 3, stride=2, padding=1)
                self.stage_6 = torch.nn.Conv2d(32, 64, 3, stride=2, padding=1)

            def forward_features(self, x):
                stage_4 = self.stage_4(x).relu()
                stage_5 = self.stage_5(stage_4).relu()
                return stage_4, stage_5, self.stage_6(stage_5).relu()

            def forward(self, x):  # wanted by torch.jit.script alone
                return self.forward_features(x)[2]


        network = DSPPCIDNet(2, 1, 2, backbone=Small(1))

    Settles what the paper leaves open: one D-SPP module at the end, fed by the chosen stages, and the choices of
    :class:`pneumonai.networks.blocks.DSPP` and :class:`pneumonai.networks.blocks.CID`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits.
        backbone: a name of :data:`pneumonai.networks.nets.backbones.BACKBONES`, or a module that is a
            :class:`pneumonai.networks.nets.backbones.Backbone`; it then decides about dimensions and input channels
            itself, and a classifier that it may have is not used.
        stages: which of the stages 4, 5, 6 feed D-SPP; in order, ending with 6; empty builds no D-SPP.
        width: channels of D-SPP's branches.
        alpha: D-SPP's rate at stage 6.
        cid: whether CID follows.

    Raises:
        ValueError: when an argument is none of these.

    Attributes:
        stage_6: the identity on the backbone's last map, before the modules; explainers read it there.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        backbone: str | nn.Module,
        stages: Sequence[int] = (4, 5, 6),
        width: int = 256,
        alpha: int = 3,
        cid: bool = True,
    ) -> None:
        super().__init__()
        check_arguments(spatial_dims, num_classes=num_classes)
        chosen = tuple(stages)
        if chosen and (chosen[-1] != 6 or sorted({*chosen} & {*STAGE_STRIDES}) != list(chosen)):
            raise ValueError(f"stages must be some of 4, 5, 6 in order, ending with 6, or empty, got {stages}.")
        self.keeps_classifier = isinstance(backbone, str) and not chosen and not cid
        self.backbone = build_backbone(backbone, spatial_dims, in_channels, num_classes if self.keeps_classifier else 0)
        widths = dict(zip(STAGE_STRIDES, self.backbone.out_channels, strict=True))
        self.stage_6 = nn.Identity()
        self.stages = chosen
        self.dspp: DSPP | None = None
        channels = widths[6]
        if chosen:
            self.dspp = DSPP(
                spatial_dims,
                [widths[stage] for stage in chosen],
                strides=[STAGE_STRIDES[stage] for stage in chosen],
                width=width,
                alpha=alpha,
            )
            channels = self.dspp.out_channels
        self.cid: CID | None = CID(spatial_dims, channels) if cid else None
        self.pool = Pool[Pool.ADAPTIVEAVG, spatial_dims](1)
        self.classifier: nn.Module = nn.Identity() if self.keeps_classifier else nn.Linear(channels, num_classes)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to the map that is pooled for the classifier, at 1/32 of the size."""
        x = self._before_cid(x)
        return x if self.cid is None else self.cid(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, in_channels, *spatial]`` to logits ``[B, num_classes]``."""
        if self.keeps_classifier:
            return self.backbone(x)
        return self.classifier(self.pool(self.forward_features(x)).flatten(1))

    def attention_maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """CID's map, ``[B, 1, *spatial / 32]`` in 0..1, as the only entry; an empty list without CID.

        Not part of the scripted network.
        """
        return [] if self.cid is None else [self.cid.attention(self._before_cid(x))]

    def _before_cid(self, x: torch.Tensor) -> torch.Tensor:
        stage_4, stage_5, last = self.backbone.forward_features(x)
        stage_6 = self.stage_6(last)
        if self.dspp is None:
            return stage_6
        features = []
        if 4 in self.stages:
            features.append(stage_4)
        if 5 in self.stages:
            features.append(stage_5)
        features.append(stage_6)
        return self.dspp(features)
