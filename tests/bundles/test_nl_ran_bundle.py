"""The NL-RAN bundle through MONAI's own commands, and what verify finds in broken copies."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import run_config

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import Bundle, find_bundle, inference_config
from pneumonai.pipeline.bundle_files import export_torchscript, package
from pneumonai.pipeline.errors import BundleError, our_error

SCHEMA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "meta_schema_20240725.json"


@pytest.fixture(scope="module")
def dataset(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies in each part of a datalist."""
    from pneumonai.pipeline.phantom import make_phantom
    from pneumonai.pipeline.phantom.write import write_nifti

    folder = tmp_path_factory.mktemp("dataset")
    items = []
    for label, kind in enumerate(("normal", "ncp")):
        write_nifti(make_phantom(kind, 2, shape=(96, 96, 40)), folder / kind, masks=False)
        image = next((folder / kind).iterdir()).relative_to(folder)
        items.append({"image": str(image), "label": label, "patient_id": f"P{label}"})
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


def test_shipped_bundle_passes_the_quick_checks() -> None:
    bundle = find_bundle("nl_ran_ct_classification")
    bundle_checks.check_files(bundle)
    bundle_checks.check_metadata(bundle, schema=None)
    bundle_checks.check_size_and_paths(bundle)
    bundle_checks.check_torchscript(bundle)


def test_metadata_fits_monai_s_schema() -> None:
    if not SCHEMA.exists():
        pytest.skip("MONAI's schema lies in the shared data, which is not here")
    bundle_checks.check_metadata(find_bundle("nl_ran_ct_classification"), SCHEMA)


def test_verify_passes_a_copy(small_bundle: Path, tmp_path: Path) -> None:
    """Of inference in other processes one alone; ``pneumonai bundle verify --all`` runs the rest in CI."""
    bundle = find_bundle(small_bundle)
    checks = list(bundle_checks.verify(bundle, inference=False))
    assert {check.name: check.problem for check in checks if check.problem} == {}
    assert len(checks) >= 7
    bundle_checks.check_inference(bundle, tmp_path, inside=True)


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (lambda root: (root / "LICENSE").unlink(), "files", "lacks LICENSE"),
        (lambda root: edit(root, "metadata", {"authors": ""}), "metadata", "lacks authors"),
        (lambda root: edit(root, "metadata", {"version": "9.9.9"}), "metadata", "no entry for version 9.9.9"),
        (lambda root: edit(root, "inference", {"ckpt_dir": "/home/me/x"}), "paths", "/home/me"),
        (lambda root: edit(root, "inference", {"base_channels": 8}), "torchscript", "belongs to another network"),
    ],
)
def test_a_broken_bundle_is_found(small_bundle: Path, tmp_path: Path, change: Any, check: str, message: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(small_bundle, root)
    change(root)
    bundle = find_bundle(root)
    checks = {
        "files": lambda: bundle_checks.check_files(bundle),
        "metadata": lambda: bundle_checks.check_metadata(bundle, None),
        "paths": lambda: bundle_checks.check_size_and_paths(bundle),
        "torchscript": lambda: bundle_checks.check_torchscript(bundle),
    }
    with pytest.raises(BundleError, match=message):
        checks[check]()


def edit(root: Path, name: str, changes: dict[str, Any]) -> None:
    path = root / "configs" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("fill", ["missing", "empty"])
def test_an_input_folder_that_is_missing_or_empty_fails(small_bundle: Path, tmp_path: Path, fill: str) -> None:
    studies = tmp_path / "studies"
    if fill == "empty":
        studies.mkdir()
    with pytest.raises(RuntimeError) as raised:
        run_config(small_bundle, "inference", data=studies, output_dir=tmp_path / "out")
    assert str(our_error(raised.value)).startswith(str(studies))
    assert not (tmp_path / "out").exists()


def test_train_then_evaluate_then_resume(
    small_bundle: Path, dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    small = {"output_dir": tmp_path / "out", "train_size": [16, 32, 32], "batch_size": 2}
    run_config(small_bundle, "train", data=dataset, max_epochs=1, **small)
    assert "random weights" in caplog.text
    assert (tmp_path / "out" / "model.pt").is_file()
    run_config(small_bundle, "train", data=dataset, max_epochs=2, resume=True, **small)
    assert "resumed after epoch 1" in caplog.text
    scores = {"ckpt_path": tmp_path / "out" / "model.pt", "output_dir": tmp_path / "scores"}
    run_config(small_bundle, "evaluate", data=dataset, **scores)
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["n_images"] == 2
    with (tmp_path / "scores" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "patient_id", "label", "pred", "p_normal", "p_ncp", "p_cp"]
    assert [(row["patient_id"], row["label"]) for row in rows] == [("P0", "normal"), ("P1", "ncp")]


def test_overlays_change_the_network_for_training_and_inference(small_bundle: Path) -> None:
    overlay = json.loads((small_bundle / "configs" / "paper.json").read_text())
    changes = {k: overlay[k] for k in ("base_channels", "crop_mode", "clahe", "grey_maximum")}
    config = inference_config(small_bundle, **changes)
    network = config.get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(58.3e6, rel=0.05)
    names = [type(t).__name__ for t in config.get_parsed_content("preprocessing").transforms]
    assert "CLAHEd" not in names
    assert names.count("ScaleIntensityRanged") == 2


def test_package_is_a_whole_bundle_and_the_same_each_time(small_bundle: Path, tmp_path: Path) -> None:
    bundle = find_bundle(small_bundle)
    first, second = package(bundle, tmp_path / "a"), package(bundle, tmp_path / "b.zip")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        archive.extractall(tmp_path)
    unpacked: Bundle = find_bundle(tmp_path / "small_bundle")
    bundle_checks.check_files(unpacked)
    bundle_checks.check_metadata(unpacked, None)


def test_export_writes_a_network_that_torch_loads(small_bundle: Path, tmp_path: Path) -> None:
    import torch

    path = export_torchscript(find_bundle(small_bundle), tmp_path / "model.ts")
    images = torch.rand(1, 1, 64, 160, 160)
    config = inference_config(small_bundle)
    from pneumonai.pipeline.weights import load_weights

    network = load_weights(config.get_parsed_content("network_def"), small_bundle / "models" / "model.pt").eval()
    with torch.inference_mode():
        assert torch.allclose(torch.jit.load(path)(images), network(images), atol=1e-5)
