"""From what a user names (files, folders, zips) to studies: which there are, and how each is opened.

Imports neither torch nor MONAI, nor the image libraries before a study is looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import Modality, Study, study_name

if TYPE_CHECKING:
    from pneumonai.pipeline.dicom_headers import BriefHeader

NIFTI_ENDINGS = (".nii", ".nii.gz")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
WANTED = "a DICOM folder or file, a zip of one, NIfTI, PNG or JPEG is wanted"


@dataclass(frozen=True)
class StudySource:
    """Where one study lies.

    Attributes:
        path: file or folder, beginning as the user gave it.
        id: safe name, unique in the list it came with; the folder of its results.
        study_uid: StudyInstanceUID where DICOM says one.
        shared: True where ``path`` holds other studies too, so that the path alone does not name this one.
        series: SeriesInstanceUID to read, where the user named one.
        files: the study's DICOM files, found already; empty where ``path`` is to be searched.
    """

    path: str
    id: str
    study_uid: str | None = None
    shared: bool = False
    series: str | None = None
    files: tuple[str, ...] = field(default=(), repr=False, compare=False)

    @property
    def token(self) -> str:
        """One string for the study: its path, or ``path#StudyInstanceUID`` where the path holds several."""
        return f"{self.path}#{self.study_uid}" if self.shared else self.path


def find_studies(inputs: Sequence[str | Path] | str | Path, *, series: str | None = None) -> list[StudySource]:
    """The studies under some inputs, sorted by path.

    DICOM files under one input folder with the same StudyInstanceUID are one study, however nested; otherwise each
    NIfTI, zip and picture file and each folder with DICOM files is one study. A folder in which two patients' files lie
    is one study, which fails when it is opened. Hidden files are passed over.

    Args:
        inputs: files and folders.
        series: SeriesInstanceUID; of DICOM folders, only the study that holds it is kept.

    Raises:
        StudyError: an input is missing, or holds nothing that could be read.
    """
    sources: list[StudySource] = []
    for given in [inputs] if isinstance(inputs, str | Path) else inputs:
        path = str(given)
        _must_exist(path)
        sources += _in_folder(path, series) if Path(path).is_dir() else [StudySource(path, _base_name(path))]
    unique = {source.token: source for source in sources}
    return _with_unique_ids(replace(unique[token], series=series) for token in sorted(unique))


def _with_unique_ids(sources: Iterable[StudySource]) -> list[StudySource]:
    taken: set[str] = set()
    named = []
    for source in sources:
        name, number = source.id, 1
        while name.lower() in taken:
            number += 1
            name = f"{source.id}-{number}"
        taken.add(name.lower())
        named.append(replace(source, id=name))
    return named


def _base_name(path: str) -> str:
    plain = Path(path)
    return study_name(plain if plain.name not in ("", "..") else plain.resolve())


def _must_exist(path: str) -> None:
    try:
        Path(path).stat()
    except FileNotFoundError:
        raise StudyError(path, "no such file or folder", "check the path") from None
    except OSError as error:
        raise StudyError(path, f"cannot be read ({error.strerror or error})", "check its permissions") from error


def list_files(folder: str) -> list[str]:
    """Files under a folder, however nested, sorted, without hidden ones.

    Raises:
        StudyError: the folder, or one in it, may not be read.
    """

    def refuse(error: OSError) -> None:
        raise StudyError(
            str(error.filename or folder), f"cannot be read ({error.strerror})", "check its permissions"
        ) from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [os.path.join(place, name) for name in names if not name.startswith(".")]  # noqa: PTH118
    return sorted(found)


def _in_folder(folder: str, series: str | None) -> list[StudySource]:
    files = list_files(folder)
    single = [f for f in files if f.lower().endswith((*NIFTI_ENDINGS, *PICTURE_ENDINGS, ".zip"))]
    rest = set(files) - set(single)
    sources = [StudySource(path, _base_name(path)) for path in single]
    sources += _dicom_sources([f for f in files if f in rest], folder, series)
    if not sources:
        what = f"holds no series {series}" if series else "holds nothing that could be read" if files else "is empty"
        raise StudyError(folder, what, "pneumonai inspect lists what there is" if series else WANTED)
    return sources


def dicom_candidates(files: Iterable[str]) -> list[str]:
    """Those of some files that are DICOM by their mark, or by their name alone."""
    from pneumonai.pipeline.dicom_headers import THREADS, has_dicom_mark, is_dicom_name

    names = list(files)
    with ThreadPoolExecutor(THREADS) as pool:
        marked = list(pool.map(has_dicom_mark, names))
    return [name for name, mark in zip(names, marked, strict=True) if mark or is_dicom_name(name)]


def _dicom_sources(files: list[str], folder: str, series: str | None) -> list[StudySource]:
    from pneumonai.pipeline.dicom_headers import read_briefs

    candidates = dicom_candidates(files)
    briefs = read_briefs(candidates)
    good: list[BriefHeader] = []
    bad: dict[str, list[str]] = defaultdict(list)
    for path, brief in zip(candidates, briefs, strict=True):
        if isinstance(brief, StudyError):
            bad[os.path.dirname(path)].append(path)  # noqa: PTH120
        elif brief is not None:
            good.append(brief)
    members = _by_study(good)
    owners: dict[str, set[str]] = defaultdict(set)
    for key, briefs_of in members.items():
        for brief in briefs_of:
            owners[os.path.dirname(brief.path)].add(key)  # noqa: PTH120
    sources = []
    for key, briefs_of in members.items():
        if series is not None and all(brief.series_uid != series for brief in briefs_of):
            continue
        sources.append(_dicom_source(key, briefs_of, folder, owners, bad))
    if series is None:
        for place, paths in bad.items():
            if place not in owners:
                sources.append(StudySource(place, _base_name(place), files=tuple(paths)))
    return sources


def _by_study(briefs: Sequence[BriefHeader]) -> dict[str, list[BriefHeader]]:
    """Files by study: its UID; the folder where two patients' files lie in one, or where there is no UID."""
    patients: dict[str, set[str]] = defaultdict(set)
    for brief in briefs:
        if brief.patient:
            patients[os.path.dirname(brief.path)].add(brief.patient)  # noqa: PTH120
    members: dict[str, list[BriefHeader]] = defaultdict(list)
    for brief in briefs:
        place = os.path.dirname(brief.path)  # noqa: PTH120
        mixed = len(patients[place]) > 1
        members[f"folder {place}" if mixed or not brief.study_uid else brief.study_uid].append(brief)
    return members


def _dicom_source(
    key: str, briefs: list[BriefHeader], folder: str, owners: dict[str, set[str]], bad: dict[str, list[str]]
) -> StudySource:
    places = {os.path.dirname(brief.path) for brief in briefs}  # noqa: PTH120
    home = folder if len(places) > 1 and len(owners) == len(places) else os.path.commonpath(places)
    below = [place for place in owners if place == home or place.startswith(home.rstrip(os.sep) + os.sep)]
    shared = any(owners[place] != {key} for place in below) and not key.startswith("folder ")
    files = [brief.path for brief in briefs] + [path for place in places for path in bad.get(place, [])]
    uid = None if key.startswith("folder ") else key
    return StudySource(home, _base_name(home), uid, shared=shared, files=tuple(sorted(files)))


def split_token(token: str) -> tuple[str, str | None]:
    """Path and StudyInstanceUID of a token: ``"a/b#1.2.3" -> ("a/b", "1.2.3")``, ``"a/b" -> ("a/b", None)``."""
    path, mark, uid = token.rpartition("#")
    if mark and path and uid.replace(".", "").isdigit() and not Path(token).exists():
        return path, uid
    return token, None


def as_source(source: str | Path | StudySource) -> StudySource:
    """A source from a path or token; a source stays as it is."""
    if isinstance(source, StudySource):
        return source
    path, uid = split_token(str(source))
    return StudySource(path, _base_name(path), uid, shared=uid is not None)


def open_source(
    source: str | Path | StudySource, *, series: str | None = None, modality: Modality | None = None
) -> Study:
    """Open a study; see :func:`pneumonai.pipeline.study.open_study`."""
    known = as_source(source)
    path, series = known.path, series or known.series
    _must_exist(path)
    if Path(path).is_dir():
        return _open_folder(known, series, modality)
    lower = path.lower()
    if lower.endswith(".zip"):
        from pneumonai.pipeline.zip_in import open_zip

        return open_zip(known, series=series, modality=modality)
    if lower.endswith(NIFTI_ENDINGS):
        from pneumonai.pipeline.nifti_in import open_nifti

        return open_nifti(path, known.id)
    if lower.endswith(PICTURE_ENDINGS):
        from pneumonai.pipeline.pictures_in import open_picture

        return open_picture(path, known.id, modality or Modality.CXR)
    if not dicom_candidates([path]):
        raise StudyError(path, "is no file that could be read", WANTED)
    from pneumonai.pipeline.dicom_in import open_dicom

    return open_dicom([path], known, series=series, modality=modality)


def _open_folder(source: StudySource, series: str | None, modality: Modality | None) -> Study:
    from pneumonai.pipeline.dicom_in import open_dicom

    found = files_of(source)
    if isinstance(found, str):
        inner = open_source(found, series=series, modality=modality)
        return replace(inner, id=source.id, path=source.path)
    return open_dicom(found, source, series=series, modality=modality)


def files_of(source: StudySource) -> list[str] | str:
    """The DICOM files of a folder, or the one other file that a folder without DICOM holds.

    Raises:
        StudyError: nothing that could be read lies there, or several studies without DICOM.
    """
    if source.files:
        return list(source.files)
    found = list_files(source.path)
    others = [f for f in found if f.lower().endswith((*NIFTI_ENDINGS, *PICTURE_ENDINGS, ".zip"))]
    files = dicom_candidates(f for f in found if f not in set(others))
    if files:
        return files
    if len(others) == 1:
        return others[0]
    if others:
        raise StudyError(source.path, f"holds {len(others)} studies", "name one of them")
    raise StudyError(source.path, "holds nothing that could be read" if found else "is empty", WANTED)


def source_fingerprint(
    source: str | Path | StudySource, *, series: str | None = None, modality: Modality | None = None
) -> str:
    """``Study.fingerprint`` of a source without decoding its pixels; ``--resume`` compares the two.

    sha256 over names (below the study's path) and sizes of the study's files, and the contents of those that are read
    (the chosen series; the whole file for NIfTI, pictures and zips). Times of files do not count.

    Raises:
        StudyError: the source cannot be read, or no series of it can be chosen.
    """
    known = as_source(source)
    _must_exist(known.path)
    path = known.path
    if Path(path).is_dir():
        found = files_of(known)
        if isinstance(found, str):
            return source_fingerprint(found)
        files = found
    elif dicom_candidates([path]) and not path.lower().endswith((*NIFTI_ENDINGS, *PICTURE_ENDINGS, ".zip")):
        files = [path]
    else:
        return fingerprint([path], path, {path: file_digest(path)})
    from pneumonai.pipeline.dicom_in import files_to_read

    images, chosen = files_to_read(files, known, series=series or known.series, modality=modality)
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(chosen, pool.map(file_digest, chosen), strict=True))
    return fingerprint(images, path, digests)


def file_digest(path: str) -> str:
    """sha256 of a file's contents.

    Raises:
        StudyError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StudyError(path, f"cannot be read ({error.strerror or error})", "check its permissions") from error


def fingerprint(files: Iterable[str], root: str, digests: Mapping[str, str]) -> str:
    """sha256 over the names and sizes of a study's files, and the contents of those that are read.

    Args:
        files: all files of the study.
        root: the study's path, which names are taken relative to.
        digests: sha256 of the contents of the files that are read, by path.
    """
    lines = []
    for path in files:
        name = Path(path).name if path == root else os.path.relpath(path, root)
        lines.append(f"{name}\n{Path(path).stat().st_size}\n{digests.get(path, '')}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
