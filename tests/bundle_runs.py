"""A bundle's configs as ``python -m monai.bundle run`` runs them, but on the CPU and in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def run_config(root: Path, *configs: str, data: Path, **settings: Any) -> None:
    """Run a config of a bundle, with overlays after it.

    Importing PyTorch and MONAI in a process of its own takes longer than what the tests have it do.

    Args:
        root: folder of the bundle.
        configs: as ``train``.
        data: ``dataset_dir``; its ``datalist.json``, where there is one, is the datalist.
        settings: of the config.
    """
    from monai.bundle import run

    given: dict[str, Any] = {"bundle_root": root, "dataset_dir": data, "device": "$torch.device('cpu')"}
    if (data / "datalist.json").exists():
        given["datalist"] = data / "datalist.json"
    given |= settings
    run(
        config_file=[str(root / "configs" / f"{name}.json") for name in configs],
        meta_file=str(root / "configs" / "metadata.json"),
        # The bundle's would take the test runner's handlers from all tests after it.
        logging_file=False,
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
    )
