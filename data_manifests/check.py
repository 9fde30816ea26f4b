"""``check``: is a datalist sound, and are its files what it says? Every image is decoded once, over processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pneumonai.data_manifests.check_report import Finding, Report, Row, Severity
from pneumonai.data_manifests.datalist import read_datalist
from pneumonai.data_manifests.description import Description, load_description
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.file_figures import FileFigures, read_figures
from pneumonai.data_manifests.image_checks import (
    check_confounding,
    check_files,
    check_likeness,
    check_masks,
    check_readable,
    check_sizes,
)
from pneumonai.data_manifests.list_checks import (
    Entry,
    check_labels,
    check_parts,
    check_patients,
    check_same_file,
    counts_by_part,
    entries_of,
)
from pneumonai.data_manifests.workers import work_through

Progress = Callable[[int, int], None]


def check_datalist(
    datalist: str | Path,
    data_dir: str | Path | None = None,
    *,
    description: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check a datalist and its files.

    Args:
        datalist: path of the JSON file.
        data_dir: folder that its paths start from; the datalist's own folder when None.
        description: name of the dataset's description; the one that the datalist names when None.
        workers: processes; one a core that may be used when None.
        progress: called with the number of files read and their total.

    Returns:
        The report; errors in it are the data's, not raised. About 4 kB of memory a picture.

    Raises:
        ManifestError: no such folder or datalist, no datalist, no such description.
    """
    begin = time.perf_counter()
    content = read_datalist(datalist)
    root = Path(data_dir) if data_dir is not None else Path(datalist).parent
    if not root.is_dir():
        raise ManifestError(root, "no such folder", "give the folder that the datalist's paths start from")
    block = content.get("pneumonai")
    block = block if isinstance(block, dict) else {}
    named = description or block.get("dataset")
    described = load_description(named) if named else None
    class_names = list(block.get("class_names") or (described.classes if described else ()))
    entries = entries_of(content, datalist, class_names)
    missing = _missing(entries, root)
    if all(entry.where in missing for entry in entries):
        raise ManifestError(datalist, f"none of its files is in {root}", "check DATA_DIR")
    figures = _read(entries, root, missing, workers, progress)
    rows = [
        check_files(entries, missing),
        check_readable(entries, figures),
        check_sizes(entries, figures),
        check_labels(entries, class_names),
        check_counts(entries, described, str((block.get("split") or {}).get("method"))),
        check_parts(entries),
        check_patients(entries, block.get("patients")),
        check_same_file(entries),
        *check_likeness(entries, figures),
        check_masks(entries, figures, missing),
        check_confounding(entries, figures),
    ]
    return Report(str(datalist), str(root), counts_by_part(entries), rows, time.perf_counter() - begin)


def _missing(entries: Sequence[Entry], root: Path) -> dict[str, list[str]]:
    missing = {}
    for entry in entries:
        if gone := [path for path in (entry.image, *entry.masks.values()) if not (root / path).exists()]:
            missing[entry.where] = gone
    return missing


def _read(
    entries: Sequence[Entry],
    root: Path,
    missing: dict[str, list[str]],
    workers: int | None,
    progress: Progress | None,
) -> list[FileFigures | None]:
    """Figures of each entry, None where the image is missing; a file that is listed twice is read once."""
    wanted: list[tuple[str, ...] | None] = []
    for entry in entries:
        gone = missing.get(entry.where, [])
        there = [path for path in (entry.image, *entry.masks.values()) if path not in gone]
        wanted.append(None if entry.image in gone else tuple(str(root / path) for path in there))
    jobs = list(dict.fromkeys(job for job in wanted if job is not None))
    read: dict[tuple[str, ...], FileFigures] = {}
    for number, figures in work_through(read_figures, jobs, workers=workers):
        read[jobs[number]] = figures
        if progress is not None:
            progress(len(read), len(jobs))
    return [None if job is None else read[job] for job in wanted]


def check_counts(entries: Sequence[Entry], described: Description | None, method: str) -> Row:
    """As many items and patients as the description expects; part by part only for the official split.

    Another number is a warning: downloads and copies differ. Patients are counted where the datalist names them.
    """
    name, title = "counts", "counts as described"
    if described is None:
        return Row(name, title, left_out="no description (--description NAME)")
    findings, matched = [], 0
    for count in described.counts:
        if count.what == "slices" or (count.part is not None and method != "official"):
            continue
        chosen = [e for e in entries if count.part in (None, e.part) and count.label in (None, e.label)]
        there = len(chosen)
        if count.what == "patients":
            there = len({e.item.get("patient_id") for e in chosen} - {None, ""})
            if not there:
                continue
        matched += there == count.value
        if there != count.value:
            of = " ".join(word for word in (count.part, count.label) if word)
            sure = "" if count.verified else " (not verified)"
            message = f"{there} {count.what}{' of ' + of if of else ''}, expected {count.value}{sure}"
            findings.append(Finding(Severity.WARNING, message))
    return Row(name, title, findings, f"{matched} of {matched + len(findings)} counts of {described.name} met")
