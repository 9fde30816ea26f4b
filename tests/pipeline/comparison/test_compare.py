"""A comparison from config to table: trained through the bundle's own configs, resumed run by run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from pneumonai.pipeline.comparison.compare import compare


def test_runs_train_fail_and_resume_on_their_own(volumes: Path, overrides: dict[str, Any], tmp_path: Path) -> None:
    load = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    to_size = {"_target_": "Resized", "keys": "image", "spatial_size": [8, 8, 8]}
    preprocessing = {"_target_": "Compose", "transforms": [*load, to_size]}
    wide = overrides["network_def"] | {"channels": [8, 8]}
    config = {
        "datalist": str(volumes),
        "part": "validation",
        "metrics": ["accuracy", "auc"],
        "settings": overrides | {"preprocessing": preprocessing, "max_epochs": 1},
        "rows": [
            {"name": "wide", "bundle": "nl_ran_ct_classification", "settings": {"network_def": wide}},
            {"name": "broken", "bundle": "nl_ran_ct_classification", "settings": {"class_names": ["a", "b"]}},
        ],
    }
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(config))
    outcome = compare(path, tmp_path / "out", jobs=2, quiet=True)
    assert [(line.row.name, line.failed) for line in outcome.lines] == [("wide", 0), ("broken", 1)]
    ((broken, problem),) = outcome.failed.items()
    assert "unknown label 2; use one of a, b or its index" in problem
    # The row's network, not the settings' of all rows.
    assert outcome.lines[0].parameters == sum(p.numel() for p in parsed(wide).parameters())
    table = outcome.table.read_text()
    assert "| wide |" in table
    assert (tmp_path / "out" / "scores.png").is_file()

    # What lost its record is done again, from its last checkpoint; what is done stays as it is.
    (run,) = (tmp_path / "out" / "runs").glob("wide-*")
    (run / "record.json").unlink()
    shutil.rmtree(broken.folder)
    config["rows"] = config["rows"][:1]
    path.write_text(json.dumps(config))
    again = compare(path, tmp_path / "out", quiet=True)
    assert again.failed == {}
    assert "resumed after epoch 1" in (run / "log.txt").read_text()
    assert again.lines[0].scores["accuracy"] == pytest.approx(outcome.lines[0].scores["accuracy"])
    before = (run / "record.json").stat().st_mtime_ns
    assert compare(path, tmp_path / "out", quiet=True).lines[0].scores == again.lines[0].scores
    assert (run / "record.json").stat().st_mtime_ns == before


def parsed(network_def: dict[str, Any]) -> torch.nn.Module:
    network: torch.nn.Module = ConfigParser({"network_def": network_def}).get_parsed_content("network_def")
    return network
