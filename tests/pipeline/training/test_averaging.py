"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from pneumonai.pipeline.training.averaging import AverageWeights, averaged_network


def test_the_average_follows_each_step_of_the_trainer() -> None:
    network = nn.Linear(1, 1, bias=False)
    averaged = averaged_network(network, 0.75)

    def step(_: Engine, value: float) -> None:
        network.weight.data.fill_(value)

    trainer = Engine(step)
    AverageWeights(network, averaged).attach(trainer)
    trainer.run([1.0, 2.0, 4.0])
    # The first step is taken whole, each further one by a quarter: 1, 1.25, 1.9375.
    assert averaged(torch.ones(1, 1)).item() == pytest.approx(1.9375)
    assert network.weight.item() == 4.0


def test_running_statistics_are_averaged_too() -> None:
    network = nn.BatchNorm1d(1)
    averaged = averaged_network(network, 0.5)
    trainer = Engine(lambda _, value: network.running_mean.fill_(value))
    AverageWeights(network, averaged).attach(trainer)
    trainer.run([1.0, 3.0])
    assert averaged.module.running_mean.item() == pytest.approx(2.0)


def test_without_a_decay_it_is_the_network_itself() -> None:
    network = nn.Linear(1, 1)
    assert averaged_network(network, None) is network
    AverageWeights(network, network).attach(trainer := Engine(lambda _, value: None))
    trainer.run([1.0])


@pytest.mark.parametrize("decay", [0.0, 1.0, 99])
def test_a_decay_is_a_share(decay: float) -> None:
    with pytest.raises(ValueError, match="average_decay must lie between 0 and 1"):
        averaged_network(nn.Linear(1, 1), decay)
