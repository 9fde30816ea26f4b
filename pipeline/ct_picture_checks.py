"""Is a picture a CT slice at all? Told from coarse greys, for warnings; needs numpy, scipy, Pillow and scikit-image.

A CT slice has two greys with sharp borders between them, lung and body, and lung enclosed by body. An X-ray has middle
greys and soft borders; in a photograph or a page little that is dark is enclosed. Two weighted sums of such
measures tell. Of 2,576 public slices in all windows 13 raise a warning; of 191 chest X-rays all do; of 155 photographs
and drawings in grey, whole and in crops, 106 (``benchmarks/ct_pictures.py``, on the pictures that it fitted them to).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from pneumonai.pipeline.xray_checks import PICTURE_LOOKS

SIDE = 128
"""Pixels of the longer side on which a picture is measured."""
PERCENTILES = (2.0, 98.0)
LEAST_RANGE = 24.0
"""Grey levels of 255 between the percentiles; a page with little on it has fewer."""
MEDIASTINAL = 0.2
"""Of the picture's middle, black: lungs in a window for soft tissue, which shows more than two greys."""
LEAST_ENCLOSED = 0.004
"""Of the picture, dark inside what is bright; nearly all slices have more."""
MOST_BORDER = 0.16
"""Of the picture, on borders between dark and bright; print has more, nearly all slices less."""
BLACK = 0.15
"""Darker are lungs in a window for soft tissue, where Otsu's threshold parts bone from the rest."""
LEAST_SCORE = -1.0
XRAY_WEIGHTS = {
    "separability": 5.4, "between": -52.8, "bright_spread": -33.0, "border_sharpness": 62.9, "border": 156.1,
    "black_middle": 9.6, "offset": -11.04,
}  # fmt: skip
PHOTOGRAPH_WEIGHTS = {
    "separability": 39.3, "bright_spread": 0.2, "dark_spread": 25.8, "enclosed": 3.7, "offset": -38.8,
}  # fmt: skip


def look_at_slice(picture: np.ndarray) -> list[str]:
    """Warnings, in words, where a picture does not look like a CT slice.

    Args:
        picture: grey values 0..255 ``[row, column]``, not of one value throughout.
    """
    low, high = np.percentile(picture, PERCENTILES)
    if high - low < LEAST_RANGE:
        return [_warning("it is nearly blank")]
    found = measure(picture)
    if score(found, XRAY_WEIGHTS) < LEAST_SCORE:
        return [_warning("its borders are soft and its greys in between, as in an X-ray or a photograph")]
    if found["black_middle"] < MEDIASTINAL and score(found, PHOTOGRAPH_WEIGHTS) < LEAST_SCORE:
        return [_warning("it lacks the two greys of lung and body, as a photograph or a page does")]
    if found["border"] > MOST_BORDER:
        return [_warning("it is all borders, as a printed page is")]
    if found["enclosed"] < LEAST_ENCLOSED:
        return [_warning("nothing dark in it is enclosed, as lungs are")]
    return []


def score(measures: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """The weighted sum of some measures; above 0 for what is more likely a CT slice."""
    return weights["offset"] + sum(weight * measures[name] for name, weight in weights.items() if name != "offset")


def measure(picture: np.ndarray) -> dict[str, float]:
    """What the two sums are made of, on a coarse copy scaled from the percentiles to 0..1.

    Args:
        picture: any greys ``[row, column]``, not of one value throughout.

    Returns:
        ``separability``: share of the variance that Otsu's threshold explains. ``between``: share of pixels about half
        way between the means of dark and bright. ``bright_spread``, ``dark_spread``: deviation of either, in units of
        the distance of their means. ``border``: share of pixels on the border between them; ``border_sharpness``:
        mean gradient there. ``black_middle``: share of black in the middle. ``enclosed``: share of the two largest
        dark regions inside the largest bright one, by Otsu's threshold or by one for black, whichever gives more.
    """
    grey = _coarse(picture)
    bright = grey > threshold_otsu(grey)
    share, above, below = float(bright.mean()), grey[bright], grey[~bright]
    distance = max(float(above.mean() - below.mean()), 1e-3)
    middle = (float(above.mean()) + float(below.mean())) / 2
    border = bright ^ ndimage.binary_erosion(bright)
    gradient = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)) / 8
    rows, columns = (side // 5 for side in grey.shape)
    return {
        "separability": share * (1 - share) * distance**2 / max(float(grey.var()), 1e-6),
        "between": float(np.mean(np.abs(grey - middle) < 0.2 * distance)),
        "bright_spread": float(above.std()) / distance,
        "dark_spread": float(below.std()) / distance,
        "border": float(border.mean()),
        "border_sharpness": float(gradient[border].mean()) if border.any() else 0.0,
        "black_middle": float(np.mean(grey[rows:-rows, columns:-columns] < 0.04)),
        "enclosed": max(_enclosed(grey, threshold) for threshold in (None, BLACK)),
    }


def _coarse(picture: np.ndarray) -> np.ndarray:
    values = Image.fromarray(np.ascontiguousarray(picture, dtype=np.float32))
    factor = SIDE / max(values.size)
    columns, rows = (max(8, round(side * factor)) for side in values.size)
    coarse = np.asarray(values.resize((columns, rows), Image.Resampling.BOX))
    low, high = np.percentile(coarse, PERCENTILES)
    return np.clip((coarse - low) / max(float(high - low), 1e-3), 0.0, 1.0)


def _enclosed(grey: np.ndarray, threshold: float | None) -> float:
    """Share of the two largest dark regions inside the largest bright one; dark by Otsu where no threshold is given."""
    smooth = ndimage.uniform_filter(grey, 3)
    bright = smooth > (threshold_otsu(smooth) if threshold is None else threshold)
    # Where most of the edge is bright the picture ends inside the body, and its edge closes lungs that it cuts.
    around = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    regions, _ = ndimage.label(np.pad(bright, 1, constant_values=bool(around.mean() > 0.5)))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    body = ndimage.binary_fill_holes(regions == int(sizes.argmax()))[1:-1, 1:-1]
    parts, _ = ndimage.label(body & ~bright)
    return float(np.sort(np.bincount(parts.ravel())[1:])[-2:].sum() / grey.size)


def _warning(why: str) -> str:
    return f"{PICTURE_LOOKS} like no CT slice: {why}; send a CT slice with lungs, in the lung window"
