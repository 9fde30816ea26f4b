"""Reading MONAI datalists: ``{"training": [item, ...], "validation": [...], "test": [...]}``.

MONAI's ``load_decathlon_datalist`` joins every string of an item that exists as a path (a patient id too) and leaves
a missing mask silently relative; here only images and masks are paths, and a missing file is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.boxes import read_boxes
from pneumonai.data_manifests.errors import ManifestError

PARTS = ("training", "validation", "test")
PATH_KEYS = ("image", "mask")


def load_datalist(
    datalist: str | Path,
    part: str,
    dataset_dir: str | Path | None = None,
    *,
    fold: int | None = None,
    class_names: Sequence[str] | None = None,
    keys: Sequence[str] = ("image", "label", "mask", "patient_id"),
) -> list[dict[str, Any]]:
    """The items of one part of a datalist, with absolute paths and integer labels.

    Args:
        datalist: path of the JSON file; a relative one is looked for here and then in ``dataset_dir``.
        part: ``training``, ``validation`` or ``test``.
        dataset_dir: folder that relative paths start from; the datalist's own folder when None.
        fold: for a datalist made of folds: ``test`` is this fold; ``validation`` the datalist's own, or the next fold
            where it has none; ``training`` the other folds and what has the fold null, as images of another
            source. So no choice is made on the fold that gives the score.
        class_names: names in label order; labels given as names become their index, others are checked.
        keys: which entries of an item to keep (``boxes`` are checked); one that an item lacks is left out.

    Returns:
        List of items; ``image`` and ``mask`` are absolute paths of existing files.

    Raises:
        ManifestError: for a missing datalist, part or file, and for an unknown label; it names the item.
    """
    path = Path(datalist)
    if not path.exists() and dataset_dir is not None:
        path = Path(dataset_dir) / datalist
    content = read_datalist(path)
    if fold is None:
        chosen = [(f"{datalist}, {part}[{n}]", item) for n, item in enumerate(content.get(part) or [])]
    else:
        chosen = _of_fold(content, part, fold, str(datalist))
    if not chosen:
        where = f"'{part}'" if fold is None else f"'{part}' with fold {fold}"
        raise ManifestError(datalist, f"no items under {where}", "check the names of its parts")
    root = Path(dataset_dir) if dataset_dir is not None else path.parent
    return [_read_item(item, where, root, class_names, keys) for where, item in chosen]


def read_datalist(path: str | Path) -> dict[str, Any]:
    """The content of a datalist as it stands, its parts being lists.

    Raises:
        ManifestError: it is missing, no JSON, or a part is no list.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(path, "no such datalist", "give the path of a datalist.json") from None
    except (OSError, ValueError) as error:
        raise ManifestError(path, f"not a readable JSON datalist ({error})", "write it anew") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part, []), list) for part in PARTS):
        raise ManifestError(path, f"no datalist: it needs lists under {', '.join(PARTS)}", "write it anew")
    return content


def _of_fold(content: dict[str, Any], part: str, fold: int, datalist: str) -> list[tuple[str, Any]]:
    folded = [(f"{datalist}, training[{n}]", item) for n, item in enumerate(content.get("training") or [])]
    missing = next((where for where, item in folded if not isinstance(item.get("fold", ""), int | None)), None)
    if missing is not None:
        raise ManifestError(missing, "has no fold", "build the datalist with --split folds=K")
    folds = 1 + max((item["fold"] for _, item in folded if item["fold"] is not None), default=-1)
    if not 0 <= fold < folds:
        raise ManifestError(datalist, f"has folds 0 to {folds - 1}, not {fold}", "choose one of them")
    own_validation = [(f"{datalist}, validation[{n}]", item) for n, item in enumerate(content.get("validation") or [])]
    if part == "validation" and own_validation:
        return own_validation
    held_out = {fold} if own_validation else {fold, (fold + 1) % folds}
    wanted = {"test": {fold}, "validation": {(fold + 1) % folds}}.get(part, {None, *range(folds)} - held_out)
    return [(where, item) for where, item in folded if item["fold"] in wanted]


def _read_item(
    item: Any, where: str, root: Path, class_names: Sequence[str] | None, keys: Sequence[str]
) -> dict[str, Any]:
    if not isinstance(item, dict) or "image" not in item:
        raise ManifestError(where, "an item needs an entry 'image'", "add it")
    read = {key: item[key] for key in keys if item.get(key) is not None}
    for key in PATH_KEYS:
        if key in read:
            file = (root / read[key]).absolute()
            if not file.exists():
                raise ManifestError(where, f"{key} {read[key]} is not in {root}", "check dataset_dir")
            read[key] = str(file)
    if "boxes" in read:
        read["boxes"] = read_boxes(read["boxes"], where)
    if class_names is not None and "label" in read:
        read["label"] = _class_index(read["label"], where, class_names)
    return read


def _class_index(label: Any, where: str, class_names: Sequence[str]) -> int:
    if isinstance(label, str) and label in class_names:
        return list(class_names).index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(class_names):
        return label
    raise ManifestError(where, f"unknown label {label!r}", f"use one of {', '.join(class_names)} or its index")
