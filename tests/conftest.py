"""What tests of several folders share: a small phantom, and a bundle whose small network has random weights."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

# Results must not depend on what an earlier run found out about this machine.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="pneumonai-cache-")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Layers as small as a test's only wait for each other on several threads."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_phantom() -> Any:
    """A phantom with COVID-19 pneumonia, 128 x 128 x 48."""
    from pneumonai.pipeline.phantom import make_phantom

    return make_phantom("ncp", 5, shape=(128, 128, 48))


@pytest.fixture(scope="session")
def small_study(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small phantom as NIfTI."""
    path = tmp_path_factory.mktemp("study") / "chest.nii.gz"
    nib.save(nib.Nifti1Image(small_phantom.image, small_phantom.affine), path)
    return path


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the NL-RAN bundle outside the package, its network at width 4 with random weights."""
    import torch

    from pneumonai.pipeline.bundle import find_bundle, inference_config
    from pneumonai.pipeline.weights import save_compact

    root = tmp_path_factory.mktemp("bundles") / "small_bundle"
    shipped = find_bundle("nl_ran_ct_classification").root
    shutil.copytree(shipped, root, ignore=shutil.ignore_patterns("*.pt", "eval", "runs"))
    path = root / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["base_channels"] = 4
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    network = inference_config(root).get_parsed_content("network_def")
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            torch.nn.init.normal_(tensor, 0.5, 0.3)
    (root / "models").mkdir(exist_ok=True)
    save_compact(network.state_dict(), root / "models" / "model.pt")
    return root
