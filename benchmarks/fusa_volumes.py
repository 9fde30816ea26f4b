"""FUSA-ResUNet on whole volumes: one large study end to end, and memory while many volumes train.

    python benchmarks/fusa_volumes.py predict --slices 300 --repeats 3
    python benchmarks/fusa_volumes.py train --volumes 199 --slices 70 --distinct 8

``predict`` answers a phantom of 512 x 512 x SLICES as a process, as a user does, and prints wall time, steps and peak
memory. ``train`` makes DISTINCT phantoms with masks, lists them VOLUMES times under different names (hard links, so
that the disk holds few and the cache takes each for another), and trains two epochs by the bundle's own config: the
first fills the cache on disk, the second reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from machine import describe_machine, refuse_when_busy
from study import run

from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.phantom.dataset import write_dataset
from pneumonai.pipeline.phantom.write import write_nifti

BUNDLE = "fusa_resunet_ct_segmentation"
SIDE = 512


def predict(arguments: argparse.Namespace, folder: Path) -> None:
    """One large study, as whole processes."""
    phantom = make_phantom("ncp", 1, shape=(SIDE, SIDE, arguments.slices))
    image, _, mask = write_nifti(phantom, folder / "study")
    pneumonai = str(Path(sys.executable).with_name("pneumonai"))
    command = [pneumonai, "predict", str(image), "--bundle", BUNDLE, "--truth", str(mask), "--quiet"]
    runs = []
    for repeat in range(arguments.repeats + 1):
        done = run([*command, "--output", str(folder / "answers")])
        if repeat:  # the first warms the file cache and the precision check's
            runs.append(done)
    result = json.loads(next((folder / "answers").glob("*/result.json")).read_text())
    walls = [float(one["wall"]) for one in runs]
    print(
        f"\n{SIDE} x {SIDE} x {arguments.slices}: {statistics.median(walls):.1f} s ({min(walls):.1f}..{max(walls):.1f})"
    )
    peak = max(float(one["peak_gb"]) for one in runs)
    print(f"  peak memory {peak:.2f} GB, of which the scan is {phantom.image.nbytes / 1e9:.2f}")
    print("  steps (s; the first study is read while torch loads):", json.dumps(result["timing_s"]))
    print(f"  slices with lung: {len(result['slices'])}; precision {result['software']['precision']}")
    print(f"  against the phantom's truth: {json.dumps(result['truth'])}")


def train(arguments: argparse.Namespace, folder: Path) -> None:
    """Two epochs of training, each its own process, with the peak memory of each."""
    made = write_dataset(
        folder / "data",
        counts={"training": arguments.distinct},
        kinds=["ncp"],
        shape=(SIDE, SIDE, arguments.slices),
    )
    phantoms = json.loads(made.read_text())["training"]
    items = []
    for number in range(arguments.volumes):
        source = phantoms[number % len(phantoms)]
        item = {"patient_id": f"P{number}"}
        for key in ("image", "mask"):
            item[key] = f"{number:03d}_{key}.nii.gz"
            os.link(made.parent / source[key], made.parent / item[key])
        items.append(item)
    datalist = {"training": items, "validation": items[: max(1, arguments.volumes // 20)]}
    (made.parent / "all.json").write_text(json.dumps(datalist))
    root = find_bundle(BUNDLE).root
    command = [
        *(sys.executable, "-m", "monai.bundle", "run", "--config_file", str(root / "configs" / "train.json")),
        *("--bundle_root", str(root), "--meta_file", str(root / "configs" / "metadata.json")),
        *("--dataset_dir", str(made.parent), "--datalist", str(made.parent / "all.json")),
        *("--output_dir", str(folder / "run"), "--slices_per_study", "4", "--batch_size", "4", "--resume", "True"),
    ]
    for epochs, words in ((1, "filling the cache"), (2, "from the cache")):
        done = run([*command, "--max_epochs", str(epochs)])
        cache = sum(path.stat().st_size for path in (folder / "run" / "cache").rglob("*.pt")) / 1e9
        volumes = f"{arguments.volumes} volumes {SIDE} x {SIDE} x {arguments.slices}"
        used = f"{done['wall']:.0f} s, peak memory {done['peak_gb']:.2f} GB, cache on disk {cache:.1f} GB"
        print(f"epoch of {volumes}, {words}: {used}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("predict", "train"))
    parser.add_argument("--slices", type=int, default=0, help="default: 300 to predict, 70 to train")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--volumes", type=int, default=199)
    parser.add_argument("--distinct", type=int, default=8)
    parser.add_argument("--force", action="store_true", help="run on a busy machine")
    arguments = parser.parse_args()
    arguments.slices = arguments.slices or {"predict": 300, "train": 70}[arguments.job]
    print(describe_machine())
    refuse_when_busy(force=arguments.force)
    with tempfile.TemporaryDirectory() as name:
        {"predict": predict, "train": train}[arguments.job](arguments, Path(name))


if __name__ == "__main__":
    main()
