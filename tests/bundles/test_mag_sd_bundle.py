"""The MAG-SD bundle: X-rays whole and measured by their own training set, boxes, the rows of the paper's tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import run_config
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom.write import write_xray
from pneumonai.pipeline.predict import Options, predict_study

NAME = "mag_sd_cxr_classification"
TABLES = sorted((Path(__file__).parents[2] / "docs" / "comparisons").glob("mag_sd_table*.yaml"))
NARROW = {"backbone": "resnet18", "base_channels": 4}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(small_copy: Any) -> Path:
    """A copy with a narrow network of random weights."""
    return small_copy(NAME, **NARROW)


@pytest.fixture(scope="module")
def xrays(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six X-rays of a phantom, each darker than the one before, two a class; the same in each part."""
    folder = tmp_path_factory.mktemp("xrays")
    grey = np.asarray(Image.open(write_xray(small_phantom, folder / "made")[0]))
    items = []
    for number in range(6):
        Image.fromarray((grey * (1 - number / 10)).astype(np.uint8)).save(folder / f"{number}.png")
        items.append({"image": f"{number}.png", "label": number % 3, "patient_id": f"P{number}"})
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


def train_config(data: Path, output: Path, *overlays: str, **changes: Any) -> ConfigParser:
    """The train config under overlays, not run."""
    configs = find_bundle(NAME).root / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.json") for name in ("train", *overlays)])
    parser.read_meta(str(configs / "metadata.json"))
    where = {"bundle_root": str(configs.parent), "dataset_dir": str(data), "datalist": str(data / "datalist.json")}
    parser.update(where | {"output_dir": str(output), "device": "$torch.device('cpu')"} | changes)
    return parser


def test_verify_passes_a_small_copy(small: Path) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    assert [check for check in bundle_checks.verify(find_bundle(small), inference=False) if check.problem] == []


def test_xrays_train_and_evaluate(xrays: Path, train_and_use: Any) -> None:
    train_and_use(NAME, xrays, NARROW | {"picture_size": [64, 64]}, average_decay=0.9, autocast="bfloat16")


def test_evaluation_takes_what_the_training_measured(xrays: Path, tmp_path: Path) -> None:
    """Mean and deviation of the grey values, CLAHE and size, though nobody repeats them."""
    root, run, settings = find_bundle(NAME).root, tmp_path / "run", NARROW | {"picture_size": [64, 64], "clahe": False}
    run_config(root, "train", "paper", "anatomical", data=xrays, output_dir=run, max_epochs=1, batch_size=3, **settings)
    grey = json.loads((run / "training.json").read_text())["inference_changes"]["grey"]
    pictures = torch.stack([torch.as_tensor(np.asarray(Image.open(xrays / f"{n}.png"))) for n in range(6)]) / 255.0
    assert grey == pytest.approx([pictures.mean().item(), pictures.std().item()], abs=0.02)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "evaluate.json"))
    parser.read_meta(str(root / "configs" / "metadata.json"))
    parser.update({"bundle_root": str(root), "ckpt_path": str(run / "model.pt")})
    changes = parser.get_parsed_content("inference_changes")
    assert (changes["grey"], changes["clahe"], changes["picture_size"]) == (grey, False, [64, 64])


@pytest.mark.parametrize("overlays", [(), ("anatomical",)])
def test_augmentation_acts_on_grey_values_from_0_to_1(overlays: tuple[str, ...], xrays: Path, tmp_path: Path) -> None:
    """A random number of the transforms, after what is cached and before the z-score."""
    config = train_config(xrays, tmp_path, *overlays, picture_size=[64, 64])
    mean, deviation = config.get_parsed_content("grey")
    plain, dataset = config.get_parsed_content("train::plain"), config.get_parsed_content("train::dataset")
    transform = config.get_parsed_content("train::preprocessing").set_random_state(0)
    assert len(transform.transforms[-2].transforms) == len(config.get("train::augmentation"))
    seen = [(dataset[0]["image"] * deviation + mean) for _ in range(40)]
    unchanged = sum(torch.allclose(one, plain[0]["image"], atol=1e-4) for one in seen)
    assert 0 < unchanged < 20
    assert all(one.shape == (1, 64, 64) for one in seen)
    assert min(one.min().item() for one in seen) >= (-1e-4 if not overlays else -0.5)
    assert max(one.max().item() for one in seen) <= (1 + 1e-4 if not overlays else 1.5)


def test_clahe_is_a_setting_and_nothing_of_a_picture_is_cut(small: Path, xrays: Path) -> None:
    inputs = {}
    for clahe in (True, False):
        preprocessing = inference_config(small, clahe=clahe, grey=[0.0, 1.0]).get_parsed_content("preprocessing")
        inputs[clahe] = preprocessing({"image": str(xrays / "5.png")})["image"]
    assert inputs[True].shape == inputs[False].shape == (1, 128, 128)
    assert inputs[True].min() >= 0 and inputs[True].max() <= 1
    assert inputs[True].mean() > inputs[False].mean() + 0.05  # a dark picture is no longer dark
    whole = np.asarray(Image.open(xrays / "5.png")) / 255
    assert inputs[False].mean().item() == pytest.approx(whole.mean(), abs=0.005)
    assert inputs[False][0, :, 0].mean().item() == pytest.approx(whole[:, 0].mean(), abs=0.02)


def test_boxes_lie_around_what_the_map_marks_and_normal_has_none(small: Path, xrays: Path, tmp_path: Path) -> None:
    bundle = find_bundle(small)
    picture = tmp_path / "wide.png"
    Image.open(xrays / "0.png").resize((300, 170)).save(picture)
    (tmp_path / "boxes.csv").write_text("study,x,y,width,height\nwide,10,20,100,90\n")
    bundle.metadata["pneumonai"]["boxes"]["not_for"] = []
    options = Options(truth=str(tmp_path / "boxes.csv"))
    found = predict_study(picture, model=Model(bundle, device="cpu"), output=tmp_path / "out", options=options)
    heat_map = np.asarray(Image.open(tmp_path / "out" / "wide" / "heat_map.png"))
    assert heat_map.shape == (170, 300)
    assert found.boxes and found.truth is not None and 0 <= found.truth["iou"] <= 1
    marked = np.zeros_like(heat_map, dtype=bool)
    for box in found.boxes:
        assert 0 <= box["x"] <= 300 - box["width"] and 0 <= box["y"] <= 170 - box["height"]
        marked[box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]] = True
    assert (marked >= (heat_map >= 128)).all()
    assert {path.name for path in (tmp_path / "out" / "wide").glob("heat_map_*.png")} == {
        "heat_map_saliency.png",
        "heat_map_gradcam.png",
        "heat_map_gradcam++.png",
    }
    bundle.metadata["pneumonai"]["boxes"]["not_for"] = [found.verdict]
    assert predict_study(picture, model=Model(bundle, device="cpu"), options=options).boxes == []


def test_the_map_lies_where_the_attention_is(small: Path) -> None:
    """The inverse of the preprocessing stretches it back over the picture, edge to edge."""
    config = inference_config(small)
    preprocessing, postprocessing = (config.get_parsed_content(f"{side}processing") for side in ("pre", "post"))
    picture = MetaTensor(torch.rand(1, 100, 400) * 255)
    preprocessing.transforms = preprocessing.transforms[2:]
    item = preprocessing({"image": picture})
    heat_map = torch.zeros(1, 128, 128)
    heat_map[0, :64, 96:] = 1
    back = postprocessing({"image": item["image"], "pred": torch.zeros(3), "heat_map": heat_map})["heat_map"]
    assert back.shape == (1, 100, 400)
    assert back[0, :48, 304:].min() > 0.9 and back[0, 52:].max() < 0.1 and back[0, :, :296].max() < 0.1


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_the_tables_plan_at_a_small_recipe(path: Path, tmp_path: Path) -> None:
    datalist = tmp_path / "folds.json"
    datalist.write_text(json.dumps({"training": [{"image": "a.png", "label": 0, "fold": 0}]}))
    slim = "mag_sd_slim.yaml" if path.stem.endswith("3") else "mag_sd_slim_mobilenet_v2.yaml"
    runs = plan_runs(read_comparison(path, datalist=datalist, overlays=[path.parent / slim]), tmp_path)
    assert {run.spec["train"]["overlay"]["max_epochs"] for run in runs} <= {8, 15}
    assert {run.fold for run in runs} == {0, 1}


def test_the_tables_plan_and_their_networks_have_the_sizes_of_print(tmp_path: Path) -> None:
    """Millions of parameters with one input channel and three classes, where the network is not the bundle's own."""
    items = [{"image": f"{n}.png", "label": n % 3, "patient_id": str(n), "fold": n % 5} for n in range(15)]
    datalist = tmp_path / "folds.json"
    datalist.write_text(json.dumps({"training": items}))
    others = {"VGG-16": 134.3, "ResNet-18": 11.2, "ResNet-50": 23.5, "InceptionV3": 21.8, "COVID-Net": 127.4}
    others |= {"BCNN": 15.5, "BCNN(Attention)": 15.6, "FPN": 26.8, "U-Net": 32.5, "GAP": 23.6, "GMP": 23.6}
    rows = {}
    for path in TABLES:
        comparison = read_comparison(path, datalist=datalist)
        assert len(plan_runs(comparison, tmp_path)) == 5 * len(comparison.rows)
        rows |= {(path.stem[-1], row.name): row for row in comparison.rows}
    assert [sum(table == number for table, _ in rows) for number in "345678"] == [11, 2, 3, 3, 8, 2]
    for (table, name), row in rows.items():
        changes: dict[str, Any] = {"class_names": ["normal", "covid", "cap"]}
        for overlay in row.overlays:
            changes |= json.loads(overlay.read_text())
        changes |= row.settings
        with torch.device("meta"):
            network = inference_config(row.bundle.root, **changes).get_parsed_content("network_def")
        millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
        expected = others.get(name, 23.8)
        assert millions == pytest.approx(expected, rel=0.01), (table, name)
        # Without attention there is nothing to guide an augmentation.
        assert changes.get("guided_augmentations") == [] or hasattr(network, "forward_all"), (table, name)


@pytest.mark.parametrize("overlay", ["bcnn", "inception_v3"])
def test_compared_networks_train_by_the_same_config(overlay: str, xrays: Path, tmp_path: Path) -> None:
    root, small = find_bundle(NAME).root, {"base_channels": 4, "picture_size": [96, 96]}
    run_config(root, "train", overlay, data=xrays, output_dir=tmp_path, max_epochs=1, batch_size=3, **small)
    scores = {"ckpt_path": tmp_path / "model.pt", "output_dir": tmp_path / "scores"}
    run_config(root, "evaluate", overlay, data=xrays, **scores, **small)
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["n_images"] == 6


def test_l2_and_each_guided_augmentation_are_settings(xrays: Path, tmp_path: Path) -> None:
    config = train_config(
        xrays, tmp_path, regularization="l2", guided_augmentations=["dimming"], picture_size=[32, 32], **NARROW
    )
    trainer = config.get_parsed_content("train::trainer")
    assert (trainer.loss_function.kind, len(trainer.network.augmentations)) == ("l2", 1)
    assert trainer.network.augmentations[0].keywords == {"threshold": 0.5}
