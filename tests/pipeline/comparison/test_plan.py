"""Comparison configs: what they plan, and what is wrong with them, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison
from pneumonai.pipeline.errors import PneumonaiError

ROW = {"name": "NL-RAN", "bundle": "nl_ran_ct_classification"}


def write(folder: Path, **content: Any) -> Path:
    """A config and its datalist of ten items a class, in three folds."""
    items = [{"image": f"{n}.nii.gz", "label": n % 2, "patient_id": str(n), "fold": n % 3} for n in range(20)]
    (folder / "datalist.json").write_text(json.dumps({"training": items, "test": items[:2]}))
    path = folder / "compare.json"
    path.write_text(json.dumps({"datalist": "datalist.json", "rows": [ROW], **content}))
    return path


def test_runs_are_rows_times_sizes_times_folds_times_seeds(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"name": "paper", "overlays": ["paper.json"], "settings": {"base_channels": 8}}]
    config = write(tmp_path, rows=rows, seeds=[0, 1, 2], percents=[100, 50], folds="all")
    runs = plan_runs(read_comparison(config), tmp_path / "out")
    assert len(runs) == 2 * 2 * 3 * 3
    assert len({run.folder for run in runs}) == len(runs)
    last = runs[-1]
    assert last.name == "paper, 50 %, seed 2, fold 2"
    overlay = last.spec["train"]["overlay"]
    assert (overlay["base_channels"], overlay["crop_mode"], overlay["patience"]) == (8, "center", 50)
    # An evaluation takes what its own config knows, and no optimizer.
    assert last.spec["evaluate"]["overlay"]["crop_mode"] == "center"
    assert not {"optimizer", "patience", "train::grey_augmentation"} & set(last.spec["evaluate"]["overlay"])
    thinned = json.loads((tmp_path / "out" / "datalists" / "50_percent.json").read_text())
    assert len(thinned["training"]) == 10
    assert len(thinned["test"]) == 2


def test_a_run_s_folder_follows_what_it_depends_on_and_not_where_it_lies(tmp_path: Path) -> None:
    def folder(home: str, **content: Any) -> str:
        (tmp_path / home).mkdir(exist_ok=True)
        return plan_runs(read_comparison(write(tmp_path / home, **content)), tmp_path / "out")[0].folder.name

    assert folder("a") == folder("b")
    assert folder("a") != folder("a", settings={"max_epochs": 3})
    assert folder("a") == folder("a", title="another title", metrics=["auc"])


def test_an_overlay_counts_instead_of_the_config_and_below_a_row(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"name": "wide", "settings": {"base_channels": 64}}]
    config = write(tmp_path, rows=rows, seeds=[0, 1], settings={"max_epochs": 100, "patience": 7})
    overlay, second = tmp_path / "slim.yaml", tmp_path / "short.yaml"
    overlay.write_text("folds: [2]\nseeds: [5]\nsettings: {max_epochs: 30, base_channels: 8}\n")
    second.write_text("settings: {max_epochs: 3}\n")
    comparison = read_comparison(config, overlays=[overlay, second])
    assert (comparison.folds, comparison.seeds) == ((2,), (5,))
    overlays = [run.spec["train"]["overlay"] for run in plan_runs(comparison, tmp_path / "out")]
    assert overlays == [
        {"max_epochs": 3, "patience": 7, "base_channels": 8},
        {"max_epochs": 3, "patience": 7, "base_channels": 64},
    ]
    overlay.write_text("rows: []\n")
    with pytest.raises(ManifestError, match="unknown key 'rows'"):
        read_comparison(config, overlays=[overlay])


def test_datalist_and_data_may_be_given_beside_the_config(tmp_path: Path) -> None:
    config = write(tmp_path)
    (tmp_path / "datalist.json").rename(tmp_path / "other.json")
    comparison = read_comparison(config, datalist=tmp_path / "other.json", dataset_dir=tmp_path / "data")
    assert (comparison.datalist, comparison.dataset_dir) == (tmp_path / "other.json", tmp_path / "data")
    assert read_comparison(config, datalist=tmp_path / "other.json").dataset_dir == tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"datalist": ""}, "lacks 'datalist'"),
        ({"rows": [{"name": "x"}]}, "a row needs 'name' and 'bundle'"),
        ({"rows": [ROW, ROW]}, "two rows are called 'NL-RAN'"),
        ({"rows": [ROW | {"bundle": "no_such"}]}, "no such bundle"),
        ({"rows": [ROW | {"overlays": ["no.json"]}]}, "there is no overlay no.json"),
        ({"rows": [ROW | {"setings": {}}]}, "row 'NL-RAN': unknown key 'setings'"),
        ({"seed": 1}, "unknown key 'seed'"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(PneumonaiError, match=message):
        read_comparison(write(tmp_path, **content))


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such comparison config"):
        read_comparison(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("rows: [")
    with pytest.raises(ManifestError, match="is no readable YAML or JSON"):
        read_comparison(tmp_path / "broken.yaml")


def test_folds_need_a_datalist_with_folds(tmp_path: Path) -> None:
    config = write(tmp_path, folds="all")
    (tmp_path / "datalist.json").write_text(json.dumps({"training": [{"image": "a"}]}))
    with pytest.raises(ManifestError, match="has no folds; build it with --split folds=K"):
        read_comparison(config)
