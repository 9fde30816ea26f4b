"""Run the commands of the bundles' cards as they stand, on phantoms, trainings for one epoch.

    python .ci/cards.py [BUNDLE...]

Each bundle is copied to an empty folder, in which the names that its card uses for a user's data (``STUDY``,
``STUDIES``, ``DATA``, ``MASKS``, ``boxes.csv``, ``slice.png``, ``xray.png``) are phantoms. The ``sh`` blocks of its
card then run, line by line; the first that fails ends this with its output.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pneumonai.pipeline.bundle import Bundle, find_bundle, shipped_bundles
from pneumonai.pipeline.bundle_files import bundle_files
from pneumonai.pipeline.study import InputKind

FORMATS = {InputKind.VOLUME: "nifti", InputKind.SLICE: "slices", InputKind.PICTURE: "xray"}
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHORTER = " --max_epochs 1 --batch_size 2"
SLOWEST_SECONDS = 600


def make_data(bundle: Bundle, folder: Path) -> None:
    """Phantoms in the form that the bundle reads, under the names that cards use."""
    data = folder / "DATA"
    amounts = ["--count", "2", "--validation", "1", "--test", "1", "--shape", "128", "128", "48"]
    command = ["pneumonai", "phantom", "--kind", "all", "--format", FORMATS[bundle.input_kind], *amounts]
    subprocess.run([*command, "--output", str(data)], check=True, capture_output=True)
    datalist = json.loads((data / "datalist.json").read_text(encoding="utf-8"))
    for part, most in (("training", 4), ("validation", 2), ("test", 2)):
        datalist[part] = datalist[part][:: len(datalist[part]) // most][:most]
        for item in datalist[part]:
            item["label"] = min(item["label"], max(len(bundle.class_names) - 1, 0))
            if bundle.marks_lungs:
                item["mask"] = item["lungs"]
    (data / "datalist.json").write_text(json.dumps(datalist), encoding="utf-8")
    images = [data / item["image"] for item in datalist["test"]]
    for name in ("STUDY", "STUDIES", "MASKS"):
        (folder / name).mkdir()
    for image, item in zip(images, datalist["test"], strict=True):
        shutil.copy(image, folder / "STUDIES" / image.name)
        shutil.copy(data / item.get("mask", item["image"]), folder / "MASKS" / image.name)
    shutil.copy(images[0], folder / "STUDY" / images[0].name)
    for name in ("slice.png", "xray.png"):
        shutil.copy(images[0], folder / name)
    if (data / "boxes.csv").exists():
        shutil.copy(data / "boxes.csv", folder / "boxes.csv")


def run_card(bundle: Bundle, folder: Path) -> None:
    """Run the card's commands in the folder, which becomes a copy of the bundle with phantoms in it."""
    for path in bundle_files(bundle.root):
        target = folder / path.relative_to(bundle.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    make_data(bundle, folder)
    card = (folder / "docs" / "README.md").read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(card) for line in block.replace("\\\n", " ").splitlines()]
    for line in filter(None, (line.split(" #")[0].strip() for line in lines)):
        command = line + (SHORTER if "/train.json" in line else "")
        start = time.perf_counter()
        environment = os.environ | {"PNEUMONAI_PROGRESS": "0"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SLOWEST_SECONDS,
        )
        print(f"{time.perf_counter() - start:5.1f} s  {bundle.name}: {' '.join(command.split())}", flush=True)
        if done.returncode:
            sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}\nerror: it ended with {done.returncode}")


def main() -> None:
    """Run the cards of the bundles named, or of all."""
    bundles = [find_bundle(name) for name in sys.argv[1:]] or shipped_bundles()
    for bundle in bundles:
        with tempfile.TemporaryDirectory(prefix="pneumonai-card-") as name:
            run_card(bundle, Path(name))


if __name__ == "__main__":
    main()
