"""``multi_gpu_train`` under torchrun: two processes on the CPU train as one process with the same global batch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import run_config

from pneumonai.pipeline.bundle import find_bundle


def test_two_processes_train_as_one(volumes: Path, overrides: dict[str, Any], tmp_path: Path) -> None:
    root = find_bundle("nl_ran_ct_classification").root
    # Augmentation draws other numbers in each process; Adam makes steps of gradients that are rounding alone.
    plain = {"train::geometric_augmentation": [], "train::grey_augmentation": [], "max_epochs": 3}
    sgd = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate", "momentum": 0.9}
    settings = overrides | plain | {"optimizer": sgd}
    (tmp_path / "small.json").write_text(json.dumps(settings))
    configs = [*(root / "configs" / f"{name}.json" for name in ("train", "multi_gpu_train")), tmp_path / "small.json"]
    # Standalone takes a port that is free: other tests may be at work beside this one.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run", "--config_file", str([str(path) for path in configs])]
    command += ["--bundle_root", str(root), "--meta_file", str(root / "configs" / "metadata.json")]
    command += ["--dataset_dir", str(volumes.parent), "--datalist", str(volumes)]
    command += ["--output_dir", str(tmp_path / "two"), "--batch_size", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    run_config(root, "train", data=volumes.parent, **(settings | {"output_dir": tmp_path / "one", "batch_size": 4}))
    rows = []
    for name in ("two", "one"):
        with (tmp_path / name / "history.csv").open(newline="") as file:
            scores = [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
        rows.append(scores)
    assert len(rows[0]) == 3
    for two, one in zip(*rows, strict=True):
        assert two == pytest.approx(one, abs=1e-5)
    networks = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["model"] for name in ("two", "one")]
    assert max((networks[0][name] - networks[1][name]).abs().max().item() for name in networks[0]) < 1e-5
