"""A study as it enters the pipeline: voxels or pixels with their geometry, and what was done to get them.

Importing this module loads neither torch nor MONAI nor the image libraries: they come with the first study opened.
``StudyReader``, which needs MONAI, is found here by name too: bundles name ``pneumonai.pipeline.study.StudyReader``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pneumonai.pipeline.sources import StudySource
    from pneumonai.pipeline.study_reader import StudyReader as StudyReader


class Modality(StrEnum):
    """What kind of image a study holds."""

    CT = "CT"
    CXR = "CXR"


class InputKind(StrEnum):
    """What a bundle reads: a CT volume, CT slices, or a picture."""

    VOLUME = "volume"
    SLICE = "slice"
    PICTURE = "picture"


@dataclass
class Study:
    """One opened study.

    Attributes:
        id: safe name, the folder of its results.
        path: the path that the user gave, as given.
        modality: CT or CXR.
        kind: volume, slice (one CT slice) or picture.
        image: CT: Hounsfield units, int16 (float32 where the source has fractions), indexed ``[i, j, k]`` as in
            NIfTI; a picture: grey values 0..255, ``[row, column]`` as displayed, uint8 or float32.
        affine: 4 x 4, voxel index -> millimetres, RAS+ (NIfTI's convention). For a picture: identity.
        series_uid: the DICOM series answered, or None.
        study_uid: its StudyInstanceUID, or None.
        converted: the steps that turned the file's values into ``image``, in words.
        warnings: what a reader should know about this study, in words.
        identifiers: patient identifiers of the headers; written only with ``--with-identifiers``.
        assumed_geometry: True where the spacing is not from the file: then no volume in ml is reported.
        assumed_modality: True where the file does not say what it shows (PNG, JPEG): CT or CXR as the caller said.
        synthetic: True where the file says that it is one of our phantoms.
        fingerprint: sha256 over names, sizes and contents of the source files; ``--resume`` compares it.
    """

    id: str
    path: str
    modality: Modality
    kind: InputKind
    image: np.ndarray
    affine: np.ndarray
    series_uid: str | None = None
    study_uid: str | None = None
    converted: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    identifiers: dict[str, str] = field(default_factory=dict)
    assumed_geometry: bool = False
    assumed_modality: bool = False
    synthetic: bool = False
    fingerprint: str = ""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimetres between voxels along ``i, j, k``."""
        lengths = np.linalg.norm(self.affine[:3, : self.image.ndim], axis=0)
        return tuple(float(length) for length in lengths)

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel in millilitres; None for pictures and where the geometry is assumed."""
        if self.image.ndim != 3 or self.assumed_geometry:
            return None
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def study_name(path: str | Path) -> str:
    """A safe folder name for an input: its base name without file ending, other characters as ``_``.

    Example: ``study_name("a/Ünal 3.nii.gz") == "_nal_3"``.
    """
    name = Path(path).name
    for ending in (".nii.gz", ".nii", ".dcm", ".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name).lstrip(".")
    return safe or "study"


def open_study(
    source: str | Path | StudySource, *, series: str | None = None, modality: Modality | str | None = None
) -> Study:
    """Read one study: a DICOM folder or file, a zip of one study, a NIfTI file, or a picture.

    Args:
        source: path, ``path#StudyInstanceUID`` where a folder holds several studies, or a source of
            :func:`pneumonai.pipeline.sources.find_studies`.
        series: SeriesInstanceUID to read, instead of the one that would be chosen.
        modality: what is looked for where the study holds several (CT or CXR); for PNG and JPEG, which do not
            say what they show, what the picture is taken to be (default: CXR).

    Returns:
        The study, with all it says about itself in ``converted`` and ``warnings``. Whether it fits a bundle
        is for :func:`pneumonai.pipeline.checks.check`.

    Raises:
        StudyError: it cannot be read, or reading it would mean guessing.
    """
    from pneumonai.pipeline.sources import open_source

    return open_source(source, series=series, modality=None if modality is None else Modality(modality))


def open_checked(
    source: str | Path | StudySource,
    *,
    series: str | None = None,
    modality: Modality | str = Modality.CT,
    input_kind: InputKind | str = InputKind.VOLUME,
) -> Study:
    """:func:`open_study`, then :func:`pneumonai.pipeline.checks.check`, whose warnings join the study's.

    Raises:
        StudyError: the study cannot be read, or is not what ``modality`` and ``input_kind`` ask for.
    """
    from pneumonai.pipeline.checks import check

    study = open_study(source, series=series, modality=modality)
    study.warnings += check(study, modality=modality, input_kind=input_kind)
    return study


def __getattr__(name: str) -> Any:
    if name == "StudyReader":
        from pneumonai.pipeline.study_reader import StudyReader

        return StudyReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
