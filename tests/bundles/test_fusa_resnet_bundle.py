"""The FUSA-ResNet bundle: a class of slices and of volumes slice by slice, through MONAI's commands and predict."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom.write import write_nifti, write_slices
from pneumonai.pipeline.predict import Options, open_for, predict_study, prepare, slice_places

CLASSIFICATION = "fusa_resnet_ct_classification"


@pytest.fixture(scope="module")
def naming(small_copy: Any) -> Path:
    """The classification bundle with a network that calls dense slices covid; it has no layers to explain."""
    shipped = json.loads((find_bundle(CLASSIFICATION).root / "configs" / "inference.json").read_text())
    unexplained = shipped["postprocessing"] | {"transforms": shipped["postprocessing"]["transforms"][:2]}
    network = {"_target_": "threshold_network.ThresholdNetwork", "threshold": 0.55, "pooled": True}
    return small_copy(
        CLASSIFICATION, network_def=network, explainer=None, comparison_explainers={}, postprocessing=unexplained
    )


def test_verify_passes_a_small_copy(small_copy: Any) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    root = small_copy(CLASSIFICATION, base_channels=4, slice_size=[64, 64])
    checks = bundle_checks.verify(find_bundle(root), inference=False)
    assert [check for check in checks if check.problem] == []


def test_a_volume_is_named_by_its_most_suspicious_slices(naming: Path, small_phantom: Any, tmp_path: Path) -> None:
    model = Model(find_bundle(naming), device="cpu", precision="fp32")
    image = write_nifti(small_phantom, tmp_path, masks=False)[0]
    result = predict_study(image, model=model, output=tmp_path / "out")
    assert result.slices is not None and result.classes is not None and result.explanation is None
    covid = sorted(one["classes"][1]["probability"] for one in result.slices)
    assert result.classes[1]["probability"] == pytest.approx(np.mean(covid[-5:]), abs=1e-5)
    lungs = np.asarray(nib.load(tmp_path / "out" / image.name.removesuffix(".nii.gz") / "lungs.nii.gz").dataobj)
    with_lung = np.flatnonzero((lungs > 0).any(axis=(0, 1)))
    assert [one["index"] for one in result.slices] == list(range(with_lung[0], with_lung[-1] + 1))
    heights = [one["position_mm"] for one in result.slices]
    np.testing.assert_allclose(np.diff(heights), small_phantom.spacing[2], atol=1e-3)
    assert heights[0] == pytest.approx(small_phantom.affine[2, 3] + with_lung[0] * small_phantom.spacing[2], abs=1e-3)
    with (tmp_path / "out" / image.name.removesuffix(".nii.gz") / "slices.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(with_lung)


def test_slice_places_follow_a_flipped_volume(naming: Path, small_phantom: Any, tmp_path: Path) -> None:
    model = Model(find_bundle(naming), device="cpu", precision="fp32")
    source = nib.load(write_nifti(small_phantom, tmp_path, masks=False)[0])
    nib.save(source.as_reoriented(np.array([[0, 1], [1, 1], [2, -1]])), tmp_path / "flipped.nii.gz")
    places = []
    for path in (tmp_path / f"{small_phantom.name}.nii.gz", tmp_path / "flipped.nii.gz"):
        prepared = prepare(open_for(model.bundle, path, Options()), model)
        places.append(slice_places(prepared.study, prepared.item["image"]))
    assert places[0] == places[1]


def test_a_picture_is_answered_and_explained(small_copy: Any, small_phantom: Any, tmp_path: Path) -> None:
    bundle = small_copy(CLASSIFICATION, base_channels=4)
    picture = write_slices(small_phantom, tmp_path, count=1)[0]
    result = predict_study(picture, bundle=bundle, options=Options(explain=("all",)), output=tmp_path / "out")
    assert result.classes is not None and result.slices is None
    assert sum(one["probability"] for one in result.classes) == pytest.approx(1, abs=1e-4)
    for name in ("heat_map.png", "heat_map_gradcam.png", "heat_map_gradcam++.png"):
        map_ = np.asarray(Image.open(tmp_path / "out" / picture.stem / name))
        assert map_.shape == np.asarray(Image.open(picture)).shape


def test_pictures_and_volumes_train_and_evaluate_together(dataset: Path, train_and_use: Any) -> None:
    train_and_use(CLASSIFICATION, dataset, {"base_channels": 4, "slice_size": [32, 32]}, average_decay=0.9)


def test_the_papers_width_and_the_tables_networks_build() -> None:
    # Millions of parameters with one input channel and two classes.
    sizes = {"vgg16": 134.3, "densenet121": 7.0, "mobilenet_v2": 2.2, "resnet18": 11.2, "resnet50": 23.5, "paper": 14.0}
    for name, millions in (sizes | {"fusa_resnet50": 104.0}).items():
        changes = json.loads((find_bundle(CLASSIFICATION).root / "configs" / f"{name}.json").read_text())
        changes = {key: value for key, value in changes.items() if "::" not in key}
        with torch.device("meta"):
            network = inference_config(find_bundle(CLASSIFICATION).root, **changes).get_parsed_content("network_def")
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03), name
