"""Trainings of a bundle, each a ``monai.bundle run`` in a process of its own that goes on where it stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pneumonai.pipeline.bundle import find_bundle


class BundleRuns:
    """The configs of a bundle, run.

    Args:
        bundle: its name.
    """

    def __init__(self, bundle: str) -> None:
        self.root = find_bundle(bundle).root
        self.configs = self.root / "configs"

    def run(self, log: Path, configs: list[str], **settings: Any) -> None:
        """One run; its output goes to the log.

        Args:
            log: file.
            configs: names of configs of the bundle, without their ending, each laid over those before.
            settings: ids of the configs.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        names = json.dumps([str(self.configs / f"{name}.json") for name in configs])
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", names, "--bundle_root", str(self.root)]
        for name, value in ({"meta_file": self.configs / "metadata.json"} | settings).items():
            command += [f"--{name}", str(value)]
        environment = os.environ | {"PNEUMONAI_PROGRESS": "0"}
        with log.open("w") as file:
            done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
        if done.returncode:
            sys.exit(f"error: {log.parent}: monai.bundle failed; read {log}")

    def train(self, folder: Path, epochs: int, overlays: tuple[str, ...] = (), **settings: Any) -> Path:
        """The weights of a training; a finished one is not done again, an unfinished one goes on."""
        history = folder / "history.csv"
        if not history.exists() or len(history.read_text().splitlines()) <= epochs:
            common = {"output_dir": folder, "max_epochs": epochs, "resume": True}
            self.run(folder / "log.txt", ["train", *overlays], **(common | settings))
        return folder / "model.pt"


def pneumonai(*arguments: object) -> None:
    """One command of the package; ends this process where it fails."""
    done = subprocess.run([Path(sys.executable).with_name("pneumonai"), *map(str, arguments)], check=False)
    if done.returncode:
        sys.exit(done.returncode)
