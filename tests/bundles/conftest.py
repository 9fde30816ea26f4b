"""Copies of the slice bundles outside the package, with random weights or a known answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SmallCopy = Callable[..., Path]


@pytest.fixture(scope="session")
def small_copy(tmp_path_factory: pytest.TempPathFactory) -> SmallCopy:
    """Copies a bundle, changes entries of its inference.json, and draws all weights at random."""

    def copy(name: str, **changes: Any) -> Path:
        import torch
        from random_networks import randomise

        from pneumonai.pipeline.bundle import find_bundle, inference_config
        from pneumonai.pipeline.weights import save_compact

        root = tmp_path_factory.mktemp("bundles") / name
        shutil.copytree(find_bundle(name).root, root, ignore=shutil.ignore_patterns("*.pt", "eval", "runs"))
        path = root / "configs" / "inference.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        network = inference_config(root).get_parsed_content("network_def")
        if not any(name == "threshold" for name, _ in network.named_parameters()):
            randomise(network)
        (root / "models").mkdir(exist_ok=True)
        with torch.no_grad():
            save_compact(network.state_dict(), root / "models" / "model.pt")
        return root

    return copy
