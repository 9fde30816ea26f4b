"""Building blocks of the networks, for two and three spatial dimensions alike."""

from pneumonai.networks.blocks.attention_module import (
    ATTENTION_ACTIVATIONS,
    AttentionMask,
    AttentionModule,
    ChannelActivation,
    SpatialActivation,
)
from pneumonai.networks.blocks.attention_pooling import AttentionGenerator, AttentionPooling
from pneumonai.networks.blocks.channel_spatial_attention import (
    CHANNEL_SPATIAL_ATTENTION,
    MeanMaxChannelAttention,
    SpatialAttention,
)
from pneumonai.networks.blocks.cid import CID
from pneumonai.networks.blocks.deformable_attention import DeformableAttention
from pneumonai.networks.blocks.deformable_convolution import DeformableConvolution
from pneumonai.networks.blocks.dspp import DSPP
from pneumonai.networks.blocks.fusa import FUSA
from pneumonai.networks.blocks.gamma_dense import GammaDenseBlock
from pneumonai.networks.blocks.non_local import NonLocal
from pneumonai.networks.blocks.normalised_linear import NormalisedLinear
from pneumonai.networks.blocks.residual_unit import PreActivationBottleneck

__all__ = [
    "ATTENTION_ACTIVATIONS",
    "CHANNEL_SPATIAL_ATTENTION",
    "CID",
    "DSPP",
    "FUSA",
    "AttentionGenerator",
    "AttentionMask",
    "AttentionModule",
    "AttentionPooling",
    "ChannelActivation",
    "DeformableAttention",
    "DeformableConvolution",
    "GammaDenseBlock",
    "MeanMaxChannelAttention",
    "NonLocal",
    "NormalisedLinear",
    "PreActivationBottleneck",
    "SpatialActivation",
    "SpatialAttention",
]
