"""Checks of the files themselves: there, readable, fitting masks, alike on two sides, class told by traits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pneumonai.data_manifests.check_report import Finding, Row, Severity
from pneumonai.data_manifests.confounding import WARN_ABOVE, class_from_traits
from pneumonai.data_manifests.duplicates import Likeness, Pair, find_alike
from pneumonai.data_manifests.file_figures import MAX_MASK_VALUES, FileFigures, MaskFigures
from pneumonai.data_manifests.list_checks import Entry
from pneumonai.data_manifests.split import unit_of

MIN_SIDE = 64
Figures = Sequence[FileFigures | None]


def check_files(entries: Sequence[Entry], missing: Mapping[str, Sequence[str]]) -> Row:
    """Images and masks that the data folder lacks: ``missing`` has their names by place."""
    findings = [
        Finding(Severity.ERROR, f"{entry.where}: {', '.join(missing[entry.where])} is not there", (entry.where,))
        for entry in entries
        if entry.where in missing
    ]
    masks = sum(len(entry.masks) for entry in entries)
    return Row("files", "files there", findings, f"{len(entries)} images, {masks} masks")


def check_readable(entries: Sequence[Entry], figures: Figures) -> Row:
    """Every image decodes, and shows something."""
    findings = []
    for entry, known in zip(entries, figures, strict=True):
        if known is None:
            continue
        if known.error is not None:
            findings.append(Finding(Severity.ERROR, f"{entry.name} {known.error}", (entry.where,)))
        elif known.one_value:
            findings.append(Finding(Severity.ERROR, f"{entry.name} has one value throughout", (entry.where,)))
    forms = Counter(known.form for known in figures if known is not None and known.error is None)
    summary = ", ".join(f"{number} {form}" for form, number in forms.most_common())
    return Row("readable", "files readable", findings, summary)


def check_sizes(entries: Sequence[Entry], figures: Figures) -> Row:
    """No picture too small; how many sizes there are."""
    findings, sizes = [], Counter[tuple[int, ...]]()
    for entry, known in zip(entries, figures, strict=True):
        if known is None or not known.shape:
            continue
        sizes[known.shape] += 1
        if min(known.shape[:2]) < MIN_SIDE:
            message = f"{entry.name} is {_size(known.shape)}, under {MIN_SIDE} pixels"
            findings.append(Finding(Severity.WARNING, message, (entry.where,)))
    common = ", ".join(f"{n} of {_size(shape)}" for shape, n in sizes.most_common(3))
    return Row("sizes", "sizes", findings, f"{len(sizes)} sizes ({common}{', ...' if len(sizes) > 3 else ''})")


def _size(shape: tuple[int, ...]) -> str:
    """Width x height, of volumes with the number of slices."""
    return " x ".join(map(str, shape if len(shape) == 3 else shape[::-1]))


def check_masks(entries: Sequence[Entry], figures: Figures, missing: Mapping[str, Sequence[str]]) -> Row:
    """Each mask is readable, has its image's size and place, holds few values, and is not empty."""
    found: dict[str, list[tuple[str, str, MaskFigures]]] = defaultdict(list)
    for entry, known in zip(entries, figures, strict=True):
        if known is not None and known.masks:
            there = {key: path for key, path in entry.masks.items() if path not in missing.get(entry.where, ())}
            for (key, path), mask in zip(there.items(), known.masks, strict=True):
                found[key].append((entry.where, path, mask))
    if not found:
        return Row("masks", "masks fit their images", left_out="no masks")
    findings: list[Finding] = []
    lines = []
    for key, masks in found.items():
        of_key, greatest = _judge_masks(key, masks)
        findings += of_key
        lines.append(f"{len(masks)} under '{key}', greatest value {greatest}")
    return Row("masks", "masks fit their images", findings, "; ".join(lines))


def _judge_masks(key: str, masks: Sequence[tuple[str, str, MaskFigures]]) -> tuple[list[Finding], str]:
    """Findings on the masks under one key (place, path, figures of each), and their greatest values in words."""
    findings, empty, scales = [], [], Counter[float]()
    for where, path, mask in masks:
        message = mask.error or mask.misfit
        if message is None and len(mask.values) > MAX_MASK_VALUES:
            message = f"more than {MAX_MASK_VALUES} values, no mask (or saved with loss)"
        if message is not None:
            findings.append(Finding(Severity.ERROR, f"{where} {path}: {message}", (where,)))
        elif mask.marked == 0:
            empty.append(where)
        else:
            scales[mask.values[-1]] += 1
    if empty and len(empty) == len(masks) - len(findings):
        findings.append(Finding(Severity.ERROR, f"all masks under '{key}' are empty", tuple(empty)))
    elif empty:
        named = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        message = f"{len(empty)} of {len(masks)} masks under '{key}' are empty: {named}"
        findings.append(Finding(Severity.WARNING, message, tuple(empty)))
    if {1.0, 255.0} <= set(scales):
        message = f"masks under '{key}' mix values: {scales[1.0]} go to 1, {scales[255.0]} to 255"
        findings.append(Finding(Severity.WARNING, message))
    return findings, ", ".join(f"{value:g} in {n}" for value, n in scales.most_common(4)) or "not known"


def check_likeness(entries: Sequence[Entry], figures: Figures) -> list[Row]:
    """Identical, nearly identical and similar pictures on two sides, or with two labels; three rows."""
    sides, labels = _numbered([entry.side for entry in entries]), _numbered([entry.label for entry in entries])
    pairs = find_alike(figures, sides, labels)
    findings: dict[Likeness, list[Finding]] = {likeness: [] for likeness in Likeness}
    concerned: set[str] = set()
    for pair in pairs:
        first, second = entries[pair.first], entries[pair.second]
        finding = _of_pair(pair, first, second)
        if finding is not None:
            findings[pair.likeness].append(finding)
            if pair.likeness is Likeness.SIMILAR:
                concerned |= set(finding.items)
    _add_shared_slices(entries, figures, findings[Likeness.IDENTICAL])
    for found in findings.values():
        found.sort(key=lambda finding: not finding.figures["opposite_labels"])
    similar = f"{len(concerned)} pictures" if concerned else ""
    return [
        Row("identical", "no identical pictures on two sides", findings[Likeness.IDENTICAL]),
        Row("near_identical", "no nearly identical pictures on two sides", findings[Likeness.NEAR]),
        Row("similar", "no slices of one patient on two sides, by likeness", findings[Likeness.SIMILAR], similar),
    ]


def _numbered(values: Sequence[str | None]) -> list[int]:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values]


def _of_pair(pair: Pair, first: Entry, second: Entry) -> Finding | None:
    """Opposite labels or the same pixels on two sides are errors, other near pairs warnings.

    One patient on two sides is told elsewhere; a file listed twice too; within a side only contradictions count. That
    two slices look like one patient's says nothing new where the patients are known.
    """
    crossing = first.side != second.side
    opposite = first.label != second.label
    same_unit = unit_of(first.item) == unit_of(second.item)
    if first.image == second.image or (same_unit and not opposite and pair.likeness is not Likeness.IDENTICAL):
        return None
    patients_known = bool(first.item.get("patient_id") and second.item.get("patient_id"))
    if pair.likeness is Likeness.SIMILAR and (not crossing or same_unit or patients_known):
        return None
    if not crossing and (same_unit or not opposite):
        return None
    severe = crossing and pair.likeness is not Likeness.SIMILAR and (opposite or pair.likeness is Likeness.IDENTICAL)
    words = f"labels {first.label} and {second.label}: " if opposite else ""
    message = f"{words}{first.name} = {second.name}"
    if pair.likeness is not Likeness.IDENTICAL:
        message = f"{words}{first.name} ~ {second.name} (likeness {pair.detail:.2f})"
    figures = {"opposite_labels": opposite, "likeness": pair.detail, "hash_bits": pair.bits}
    severity = Severity.ERROR if severe else Severity.WARNING
    return Finding(severity, message, (first.where, second.where), figures)


def _add_shared_slices(entries: Sequence[Entry], figures: Figures, findings: list[Finding]) -> None:
    """DICOM series that share slices, by SOPInstanceUID, on two sides or with two labels."""
    owners: dict[str, list[int]] = defaultdict(list)
    for number, known in enumerate(figures):
        for uid in known.uids if known is not None else ():
            owners[uid].append(number)
    shared: Counter[tuple[int, int]] = Counter()
    for there in owners.values():
        shared.update((a, b) for n, a in enumerate(there) for b in there[n + 1 :])
    for (a, b), number in shared.items():
        first, second = entries[a], entries[b]
        opposite = first.label != second.label
        if first.image == second.image or (first.side == second.side and not opposite):
            continue
        words = f"labels {first.label} and {second.label}: " if opposite else ""
        message = f"{words}{first.name} and {second.name} share {number} DICOM images"
        severity = Severity.ERROR if first.side != second.side else Severity.WARNING
        findings.append(
            Finding(severity, message, (first.where, second.where), {"opposite_labels": opposite, "shared": number})
        )


def check_confounding(entries: Sequence[Entry], figures: Figures) -> Row:
    """How well the class can be told from file size, dimensions, bit depth and borders alone."""
    name, title = "confounding", "class not told by file traits"
    known = [(e, f) for e, f in zip(entries, figures, strict=True) if f is not None and f.shape and e.label is not None]
    if not known:
        return Row(name, title, left_out="no labels, or no readable image")
    told = class_from_traits(
        [f for _, f in known], [str(e.label) for e, _ in known], [unit_of(e.item) for e, _ in known]
    )
    if told.auc is None:
        return Row(name, title, left_out=told.reason)
    medians = ", ".join(f"{label} {value:.4g}" for label, value in (told.medians or {}).items())
    words = f"{told.trait} (alone {told.trait_auc:.2f}{'; medians: ' + medians if medians else ''})"
    figures_out = {
        "auc": told.auc,
        "trait": told.trait,
        "trait_auc": told.trait_auc,
        "medians": told.medians,
        "units": told.units,
    }
    if told.auc <= WARN_ABOVE:
        return Row(name, title, summary=f"AUC {told.auc:.2f} over {told.units} units", figures=figures_out)
    message = (
        f"file traits alone tell the class with an AUC of {told.auc:.2f} ({told.units} units, cross-validated); "
        f"most telling: {words}"
    )
    return Row(name, title, [Finding(Severity.WARNING, message)], figures=figures_out)
