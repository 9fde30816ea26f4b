"""``manifest check`` on many made slices: JPEG textures of 512 x 512, two sides, planted copies, no patient ids.

    python benchmarks/manifest_check.py [--pictures 10000] [--workers 2]

The files lie warm in the file cache when the clock starts. Prints seconds in all, a picture, and what was found of
what was planted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe_machine, refuse_when_busy
from PIL import Image

from pneumonai.data_manifests.check import check_datalist

SIDE = 512
PLANTED_EVERY = 500


def smooth_textures(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Smooth coarse structure with finer one and noise, as many octaves as a slice has; about 60 kB as JPEG."""
    layers = []
    for side, weight in ((6, 60), (24, 35), (96, 25), (256, 12)):
        noise = rng.normal(0, weight, (side, side)).astype(np.float32)
        layers.append(Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    ground = sum(np.asarray(layer) for layer in layers)
    finest = rng.normal(0, 5, (SIDE, SIDE)).astype(np.float32)
    pictures = []
    for _ in range(count):
        shift = rng.integers(0, SIDE, 2)
        other = np.roll(np.asarray(layers[rng.integers(len(layers) - 1)]), tuple(shift), (0, 1))
        pictures.append(np.clip(128 + 0.5 * ground + other + finest, 0, 255).astype(np.uint8))
    return pictures


def write_pictures(folder: Path, count: int) -> tuple[dict[str, list[dict[str, str]]], int]:
    """Half training, half test; every 500th test picture is a changed copy of a training picture."""
    rng = np.random.default_rng(0)
    parts: dict[str, list[dict[str, str]]] = {"training": [], "test": []}
    planted = 0
    for number in range(0, count, 2):
        left = smooth_textures(rng, 1)[0]
        right = smooth_textures(rng, 1)[0]
        if number % PLANTED_EVERY == 0:
            planted += 1
            darker = Image.fromarray(np.clip(left * 0.9 - 5, 0, 255).astype(np.uint8))
            right = np.asarray(darker.resize((400, 400), Image.Resampling.BICUBIC))
        for part, picture, quality in (("training", left, 90), ("test", right, 85)):
            name = f"{part}_{number:05d}.jpg"
            Image.fromarray(picture).save(folder / name, quality=quality)
            parts[part].append({"image": name, "label": ("covid", "noncovid")[number // 2 % 2]})
    return parts, planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--force", action="store_true", help="run on a busy machine")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts, planted = write_pictures(folder, arguments.pictures)
        (folder / "datalist.json").write_text(json.dumps(parts))
        sizes = [file.stat().st_size for file in folder.glob("*.jpg")]
        print(f"{len(sizes)} JPEG pictures of {SIDE} x {SIDE}, {np.median(sizes) / 1e3:.0f} kB (median)")
        refuse_when_busy(force=arguments.force)
        begin, cpu = time.perf_counter(), sum(os.times()[:4])
        reached = [0.0]

        def note(done: int, total: int) -> None:
            if done == total:
                reached[0] = time.perf_counter() - begin

        report = check_datalist(folder / "datalist.json", workers=arguments.workers, progress=note)
        seconds = time.perf_counter() - begin
        spent = sum(os.times()[:4]) - cpu
    near = len(report.row("near_identical").findings)
    print(f"{seconds:.1f} s with {arguments.workers} workers ({reached[0]:.1f} s reading), {spent:.1f} s of CPU time")
    print(f"{1e3 * seconds / arguments.pictures:.1f} ms a picture")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    workers_peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"peak memory {peak:.2f} GB here, {workers_peak:.2f} GB in a worker")
    others = sum(len(report.row(row).findings) for row in ("identical", "similar"))
    print(f"{planted} copies planted, {near} near-identical pairs found, {others} other pairs")


if __name__ == "__main__":
    main()
