"""A training run becomes a bundle; a bundle's confidence is set on validation answers."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.derive import calibrate_bundle, derive_bundle
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.weights import save_compact

CLASSES = ["healthy", "ill"]


@pytest.fixture
def run_dir(small_bundle: Path, tmp_path: Path) -> Path:
    """What a training with two classes and a smaller input leaves."""
    folder = tmp_path / "run"
    changes = {"base_channels": None, "num_slices": 32, "class_names": CLASSES}
    network = inference_config(small_bundle, **changes).get_parsed_content("network_def")
    save_compact(network.state_dict(), folder / "model.pt")
    items = [{"image": "a", "label": "ill", "patient_id": "P1"}, {"image": "b", "label": "healthy", "patient_id": "P1"}]
    (folder / "datalist.json").write_text(json.dumps({"training": items, "name": "two scans"}))
    record = {"bundle_root": str(small_bundle), "inference_changes": changes, "datalist": str(folder / "datalist.json")}
    (folder / "training.json").write_text(json.dumps(record))
    return folder


def test_the_bundle_has_the_run_s_classes_weights_and_input(run_dir: Path, tmp_path: Path) -> None:
    bundle = derive_bundle(run_dir, tmp_path / "mine")
    assert bundle.name == "mine"
    assert bundle.class_names == CLASSES
    assert bundle.weights.read_bytes() == (run_dir / "model.pt").read_bytes()
    assert bundle.settings["trained_on"] == "two scans, 2 images of 1 patients for training"
    assert "synthetic" not in json.dumps(bundle.settings)
    assert bundle.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 160, 160]
    config = inference_config(bundle.root)
    assert config.get_parsed_content("num_slices") == 32
    assert config.get_parsed_content("network_def").classifier.out_features == 2
    card = (bundle.root / "docs" / "README.md").read_text()
    assert "healthy, ill" in card
    assert "Not for clinical use" in card


def test_weights_that_do_not_fit_leave_no_bundle(run_dir: Path, tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, run_dir / "model.pt")
    with pytest.raises(BundleError, match="belongs to another network"):
        derive_bundle(run_dir, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert not list(tmp_path.glob(".mine*"))


def test_what_is_no_run_and_what_is_there_already_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no finished training: it has no training\.json"):
        derive_bundle(tmp_path, tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="is there already"):
        derive_bundle(run_dir, tmp_path / "mine")


def write_answers(path: Path, names: list[str], *, labels: bool = True) -> None:
    """100 answers of confidence 0.99, of which 80 are right, and 100 of 0.999, all right."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient_id", "label", "pred", *(f"p_{name}" for name in names)])
        for n in range(200):
            confidence = 0.99 if n < 100 else 0.999
            answer = n % 2
            truth = 1 - answer if n < 20 else answer
            row = [confidence if index == answer else 1 - confidence for index in range(2)]
            writer.writerow([n, "", names[truth] if labels else "", names[answer], *row])


def test_calibration_sets_temperature_and_threshold(small_bundle: Path, run_dir: Path, tmp_path: Path) -> None:
    bundle = derive_bundle(run_dir, tmp_path / "mine")
    write_answers(tmp_path / "predictions.csv", CLASSES)
    path = bundle.root / "configs" / "metadata.json"
    before = path.read_text()
    found = calibrate_bundle(bundle, tmp_path / "predictions.csv")
    # The rest of the file stays as it was written.
    changed = set(path.read_text().splitlines()) ^ set(before.splitlines())
    assert {line.split(":")[0].strip() for line in changed} == {'"temperature"', '"refer_below"'}
    settings = find_bundle(bundle.root).settings
    assert settings["temperature"] == found["temperature"] > 1.5
    # Only the surer half is right often enough.
    assert found["kept"] == 0.5
    expected = 1 / (1 + np.exp(-np.log(999) / found["temperature"]))
    assert settings["refer_below"] == pytest.approx(expected, abs=1e-3)
    # The same answers again, now given at that temperature, ask for none more.
    again = calibrate_bundle(find_bundle(bundle.root), tmp_path / "predictions.csv")
    assert again["temperature"] == pytest.approx(found["temperature"] ** 2, rel=1e-3)


def test_answers_of_other_classes_or_without_labels_are_refused(small_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(small_bundle, root)
    write_answers(tmp_path / "predictions.csv", CLASSES)
    with pytest.raises(BundleError, match="has classes healthy, ill; evaluate this bundle"):
        calibrate_bundle(find_bundle(root), tmp_path / "predictions.csv")
    write_answers(tmp_path / "predictions.csv", CLASSES, labels=False)
    with pytest.raises(BundleError, match="has no labels"):
        calibrate_bundle(find_bundle(root), tmp_path / "predictions.csv")


def test_a_network_of_an_overlay_becomes_the_bundle_s(small_bundle: Path, run_dir: Path, tmp_path: Path) -> None:
    overlay = small_bundle / "configs" / "resnet.json"
    changes = json.loads(overlay.read_text()) | {"class_names": CLASSES}
    network = inference_config(small_bundle, **changes).get_parsed_content("network_def")
    save_compact(network.state_dict(), run_dir / "model.pt")
    with pytest.raises(BundleError, match="belongs to another network"):
        derive_bundle(run_dir, tmp_path / "mine")
    bundle = derive_bundle(run_dir, tmp_path / "mine", overlays=[overlay])
    assert type(inference_config(bundle.root).get_parsed_content("network_def")).__name__ == "ResidualNetwork"
