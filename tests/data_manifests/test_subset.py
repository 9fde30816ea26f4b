"""Thinned training parts: nested, stratified, by patient, and counted of the right whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.split import split_ratio
from pneumonai.data_manifests.subset import nested_subsets, subset_datalists
from pneumonai.pipeline.manifest_cli import manifest_app

PERCENTS = [80, 70, 60, 50, 40]


def training(seed: int, patients: int = 90, largest: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["normal", "ncp", "cp"], size=patients, p=[0.5, 0.3, 0.2])
    return [
        {"image": f"{p}_{n}.png", "label": str(label), "patient_id": f"P{p}"}
        for p, label in enumerate(labels)
        for n in range(int(rng.integers(1, largest + 1)))
    ]


@pytest.mark.parametrize("seed", range(6))
def test_subsets_are_nested_whole_patients_and_stratified(seed: int) -> None:
    items = training(seed)
    found = nested_subsets(items, PERCENTS, seed)
    images = {percent: {item["image"] for item in found[percent]} for percent in PERCENTS}
    assert list(found) == PERCENTS
    assert images[40] < images[50] < images[60] < images[70] < images[80]
    classes = Counter(item["label"] for item in items)
    for percent in PERCENTS:
        inside = {item["patient_id"] for item in found[percent]}
        assert all((item["image"] in images[percent]) == (item["patient_id"] in inside) for item in items)
        for label, count in Counter(item["label"] for item in found[percent]).items():
            # A patient has at most four images, and two steps of rounding can add up.
            assert abs(count - percent / 100 * classes[label]) <= 4
    assert found == nested_subsets(items, PERCENTS, seed) != nested_subsets(items, PERCENTS, seed + 1)


def test_single_images_are_cut_exactly() -> None:
    items = [{"image": str(n), "label": "ab"[n % 2]} for n in range(200)]
    found = nested_subsets(items, [50, 10, 100], 0)
    assert {percent: Counter(item["label"] for item in kept) for percent, kept in found.items()} == {
        50: {"a": 50, "b": 50}, 10: {"a": 10, "b": 10}, 100: {"a": 100, "b": 100},
    }  # fmt: skip


def test_nl_rans_table_three_counts_all_scans() -> None:
    """4,079 scans in 3,263 / 408 / 408; 80 % of all is the whole training part, 40 % is half of it."""
    items = [{"image": str(n), "label": "cp" if n < 1482 else "ncp" if n < 3001 else "normal"} for n in range(4079)]
    parts = split_ratio(items, [8, 1, 1], 0)
    sides = [[item for item, part in zip(items, parts, strict=True) if part == side] for side in range(3)]
    content = dict(zip(("training", "validation", "test"), sides, strict=True))
    found = subset_datalists(content, PERCENTS, 0, of_all=True)
    assert [len(found[percent]["training"]) for percent in PERCENTS] == pytest.approx(
        [0.8 * 4079, 0.7 * 4079, 0.6 * 4079, 0.5 * 4079, 0.4 * 4079], abs=2
    )
    assert all(found[percent]["test"] == sides[2] for percent in PERCENTS)
    block = found[70]["pneumonai"]["subset"]
    assert (block["of"], block["percent"], block["actual_percent"]) == ("all", 70, pytest.approx(70, abs=0.05))


@pytest.mark.parametrize("percent", [0, -5, 101])
def test_percentages_outside_are_refused(percent: float) -> None:
    with pytest.raises(ManifestError, match="percentages lie over 0 to 100"):
        nested_subsets(training(0), [percent])


def test_more_of_all_than_the_training_part_has_is_refused() -> None:
    content = {"training": training(0, 40), "validation": training(1, 40), "test": []}
    with pytest.raises(ManifestError, match=r"80 % of \d+ images are \d+, the training part has \d+"):
        subset_datalists(content, [80], of_all=True)
    with pytest.raises(ManifestError, match="no training items"):
        subset_datalists({"test": content["validation"]}, [80])


def test_the_command_writes_one_datalist_a_size(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    content = {"training": training(3), "validation": [{"image": "v.png", "label": "ncp"}], "test": []}
    path.write_text(json.dumps(content))
    arguments = ["subset", str(path), "--output-dir", str(tmp_path / "out"), "--percent", "60", "30"]
    done = CliRunner().invoke(manifest_app, arguments)
    assert done.exit_code == 0, done.output
    assert "60 % of training" in done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["list_30.json", "list_60.json"]
    small = json.loads((tmp_path / "out" / "list_30.json").read_text())
    assert small["validation"] == content["validation"]
    assert small["pneumonai"]["subset"]["images"] == len(small["training"])
    again = CliRunner().invoke(manifest_app, arguments)
    assert isinstance(again.exception, ManifestError) and "--force" in str(again.exception)
