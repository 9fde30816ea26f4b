"""Losses of the papers, and the ramps that weight them; they know torch alone."""

from pneumonai.networks.losses.discriminative_cosine import DiscriminativeCosineLoss
from pneumonai.networks.losses.jensen_shannon import JensenShannonLoss
from pneumonai.networks.losses.ramps import learning_rate_ramp, ramp_down, ramp_up
from pneumonai.networks.losses.soft_distance import SoftDistanceLoss

__all__ = [
    "DiscriminativeCosineLoss",
    "JensenShannonLoss",
    "SoftDistanceLoss",
    "learning_rate_ramp",
    "ramp_down",
    "ramp_up",
]
