"""A training run that was stopped and resumed equals an unbroken one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pneumonai.pipeline.errors import our_error


def history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def largest_difference(one: torch.nn.Module, other: torch.nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.float() - b.float()).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize(("num_workers", "average_decay"), [(0, None), (2, None), (0, 0.9)])
def test_a_resumed_run_equals_an_unbroken_one(
    train: Any, tmp_path: Path, overrides: dict[str, Any], num_workers: int, average_decay: float | None
) -> None:
    drawn = {
        "network_def": overrides["network_def"] | {"dropout": 0.3},
        "num_workers": num_workers,
        "average_decay": average_decay,
    }
    unbroken = train(tmp_path / "unbroken", **drawn)
    train(tmp_path / "broken", stop_after=2, **drawn)
    assert [row["epoch"] for row in history(tmp_path / "broken")] == [1, 2]
    resumed = train(tmp_path / "broken", resume=True, **drawn)
    assert largest_difference(unbroken, resumed) <= 1e-6
    for row, expected in zip(history(tmp_path / "broken"), history(tmp_path / "unbroken"), strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    best = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("unbroken", "broken")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_runs_differ_without_the_same_seed(train: Any, tmp_path: Path) -> None:
    assert largest_difference(train(tmp_path / "a", seed=0), train(tmp_path / "b", seed=1)) > 1e-3


def test_resuming_a_finished_run_changes_nothing(train: Any, tmp_path: Path) -> None:
    finished = train(tmp_path)
    before = (tmp_path / "history.csv").read_text()
    assert largest_difference(finished, train(tmp_path, resume=True)) == 0
    assert (tmp_path / "history.csv").read_text() == before


def test_a_run_that_stopped_early_stays_stopped(train: Any, tmp_path: Path) -> None:
    # Weights that do not move: no epoch is better than the first, so two more end the run.
    train(tmp_path, learning_rate=0.0, weight_decay=0.0, patience=2, max_epochs=10)
    assert len(history(tmp_path)) == 3
    train(tmp_path, learning_rate=0.0, weight_decay=0.0, patience=2, max_epochs=10, resume=True)
    assert len(history(tmp_path)) == 3


def test_early_stop_counts_on_after_a_resume(train: Any, tmp_path: Path) -> None:
    still = {"learning_rate": 0.0, "weight_decay": 0.0, "patience": 3, "max_epochs": 10}
    train(tmp_path, stop_after=2, **still)
    train(tmp_path, resume=True, **still)
    assert len(history(tmp_path)) == 4


def test_best_weights_survive_a_resume_with_worse_epochs(train: Any, tmp_path: Path) -> None:
    train(tmp_path, stop_after=2)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    checkpoint["best"] = {"metric": 2.0, "epoch": 1}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    before = (tmp_path / "model.pt").read_bytes()
    train(tmp_path, resume=True)
    assert (tmp_path / "model.pt").read_bytes() == before


def test_another_network_s_checkpoint_is_refused(train: Any, tmp_path: Path, overrides: dict[str, Any]) -> None:
    train(tmp_path, max_epochs=1)
    wider = overrides["network_def"] | {"channels": [8, 8]}
    with pytest.raises(RuntimeError) as raised:
        train(tmp_path, resume=True, network_def=wider)
    assert "cannot be resumed" in str(our_error(raised.value))


def test_an_infinite_loss_ends_the_run_in_words(train: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        train(tmp_path, learning_rate=1e30)
    assert "the loss is nan in epoch 1" in str(our_error(raised.value))


def test_the_record_names_what_a_bundle_is_derived_from(train: Any, tmp_path: Path) -> None:
    train(tmp_path, max_epochs=1)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["inference_changes"]["class_names"] == ["normal", "ncp", "cp"]
    assert record["seed"] == 0
