"""What lies in a folder: one walk, then questions by pattern and by name."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

from pneumonai.data_manifests.errors import ManifestError

#: Folders that archives and systems leave behind.
STRAY_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN"})
STRAY_FILES = frozenset({"Thumbs.db", "desktop.ini"})


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """The expression for a path pattern, letter case ignored.

    ``*`` and ``?`` stay within a folder's name, ``**/`` is any number of folders, ``{png,jpg}`` is one of these.
    """
    pieces = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    text = ""
    for piece in re.findall(r"\*\*/|\{[^}]*\}|.", pattern):
        if piece.startswith("{") and len(piece) > 1:
            text += f"(?:{'|'.join(re.escape(choice) for choice in piece[1:-1].split(','))})"
        else:
            text += pieces.get(piece, re.escape(piece))
    return re.compile(text, re.IGNORECASE)


class FileTree:
    """All files under a folder, hidden and stray ones left out.

    Args:
        folder: where to look.
        progress: called with the number of files found so far, now and then.

    Raises:
        ManifestError: the folder is missing or cannot be read.
    """

    def __init__(self, folder: str | Path, progress: Callable[[int], None] | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ManifestError(folder, "no such folder", "give the folder of the unpacked download")

        def refuse(error: OSError) -> None:
            raise ManifestError(error.filename, f"cannot be read ({error.strerror})", "check its permissions")

        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        for place, folders, names in os.walk(self.folder, onerror=refuse, followlinks=True):
            status = os.stat(place)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in seen:
                # A link back up would be followed for ever.
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = [name for name in folders if not name.startswith(".") and name not in STRAY_FOLDERS]
            start = Path(place).relative_to(self.folder).as_posix()
            start = "" if start == "." else f"{start}/"
            found += [start + name for name in names if not name.startswith(".") and name not in STRAY_FILES]
            if progress is not None:
                progress(len(found))
        #: Paths relative to the folder, with forward slashes, in natural order (2 before 10).
        self.files = sorted(found, key=natural_key)

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """The files whose whole relative path matches one of the patterns."""
        expressions = [pattern_regex(pattern) for pattern in patterns]
        return [path for path in self.files if any(expression.fullmatch(path) for expression in expressions)]

    def folders_matching(self, patterns: Iterable[str], holds: str) -> list[str]:
        """The folders whose relative path matches, and which themselves hold a file named like ``holds``."""
        expressions, name = [pattern_regex(pattern) for pattern in patterns], pattern_regex(holds)
        return [
            folder
            for folder, names in self._names.items()
            if any(expression.fullmatch(folder) for expression in expressions) and any(map(name.fullmatch, names))
        ]

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Names of the files of each folder."""
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            folder, _, name = path.rpartition("/")
            found[folder].append(name)
        return dict(found)

    @cached_property
    def paths(self) -> frozenset[str]:
        """The files, for questions whether one is there."""
        return frozenset(self.files)

    def summary(self, limit: int = 6) -> str:
        """What lies directly in the folder, in words."""
        tops: dict[str, int] = defaultdict(int)
        for path in self.files:
            head, slash, _ = path.partition("/")
            tops[head + slash] += 1
        named = [f"{top} ({count} files)" if top.endswith("/") else top for top, count in list(tops.items())[:limit]]
        more = f" and {len(tops) - limit} more" if len(tops) > limit else ""
        return ", ".join(named) + more if named else "no files"


def natural_key(path: str) -> list[tuple[int, int | str]]:
    """Sorts ``slice2`` before ``slice10``."""
    return [(0, int(piece)) if piece.isdecimal() else (1, piece.casefold()) for piece in re.findall(r"\d+|\D+", path)]
