"""The networks, one file a family."""

from pneumonai.networks.nets.nl_ran import NLRAN

__all__ = ["NLRAN"]
