"""CT series of a DICOM study: grouped, sorted in space, judged, and one of them chosen.

File order, instance numbers and slice locations are not trusted: slices are grouped by series, orientation and shape,
projected on their common normal and sorted along it; gaps, duplicates, tilt and uneven spacing are found there,
before a pixel is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pneumonai.pipeline.dicom_headers import CHEST_WORDS, SliceHeader
from pneumonai.pipeline.errors import StudyError

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
}
XRAY_MODALITIES = {"CR", "DX", "RG"}
LUNG_WORDS = ("LUNG", "LUNGE", "PULMO")
# Siemens B50..B80, Bl/Br 5x..6x and GE's names; other makers write "lung" in kernel or description.
SHARP_KERNELS = ("B50", "B60", "B70", "B80", "BL5", "BL6", "BR5", "BR6", "BR7", "I50", "I70", "BONE")
CHEST_COVERAGE_MM = 200.0
MAX_TILT_DEGREES = 1.0
GAP = 1.5
UNEVEN_REFUSED = 0.1
UNEVEN_NOTED = 0.02
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass
class SeriesGroup:
    """The slices of one series that share orientation, shape and pixel spacing, sorted along their normal.

    Attributes:
        slices: sorted towards ascending position along ``normal`` (by frame where there is no position).
        affine: 4 x 4, ``[column, row, slice]`` index -> mm, RAS+; None where a problem forbids one.
        spacing: mm between columns, rows, slices; None as above.
        problems: why the group must be refused, in words, each with what to do (``reason; remedy``).
        notes: what a reader should know.
        excluded: why the group is never chosen by itself, or "".
    """

    slices: list[SliceHeader]
    affine: np.ndarray | None = None
    spacing: tuple[float, float, float] | None = None
    axis: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    excluded: str = ""

    @property
    def head(self) -> SliceHeader:
        """The first slice, for what all slices share."""
        return self.slices[0]

    @property
    def coverage_mm(self) -> float:
        """Length of the stack in mm, 0 where it is unknown."""
        return 0.0 if self.spacing is None else self.spacing[2] * len(self.slices)

    @property
    def derived(self) -> bool:
        """Whether the series was computed from another (reformatted, filtered)."""
        kinds = self.head.image_type
        return kinds[0] == "DERIVED" or (len(kinds) > 1 and kinds[1] == "SECONDARY")

    @property
    def lung_kernel(self) -> bool:
        """Whether the series' kernel or description says that it was made for the lungs."""
        kernel, text = self.head.kernel.upper(), self.head.description.upper()
        sharp = kernel.startswith(SHARP_KERNELS)
        return sharp or any(word in kernel or word in text for word in LUNG_WORDS)

    @property
    def other_body_part(self) -> bool:
        """Whether the header names a body part that is not the chest."""
        part = self.head.body_part
        return bool(part) and not any(word in part for word in CHEST_WORDS)


def group_series(headers: Iterable[SliceHeader]) -> list[SeriesGroup]:
    """Sort slices into groups of one series, orientation and shape, with their geometry judged.

    Groups come in the order of series number and UID, the largest group of a series first.
    """
    bins: dict[tuple[object, ...], list[list[SliceHeader]]] = defaultdict(list)
    for header in headers:
        groups = bins[
            (header.series_uid, header.modality, header.rows, header.columns, "LOCALIZER" in header.image_type)
        ]
        for group in groups:
            if _same_plane(group[0], header):
                group.append(header)
                break
        else:
            groups.append([header])
    found = [SeriesGroup(part) for groups in bins.values() for group in groups for part in _split_repeats(group)]
    for judged in found:
        judged.excluded = _why_excluded(judged)
        if judged.head.modality == "CT":
            _judge_geometry(judged)
    found.sort(key=lambda g: (g.head.series_number, g.head.series_uid, -len(g.slices)))
    return found


def _same_plane(a: SliceHeader, b: SliceHeader) -> bool:
    for first, second, tolerance in (
        (a.orientation, b.orientation, 1e-3),
        (a.pixel_spacing, b.pixel_spacing, 1e-3),
    ):
        if (first is None) != (second is None):
            return False
        if first is not None and second is not None and not np.allclose(first, second, rtol=0, atol=tolerance):
            return False
    return True


def _split_repeats(group: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Split a group that holds positions twice by what tells the repeats apart (kernel, phase, acquisition)."""
    if not _repeated(group):
        return [group]
    tellers: tuple[Callable[[SliceHeader], object], ...] = (
        lambda h: h.kernel,
        lambda h: h.temporal,
        lambda h: h.image_type,
        lambda h: h.thickness,
        lambda h: h.acquisition,
    )
    for teller in tellers:
        parts: dict[object, list[SliceHeader]] = defaultdict(list)
        for header in group:
            parts[teller(header)].append(header)
        if len(parts) > 1 and not any(_repeated(part) for part in parts.values()):
            return list(parts.values())
    return [group]


def _repeated(group: Sequence[SliceHeader]) -> bool:
    positions = Counter(tuple(round(v, 2) for v in h.position) for h in group if h.position is not None)
    return any(count > 1 for count in positions.values())


def _why_excluded(group: SeriesGroup) -> str:
    head = group.head
    if head.modality != "CT":
        return f"is no CT (modality {head.modality or 'not given'})"
    if head.sop_class not in CT_CLASSES:
        return "is a secondary capture or another object, no CT image"
    if "LOCALIZER" in head.image_type or "LOCALIZER" in head.description.upper():
        return "is a localizer"
    if head.samples != 1 or not head.photometric.startswith("MONOCHROME"):
        return "is in colour, no Hounsfield units"
    if {"MIP", "MINIP", "MIN IP", "PROJECTION IMAGE"} & set(head.image_type):
        return "is a projection (MIP or MinIP)"
    return ""


def _judge_geometry(group: SeriesGroup) -> None:
    """Sort the slices and fill ``affine``, ``spacing``, ``axis``, ``problems`` and ``notes``."""
    again = "export the series again from the PACS"
    if any(h.orientation is None or h.position is None for h in group.slices):
        group.problems.append(("its slices carry no position or orientation in space", again))
        return
    if group.head.pixel_spacing is None or min(group.head.pixel_spacing) <= 0:
        group.problems.append(("its slices carry no pixel spacing", again))
        return
    orientation = np.asarray(group.head.orientation, dtype=float)
    along_row, along_column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if abs(lengths[0] - 1) > 1e-2 or abs(lengths[1] - 1) > 1e-2 or abs(along_row @ along_column) > 1e-2:
        group.problems.append(("its image orientation is not two unit vectors at right angles", again))
        return
    normal = np.cross(along_row, along_column)
    normal /= np.linalg.norm(normal)
    group.axis = ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]
    positions = np.asarray([h.position for h in group.slices], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    group.slices = [group.slices[index] for index in order]
    positions = positions[order]
    step = _judge_steps(group, positions, normal)
    if step is None:
        return
    row_mm, column_mm = group.head.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = along_row * column_mm
    affine[:3, 1] = along_column * row_mm
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    group.affine = LPS_TO_RAS @ affine
    group.spacing = (column_mm, row_mm, float(np.linalg.norm(step)))


def _judge_steps(group: SeriesGroup, positions: np.ndarray, normal: np.ndarray) -> np.ndarray | None:
    """The mean step from slice to slice in mm (LPS+), or None where the steps make no grid."""
    count = len(positions)
    if count == 1:
        thickness = group.head.thickness or 1.0
        return normal * thickness
    along = positions @ normal
    steps = np.diff(along)
    usual = float(np.median(steps))
    twice = np.flatnonzero(steps < max(0.01, 0.01 * usual))
    if len(twice):
        first, second = group.slices[twice[0]], group.slices[twice[0] + 1]
        if first.path == second.path:
            which = f"frames {first.frame + 1} and {second.frame + 1}"
        else:
            which = f"{first.name} and {second.name}"
        group.problems.append(
            (
                f"duplicated slices: {len(twice)} position(s) occur more than once, first at "
                f"{along[twice[0]]:.1f} mm ({which})",
                "remove the copies, or name one series with --series",
            )
        )
        return None
    if _judge_tilt(group, positions, normal):
        return None
    gaps = np.flatnonzero(steps > GAP * usual)
    if len(gaps) and len(gaps) <= max(1, count // 5):
        at = int(gaps[0])
        missing = round(float(sum(steps[g] / usual - 1 for g in gaps)))
        group.problems.append(
            (
                f"a gap in the slices: about {missing} of {count + missing} missing, first between "
                f"{along[at]:.1f} and {along[at + 1]:.1f} mm (slices lie {usual:.2f} mm apart)",
                "fetch the whole series again",
            )
        )
        return None
    step = (positions[-1] - positions[0]) / (count - 1)
    mean = float(np.linalg.norm(step))
    off = float(np.abs(positions - (positions[0] + np.outer(np.arange(count), step))).max())
    if off > max(UNEVEN_REFUSED * mean, 0.06):
        group.problems.append(
            (
                f"uneven spacing: slices lie {steps.min():.2f} to {steps.max():.2f} mm apart",
                "export a series with one spacing",
            )
        )
        return None
    if off > UNEVEN_NOTED * mean and off > 0.06:
        group.notes.append(f"slice positions deviate by up to {off:.2f} mm from an even spacing of {mean:.2f} mm")
    return step


def _judge_tilt(group: SeriesGroup, positions: np.ndarray, normal: np.ndarray) -> bool:
    """Whether the slices are sheared against each other (gantry tilt); says so in ``problems``."""
    step = positions[-1] - positions[0]
    cosine = min(1.0, float(step @ normal) / max(float(np.linalg.norm(step)), 1e-9))
    angle = float(np.degrees(np.arccos(cosine)))
    # Some scanners give the tilt but an orientation that ignores it; then positions alone do not show the shear.
    ignored = abs(group.head.tilt) > MAX_TILT_DEGREES and abs(abs(normal[2]) - 1) < 1e-4
    if angle <= MAX_TILT_DEGREES and not ignored:
        return False
    degrees = angle if angle > MAX_TILT_DEGREES else abs(group.head.tilt)
    group.problems.append(
        (
            f"gantry tilt: slices are shifted against each other by {degrees:.1f} degrees",
            "export a series reformatted without tilt",
        )
    )
    return True


@dataclass(frozen=True)
class Choice:
    """The series that is read, and why."""

    group: SeriesGroup
    why: str


def choose_series(groups: Sequence[SeriesGroup], path: str, series: str | None = None) -> Choice:
    """The series to read: the one named, else the thin axial chest CT with the most slices.

    Among those that cover a chest (200 mm, or nearly what the longest one does), originals before derived ones,
    most slices win; where two are within 5 %, the lung kernel, then the lower series number.

    Raises:
        StudyError: no series is left, or the best one must be refused.
    """
    if series is not None:
        return _named(groups, path, series)
    candidates = [group for group in groups if not group.excluded]
    if not candidates:
        raise StudyError(path, *_nothing_left(groups))
    sound = [group for group in candidates if not group.problems]
    pool = sound or candidates
    reach = min(CHEST_COVERAGE_MM, max(group.coverage_mm for group in pool))
    best = min(_handicaps(group, reach) for group in pool)
    pool = [group for group in pool if _handicaps(group, reach) == best]
    most = max(len(g.slices) for g in pool)
    pool = [g for g in pool if len(g.slices) >= 0.95 * most]
    chosen = min(pool, key=lambda g: (not g.lung_kernel, -len(g.slices), g.head.series_number, g.head.series_uid))
    refuse_problems(chosen, path)
    return Choice(chosen, _why(chosen, candidates))


def _handicaps(group: SeriesGroup, reach: float) -> tuple[bool, bool, bool, bool]:
    return group.other_body_part, group.axis != "axial", group.coverage_mm < 0.9 * reach, group.derived


def why_not(group: SeriesGroup, chosen: SeriesGroup | None) -> str:
    """Why a series would not be read, in words."""
    if group.excluded:
        return group.excluded
    if group.problems:
        return group.problems[0][0]
    if chosen is None:
        return "not reached: the study is refused"
    reach = min(CHEST_COVERAGE_MM, chosen.coverage_mm)
    words = ("names another body part", f"is {group.axis}", f"covers only {group.coverage_mm:.0f} mm", "is derived")
    for theirs, ours, word in zip(_handicaps(group, reach), _handicaps(chosen, reach), words, strict=True):
        if theirs and not ours:
            return word
    if len(group.slices) < 0.95 * len(chosen.slices):
        return "has fewer slices"
    return "has no lung kernel" if chosen.lung_kernel and not group.lung_kernel else "comes later in the study"


def refuse_problems(group: SeriesGroup, path: str) -> None:
    """Raise the group's first problem as a StudyError, if it has one."""
    if group.problems:
        raise StudyError(path, *group.problems[0])


def _named(groups: Sequence[SeriesGroup], path: str, series: str) -> Choice:
    named = [group for group in groups if group.head.series_uid == series]
    if not named:
        raise StudyError(path, f"holds no series {series}", "pneumonai inspect lists the series there are")
    group = max(named, key=lambda g: (not g.excluded, not g.problems, len(g.slices)))
    if group.excluded:
        raise StudyError(path, f"series {series} {group.excluded}", "name a CT series, or leave --series out")
    refuse_problems(group, path)
    return Choice(group, "named with --series")


def _why(chosen: SeriesGroup, candidates: Sequence[SeriesGroup]) -> str:
    if len(candidates) == 1:
        return "the only CT series"
    reasons = [f"{len(chosen.slices)} slices"]
    if chosen.spacing is not None:
        reasons.append(f"{chosen.spacing[2]:.2g} mm apart")
    reasons.append(chosen.axis)
    if chosen.lung_kernel:
        reasons.append("lung kernel")
    if chosen.derived:
        reasons.append("derived")
    return f"of {len(candidates)} CT series the one with {', '.join(reasons)}"


def _nothing_left(groups: Sequence[SeriesGroup]) -> tuple[str, str]:
    """Why no series can be read, in the words that fit what is there."""
    ct = [group for group in groups if group.head.modality == "CT"]
    if ct and all(group.excluded == "is a localizer" for group in ct):
        return "holds only a localizer (scout), no CT volume", "send the chest series itself"
    if ct:
        return f"its CT series {ct[0].excluded}", "send the original chest series"
    modalities = sorted({group.head.modality or "unknown" for group in groups})
    return (
        f"holds {', '.join(modalities)}, neither CT nor a chest X-ray",
        "send a chest CT or a chest X-ray",
    )
