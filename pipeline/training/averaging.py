"""An average of the weights over the steps of a training, which validation scores and which is kept."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged_network(network: torch.nn.Module, decay: float | None) -> torch.nn.Module:
    """A copy that follows the network as an exponential moving average; the network itself where nothing is averaged.

    Parameters, and the running statistics of batch normalisation, are averaged; :class:`AverageWeights` does so after
    each step. Little data makes single steps noisy, and their average is nearly always the better network (Polyak and
    Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992).

    Args:
        network: the network in training; of a wrapped one (DDP) what it wraps.
        decay: share of the former average that each step keeps, as 0.99; None averages nothing.

    Raises:
        ValueError: unless ``decay`` lies between 0 and 1.
    """
    if decay is None:
        return network
    if not 0 < decay < 1:
        raise ValueError(f"average_decay must lie between 0 and 1, got {decay}; null averages nothing.")
    plain = getattr(network, "module", network)
    return AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


class AverageWeights:
    """Brings the average up to date after each step of the trainer.

    Args:
        network: the network in training.
        averaged: what :func:`averaged_network` made of it; where that is the network itself, nothing happens.
    """

    def __init__(self, network: torch.nn.Module, averaged: torch.nn.Module) -> None:
        self.network = getattr(network, "module", network)
        self.averaged = averaged

    def attach(self, engine: Engine) -> None:
        """Follow the trainer's iterations."""
        if isinstance(self.averaged, AveragedModel):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update, self.averaged)

    def _update(self, _: Engine, averaged: AveragedModel) -> None:
        averaged.update_parameters(self.network)
