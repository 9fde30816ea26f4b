"""The attention transfer bundles: slices of CT and X-rays, trained in turn, explained by the teacher's attention."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import run_config
from monai.data import MetaTensor
from PIL import Image

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import config_digest, find_bundle, inference_config
from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom.write import write_slices, write_xray
from pneumonai.pipeline.predict import Options, open_for, predict_study, prepare

CT, CXR = "attention_transfer_ct_classification", "attention_transfer_cxr_classification"
NAMES = {"ct": CT, "cxr": CXR}
TABLES = Path(__file__).resolve().parents[2] / "docs" / "comparisons"
SMALL = {"growth_rate": 4, "block_config": [1, 2]}

# MONAI's trainer makes a scaler that a CPU has no use for, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*GradScaler:FutureWarning", "ignore:.*GradScaler:UserWarning")


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None:
    """See ``one_thread``."""


@pytest.fixture(scope="module")
def copied(small_copy: Any) -> dict[str, Path]:
    """Both bundles with a small network of random weights, the X-rays' with its own lungs."""
    roots = {CT: small_copy(CT, **SMALL), CXR: small_copy(CXR, **SMALL)}
    shutil.copyfile(find_bundle(CXR).root / "models" / "lungs.pt", roots[CXR] / "models" / "lungs.pt")
    return roots


@pytest.fixture(scope="module")
def xrays(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An X-ray three times, one a class, the same in each part."""
    folder = tmp_path_factory.mktemp("xrays")
    picture = write_xray(small_phantom, folder)[0]
    items = [{"image": picture.name, "label": label, "patient_id": f"P{label}"} for label in range(3)]
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


@pytest.mark.parametrize("name", [CT, CXR])
def test_verify_passes_a_small_copy(copied: dict[str, Path], name: str) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    checks = bundle_checks.verify(find_bundle(copied[name]), inference=False)
    assert [check for check in checks if check.problem] == []


def test_slices_and_volumes_train_and_evaluate_together(dataset: Path, train_and_use: Any) -> None:
    train_and_use(CT, dataset, SMALL | {"slice_size": [32, 32]})


def test_xrays_train_and_evaluate(xrays: Path, train_and_use: Any) -> None:
    train_and_use(CXR, xrays, SMALL | {"picture_size": [32, 32]}, autocast="bfloat16")


def test_pictures_prepared_with_other_lungs_are_not_taken_for_these(copied: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(copied[CXR], tmp_path / "bundle"))
    before = config_digest(inference_config(root))
    assert config_digest(inference_config(root)) == before
    lungs = root / "models" / "lungs.pt"
    lungs.write_bytes(lungs.read_bytes()[:-1])
    assert config_digest(inference_config(root)) != before


def test_a_slice_has_all_maps(copied: dict[str, Path], small_phantom: Any, tmp_path: Path) -> None:
    picture = write_slices(small_phantom, tmp_path, count=1)[0]
    result = predict_study(picture, bundle=copied[CT], output=tmp_path / "out")
    assert result.explanation is not None and result.slices is None
    names = {path.name for path in (tmp_path / "out" / picture.stem).glob("heat_map*.png")}
    assert {"heat_map.png", "heat_map_saliency.png", "heat_map_gradcam.png", "heat_map_gradcam++.png"} < names
    assert {"heat_map_offsets.png", "heat_map_lrp.png"} < names


def test_a_dicom_x_ray_is_answered_on_its_own_grid(copied: dict[str, Path], small_phantom: Any, tmp_path: Path) -> None:
    film = write_xray(small_phantom, tmp_path, dicom=True)[0]
    result = predict_study(film, bundle=copied[CXR], options=Options(report=False), output=tmp_path / "out")
    assert result.classes is not None and [one["name"] for one in result.classes] == ["normal", "covid", "cap"]
    maps = [Image.open(tmp_path / "out" / film.stem / name) for name in ("heat_map.png", "lungs.png")]
    truth = np.asarray(Image.open(tmp_path / f"{film.stem}_lungs.png"))
    assert maps[0].size == maps[1].size == truth.shape[::-1]
    marked, lungs = (np.asarray(map_) for map_ in maps)
    assert ((lungs > 0) & (truth > 0)).sum() > 0.5 * (truth > 0).sum()
    assert marked.max() > 0
    # Beyond the square around the lungs the network saw nothing.
    rows = np.flatnonzero((lungs > 0).any(axis=1))
    assert marked[: max(rows[0] - truth.shape[0] // 3, 0)].sum() == 0


def test_what_the_shortcut_checks_paint_is_black(copied: dict[str, Path], small_phantom: Any, tmp_path: Path) -> None:
    """Equalised and standardised afterwards, so that what is painted has one value and says nothing of the lungs."""
    picture = write_xray(small_phantom, tmp_path)[0]
    seen = {}
    for part in ("nothing", "inside", "outside"):
        root = tmp_path / part
        shutil.copytree(copied[CXR], root)
        config = root / "configs" / "inference.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"black_out": part}))
        model = Model(find_bundle(root), device="cpu", precision="fp32")
        item = prepare(open_for(model.bundle, picture, Options()), model).item
        seen[part], lungs = item["image"][0], item["lungs"][0]
        assert isinstance(item["image"], MetaTensor) and item["image"].shape[1:] == (128, 128)
    places = lungs.as_tensor().nonzero()
    top, left, bottom, right = (*(places.amin(0) + 2).tolist(), *(places.amax(0) - 2).tolist())
    inside = {part: image.as_tensor()[top:bottom, left:right] for part, image in seen.items()}
    assert inside["inside"].std() < 0.05 < inside["nothing"].std()
    assert inside["outside"].std() > 0.3
    assert seen["outside"].as_tensor()[0].std() < 0.05 < seen["inside"].as_tensor()[0].std()


@pytest.mark.parametrize(
    ("overlays", "settings"),
    [
        (("one_network",), {"gamma": True}),
        (("one_network",), {"deformable_attention": True}),
        (("one_network", "dc_loss"), {}),
        (("one_network", "resnet18"), {}),
        (("paper",), {}),
    ],
)
def test_the_tables_networks_train(
    dataset: Path, tmp_path: Path, overlays: tuple[str, ...], settings: dict[str, Any]
) -> None:
    small = SMALL | {"slice_size": [32, 32]}
    run_config(
        find_bundle(CT).root, "train", *overlays, data=dataset, output_dir=tmp_path, max_epochs=1, batch_size=5,
        cache="memory", **small, **settings,
    )  # fmt: skip
    with (tmp_path / "history.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert math.isfinite(float(row["train_loss"]))


@pytest.mark.parametrize("kind", NAMES)
def test_the_papers_networks_build(kind: str) -> None:
    # Millions of parameters with one input channel.
    sizes: dict[str, tuple[tuple[str, ...], float]] = {"paper": (("paper",), 15.8)}
    if kind == "ct":
        sizes |= {"densenet": (("paper", "one_network"), 6.95), "resnet18": (("paper", "resnet18"), 11.2)}
    else:
        sizes |= {"covid_net": (("paper", "covid_net"), 127.4)}
    root = find_bundle(NAMES[kind]).root
    for name, (overlays, millions) in sizes.items():
        changes: dict[str, Any] = {}
        for overlay in overlays:
            changes |= json.loads((root / "configs" / f"{overlay}.json").read_text())
        changes = {key: value for key, value in changes.items() if "::" not in key}
        with torch.device("meta"):
            network = inference_config(root, **changes).get_parsed_content("network_def")
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.01), name


@pytest.mark.parametrize(("table", "rows"), [(1, 2), (2, 2), (5, 5)])
def test_the_papers_tables_are_plans(xrays: Path, tmp_path: Path, table: int, rows: int) -> None:
    comparison = read_comparison(
        TABLES / f"attention_transfer_table{table}.yaml", datalist=xrays / "datalist.json", dataset_dir=xrays
    )
    runs = plan_runs(comparison, tmp_path)
    assert len(runs) == rows
    assert all(run.row.published["accuracy"] > 80 for run in runs)


def test_the_papers_tables_are_plans_at_a_small_recipe(xrays: Path, tmp_path: Path) -> None:
    slim = [TABLES / "attention_transfer_slim.yaml", TABLES / "two_classes.yaml"]
    table = TABLES / "attention_transfer_table5.yaml"
    runs = plan_runs(read_comparison(table, datalist=xrays / "datalist.json", overlays=slim), tmp_path)
    assert len(runs) == 5
    for run in runs:
        settings = run.spec["train"]["overlay"]
        assert (settings["class_names"], settings["growth_rate"]) == (["noncovid", "covid"], 8)
