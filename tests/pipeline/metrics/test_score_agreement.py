"""Agreement with raters by hand, and maps of randomised networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from pneumonai.networks.nets import AttentionTransferNet
from pneumonai.pipeline.metrics.map_randomisation import layers_of, randomisation_correlations, randomised_networks
from pneumonai.pipeline.metrics.score_agreement import rank_correlation, score_agreement


def test_agreement_by_hand() -> None:
    """Truth 0, 2, 4, 6 has squares of 20 about its mean; errors 1, 1, 1, -1 have 4."""
    made = score_agreement([1, 3, 5, 5], [0, 2, 4, 6], resamples=0)
    assert made["determination"]["value"] == pytest.approx(1 - 4 / 20)
    expected = np.corrcoef([1, 3, 5, 5], [0, 2, 4, 6])[0, 1]
    assert made["pearson"]["value"] == pytest.approx(expected)
    assert made["squared_pearson"]["value"] == pytest.approx(expected**2)
    assert made["spearman"]["value"] == pytest.approx(spearmanr([1, 3, 5, 5], [0, 2, 4, 6]).statistic)
    assert score_agreement([0, 0, 0], [1, 2, 3])["pearson"] == {"value": None, "interval": None}
    worse = score_agreement([8, 8, 8, 7], [0, 2, 4, 6], resamples=0)
    assert worse["determination"]["value"] < 0
    with pytest.raises(ValueError, match="at least 3, are required, got 2 and 2"):
        score_agreement([1, 2], [1, 2])


def test_the_bootstrap_draws_patients() -> None:
    """Copies of a patient's image say nothing new: the interval stays what it was."""
    generator = np.random.default_rng(1)
    truth = generator.normal(0, 1, 12)
    found = truth + generator.normal(0, 1, 12)
    ids = [f"P{n}" for n in range(12)]
    once = score_agreement(found, truth, ids, resamples=200)
    often = score_agreement(np.repeat(found, 5), np.repeat(truth, 5), np.repeat(ids, 5).tolist(), resamples=200)
    assert (often["n_images"], often["n_patients"], often["bootstrap"]["unit"]) == (60, 12, "patient")
    for name in ("spearman", "pearson", "determination"):
        assert often[name]["interval"] == pytest.approx(once[name]["interval"], abs=1e-9)
        low, high = once[name]["interval"]
        assert low < once[name]["value"] < high


def test_layers_are_randomised_from_the_output_s_on_and_one_by_one() -> None:
    network = AttentionTransferNet(2, 1, 2, growth_rate=4, block_config=(2, 1))
    names = layers_of(network)
    assert names[0] == "teacher.features.conv0"
    assert names[-1] == "student.classifier"
    assert "student.features.denseblock2" in names and "teacher.attention1" in names
    covered = {id(p) for name in names for p in network.get_submodule(name).parameters()}
    assert covered == {id(p) for p in network.parameters()}
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done: list[str] = []
    for name, changed in randomised_networks(network):
        done.append(name)
        for entry, tensor in changed.state_dict().items():
            touched = any(entry.startswith(f"{layer}.") for layer in done)
            assert touched or torch.equal(tensor, before[entry])
            assert torch.equal(tensor.flatten().sort().values, before[entry].flatten().sort().values)
    assert done == names[::-1]
    assert all(torch.equal(tensor, before[entry]) for entry, tensor in network.state_dict().items())


def test_a_map_that_knows_no_weights_stays_and_one_that_does_changes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 3))
    images = torch.randn(2, 1, 12, 12)

    def edges(_: nn.Module, given: torch.Tensor) -> np.ndarray:
        return given.numpy()[:, 0]

    def answer(which: nn.Module, given: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return which(given)[:, 0].numpy()

    blind = randomisation_correlations(network, edges, images)
    assert list(blind) == ["1", "0"]
    assert all(value == pytest.approx(1) for values in blind.values() for value in values)
    seeing = randomisation_correlations(network, answer, images)
    assert all(len(values) == 2 and max(values) < 0.9 for values in seeing.values())
    assert math.isnan(rank_correlation(np.zeros((3, 3)), np.arange(9.0).reshape(3, 3)))
