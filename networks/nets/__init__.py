"""The networks, one file a family."""

from pneumonai.networks.nets.covnet import CovNet
from pneumonai.networks.nets.nl_ran import NLRAN
from pneumonai.networks.nets.residual_network import ResidualNetwork

__all__ = ["NLRAN", "CovNet", "ResidualNetwork"]
