"""Which image of an X-ray study is answered: the frontal one, made for reading, and of several the newest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import pydicom

from pneumonai.pipeline.dicom_headers import SliceHeader
from pneumonai.pipeline.dicom_quiet import quiet_pydicom
from pneumonai.pipeline.errors import StudyError

FRONTAL_POSITIONS = {"PA", "AP"}
LATERAL_POSITIONS = {"LL", "RL", "LATERAL", "LAT", "LLD", "RLD"}
FRONTAL_WORDS = {"PA", "AP", "FRONTAL"}
LATERAL_WORDS = {"LAT", "LATERAL", "LL", "RL"}
# The moment of the exposure itself where the header has it.
_MOMENTS = ("Acquisition", "Content", "Series", "Study")


class Seen(StrEnum):
    """From where a header says that its image was taken."""

    FRONTAL = "frontal"
    LATERAL = "lateral"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class XrayChoice:
    """The image that is read, why, and what a reader should know of the choice."""

    header: SliceHeader
    why: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    header: SliceHeader
    seen: Seen
    taken: str


def choose_xray(headers: Sequence[SliceHeader], path: str) -> XrayChoice:
    """The frontal image to read.

    A known frontal view goes before an unknown one, an image for presentation before one for processing, the newest
    before older ones, and PA before AP.

    Args:
        headers: of a study's X-rays.
        path: the study, for errors.

    Raises:
        StudyError: only lateral views, or nothing that is one grey image.
    """
    grey = [h for h in headers if h.samples == 1 and h.photometric.startswith("MONOCHROME") and h.frames == 1]
    if not grey:
        raise StudyError(path, "its X-ray is in colour or a film of several frames", "send the original image")
    candidates = [_candidate(header) for header in grey]
    candidates = [candidate for candidate in candidates if candidate.seen is not Seen.LATERAL]
    if not candidates:
        raise StudyError(path, "is a lateral view, where a frontal one is wanted", "send the frontal view (PA or AP)")
    best = min(_handicaps(candidate) for candidate in candidates)
    pool = [candidate for candidate in candidates if _handicaps(candidate) == best]
    newest = max(candidate.taken for candidate in pool)
    latest = [candidate for candidate in pool if candidate.taken == newest]
    chosen = min(latest, key=lambda c: (c.header.view != "PA", c.header.series_number, c.header.sop_uid)).header
    others = f" of {len(headers)} images" if len(headers) > 1 else ""
    warnings = [] if len(pool) == 1 else [_several(chosen, pool, latest)]
    return XrayChoice(chosen, f"{chosen.view or 'X-ray'} image{others} chosen", warnings)


def _handicaps(candidate: _Candidate) -> tuple[bool, bool]:
    return candidate.seen is not Seen.FRONTAL, candidate.header.intent == "FOR PROCESSING"


def _several(chosen: SliceHeader, pool: Sequence[_Candidate], latest: Sequence[_Candidate]) -> str:
    which = "the newest" if len(latest) == 1 else "the first of the newest" if pool[0].taken else "the first"
    return f"the study has {len(pool)} frontal images: {which} is answered ({chosen.name}); name another with --series"


def _candidate(header: SliceHeader) -> _Candidate:
    """What else its file says: the turn of the patient, and when it was taken."""
    wanted = ["PatientOrientation", *(f"{moment}{part}" for moment in _MOMENTS for part in ("Date", "Time"))]
    try:
        with quiet_pydicom():
            dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True, specific_tags=wanted)
            directions = [str(value).upper() for value in dataset.get("PatientOrientation") or []]
            moments = [(str(dataset.get(f"{m}Date") or ""), str(dataset.get(f"{m}Time") or "")) for m in _MOMENTS]
    except Exception:
        directions, moments = [], []
    taken = next((date + time for date, time in moments if date), "")
    return _Candidate(header, view_in(header.view, header.description, directions), taken)


def view_in(position: str, description: str, directions: Sequence[str] = ()) -> Seen:
    """From where an image was taken, by the first of three that says so.

    Args:
        position: ViewPosition, in upper case.
        description: SeriesDescription; one that names both views (``chest PA and lateral``) says nothing.
        directions: PatientOrientation: where rows and columns lead to; rows to the front or the back are a lateral's.

    Example:
        >>> view_in("", "Chest lat.")
        <Seen.LATERAL: 'lateral'>
    """
    if position in FRONTAL_POSITIONS:
        return Seen.FRONTAL
    if position in LATERAL_POSITIONS:
        return Seen.LATERAL
    words = set(re.findall(r"[A-Z]+", description.upper()))
    frontal, lateral = bool(words & FRONTAL_WORDS), bool(words & LATERAL_WORDS)
    if frontal != lateral:
        return Seen.FRONTAL if frontal else Seen.LATERAL
    across = directions[0][:1] if directions else ""
    return Seen.LATERAL if across in ("A", "P") else Seen.FRONTAL if across in ("L", "R") else Seen.UNKNOWN
