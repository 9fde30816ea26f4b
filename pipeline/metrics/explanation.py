"""Is a heat map an explanation? Scores where the truth is known, each with its interval, and paired differences.

A map is held against the infection (pointing game, Dice), the lungs (share inside) and the network itself (deletion and
insertion). Two maps that cost nothing, the lung mask and blurred noise inside it, say what a score is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from pneumonai.pipeline.localisation import intersection_over_union
from pneumonai.pipeline.metrics.paired import PairedTest
from pneumonai.pipeline.metrics.resampling import bootstrap_record, interval, patient_index, resampled_means, score


@dataclass(frozen=True)
class ScoreMeaning:
    """A score of a heat map in words, and which way is better."""

    words: str
    higher_is_better: bool = True


EXPLANATION_SCORES: dict[str, ScoreMeaning] = {
    "pointing": ScoreMeaning("pointing game"),
    "dice": ScoreMeaning("top-k Dice"),
    "pointing_in_lungs": ScoreMeaning("pointing game in the lungs"),
    "dice_in_lungs": ScoreMeaning("top-k Dice in the lungs"),
    "share_in_lungs": ScoreMeaning("share of the map inside the lungs"),
    "deletion": ScoreMeaning("deletion", higher_is_better=False),
    "insertion": ScoreMeaning("insertion"),
    "iou": ScoreMeaning("intersection over union of the upper half of the map's range"),
}
"""Scores of a report, in its order; all lie in 0..1."""

LEAST_PATIENTS = 6
"""Of fewer all lie on one side of 0 by chance too often (of five once in 16), and a bootstrap takes that for sure."""


def pointing_score(heat_map: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Whether the map's maximum lies in the truth (Zhang et al., "Top-down Neural Attention", the pointing game).

    Args:
        heat_map: ``[*spatial]``.
        truth: bool, the same shape.
        region: bool; only these voxels of the map count.

    Returns:
        1 or 0; where several voxels share the maximum, the share of them in the truth, which is what a random choice
        among them gives on average. Nan where the truth (or the region) is empty.
    """
    values, true = _within(heat_map, truth, region)
    return float(true[values == values.max()].mean()) if truth.any() and len(values) else float("nan")


def top_k_dice(heat_map: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Dice of the truth with the map's k largest voxels, k being the truth's own number of voxels.

    So no threshold has to be chosen, and no monotonic scaling of a map changes its score; as it is told the size, it
    says how well a map ranks voxels and not what an outline drawn from it would be worth. Both sets have k voxels, so
    precision and recall are the same number.

    Args:
        heat_map: ``[*spatial]``.
        truth: bool, the same shape.
        region: bool; only these voxels of the map count.

    Returns:
        0..1; of voxels that tie at the threshold the expected share is counted. Nan where the truth is empty.
    """
    values, true = _within(heat_map, truth, region)
    size = int(np.count_nonzero(truth))
    if not size:
        return float("nan")
    if size >= len(values):
        return float(2 * np.count_nonzero(true) / (size + len(values)))
    threshold = np.partition(values, len(values) - size)[len(values) - size]
    above, level = values > threshold, values == threshold
    hits = np.count_nonzero(true & above) + (size - np.count_nonzero(above)) * true[level].mean()
    return float(hits / size)


def upper_half_iou(heat_map: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of the truth with where the map has at least half of its maximum (MAG-SD's choice).

    Args:
        heat_map: ``[*spatial]``, at least 0.
        truth: bool, the same shape.

    Returns:
        0..1; a map of zeros marks nothing. Nan where the truth is empty too.
    """
    highest = heat_map.max()
    marked = heat_map >= 0.5 * highest if highest > 0 else np.zeros(heat_map.shape, bool)
    found = intersection_over_union(marked, truth)
    return float("nan") if found is None else found


def share_inside(heat_map: np.ndarray, region: np.ndarray) -> float:
    """Sum of the map inside a region over its whole sum; nan for a map of zeros."""
    total = float(heat_map.sum(dtype=np.float64))
    return float(heat_map[region].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def lung_mask_map(lungs: np.ndarray) -> np.ndarray:
    """The baseline that knows anatomy only: 1 inside the lungs, float32."""
    return (lungs > 0).astype(np.float32)


def random_map(lungs: np.ndarray, *, sigma: float = 8.0, seed: int = 0) -> np.ndarray:
    """The baseline that looks like a heat map and knows nothing: blurred noise inside the lungs.

    Args:
        lungs: ``[*spatial]``, above 0 inside.
        sigma: of the Gaussian, in voxels.
        seed: of the noise.

    Returns:
        float32, 0 outside, min-max scaled to 0..1 inside.
    """
    inside = lungs > 0
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(lungs.shape, dtype=np.float32), sigma)
    made = np.zeros(lungs.shape, np.float32)
    if inside.any():
        low, high = float(noise[inside].min()), float(noise[inside].max())
        made[inside] = (noise[inside] - low) / ((high - low) or 1.0)
    return made


def replacement(
    image: torch.Tensor, lungs: np.ndarray, how: Literal["mean", "blur"] = "mean", *, sigma: float = 8.0
) -> torch.Tensor:
    """What takes the place of deleted voxels: the study's own lungs without what is in them.

    Args:
        image: ``[C, *spatial]``.
        lungs: ``[*spatial]``, above 0 inside.
        how: ``mean``: each channel's mean inside the lungs; ``blur``: its Gaussian blur over the lungs' voxels alone.
        sigma: of the Gaussian, in voxels.

    Returns:
        ``[C, *spatial]``; the image itself outside the lungs.

    Raises:
        ValueError: another word for ``how``.
    """
    inside = torch.from_numpy(lungs > 0).to(image.device)
    if how == "mean":
        count = max(1, int(inside.sum()))
        filled = ((image * inside).flatten(1).sum(1) / count).reshape(-1, *[1] * inside.dim()).expand_as(image)
    elif how == "blur":
        weight = np.maximum(gaussian_filter(lung_mask_map(lungs), sigma), 1e-6)
        channels = [gaussian_filter((channel * inside).cpu().numpy(), sigma) / weight for channel in image]
        filled = torch.from_numpy(np.stack(channels)).to(image)
    else:
        raise ValueError(f"deleted voxels are replaced by 'mean' or 'blur', got {how!r}")
    return torch.where(inside, filled, image)


@dataclass(frozen=True)
class Curves:
    """Probability of one class while voxels of the lungs are replaced in a map's order, most important first.

    Attributes:
        shares: of the lungs' voxels, 0 to 1, ``[steps + 1]``.
        deletion: with that share replaced; a map that found what matters falls fast.
        insertion: with all but that share replaced; such a map rises fast.
    """

    shares: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def deletion_area(self) -> float:
        """Area under the deletion curve, 0..1; lower is better."""
        return float(np.trapezoid(self.deletion, self.shares))

    @property
    def insertion_area(self) -> float:
        """Area under the insertion curve, 0..1; higher is better."""
        return float(np.trapezoid(self.insertion, self.shares))


def perturbation_curves(
    probability: Callable[[torch.Tensor], torch.Tensor],
    image: torch.Tensor,
    heat_map: np.ndarray,
    lungs: np.ndarray,
    *,
    filled: torch.Tensor | None = None,
    steps: int = 20,
    batch_size: int = 4,
    seed: int = 0,
) -> Curves:
    """Deletion and insertion (Petsiuk et al., "RISE", https://arxiv.org/abs/1806.07421) over the lungs' voxels.

    Only voxels inside the lungs are ranked: the network sees nothing elsewhere, and :func:`share_inside` already says
    what a map wastes there.

    Args:
        probability: ``[B, C, *spatial]`` -> the probability of the class that is explained, ``[B]``.
        image: network input, ``[C, *spatial]``.
        heat_map: ``[*spatial]``.
        lungs: ``[*spatial]``, above 0 inside.
        filled: what replaces voxels, ``[C, *spatial]``; by default :func:`replacement` with the lungs' mean.
        steps: how many equal shares are replaced one after the other.
        batch_size: how many changed images go through the network at once.
        seed: of the order among voxels of the same value.

    Raises:
        ValueError: no voxel inside the lungs, or fewer than one step.
    """
    inside = np.flatnonzero(lungs.reshape(-1) > 0)
    if not len(inside) or steps < 1:
        raise ValueError(f"lungs and at least one step are required, got {len(inside)} lung voxels and {steps} steps")
    filled = replacement(image, lungs) if filled is None else filled
    shuffled = np.random.default_rng(seed).permutation(inside)
    order = shuffled[np.argsort(-heat_map.reshape(-1)[shuffled], kind="stable")]
    step_of = np.full(lungs.size, steps + 1, np.int16)  # in which step a voxel is replaced; outside the lungs in none
    counts = np.rint(np.arange(steps + 1) * len(inside) / steps).astype(int)
    for step, (first, last) in enumerate(pairwise(counts), start=1):
        step_of[order[first:last]] = step
    when = torch.from_numpy(step_of.reshape(lungs.shape)).to(image.device)
    within = when <= steps
    # Nothing replaced is deletion's first and insertion's last point; everything replaced the other way round.
    changed = [when <= step for step in range(steps + 1)] + [within & (when > step) for step in range(1, steps)]
    found: list[float] = []
    for first in range(0, len(changed), batch_size):
        batch = torch.stack([torch.where(mask, filled, image) for mask in changed[first : first + batch_size]])
        found += probability(batch).tolist()
    deletion, between = np.array(found[: steps + 1]), np.array(found[steps + 1 :])
    return Curves(np.linspace(0.0, 1.0, steps + 1), deletion, np.concatenate([deletion[-1:], between, deletion[:1]]))


@dataclass(frozen=True)
class ExplainedCase:
    """Scores of several maps of one image.

    Attributes:
        image: what the case is called.
        patient_id: its patient; empty where unknown.
        scores: name of a map -> name of a score (of :data:`EXPLANATION_SCORES`) -> value; nan (or absent) where it is
            not defined.
    """

    image: str
    patient_id: str
    scores: Mapping[str, Mapping[str, float]]


def score_map(heat_map: np.ndarray, lungs: np.ndarray, infection: np.ndarray | None) -> dict[str, float]:
    """The scores of one map that need no network.

    Args:
        heat_map: ``[*spatial]``.
        lungs: the same shape, above 0 inside.
        infection: the same shape, above 0 inside; None or empty where there is none, which leaves all but
            ``share_in_lungs`` undefined.
    """
    inside = lungs > 0
    made = {"share_in_lungs": share_inside(heat_map, inside)}
    if infection is not None and infection.any():
        truth = infection > 0
        made |= {
            "pointing": pointing_score(heat_map, truth),
            "dice": top_k_dice(heat_map, truth),
            "pointing_in_lungs": pointing_score(heat_map, truth, inside),
            "dice_in_lungs": top_k_dice(heat_map, truth, inside),
            "iou": upper_half_iou(heat_map, truth),
        }
    return made


def explanation_report(cases: Sequence[ExplainedCase], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Mean scores of every map over the cases in which they are defined, ready for JSON.

    Args:
        cases: scores of the cases, all of the same maps.
        resamples: bootstrap samples by patient; 0 leaves the intervals out.
        seed: of the bootstrap.

    Returns:
        ``n_images, n_patients, bootstrap`` and ``maps``: name -> score -> ``{"value", "interval"}``; ``counts``: score
        -> how many cases of the first map define it.

    Raises:
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("at least one case is required, got none")
    ids = [case.patient_id for case in cases]
    count = patient_index(ids, len(cases))[1]
    names = list(cases[0].scores)
    values = {name: _values(cases, name) for name in names}
    maps = {
        name: {
            key: score(*_mean(values[name][:, column], ids, resamples, seed))
            for column, key in enumerate(EXPLANATION_SCORES)
        }
        for name in names
    }
    defined = np.isfinite(values[names[0]]).sum(axis=0).tolist()
    return {
        "n_images": len(cases),
        "n_patients": count,
        "counts": dict(zip(EXPLANATION_SCORES, defined, strict=True)),
        "bootstrap": bootstrap_record(count, len(cases), resamples, seed),
        "maps": maps,
    }


def compare_maps(
    cases: Sequence[ExplainedCase], first: str, second: str, metric: str, *, resamples: int = 2000, seed: int = 0
) -> PairedTest:
    """Mean difference of a score between two maps of the same images, ``second`` minus ``first``, by patient.

    The p-value is that of :func:`pneumonai.pipeline.metrics.paired.paired_bootstrap`.

    Args:
        cases: scores of the cases; those in which both maps define the score count.
        first, second: names of two maps.
        metric: of :data:`EXPLANATION_SCORES`.
        resamples: bootstrap samples by patient.
        seed: of the bootstrap.
    """
    column = list(EXPLANATION_SCORES).index(metric)
    one, two = (_values(cases, name)[:, column] for name in (first, second))
    both = np.isfinite(one) & np.isfinite(two)
    ids = [case.patient_id for case in cases]
    of_both = [ids[n] for n in np.flatnonzero(both)]
    count = patient_index(of_both, len(of_both))[1]
    method = f"paired bootstrap by {'patient' if count < len(of_both) else 'image'}"
    if not count:
        return PairedTest(method, metric, None, None, None, None, None, "the score is not defined")
    difference, samples = _mean(np.where(both, two - one, np.nan), ids, resamples, seed)
    means = float(one[both].mean()), float(two[both].mean())
    if samples is None:
        return PairedTest(method, metric, *means, difference, None, None, "one patient gives no interval")
    # Summed in another order, equal scores may differ in the last digit.
    samples[np.abs(samples) < 1e-12] = 0.0
    note = f"{count} patients are too few to judge by" if count < LEAST_PATIENTS else ""
    bounds = interval(samples)
    tail = min(np.count_nonzero(samples <= 0), np.count_nonzero(samples >= 0))
    p_value = min(1.0, 2.0 * (tail + 1) / (len(samples) + 1))
    return PairedTest(method, metric, *means, difference, (bounds[0], bounds[1]) if bounds else None, p_value, note)


def verdict(test: PairedTest) -> str:
    """What a comparison of two maps shows, for the second: ``better``, ``worse`` or ``no difference shown``.

    A difference is shown where its 95 % interval leaves 0 out; below :data:`LEAST_PATIENTS` the verdict is
    ``not judged`` (the test's note says why).
    """
    if test.note:
        return "not judged"
    if test.interval is None or test.interval[0] <= 0.0 <= test.interval[1]:
        return "no difference shown"
    return "better" if (test.interval[0] > 0) == EXPLANATION_SCORES[test.metric].higher_is_better else "worse"


def _within(heat_map: np.ndarray, truth: np.ndarray, region: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and truth of the voxels that count, flat."""
    if heat_map.shape != truth.shape:
        raise ValueError(f"a map and a truth of one shape are required, got {heat_map.shape} and {truth.shape}")
    return (heat_map.reshape(-1), truth.reshape(-1)) if region is None else (heat_map[region], truth[region])


def _values(cases: Sequence[ExplainedCase], name: str) -> np.ndarray:
    """Scores of one map, ``[cases, scores]``; nan where not defined."""
    return np.array([[case.scores[name].get(key, np.nan) for key in EXPLANATION_SCORES] for case in cases])


def _mean(values: np.ndarray, ids: Sequence[str], resamples: int, seed: int) -> tuple[float, np.ndarray | None]:
    """Mean over the cases in which a score is defined, and that of each resample of their patients (None for one)."""
    known = np.flatnonzero(np.isfinite(values)).tolist()
    if not len(known):
        return float("nan"), None
    samples = resampled_means(values[known], [ids[n] for n in known], resamples=resamples, seed=seed)
    return float(values[known].mean()), samples
