"""Identical and nearly identical pictures that lie on two sides of a split.

Candidates come from 256-bit perceptual hashes; each is confirmed by comparing the pictures themselves, small and
standardised: their layout (32 x 32) and what is left after smoothing (64 x 64), which is where two patients' slices
of the same height differ. Grey-level shifts, contrast, resizing and recompression survive both; crops, turned and
mirrored copies are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from pneumonai.data_manifests.file_figures import FileFigures

CANDIDATE_BITS = 60
"""Pairs of hashes that differ in more of 256 bits are not looked at; altered copies were at most 34 apart."""
LAYOUT_AT_LEAST = 0.9
"""Correlation of the layouts of a pair."""
NEAR_AT_LEAST = 0.92
"""Correlation of details from which a pair is one picture altered (99 % of altered copies of real CT and X-rays)."""
SIMILAR_AT_LEAST = 0.45
"""... from which it is probably one patient; different patients of COVID-CT and of X-rays had at most 0.31."""
_BLOCK = 512
_DETAIL_SIGMA = 1.0


class Likeness(StrEnum):
    """How alike a pair is."""

    IDENTICAL = "identical"
    NEAR = "near-identical"
    SIMILAR = "similar"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures that should not be on two sides.

    Attributes:
        first, second: positions in the lists given, ``first < second``.
        likeness: identical pixels, one picture altered, or probably one patient.
        bits: of 256 by which the hashes differ.
        detail: correlation of the details, -1..1.
    """

    first: int
    second: int
    likeness: Likeness
    bits: int
    detail: float


def find_pairs(
    thumbs: np.ndarray,
    hashes: np.ndarray,
    digests: Sequence[bytes],
    sides: Sequence[int],
    labels: Sequence[int] | None = None,
) -> list[Pair]:
    """Pairs on different sides, or with different labels, that are alike.

    Args:
        thumbs: ``[N, 64, 64]`` uint8, the small copies.
        hashes: ``[N, 32]`` uint8, 256-bit perceptual hashes.
        digests: of the full pictures' values; equal ones are identical.
        sides: which side of the split each lies on.
        labels: class of each; pairs of one side are compared where they differ, and not at all when None.

    Returns:
        Pairs, most alike first. A pair of even pictures (without any detail) is only ever identical.

    Raises:
        ValueError: the lists differ in length.
    """
    count = len(thumbs)
    if not count == len(hashes) == len(digests) == len(sides) == len(labels if labels is not None else sides):
        raise ValueError("thumbs, hashes, digests, sides and labels must have one length")
    if count < 2:
        return []
    words = np.ascontiguousarray(hashes).view(np.uint64)
    side = np.asarray(sides)
    label = np.asarray(labels) if labels is not None else np.zeros(count, dtype=np.int64)
    known = {digest: number for number, digest in enumerate(dict.fromkeys(digests))}
    content = np.array([known[digest] for digest in digests])
    layouts, details = _layouts(thumbs), _details(thumbs)
    found: list[Pair] = []
    for start in range(0, count, _BLOCK):
        rows = slice(start, min(start + _BLOCK, count))
        bits = _distances(words[rows], words[start:])
        wanted = (side[rows, None] != side[None, start:]) | (label[rows, None] != label[None, start:])
        wanted &= np.arange(start, count)[None] > np.arange(rows.start, rows.stop)[:, None]
        first, second = np.nonzero(wanted & (bits <= CANDIDATE_BITS))
        apart = bits[first, second]
        found += _confirmed(first + start, second + start, apart, layouts, details, content)
    rank = {likeness: number for number, likeness in enumerate(Likeness)}
    return sorted(found, key=lambda pair: (rank[pair.likeness], -pair.detail, pair.first, pair.second))


def find_alike(
    figures: Sequence[FileFigures | None], sides: Sequence[int], labels: Sequence[int] | None = None
) -> list[Pair]:
    """:func:`find_pairs` among those figures that have a small copy; positions are those in ``figures``."""
    usable = [n for n, known in enumerate(figures) if known is not None and known.thumb is not None]
    if len(usable) < 2:
        return []
    chosen = [known for known in figures if known is not None and known.thumb is not None]
    pairs = find_pairs(
        np.stack([known.thumb for known in chosen if known.thumb is not None]),
        np.stack([np.frombuffer(known.hash, np.uint8) for known in chosen]),
        [known.digest for known in chosen],
        [sides[n] for n in usable],
        None if labels is None else [labels[n] for n in usable],
    )
    return [replace(pair, first=usable[pair.first], second=usable[pair.second]) for pair in pairs]


def _distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Hamming distances ``[len(some), len(others)]`` of hashes as ``[N, 4]`` words of 64 bits."""
    bits = np.zeros((len(some), len(others)), dtype=np.uint16)
    for word in range(some.shape[1]):
        bits += np.bitwise_count(some[:, None, word] ^ others[None, :, word])
    return bits


def _confirmed(
    first: np.ndarray,
    second: np.ndarray,
    bits: np.ndarray,
    layouts: np.ndarray,
    details: np.ndarray,
    content: np.ndarray,
) -> list[Pair]:
    pairs = []
    for start in range(0, len(first), 4096):
        a, b = first[start : start + 4096], second[start : start + 4096]
        layout = np.einsum("np,np->n", layouts[a], layouts[b], dtype=np.float32)
        detail = np.einsum("np,np->n", details[a], details[b], dtype=np.float32)
        identical = content[a] == content[b]
        alike = identical | ((layout >= LAYOUT_AT_LEAST) & (detail >= SIMILAR_AT_LEAST))
        for n in np.flatnonzero(alike):
            likeness = Likeness.NEAR if detail[n] >= NEAR_AT_LEAST else Likeness.SIMILAR
            likeness = Likeness.IDENTICAL if identical[n] else likeness
            pairs.append(Pair(int(a[n]), int(b[n]), likeness, int(bits[start + n]), round(float(detail[n]), 3)))
    return pairs


def _layouts(thumbs: np.ndarray) -> np.ndarray:
    half = thumbs.shape[1] // 2
    return _unit(thumbs.reshape(-1, half, 2, half, 2).mean(axis=(2, 4), dtype=np.float32))


def _details(thumbs: np.ndarray) -> np.ndarray:
    details = np.empty((len(thumbs), thumbs[0].size), dtype=np.float32)
    for start in range(0, len(thumbs), _BLOCK):
        part = thumbs[start : start + _BLOCK].astype(np.float32)
        details[start : start + _BLOCK] = _unit(part - ndimage.gaussian_filter(part, (0, _DETAIL_SIGMA, _DETAIL_SIGMA)))
    return details


def _unit(pictures: np.ndarray) -> np.ndarray:
    """``[N, pixels]`` of mean 0 and length 1, so that a product is a correlation; even pictures become 0."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    lengths = np.sqrt((flat**2).sum(axis=1, keepdims=True))
    even = 0.05 * np.sqrt(flat.shape[1])  # a spread of 0.05 grey values is rounding
    return np.where(lengths > even, flat / np.maximum(lengths, 1e-6), 0.0).astype(np.float32)
