"""A comparison from config to table: trained through the bundle's own configs, resumed run by run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

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
            {"name": "narrow", "bundle": "nl_ran_ct_classification"},
            {"name": "wide", "bundle": "nl_ran_ct_classification", "settings": {"network_def": wide}},
            {"name": "broken", "bundle": "nl_ran_ct_classification", "settings": {"class_names": ["a", "b"]}},
        ],
    }
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(config))
    outcome = compare(path, tmp_path / "out", jobs=2, quiet=True)
    assert [(line.row.name, line.failed) for line in outcome.lines] == [("narrow", 0), ("wide", 0), ("broken", 1)]
    ((broken, problem),) = outcome.failed.items()
    assert "unknown label 2; use one of a, b or its index" in problem
    assert outcome.lines[1].parameters > outcome.lines[0].parameters  # type: ignore[operator]
    table = outcome.table.read_text()
    assert "| narrow |" in table
    assert (tmp_path / "out" / "scores.png").is_file()

    # What is done stays as it is; what lost its record is done again, from its last checkpoint.
    narrow, wide_run = (next((tmp_path / "out" / "runs").glob(f"{name}-*")) for name in ("narrow", "wide"))
    (wide_run / "record.json").unlink()
    shutil.rmtree(broken.folder)
    before = (narrow / "record.json").stat().st_mtime_ns
    config["rows"] = config["rows"][:2]
    path.write_text(json.dumps(config))
    again = compare(path, tmp_path / "out", quiet=True)
    assert again.failed == {}
    assert (narrow / "record.json").stat().st_mtime_ns == before
    assert "resumed after epoch 1" in (wide_run / "log.txt").read_text()
    assert again.lines[1].scores["accuracy"] == pytest.approx(outcome.lines[1].scores["accuracy"])
