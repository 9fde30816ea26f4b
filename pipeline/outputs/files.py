"""Whole files or none: every writer writes to a temporary name beside its target and renames it when it is complete."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pneumonai.data_manifests import whole_files
from pneumonai.pipeline.errors import OutputError

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another --output"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another --output"),
    errno.EROFS: ("the file system is read-only", "choose another --output"),
    errno.EACCES: ("the folder cannot be written", "check its permissions or choose another --output"),
    errno.EPERM: ("the folder cannot be written", "check its permissions or choose another --output"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "choose another --output"),
    errno.EEXIST: ("a file stands where a folder is needed", "choose another --output"),
    errno.EISDIR: ("a folder stands where the file should be", "move it away or choose another --output"),
    errno.ENAMETOOLONG: ("the file name is too long", "give the study a shorter name"),
}


def output_error(path: str | Path, error: OSError) -> OutputError:
    """The :class:`OutputError` that says in words what an ``OSError`` met at ``path`` means."""
    unknown = (error.strerror or str(error) or type(error).__name__, "check the disk or choose another --output")
    reason, remedy = _REASONS.get(error.errno or 0, unknown)
    return OutputError(str(path), f"cannot be written: {reason}", remedy)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` at the end, remove it after any failure.

    Missing folders are made. Whoever reads ``path`` sees the old file or the whole new one, never a part.

    Raises:
        OutputError: the file system refused (full disk, read-only folder, ...).
    """
    try:
        with whole_files.whole_file(path) as temporary:
            yield temporary
    except OSError as error:
        raise output_error(path, error) from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all (see :func:`whole_file`)."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
