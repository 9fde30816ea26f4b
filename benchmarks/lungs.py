"""Lung segmentation: Dice and disease kept on phantoms and on real volumes; time and memory against scikit-image.

Run: ``python benchmarks/lungs.py [--ct3d FOLDER] [--force]`` (needs the extra ``benchmark``). FOLDER holds pairs
``NAME_ct.nii.gz`` and ``NAME_lung.nii.gz``. The other side is the usual recipe at full resolution: threshold, clear
the border, label, close with a ball, fill holes slice by slice; it parts no sides and knows no trachea.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from machine import describe_machine, peak_memory_of, refuse_when_busy
from monai.data import MetaTensor
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import ball
from skimage.segmentation import clear_border

from pneumonai.pipeline.phantom import make_phantom
from pneumonai.transforms import LungSegment

SHAPE, SPACING = (512, 512, 300), (0.7, 0.7, 1.0)
FIRST_SEED = 300


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def usual_recipe(volume: np.ndarray, closing_mm: float = 6.0, spacing: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    """Lungs of a volume ``[i, j, k]`` with slices along ``k``, by scikit-image at full resolution."""
    air = volume < -400
    for k in range(volume.shape[2]):
        air[:, :, k] = clear_border(air[:, :, k])
    labels = label(air)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest = np.argsort(sizes)[::-1][:2]
    lungs = np.isin(labels, [i for i in largest if sizes[i] > 0.1 * sizes.max()])
    lungs = ndimage.binary_closing(lungs, ball(max(1, round(closing_mm / spacing[0] / 3))))
    for k in range(volume.shape[2]):
        lungs[:, :, k] = ndimage.binary_fill_holes(lungs[:, :, k])
    return lungs


def segment(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return np.asarray(LungSegment()(MetaTensor(torch.from_numpy(volume)[None], affine=torch.from_numpy(affine))))[0]


def score_phantoms(count: int) -> None:
    inside, infected = 0, 0
    for kind in ("normal", "ncp", "cp"):
        scores, kept = [], []
        for seed in range(FIRST_SEED, FIRST_SEED + count):
            made = make_phantom(kind, seed)
            labels = segment(made.image, made.affine)
            sides = [dice(labels == side, made.lungs == side) for side in (1, 2)]
            scores.append([dice(labels > 0, made.lungs > 0), *sides])
            if made.infection.any():
                hit = np.count_nonzero((labels > 0) & (made.infection > 0))
                kept.append(hit / np.count_nonzero(made.infection))
                inside, infected = inside + hit, infected + np.count_nonzero(made.infection)
        mean, least = np.mean(scores, axis=0), np.min(scores, axis=0)
        names = zip(("both", "right", "left"), mean, least, strict=True)
        print(f"{kind:7s} Dice " + ", ".join(f"{name} {m:.4f} (least {w:.4f})" for name, m, w in names))
        if kept:
            print(f"{'':7s} disease inside the mask {np.mean(kept):.4f} (least {min(kept):.4f})")
    print(f"disease inside the mask over all phantoms: {inside / infected:.4f}")


def score_real(folder: Path) -> None:
    for path in sorted(folder.glob("*_ct.nii.gz")):
        scan = nib.load(path)
        truth = np.asarray(nib.load(str(path).replace("_ct.", "_lung.")).dataobj) > 0
        volume = np.ascontiguousarray(scan.dataobj)
        spacing = scan.header.get_zooms()[:3]
        ours, usual = dice(segment(volume, scan.affine) > 0, truth), dice(usual_recipe(volume, spacing=spacing), truth)
        print(f"{path.name}: Dice {ours:.4f}; usual recipe {usual:.4f}")


def large_volume() -> np.ndarray:
    """A phantom brought to 512 x 512 x 300 voxels by repetition, int16, in the memory order of a DICOM series."""
    small = make_phantom("ncp", FIRST_SEED).image
    index = [np.arange(n) * m // n for n, m in zip(SHAPE, small.shape, strict=True)]
    return np.ascontiguousarray(small[np.ix_(*index)].transpose(2, 1, 0))


def load_and_run(path: str, what: str) -> None:
    """A process of its own, for its peak memory: load the volume, and segment it where asked to."""
    volume = np.load(path).transpose(2, 1, 0)
    if what == "segment":
        segment(volume, np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))


def compare_cost(repeats: int) -> None:
    stored = large_volume()
    volume, affine = stored.transpose(2, 1, 0), np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    segment(volume, affine)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        segment(volume, affine)
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    usual_recipe(volume, spacing=SPACING)
    usual = time.perf_counter() - start
    print(
        f"{' x '.join(map(str, SHAPE))}: {np.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}); "
        f"usual recipe {usual:.1f} s, {usual / np.median(seconds):.1f}x"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "volume.npy")
        np.save(path, stored)
        bare, full = (peak_memory_of([sys.executable, __file__, "--child", path, w]) for w in ("load", "segment"))
    print(f"peak memory over the loaded input: {full - bare:.2f} GB ({full:.2f} GB in all)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct3d", type=Path, help="folder with real volumes and lung masks")
    parser.add_argument("--phantoms", type=int, default=10, help="phantoms a kind")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        load_and_run(*options.child)
        return
    refuse_when_busy(force=options.force)
    print(describe_machine())
    compare_cost(options.repeats)
    if options.ct3d:
        score_real(options.ct3d)
    score_phantoms(options.phantoms)


if __name__ == "__main__":
    main()
