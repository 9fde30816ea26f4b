"""A zip of one study: unpacked into a temporary folder within limits, read, and cleared away."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import StudySource, file_digest, find_studies, fingerprint, open_source
from pneumonai.pipeline.study import Modality, Study

_CHUNK = 1 << 20


@dataclass(frozen=True)
class ZipLimits:
    """What a zip may hold: number of files, bytes unpacked, and how much larger than packed.

    CT packs by 2 to 4; hundreds means a file that was made to fill a disk. Small zips may pack by any ratio.
    """

    files: int = 20_000
    bytes: int = 6 << 30
    ratio: float = 200.0
    ratio_from_bytes: int = 256 << 20


LIMITS = ZipLimits()


def open_zip(
    source: StudySource, *, series: str | None = None, modality: Modality | None = None, limits: ZipLimits = LIMITS
) -> Study:
    """Read the one study of a zip.

    Raises:
        StudyError: damaged, encrypted, over the limits, a name that leads outside its folder, or not one study.
    """
    with unpacked(source.path, limits) as folder:
        try:
            found = [s for s in find_studies(folder, series=series) if not s.path.lower().endswith(".zip")]
            if len(found) != 1:
                what = f"holds {len(found)} studies" if found else "holds nothing that could be read"
                raise StudyError(source.path, what, "send a zip of one study")
            study = open_source(found[0], series=series, modality=modality)
        except StudyError as error:
            reason, remedy = (text.replace(folder, source.path) for text in (error.reason, error.remedy))
            raise StudyError(source.path, reason, remedy) from error
    digest = fingerprint([source.path], source.path, {source.path: file_digest(source.path)})
    return replace(study, id=source.id, path=source.path, fingerprint=digest)


@contextmanager
def unpacked(path: str, limits: ZipLimits = LIMITS) -> Iterator[str]:
    """A temporary folder with the files of a zip, gone afterwards.

    Raises:
        StudyError: as :func:`open_zip`.
    """
    with tempfile.TemporaryDirectory(prefix="pneumonai-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                _unpack(archive, Path(folder), path, limits)
        except StudyError:
            raise
        except PermissionError as error:
            raise StudyError(path, "may not be read (no permission)", "change its permissions") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise StudyError(path, "is a damaged zip, or none", "pack it again") from error
        except OSError as error:
            raise StudyError(path, f"cannot be unpacked ({error.strerror or error})", "free some disk space") from error
        yield folder


def _unpack(archive: zipfile.ZipFile, folder: Path, path: str, limits: ZipLimits) -> None:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _check_entries(entries, path, limits)
    total = 0
    allowed = min(limits.bytes, int(shutil.disk_usage(folder).free * 0.95))
    for entry in entries:
        target = folder.joinpath(*PurePosixPath(entry.filename.replace("\\", "/")).parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as packed, target.open("xb") as out:
            # The sizes in the directory may lie, so what comes out is counted.
            while chunk := packed.read(_CHUNK):
                total += len(chunk)
                if total > allowed:
                    raise _too_much(path, f"more than {allowed / 2**30:.1f} GB unpacked")
                out.write(chunk)


def _check_entries(entries: list[zipfile.ZipInfo], path: str, limits: ZipLimits) -> None:
    """Refuse, before anything is written, what the zip's own directory gives away."""
    if len(entries) > limits.files:
        raise _too_much(path, f"{len(entries)} files, more than {limits.files}")
    size = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if size > limits.bytes:
        raise _too_much(path, f"{size / 2**30:.1f} GB unpacked, more than {limits.bytes / 2**30:.1f}")
    if size > limits.ratio_from_bytes and size > limits.ratio * max(packed, 1):
        raise _too_much(path, f"unpacks to {size / max(packed, 1):.0f} times its size")
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or (parts and ":" in parts[0]) or "\0" in name:
            raise StudyError(path, "holds a file name that leads outside its folder", "do not use this zip")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise StudyError(path, "holds a symbolic link", "pack the files themselves")
        if entry.flag_bits & 1:
            raise StudyError(path, "is encrypted", "send it without a password")


def _too_much(path: str, what: str) -> StudyError:
    return StudyError(path, f"zip over the limits: {what}", "unpack it yourself if you trust it, and give the folder")
