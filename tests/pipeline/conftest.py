"""Training by the NL-RAN bundle's own train config on random volumes, with a small network of MONAI's."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from pneumonai.pipeline.bundle import find_bundle

# No batch statistics, so that a batch in two halves gives the same gradient as the whole.
OVERRIDES: dict[str, Any] = {
    "network_def": {
        "_target_": "monai.networks.nets.Classifier",
        "in_shape": [1, 8, 8, 8],
        "classes": 3,
        "channels": [4, 8],
        "strides": [2, 2],
        "norm": "instance",
    },
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            "@image_and_label",
        ],
    },
    "train_size": [8, 8, 8],
    "max_epochs": 4,
    "batch_size": 4,
    "learning_rate": 0.01,
    "device": "$torch.device('cpu')",
}


class Train(Protocol):
    """Runs a training as ``monai.bundle run`` does; returns its network.

    A stop comes like a kill, right after an epoch's checkpoint.
    """

    def __call__(self, output_dir: Path, *, stop_after: int | None = None, **overrides: Any) -> torch.nn.Module: ...


@pytest.fixture(scope="session")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datalist of random volumes whose brightness tells the class: 12 for training, 6 for validation."""
    folder = tmp_path_factory.mktemp("volumes")
    generator = np.random.default_rng(0)
    parts: dict[str, list[dict[str, Any]]] = {"training": [], "validation": []}
    for part, number in (("training", 12), ("validation", 6)):
        for index in range(number):
            label = index % 3
            image = generator.normal(label, 2.0, (10, 10, 10)).astype(np.float32)
            name = f"{part}_{index}.nii.gz"
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / name)
            parts[part].append({"image": name, "label": label, "patient_id": f"{part}{index}"})
    path = folder / "datalist.json"
    path.write_text(json.dumps(parts))
    return path


@pytest.fixture
def overrides() -> dict[str, Any]:
    """What makes the bundle's train config run in seconds on the volumes."""
    return OVERRIDES


def parse_train(datalist: Path, output_dir: Path, **overrides: Any) -> ConfigParser:
    """The train config, ready to run."""
    root = find_bundle("nl_ran_ct_classification").root
    parser = ConfigParser()
    parser.read_config(root / "configs" / "train.json")
    parser.read_meta(root / "configs" / "metadata.json")
    places = {"bundle_root": str(root), "dataset_dir": str(datalist.parent), "datalist": str(datalist)}
    parser.update(places | {"output_dir": str(output_dir)} | OVERRIDES | overrides)
    parser.parse()
    return parser


@pytest.fixture
def train(volumes: Path) -> Train:
    """See :class:`Train`."""

    def run(output_dir: Path, *, stop_after: int | None = None, **overrides: Any) -> torch.nn.Module:
        parser = parse_train(volumes, output_dir, **overrides)
        parser.get_parsed_content("initialize")
        parser.get_parsed_content("run#0")
        if stop_after is not None:
            trainer = parser.get_parsed_content("train::trainer")
            trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), _kill)
        with suppress(KeyboardInterrupt):
            parser.get_parsed_content("run#1")
        network: torch.nn.Module = parser.get_parsed_content("network")
        return network

    return run


def _kill(engine: Engine) -> None:
    raise KeyboardInterrupt
