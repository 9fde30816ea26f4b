"""The networks, one file a family."""

from pneumonai.networks.nets.backbone_unet import BackboneUNet
from pneumonai.networks.nets.covnet import CovNet
from pneumonai.networks.nets.dspp_cid import DSPPCIDNet
from pneumonai.networks.nets.efficientnet_lite import EfficientNetLite
from pneumonai.networks.nets.fusa_resnet import FUSAResNet
from pneumonai.networks.nets.fusa_resunet import FUSAResUNet
from pneumonai.networks.nets.ma_net import MANet
from pneumonai.networks.nets.mobilenet_v2 import MobileNetV2
from pneumonai.networks.nets.nl_ran import NLRAN
from pneumonai.networks.nets.residual_network import ResidualNetwork
from pneumonai.networks.nets.resnet import ResNet
from pneumonai.networks.nets.resnet_segmentation import DeepLabV3, LinkNet, PSPNet
from pneumonai.networks.nets.vgg import VGG

__all__ = [
    "NLRAN",
    "VGG",
    "BackboneUNet",
    "CovNet",
    "DSPPCIDNet",
    "DeepLabV3",
    "EfficientNetLite",
    "FUSAResNet",
    "FUSAResUNet",
    "LinkNet",
    "MANet",
    "MobileNetV2",
    "PSPNet",
    "ResNet",
    "ResidualNetwork",
]
