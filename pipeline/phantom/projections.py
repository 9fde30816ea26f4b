"""Pictures of a phantom: chest X-rays by projection, and axial slices through the lung window."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from scipy import ndimage

from pneumonai.pipeline.phantom.phantom import Phantom

#: Attenuation of water at about 60 keV, per mm (NIST XCOM).
WATER_PER_MM = 0.0206
#: Window of the CT slices, HU, as the 2D networks get it.
SLICE_WINDOW = (-1350.0, 150.0)
#: Heart, liver or spine of so much depth along the beam hide the lung before or behind them, mm.
HIDING_MM = 50.0


class View(StrEnum):
    """From where a chest X-ray is taken."""

    PA = "pa"
    LATERAL = "lateral"

    @property
    def beam(self) -> int:
        """The axis of the phantom along which the beam goes."""
        return 1 if self is View.PA else 0


def _as_film(phantom: Phantom, picture: np.ndarray, order: int, view: View = View.PA) -> np.ndarray:
    """``[i or j, k]`` as displayed: rows from head to feet, square pixels as wide as the phantom's voxels.

    The patient's right is at the picture's left; seen from the side, the front is.
    """
    si, sj, sk = phantom.spacing
    zoom = sk / (si if view is View.PA else sj)
    rows = ndimage.zoom(picture.T[::-1], (zoom, 1.0), order=order, mode="nearest", grid_mode=True)
    return np.ascontiguousarray(rows)


def _without_table(phantom: Phantom) -> np.ndarray:
    """HU of the body alone, float32: the table behind it becomes air."""
    dense = phantom.image > -400
    labels, _ = ndimage.label(dense)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(labels == int(np.argmax(sizes)), iterations=1)
    # Whatever lies between the body's front and back along the beam is inside it.
    last = body.shape[1] - 1 - np.argmax(body[:, ::-1], axis=1)
    behind = np.arange(body.shape[1])[None, :, None] > last[:, None, :]
    outside = behind | ~body.any(axis=1)[:, None, :]
    return np.where(outside, np.float32(-1000), phantom.image.astype(np.float32))


def project_xray(phantom: Phantom, *, view: View = View.PA) -> np.ndarray:
    """A chest X-ray by Beer-Lambert projection of the attenuation, posteroanterior or lateral (without arms).

    Returns:
        uint8 ``[row, column]`` 0..255, as displayed: head above, the patient's right at the picture's left (lateral:
        the front), dense structures bright; square pixels of the phantom's ``spacing[0]`` (lateral: ``spacing[1]``).
    """
    hu = _without_table(phantom)
    attenuation = np.clip(1 + hu / 1000, 0, None)
    # Calcium attenuates more steeply at the energies of a film than at those of CT.
    attenuation += 0.9 * np.clip((hu - 150) / 1000, 0, None)
    path = attenuation.sum(axis=view.beam) * np.float32(phantom.spacing[view.beam] * WATER_PER_MM)
    path = np.clip(path, 0, None)
    primary = np.exp(-path)
    # Scatter adds a smooth veil; a detector records the logarithm.
    scatter = ndimage.gaussian_filter(primary, 12) * 0.25
    film = _as_film(phantom, -np.log(primary + scatter + 1e-4), order=1, view=view)
    inside = film > 0.15 * film.max()
    low, high = np.percentile(film[inside], (2, 99.5))
    sharp = film + 0.6 * (film - ndimage.gaussian_filter(film, 4))
    grey = np.clip((sharp - low) / (high - low), 0, 1) ** 0.9
    noise = np.random.default_rng([phantom.seed, phantom.label]).normal(0, 0.006, grey.shape)
    return np.rint(np.clip(grey + noise, 0, 1) * 255).astype(np.uint8)


def project_masks(phantom: Phantom, *, infection_mm: float = 5.0) -> dict[str, np.ndarray]:
    """The truth in the posteroanterior X-ray's pixels.

    Args:
        phantom: what to project.
        infection_mm: length of lesion along the beam from which a pixel counts as infected.

    Returns:
        ``lungs`` uint8 (0, 1 right, 2 left: the side with more lung along the beam), the lung fields as a reader
        draws them: without the lung that heart, diaphragm or spine hide (``HIDING_MM``); and ``infection`` uint8
        (0, 1), wherever along the beam it lies. Both of the X-ray's shape.
    """
    right, left = ((phantom.lungs == side).sum(axis=1) for side in (1, 2))
    lungs = np.where(right >= left, np.uint8(1), np.uint8(2)) * _in_clear_view(phantom)
    infection = phantom.infection.sum(axis=1) * phantom.spacing[1] >= infection_mm
    return {
        "lungs": _as_film(phantom, lungs.astype(np.uint8), order=0),
        "infection": _as_film(phantom, infection.astype(np.uint8), order=0),
    }


def _in_clear_view(phantom: Phantom) -> np.ndarray:
    """Where the beam meets lung and, beside two chest walls, little else; bool ``[i, k]``, one piece a side."""
    lung = phantom.lungs > 0
    body = (_without_table(phantom) > -400) | lung
    ahead = np.argmax(lung, axis=1) - np.argmax(body, axis=1)
    behind = np.argmax(lung[:, ::-1], axis=1) - np.argmax(body[:, ::-1], axis=1)
    organs = body.sum(axis=1) - lung.sum(axis=1) - 2 * np.minimum(ahead, behind)
    clear = lung.any(axis=1) & (organs * phantom.spacing[1] < HIDING_MM)
    pieces, _ = ndimage.label(clear)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    whole = sizes >= 0.1 * max(sizes.max(), 1)
    whole[0] = False
    return np.asarray(ndimage.binary_fill_holes(whole[pieces]))


def axial_picture(phantom: Phantom, k: int) -> np.ndarray:
    """Slice ``k`` through the window -1350..150 HU, uint8 ``[row, column]`` as displayed (radiological)."""
    low, high = SLICE_WINDOW
    grey = (phantom.image[:, :, k].T.astype(np.float32) - low) / (high - low)
    return np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def slice_positions(phantom: Phantom, count: int) -> list[int]:
    """Up to ``count`` slices ``k`` with lung, evenly spread, from the feet upwards.

    Raises:
        ValueError: for a count under 1.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    area = (phantom.lungs > 0).sum(axis=(0, 1))
    lung = np.flatnonzero(area > 0.1 * area.max())
    chosen = np.linspace(0, len(lung) - 1, min(count, len(lung))).round().astype(int)
    return [int(lung[index]) for index in chosen]
