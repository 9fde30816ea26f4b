"""From items to a datalist: the choice of a split, its parts, and what must be said about them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.split import split_folds, split_ratio, unit_of

#: Keys of an item in the order in which they are written.
KEYS = ("image", "label", "mask", "lungs", "patient_id", "group", "fold")


@dataclass(frozen=True)
class SplitChoice:
    """How to split: ``official`` (a part that each item came with), ``ratio`` or ``folds``."""

    method: Literal["official", "ratio", "folds"]
    ratios: tuple[float, float, float] | None = None
    folds: int | None = None
    seed: int = 0
    #: Share of an official training part that becomes the validation part where the split came without one.
    validation: float = 0.0


def parse_split(text: str, seed: int = 0, *, validation: float = 0.0) -> SplitChoice:
    """The choice that ``--split`` spells: ``official``, ``A:B:C`` (or ``A:B``: training, test) or ``folds=K``.

    Raises:
        ManifestError: the text is none of these, or ``validation`` is given with a split that makes its own.
    """
    text = text.strip().lower()
    if text == "official":
        return SplitChoice("official", seed=seed, validation=validation)
    if validation:
        raise ManifestError("--validation", "goes with an official split only", "use --split A:B:C instead")
    if match := re.fullmatch(r"folds=(\d+)", text):
        return SplitChoice("folds", folds=int(match.group(1)), seed=seed)
    if re.fullmatch(r"[\d.]+(:[\d.]+){1,2}", text):
        try:
            ratios = [float(piece) for piece in text.split(":")]
        except ValueError:
            ratios = [0.0]
        if sum(ratios) > 0:
            training, *rest = ratios
            middle, test = rest if len(rest) == 2 else (0.0, rest[0])
            return SplitChoice("ratio", (training, middle, test), seed=seed)
    raise ManifestError("--split", f"'{text}' is no split", "use official, 8:1:1 (or 8:2: training, test) or folds=5")


def default_split(items: Sequence[Mapping[str, Any]], seed: int = 0) -> SplitChoice:
    """The parts that items came with, where any did, else 8:1:1."""
    if any(item.get("part") for item in items):
        return SplitChoice("official", seed=seed)
    return SplitChoice("ratio", (8.0, 1.0, 1.0), seed=seed)


def make_datalist(
    items: Sequence[Mapping[str, Any]],
    split: SplitChoice,
    *,
    name: str,
    description: str,
    modality: str | None,
    dataset: str | None,
    class_names: Sequence[str],
    official_method: str = "official",
    warnings: Sequence[str] = (),
    assumed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A datalist of items, split.

    Args:
        items: each with ``image`` and what else is known of :data:`KEYS`; ``part`` is the part it came with.
        split: how; ``official`` takes ``part``, ``folds`` leaves an official test part in ``test``.
        name: of the datalist.
        description: one sentence.
        modality: ``CT`` or ``CXR``.
        dataset: name of the description it was built from.
        class_names: in label order; empty where items have no labels.
        official_method: what an official split is called in the datalist (``official`` or ``column``).
        warnings: what was noticed before.
        assumed: block of that name.

    Returns:
        The datalist (see ``docs/data.md``), with ``pneumonai.warnings``.

    Raises:
        ManifestError: an official split is wanted and there is none, or there are fewer patients than folds.
    """
    found = list(warnings)
    patients = _patients(items, found)
    parts = _parts(items, split, name)
    block: dict[str, Any] = {
        "dataset": dataset,
        "class_names": list(class_names),
        "patients": patients,
        "split": {
            "method": official_method if split.method == "official" else split.method,
            "ratios": None if split.ratios is None else [int(r) if r == int(r) else r for r in split.ratios],
            "folds": split.folds,
            "seed": split.seed,
            **({"validation": split.validation} if split.validation else {}),
        },
    }
    if assumed:
        block["assumed"] = dict(assumed)
    found += _remarks(parts, class_names, split, patients, len(items))
    block["warnings"] = found
    datalist: dict[str, Any] = {"name": name, "description": description}
    if modality is not None:
        datalist["modality"] = modality
    return {**datalist, "pneumonai": block, **{part: [_clean(item) for item in parts[part]] for part in PARTS}}


def _clean(item: Mapping[str, Any]) -> dict[str, Any]:
    rest = [key for key in item if key not in KEYS and key != "part"]
    return {key: item[key] for key in (*KEYS, *rest) if item.get(key) not in (None, "")}


def _patients(items: Sequence[Mapping[str, Any]], warnings: list[str]) -> str:
    """``known``, ``grouped`` or ``unknown``, and the warnings that go with it."""
    kinds = Counter(unit_of(item)[0] for item in items)
    if kinds["patient"] == len(items):
        return "known"
    none = kinds["patient"] == 0
    without = "no image has a" if none else f"{len(items) - kinds['patient']} of {len(items)} images have no"
    if not kinds["image"]:
        warnings.append(f"{without} patient id; images are kept together by group instead")
        return "grouped"
    alone = "every image" if kinds["image"] == len(items) else f"each of {kinds['image']} images"
    warnings.append(
        f"{without} patient id, and {alone} is its own unit: images of one patient can lie in two parts, and scores "
        "on them can be too good"
    )
    return "unknown"


def _parts(items: Sequence[Mapping[str, Any]], split: SplitChoice, name: str) -> dict[str, list[Mapping[str, Any]]]:
    parts: dict[str, list[Mapping[str, Any]]] = {part: [] for part in PARTS}
    if split.method == "official":
        if not any(item.get("part") for item in items):
            raise ManifestError(name, "no official split is known", "use --split 8:1:1 or folds=5")
        for item in items:
            if item.get("part"):
                parts[item["part"]].append(item)
        if split.validation and parts["validation"]:
            raise ManifestError(name, "its split has a validation part already", "leave out --validation")
        if split.validation:
            shares = (1 - split.validation, split.validation)
            sides = split_ratio(parts["training"], shares, split.seed)
            pairs = list(zip(parts["training"], sides, strict=True))
            parts["training"] = [item for item, side in pairs if side == 0]
            parts["validation"] = [item for item, side in pairs if side == 1]
    elif split.method == "ratio":
        for item, part in zip(items, split_ratio(items, split.ratios or (), split.seed), strict=True):
            parts[PARTS[part]].append(item)
    else:
        parts["test"] = [item for item in items if item.get("part") == "test"]
        rest = [item for item in items if item.get("part") != "test"]
        folds = split_folds(rest, split.folds or 0, split.seed)
        parts["training"] = [{**item, "fold": fold} for item, fold in zip(rest, folds, strict=True)]
    return parts


def _remarks(
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    class_names: Sequence[str],
    split: SplitChoice,
    patients: str,
    total: int,
) -> list[str]:
    """What a user should know of the parts."""
    remarks = []
    left_out = total - sum(len(parts[part]) for part in PARTS)
    if left_out:
        remarks.append(f"{left_out} images are in no part of the given split and are left out")
    sides: dict[tuple[str, Hashable], set[str]] = defaultdict(set)
    for part in PARTS:
        for item in parts[part]:
            sides[unit_of(item)].add(part)
    crossing = [str(unit[1]) for unit, where in sides.items() if len(where) > 1]
    if crossing:
        what = "patients" if patients == "known" else "patients or groups"
        named = ", ".join(crossing[:3]) + (", ..." if len(crossing) > 3 else "")
        remarks.append(f"{len(crossing)} {what} lie in two parts of the given split ({named})")
    wanted = PARTS if split.method == "official" else [p for p, r in zip(PARTS, split.ratios or (), strict=False) if r]
    for part in wanted:
        there = {item.get("label") for item in parts[part]}
        if not parts[part]:
            hint = "; --validation 0.1 takes one from the training part" if part == "validation" else ""
            remarks.append(f"the {part} part is empty{hint}")
        elif missing := [label for label in class_names if label not in there]:
            remarks.append(f"the {part} part has no {', '.join(missing)}")
    return remarks
