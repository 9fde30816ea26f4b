"""The networks, one file a family."""

from pneumonai.networks.nets.attention_transfer import AttentionTransferNet, AttentionTransferOutput
from pneumonai.networks.nets.backbone_unet import BackboneUNet
from pneumonai.networks.nets.bcnn import BCNN
from pneumonai.networks.nets.covid_net import COVIDNet
from pneumonai.networks.nets.covnet import CovNet
from pneumonai.networks.nets.densenet import DenseNet
from pneumonai.networks.nets.dspp_cid import DSPPCIDNet
from pneumonai.networks.nets.efficientnet_lite import EfficientNetLite
from pneumonai.networks.nets.fusa_resnet import FUSAResNet
from pneumonai.networks.nets.fusa_resunet import FUSAResUNet
from pneumonai.networks.nets.inception_v3 import InceptionV3
from pneumonai.networks.nets.ma_net import MANet
from pneumonai.networks.nets.mobilenet_v2 import MobileNetV2
from pneumonai.networks.nets.multiscale_classifiers import FPNClassifier, UNetClassifier
from pneumonai.networks.nets.nl_ran import NLRAN
from pneumonai.networks.nets.residual_network import ResidualNetwork
from pneumonai.networks.nets.resnet import ResNet
from pneumonai.networks.nets.resnet_segmentation import DeepLabV3, LinkNet, PSPNet
from pneumonai.networks.nets.vgg import VGG

__all__ = [
    "BCNN",
    "NLRAN",
    "VGG",
    "AttentionTransferNet",
    "AttentionTransferOutput",
    "BackboneUNet",
    "COVIDNet",
    "CovNet",
    "DSPPCIDNet",
    "DeepLabV3",
    "DenseNet",
    "EfficientNetLite",
    "FPNClassifier",
    "FUSAResNet",
    "FUSAResUNet",
    "InceptionV3",
    "LinkNet",
    "MANet",
    "MobileNetV2",
    "PSPNet",
    "ResNet",
    "ResidualNetwork",
    "UNetClassifier",
]
