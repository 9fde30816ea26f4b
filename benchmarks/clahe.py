"""CLAHE on 64 slices of 160 x 160: this project's against scikit-image's and Kornia's, as ratios in one run.

Run: ``python benchmarks/clahe.py`` (needs the extra ``benchmark``). Below the times stands how far each lies from
OpenCV, on slices that the tile grid divides and on slices that it does not.
"""

from __future__ import annotations

import argparse
import time
import warnings

import cv2
import numpy as np
import torch
from kornia.enhance import equalize_clahe
from machine import describe_machine, refuse_when_busy
from scipy.ndimage import gaussian_filter
from skimage.exposure import equalize_adapthist

from pneumonai.transforms import CLAHE

CLIP_LIMIT, TILE_GRID = 2.0, (8, 8)


def slices_like_lungs(number: int, height: int, width: int) -> torch.Tensor:
    """Smooth structures with noise, grey values 0..1, float32 ``[number, height, width]``."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(number, height, width)), (0, 6, 6))
    grey = 0.4 + smooth / smooth.std() * 0.2 + rng.normal(scale=0.03, size=smooth.shape)
    return torch.from_numpy((grey.clip(0, 1) * 255).round() / 255).float()


def farthest_from_opencv(height: int, width: int) -> dict[str, float]:
    """The largest difference from OpenCV in grey levels of 255."""
    slices = slices_like_lungs(4, height, width)
    opencv = cv2.createCLAHE(CLIP_LIMIT, TILE_GRID)
    expected = np.stack([opencv.apply((one * 255).round().byte().numpy()) for one in slices]) / 255
    kornia = equalize_clahe(slices[:, None], CLIP_LIMIT, TILE_GRID)[:, 0].numpy()
    return {
        "pneumonai": float(np.abs(CLAHE(CLIP_LIMIT, TILE_GRID)(slices).numpy() - expected).max() * 255),
        "Kornia": float(np.abs(kornia - expected).max() * 255),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="measure on a busy machine")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print(describe_machine())
    print(f"PyTorch threads {torch.get_num_threads()}, OpenCV {cv2.__version__} (for the differences only)")
    refuse_when_busy(force=arguments.force)

    scan = slices_like_lungs(64, 160, 160)
    array, batch = scan.numpy(), scan[:, None]
    equalize = CLAHE(CLIP_LIMIT, TILE_GRID)
    contenders = {
        "pneumonai CLAHE": lambda: equalize(scan[None]),
        "scikit-image equalize_adapthist, looped": lambda: [equalize_adapthist(one) for one in array],
        "Kornia equalize_clahe, batched": lambda: equalize_clahe(batch, CLIP_LIMIT, TILE_GRID),
        "Kornia equalize_clahe, looped": lambda: [equalize_clahe(one, CLIP_LIMIT, TILE_GRID) for one in batch],
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(arguments.repeats + 1):
        for name, function in contenders.items():
            start = time.perf_counter()
            function()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    ours = float(np.median(seconds["pneumonai CLAHE"]))
    print(f"\n64 x 160 x 160, clip limit {CLIP_LIMIT}, tiles {TILE_GRID}, {arguments.repeats} rounds in turn")
    for name, times in seconds.items():
        median = float(np.median(times))
        print(
            f"{name:42s} median {median * 1e3:7.1f} ms  ({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})  "
            f"{median / ours:5.1f} times pneumonai's"
        )
    for height, width in ((160, 160), (150, 170)):
        differences = farthest_from_opencv(height, width)
        text = ", ".join(f"{name} {levels:.2f}" for name, levels in differences.items())
        print(f"farthest from OpenCV at {height} x {width}, grey levels: {text}")


if __name__ == "__main__":
    main()
