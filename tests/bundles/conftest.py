"""What the tests of the slice bundles share: a small data set, a training from end to end."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_runs import run_config


@pytest.fixture(scope="module")
def dataset(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures and a volume with masks and labels, the same in each part."""
    from pneumonai.pipeline.phantom.write import write_nifti, write_slices

    folder = tmp_path_factory.mktemp("dataset")
    items = [
        {
            "image": picture.name,
            "mask": f"{picture.stem}_infection.png",
            "label": number % 2,
            "patient_id": f"P{number}",
        }
        for number, picture in enumerate(write_slices(small_phantom, folder, count=4))
    ]
    volume = write_nifti(small_phantom, folder)[0].name
    mask = volume.replace(".nii.gz", "_infection.nii.gz")
    items.append({"image": volume, "mask": mask, "label": 1, "patient_id": "V"})
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


@pytest.fixture
def train_and_use(tmp_path: Path) -> Callable[..., None]:
    """Trains a bundle small as MONAI's commands do, evaluates, derives a bundle of it, and answers with that."""

    def run_all(name: str, dataset: Path, small: dict[str, Any], **training: Any) -> None:
        from pneumonai.pipeline import bundle_checks
        from pneumonai.pipeline.bundle import find_bundle
        from pneumonai.pipeline.derive import derive_bundle
        from pneumonai.pipeline.predict import predict_study

        root, output = find_bundle(name).root, tmp_path / "out"
        run_config(root, "train", data=dataset, output_dir=output, max_epochs=2, batch_size=3, **small, **training)
        with (output / "history.csv").open(newline="") as file:
            history = list(csv.DictReader(file))
        assert len(history) == 2
        assert all(math.isfinite(float(value)) for row in history for value in row.values())
        scores = {"ckpt_path": output / "model.pt", "output_dir": tmp_path / "scores"}
        # What the training changed stands beside its weights.
        run_config(root, "evaluate", data=dataset, **scores)
        items = json.loads((dataset / "datalist.json").read_text())["test"]
        metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
        assert metrics["n_images"] == len(items) and metrics["n_patients"] == len(items)
        derived = derive_bundle(output, tmp_path / "mine")
        sides = derived.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        assert sides == next(value for key, value in small.items() if key in ("slice_size", "picture_size"))
        bundle_checks.check_network(derived)
        assert predict_study(dataset / items[0]["image"], bundle=derived.root).bundle["name"] == "mine"

    return run_all
