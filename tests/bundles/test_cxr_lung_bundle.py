"""The lungs of X-rays: the bundle through MONAI's commands and predict, and as another bundle's ``--lungs``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import run_config
from dark_lungs_network import DarkLungsNetwork
from PIL import Image

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.phantom.write import write_xray
from pneumonai.pipeline.predict import Options, predict_study
from pneumonai.pipeline.weights import load_weights
from pneumonai.transforms import PictureLungSegment

LUNGS = "cxr_lung_segmentation"
SMALL = {"channels": [4, 4, 8], "slice_size": [32, 32]}


@pytest.fixture(scope="module")
def marking_model(small_copy: Any) -> Model:
    """The bundle with a network that calls dark lung, right or left by its place."""
    root = small_copy(LUNGS, network_def={"_target_": "dark_lungs_network.DarkLungsNetwork"})
    return Model(find_bundle(root), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def xrays(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three X-rays of a phantom, each cut in another way, with their lungs; the same in each part."""
    folder, made = tmp_path_factory.mktemp("xrays"), tmp_path_factory.mktemp("made")
    image, lungs, _ = write_xray(small_phantom, made)
    items = []
    for number in range(3):
        for path, name in ((image, f"P{number}.png"), (lungs, f"P{number}_lungs.png")):
            values = np.asarray(Image.open(path))
            Image.fromarray(values[number:, 2 * number :]).save(folder / name)
        items.append({"image": f"P{number}.png", "mask": f"P{number}_lungs.png", "patient_id": f"P{number}"})
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


def labels_of(path: Path) -> np.ndarray:
    labels = np.asarray(Image.open(path))
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1, 2}
    return labels


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_verify_passes_a_small_copy(small_copy: Any) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    root = small_copy(LUNGS, channels=[4, 4, 8], slice_size=[64, 64])
    checks = bundle_checks.verify(find_bundle(root), inference=False)
    assert [check for check in checks if check.problem] == []


def test_training_to_answer(xrays: Path, train_and_use: Any) -> None:
    train_and_use(LUNGS, xrays, SMALL, average_decay=0.9)


@pytest.mark.parametrize("dicom", [False, True])
def test_the_shipped_weights_find_a_phantoms_lungs(dicom: bool, tmp_path: Path) -> None:
    phantom = make_phantom("normal", 8, shape=(128, 128, 48))
    image, lungs, _ = write_xray(phantom, tmp_path, dicom=dicom)
    result = predict_study(image, bundle=LUNGS, output=tmp_path / "out", precision="fp32")
    found, true = labels_of(tmp_path / "out" / image.stem / "lungs.png"), labels_of(lungs)
    assert found.shape == true.shape
    assert dice(found == 1, true == 1) > 0.8 and dice(found == 2, true == 2) > 0.8
    assert result.lungs is not None and result.lungs["total_pixels"] == (found > 0).sum()
    assert result.classes is None and result.verdict is None and result.infection is None and result.severity is None
    assert "not for clinical use" in result.notice


def test_monai_predict_and_the_transform_mark_the_same(marking_model: Model, xrays: Path, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    picture = np.asarray(Image.open(xrays / "P1.png"))
    Image.fromarray(picture).save(tmp_path / "studies" / "P1.png")
    run_config(marking_model.bundle.root, "inference", data=tmp_path / "studies", output_dir=tmp_path / "monai")
    predict_study(tmp_path / "studies" / "P1.png", model=marking_model, output=tmp_path / "out")
    by_predict = labels_of(tmp_path / "out" / "P1" / "lungs.png")
    assert by_predict.shape == picture.shape and set(np.unique(by_predict)) == {0, 1, 2}
    np.testing.assert_array_equal(labels_of(tmp_path / "monai" / "P1_lungs.png"), by_predict)
    transform = PictureLungSegment(DarkLungsNetwork())(picture[None].astype(np.float32))
    np.testing.assert_array_equal(transform[0], by_predict)
    with (tmp_path / "monai" / "predictions.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["right_percent"]) == pytest.approx(100 * (by_predict == 1).mean(), abs=1e-3)
    assert row["dice"] == ""


def test_the_transform_takes_the_bundles_weights_as_they_are() -> None:
    """As a bundle does whose preprocessing holds a copy of them as ``models/lungs.pt``."""
    bundle = find_bundle(LUNGS)
    network = inference_config(bundle.root).get_parsed_content("network_def").eval()
    segment = PictureLungSegment(inference_config(bundle.root).get_parsed_content("network_def"), bundle.weights)
    load_weights(network, bundle.weights)
    picture = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(segment.network(picture), network(picture))
    assert bundle.weights.stat().st_size <= 1_000_000


def test_evaluation_scores_on_the_pictures_grid(marking_model: Model, xrays: Path, tmp_path: Path) -> None:
    run_config(marking_model.bundle.root, "evaluate", data=xrays, output_dir=tmp_path / "scores")
    with (tmp_path / "scores" / "predictions.csv").open(newline="") as file:
        rows = {Path(row["image"]).stem: row for row in csv.DictReader(file)}
    for name, row in rows.items():
        predict_study(xrays / f"{name}.png", model=marking_model, output=tmp_path / "out")
        found, true = labels_of(tmp_path / "out" / name / "lungs.png"), labels_of(xrays / f"{name}_lungs.png")
        assert float(row["dice"]) == pytest.approx(dice(found > 0, true > 0))
        assert float(row["dice_left"]) == pytest.approx(dice(found == 2, true == 2))
    assert len(rows) == 3


def test_another_bundle_is_given_the_lungs(small_copy: Any, xrays: Path, tmp_path: Path) -> None:
    """An X-ray bundle without a lung network of its own."""
    root = small_copy(
        "fusa_resnet_ct_classification",
        network_def={"_target_": "threshold_network.ThresholdNetwork", "threshold": 0.55, "pooled": True},
        preprocessing={
            "_target_": "Compose",
            "transforms": inference_config(find_bundle(LUNGS).root).get("preprocessing")["transforms"][:2],
        },
        inferer={"_target_": "SimpleInferer"},
        explainer=None,
        comparison_explainers={},
        postprocessing={
            "_target_": "Compose",
            "transforms": inference_config(find_bundle("fusa_resnet_ct_classification").root).get("postprocessing")[
                "transforms"
            ][:2],
        },
    )
    path = root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["pneumonai"] |= {"modality": "CXR", "input_kind": "picture"}
    path.write_text(json.dumps(metadata))
    options = Options(lungs=LUNGS)
    result = predict_study(xrays / "P0.png", bundle=root, options=options, output=tmp_path / "given")
    predict_study(xrays / "P0.png", bundle=LUNGS, output=tmp_path / "own", precision="fp32")
    given = labels_of(tmp_path / "given" / "P0" / "lungs.png")
    np.testing.assert_array_equal(given, labels_of(tmp_path / "own" / "P0" / "lungs.png"))
    assert result.classes is not None and result.lungs is not None
    assert result.lungs["right_pixels"] == (given == 1).sum()
