"""A dataset's download, by its description's rules, into the items of a datalist. No dataset is named here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.assemble import SplitChoice, default_split, make_datalist
from pneumonai.data_manifests.boxes import BOX_KEYS, Box, read_boxes
from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.description import Description
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.readable import unreadable
from pneumonai.data_manifests.rules import LeftOutError, Source, evaluate, rewritten
from pneumonai.data_manifests.tree import FileTree

#: Called with a step's name, how much of it is done, and of how much (None where that is not known).
Progress = Callable[[str, int, int | None], None]


def build_datalist(
    description: Description,
    data_dir: str | Path,
    split: SplitChoice | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The datalist of a download.

    Args:
        description: of the dataset.
        data_dir: the folder that the archives were unpacked in; paths of the datalist are relative to it.
        split: the official one where there is one, else 8:1:1, when None.
        seed: of that 8:1:1.
        progress: told how far it is.

    Returns:
        The datalist (see ``docs/data.md``).

    Raises:
        ManifestError: the folder is not as described, a file is missing or unreadable, a label is unknown, or a file
            is in two lists; it names the file, or the table and row.
    """
    tell = progress or (lambda step, done, total: None)
    tree = FileTree(data_dir, lambda count: tell("listing", count, None))
    source = Source(tree, description.build.get("tables", {}))
    notes: list[str] = []
    items: dict[str, dict[str, Any]] = {}
    for number, rule in enumerate(description.build["items"]):
        for item in _items(rule, source, description, notes):
            earlier = items.setdefault(item["image"], {**item, "rule": number})
            if earlier["rule"] != number:
                raise ManifestError(tree.folder / item["image"], "matches two rules of the description", "report this")
    found = [{key: value for key, value in item.items() if key != "rule"} for item in items.values()]
    if not found:
        raise _not_as_described(description, tree, "no images")
    notes += source.missing_files()
    named = ((item, key) for item in tell_each(found, tell) for key in ("image", "mask", "lungs") if key in item)
    refuse_unreadable((tree.folder, item[key], str(tree.folder / item[key])) for item, key in named)
    return make_datalist(
        found,
        split or default_split(found, seed),
        name=description.name,
        description=str(description.title.value),
        modality=description.modality,
        dataset=description.name,
        class_names=description.classes,
        warnings=notes,
    )


def tell_each(items: Sequence[Mapping[str, Any]], tell: Progress) -> Iterable[Mapping[str, Any]]:
    """The items one by one, with word of it."""
    for number, item in enumerate(items):
        if number % 50 == 0:
            tell("opening", number, len(items))
        yield item


def refuse_unreadable(files: Iterable[tuple[Path, str, str]]) -> None:
    """Raise for files that cannot be opened.

    Args:
        files: folder, path in it, and the words that name it in the error.

    Raises:
        ManifestError: names the first, and how many there are.
    """
    bad = [(where, reason) for folder, path, where in files if (reason := unreadable(folder / path)) is not None]
    if bad:
        where, reason = bad[0]
        more = f"; {len(bad) - 1} more files, the next {bad[1][0]}" if len(bad) > 1 else ""
        raise ManifestError(where, f"{reason}{more}", "fetch them again or take them out of the lists")


def _not_as_described(description: Description, tree: FileTree, reason: str) -> ManifestError:
    layout = "; ".join(description.layout.value)
    return ManifestError(
        tree.folder, reason, f"expected for {description.name}: {layout}; found there: {tree.summary()}"
    )


def _images(rule: Mapping[str, Any], tree: FileTree) -> list[str]:
    image = rule["image"]
    if "folders" in image:
        return tree.folders_matching(image["folders"], image["holds"])
    return tree.matching(image["files"])


def _items(
    rule: Mapping[str, Any], source: Source, description: Description, notes: list[str]
) -> Iterable[dict[str, Any]]:
    """The items of one rule; what is left out, and masks that are not there, are noted."""
    images = _images(rule, source.tree)
    if not images:
        if rule.get("optional"):
            return
        image = rule["image"]
        patterns = " or ".join(image.get("files") or image["folders"])
        raise _not_as_described(description, source.tree, f"nothing matches {patterns}")
    listed = _listed(rule["part"]["lists"], images, source, notes) if "lists" in rule.get("part", {}) else None
    left_out: Counter[str] = Counter()
    without: Counter[str] = Counter()
    for path in images:
        try:
            _demand(rule, path, source)
            item = _item(rule, path, source, description.classes)
        except LeftOutError as error:
            left_out[str(error)] += 1
            continue
        if listed is not None:
            item["part"] = listed.get(path)
        for key, mask in rule.get("masks", {}).items():
            other = rewritten(mask, path)
            if other in source.tree.paths:
                item[key] = other
            elif mask.get("required"):
                raise ManifestError(source.tree.folder / path, f"its {key} {other} is missing", "fetch it again")
            else:
                without[key] += 1
        yield item
    if left_out:
        named = ", ".join(f"{count} {value}" for value, count in left_out.most_common(4))
        notes.append(f"{left_out.total()} images are left out by the description's rules ({named})")
    for key, count in without.items():
        notes.append(f"{count} of {len(images) - left_out.total()} images have no {key}")


def _demand(rule: Mapping[str, Any], path: str, source: Source) -> None:
    """Leave the item out unless its cells match the rule's ``where``, and its table lists it."""
    for demand in rule.get("where", ()):
        value, _ = evaluate({"table": demand["table"], "column": demand["column"]}, path, source)
        if value is None:
            raise LeftOutError(f"without {demand['column']}")
        evaluate({"constant": value, "map": {demand["matches"]: "", ".*": None}}, path, source)


def _item(rule: Mapping[str, Any], path: str, source: Source, classes: Sequence[str]) -> dict[str, Any]:
    item: dict[str, Any] = {"image": path}
    if "label" in rule:
        value, where = evaluate(rule["label"], path, source)
        label = (value or "").strip().lower()
        if label not in classes:
            reason = "no label" if value is None else f"unknown label {value!r}"
            raise ManifestError(where, reason, f"known are {', '.join(classes)}")
        item["label"] = label
    for key in ("patient_id", "group"):
        if key in rule:
            item[key] = evaluate(rule[key], path, source)[0]
    if "part" in rule and "lists" not in rule["part"]:
        part, where = evaluate(rule["part"], path, source)
        if part is not None and part not in PARTS:
            raise ManifestError(where, f"unknown part {part!r}", f"known are {', '.join(PARTS)}")
        item["part"] = part
    if "boxes" in rule:
        item["boxes"] = _boxes(rule["boxes"], path, source)
        if rule["boxes"].get("required") and not item["boxes"]:
            raise LeftOutError("without a box")
    for key, extra in rule.get("extra", {}).items():
        value, where = evaluate(extra, path, source)
        if value is not None:
            item[key] = _number(value, where) if extra.get("number") else value
    return item


def _boxes(rule: Mapping[str, Any], path: str, source: Source) -> list[Box]:
    """The boxes of a picture: of the table's rows that name it, those whose cells match the rule's ``where``."""
    table = source.table(rule["table"])
    found: list[Box] = []
    if table is None:
        return found
    for row in source.rows(rule["table"], path):
        wanted = rule.get("where", {}).items()
        if all(re.fullmatch(matches, row.values[table.column(column)], re.IGNORECASE) for column, matches in wanted):
            sides = {key: row.values[table.column(rule[key])] for key in BOX_KEYS}
            found += read_boxes([sides], f"{table.path.name}, row {row.line}")
    return found


def _number(value: str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ManifestError(where, f"{value!r} is no number", "correct it") from None


def _listed(
    lists: Mapping[str, Sequence[str]], images: Sequence[str], source: Source, notes: list[str]
) -> dict[str, str]:
    """The part of each image that a list names; a list has one file name a line. A missing list is noted."""
    by_name: dict[str, str] = {}
    for path in images:
        other = by_name.setdefault(path.rpartition("/")[2], path)
        if other != path:
            raise ManifestError(source.tree.folder / path, f"{other} has the same name", "remove one copy")
    found: dict[str, tuple[str, str]] = {}
    for part, patterns in lists.items():
        files = source.tree.matching(patterns)
        if not files:
            notes.append(f"the official list of the {part} part, {' or '.join(patterns)}, is not there")
        for file in files:
            lines = (source.tree.folder / file).read_text(encoding="utf-8-sig").splitlines()
            for number, line in enumerate(lines, start=1):
                name = line.strip().replace("\\", "/").rpartition("/")[2]
                if not name:
                    continue
                where = f"{file}, row {number}"
                if name not in by_name:
                    raise ManifestError(where, f"{name} is not there", "fetch it again or take it out of the list")
                path = by_name[name]
                if path in found:
                    raise ManifestError(where, f"{name} is listed in {found[path][1]} too", "keep it in one list")
                found[path] = part, where
    return {path: part for path, (part, _) in found.items()}
