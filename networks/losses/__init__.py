"""The losses, one file a paper."""

from pneumonai.networks.losses.soft_distance import SoftDistanceLoss

__all__ = ["SoftDistanceLoss"]
