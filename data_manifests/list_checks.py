"""Checks that need no pixels: labels, counts, parts, patients and files on two sides."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.check_report import Finding, Row, Severity
from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.split import unit_of

MASK_KEYS = ("mask", "lungs")


@dataclass(frozen=True)
class Entry:
    """One item of a datalist.

    Attributes:
        where: its place, such as ``training[3]``.
        side: what nothing may cross: the part, with its fold.
        image: relative path.
        masks: relative paths under ``mask`` and ``lungs``, by key.
        label: class name, or as written where no names are known; None for none.
        item: as written.
    """

    where: str
    part: str
    side: str
    image: str
    masks: Mapping[str, str]
    label: str | None
    item: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Place and file, for messages."""
        return f"{self.where} {self.image}"


def entries_of(content: Mapping[str, Any], datalist: str | Path, class_names: Sequence[str]) -> list[Entry]:
    """The items of all parts.

    Raises:
        ManifestError: an item is no object, has no ``image``, or a path that is no text; no part has an item.
    """
    entries = []
    for part in PARTS:
        for number, item in enumerate(content.get(part) or []):
            where = f"{part}[{number}]"
            if not isinstance(item, dict) or not isinstance(item.get("image"), str) or not item["image"]:
                raise ManifestError(f"{datalist}, {where}", "an item needs an entry 'image', a path", "add it")
            masks = {key: item[key] for key in MASK_KEYS if item.get(key) is not None}
            for key, mask in masks.items():
                if not isinstance(mask, str):
                    where = f"{datalist}, {where}"
                    raise ManifestError(where, f"{key} {mask!r} is no path", "give a path, or leave it out")
            fold = item.get("fold")
            side = part if fold is None else f"{part} fold {fold}"
            label = _label(item.get("label"), class_names)
            entries.append(Entry(where, part, side, item["image"], masks, label, item))
    if not entries:
        raise ManifestError(datalist, f"none of the parts {', '.join(PARTS)} has an item", "build it anew")
    return entries


def _label(label: Any, class_names: Sequence[str]) -> str | None:
    if label is None:
        return None
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(class_names):
        return class_names[label]
    return str(label)


def counts_by_part(entries: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Items by part and class; those without a label under ``no label``."""
    counts: dict[str, dict[str, int]] = {}
    for part in PARTS:
        counted = Counter(entry.label or "no label" for entry in entries if entry.part == part)
        counts[part] = dict(sorted(counted.items()))
    return counts


def check_labels(entries: Sequence[Entry], class_names: Sequence[str]) -> Row:
    """Every label known, and none missing where others are there."""
    labelled = sum(entry.label is not None for entry in entries)
    findings = []
    for entry in entries:
        if entry.label is None and labelled:
            findings.append(Finding(Severity.ERROR, f"{entry.name} has no label", (entry.where,)))
        elif entry.label is not None and class_names and entry.label not in class_names:
            message = f"{entry.name}: unknown label {entry.label!r}; known are {', '.join(class_names)}"
            findings.append(Finding(Severity.ERROR, message, (entry.where,)))
    missing = sorted(set(class_names) - {entry.label for entry in entries}) if labelled else []
    findings += [Finding(Severity.WARNING, f"no image has the label {name}") for name in missing]
    if not labelled:
        return Row("labels", "labels known", left_out="the datalist has no labels")
    names = ", ".join(class_names) if class_names else "not said by the datalist; --description names them"
    return Row("labels", "labels known", findings, f"class names: {names}")


def check_parts(entries: Sequence[Entry]) -> Row:
    """No part empty, no class missing from a part that others are in."""
    counts = Counter(entry.part for entry in entries)
    folded = any(entry.item.get("fold") is not None for entry in entries)
    findings = []
    if not counts["training"]:
        findings.append(Finding(Severity.ERROR, "the training part is empty"))
    if not folded:
        findings += [
            Finding(Severity.WARNING, f"the {part} part is empty")
            for part in ("validation", "test")
            if not counts[part]
        ]
    sides: dict[str, set[str | None]] = defaultdict(set)
    for entry in entries:
        sides[entry.side].add(entry.label)
    everything = {entry.label for entry in entries} - {None}
    for side, labels in sorted(sides.items()):
        if missing := sorted(str(label) for label in everything - labels):
            findings.append(Finding(Severity.WARNING, f"{side} has no {', '.join(missing)}"))
    without = [e for e in entries if folded and e.part == "training" and "fold" not in e.item]
    findings += [Finding(Severity.ERROR, f"{e.name} has no fold, others have", (e.where,)) for e in without]
    return Row("parts", "parts filled", findings, f"{len(sides)} sides: {', '.join(sorted(sides))}")


def check_patients(entries: Sequence[Entry], said: str | None) -> Row:
    """No patient, and no group, on two sides.

    Args:
        entries: all items.
        said: ``pneumonai.patients`` of the datalist.
    """
    sides: dict[tuple[str, object], dict[str, Entry]] = defaultdict(dict)
    patientless = 0
    for entry in entries:
        patientless += entry.item.get("patient_id") in (None, "")
        kind, name = unit_of(entry.item)
        if kind != "image":
            sides[kind, name].setdefault(entry.side, entry)
    findings = []
    for (kind, name), there in sides.items():
        if len(there) > 1:
            examples = "; ".join(entry.name for entry in there.values())
            message = f"{kind} {name} is in {' and '.join(there)}: {examples}"
            findings.append(Finding(Severity.ERROR, message, tuple(entry.where for entry in there.values())))
    summary = f"{len({unit_of(entry.item) for entry in entries})} units"
    if patientless:
        summary += f"; {patientless} of {len(entries)} images have no patient id"
        findings += [] if said in ("grouped", "unknown") else [Finding(Severity.WARNING, summary.split("; ")[1])]
    return Row("patients", "each patient and group on one side", findings, summary)


def check_same_file(entries: Sequence[Entry]) -> Row:
    """No image file in two lists, nor twice in one."""
    users: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        users[os.path.normpath(entry.image)].append(entry)
    findings = []
    for name, there in users.items():
        if len(there) < 2:
            continue
        places = tuple(entry.where for entry in there)
        two_sides = len({entry.side for entry in there}) > 1 or len({entry.label for entry in there}) > 1
        severity = Severity.ERROR if two_sides else Severity.WARNING
        findings.append(Finding(severity, f"{name} is listed {len(there)} times: {', '.join(places)}", places))
    return Row("same_file", "each file in one list", findings)
