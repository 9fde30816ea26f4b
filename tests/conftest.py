"""What tests of several folders share: a small phantom, and bundles whose small networks have random weights."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

SmallCopy = Callable[..., Path]

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
def small_copy(tmp_path_factory: pytest.TempPathFactory) -> SmallCopy:
    """Copies a bundle out of the package, changes entries of its inference.json, and draws all weights at random."""

    def copy(name: str, *, folder: str | None = None, **changes: Any) -> Path:
        import torch
        from random_networks import randomise

        from pneumonai.pipeline.bundle import find_bundle, inference_config
        from pneumonai.pipeline.weights import save_compact

        root = tmp_path_factory.mktemp("bundles") / (folder or name)
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


@pytest.fixture(scope="session")
def small_bundle(small_copy: SmallCopy) -> Path:
    """The NL-RAN bundle under another name, its network at width 4."""
    return small_copy("nl_ran_ct_classification", folder="small_bundle", base_channels=4)
