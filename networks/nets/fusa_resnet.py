"""FUSA-ResNet: ResNet with full scale attention at the end of each residual branch."""

from __future__ import annotations

from pneumonai.networks.blocks.fusa import FUSA
from pneumonai.networks.nets.resnet import ResNet


class FUSAResNet(ResNet):
    """ResNet-18 or 50 whose blocks are ``relu(shortcut + FUSA(branch))``, for classifying slices or volumes.

    "Full Scale Attention for Automated COVID-19 Diagnosis from CT Images", Section II.B and Fig. 2. The wiring is
    :class:`pneumonai.networks.nets.resnet.ResNet`'s with a :class:`pneumonai.networks.blocks.FUSA` named
    ``attention`` after the last normalisation of each block. With three input channels and 1,000 classes it has
    14,478,656 (18) and 106,065,496 (50) parameters; without FUSA torchvision's counts. torchvision's weights load by
    name (:func:`pneumonai.networks.pretrained.load_torchvision_weights`).

    Settles what the paper leaves open: the module stands before the sum, as Fig. 2 draws it, and the gate has no
    "1 +"; FUSA's parameters start from PyTorch's defaults.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        num_classes: how many logits; 0 leaves the classifier out, and ``forward`` gives the pooled features.
        depth: 18 or 50 (34, which the paper does not have, works as well).
        base_channels: width of the stem.
        fusa: False builds the plain ResNet, the paper's comparison.

    Raises:
        ValueError: when an argument is none of these.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        *,
        depth: int,
        base_channels: int = 64,
        fusa: bool = True,
    ) -> None:
        super().__init__(
            spatial_dims,
            in_channels,
            num_classes,
            depth=depth,
            base_channels=base_channels,
            attention=FUSA if fusa else None,
        )
