"""Many phantoms on disk with a datalist, for training; a broken run goes on where it stopped."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.boxes import BOX_KEYS
from pneumonai.data_manifests.whole_files import whole_file
from pneumonai.pipeline.localisation import boxes_around
from pneumonai.pipeline.phantom.patient import Difficulty, Kind
from pneumonai.pipeline.phantom.phantom import Phantom, make_phantom
from pneumonai.pipeline.phantom.projections import project_masks
from pneumonai.pipeline.phantom.write import write_dicom, write_lateral, write_nifti, write_slices, write_xray
from pneumonai.pipeline.progress import step_progress

#: The datalist's parts, in the order in which they take their seeds.
PARTS = ("training", "validation", "test")
FORMS = ("nifti", "dicom", "xray", "lateral", "slices")


def _write(form: str, phantom: Phantom, folder: Path) -> list[dict[str, object]]:
    """Write one phantom in a form; its entries' paths, relative to the folder, and an X-ray's boxes."""
    if form == "nifti":
        write_nifti(phantom, folder)
        name = phantom.name
        files = {"image": name, "mask": f"{name}_infection", "lungs": f"{name}_lungs"}
        return [{key: f"{value}.nii.gz" for key, value in files.items()}]
    if form == "dicom":
        write_dicom(phantom, folder / phantom.name)
        write_nifti(phantom, folder / "truth")
        truth = f"truth/{phantom.name}"
        masks = {"mask": f"{truth}_infection.nii.gz", "lungs": f"{truth}_lungs.nii.gz"}
        return [{"image": phantom.name, **masks}]
    if form == "lateral":
        return [{"image": path.name} for path in write_lateral(phantom, folder)]
    pictures = [write_xray(phantom, folder)[0]] if form == "xray" else write_slices(phantom, folder)
    entries: list[dict[str, object]] = [
        {"image": path.name, "mask": f"{path.stem}_infection.png", "lungs": f"{path.stem}_lungs.png"}
        for path in pictures
    ]
    if form == "xray":
        entries[0]["boxes"] = boxes_around(project_masks(phantom)["infection"] > 0)
    return entries


def _finished(folder: Path, record: Path, recipe: dict[str, object]) -> list[dict[str, object]] | None:
    """The entries of a phantom that a former run finished by the same recipe, or None."""
    try:
        stored = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if stored.get("recipe") != recipe:
        return None
    entries = stored["entries"]
    there = all(
        (folder / str(entry[key])).exists() for entry in entries for key in ("image", "mask", "lungs") if key in entry
    )
    return entries if there else None


def _make(
    folder: Path, kind: Kind, seed: int, shape: tuple[int, int, int], form: str, difficulty: Difficulty
) -> list[dict[str, object]]:
    """Write one phantom unless it is there; its entries for the datalist."""
    recipe: dict[str, object] = {"kind": kind.value, "seed": seed, "shape": list(shape), "form": form}
    if form == "xray":
        recipe["boxes"] = True
    if difficulty.of_seed(seed) is not Difficulty.USUAL:
        recipe["difficulty"] = difficulty.of_seed(seed).value
    record = folder / ".finished" / f"{kind.value}_{seed:04d}.json"
    entries = _finished(folder, record, recipe)
    if entries is None:
        phantom = make_phantom(kind, seed, shape=shape, difficulty=difficulty)
        patient = f"phantom-{phantom.name}"
        entries = [{**files, "label": phantom.label, "patient_id": patient} for files in _write(form, phantom, folder)]
        _write_json(record, {"recipe": recipe, "entries": entries})
    return entries


def _write_json(path: Path, content: object) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_box_table(folder: Path, entries: Sequence[Mapping[str, object]]) -> None:
    """``boxes.csv`` of the X-rays, as ``pneumonai predict --truth`` reads it; a row with a name alone has none."""
    lines = [",".join(("study", *BOX_KEYS))]
    for entry in entries:
        boxes: Any = entry.get("boxes") or [dict.fromkeys(BOX_KEYS, "")]
        lines += [",".join([Path(str(entry["image"])).stem, *(str(box[key]) for key in BOX_KEYS)]) for box in boxes]
    with whole_file(folder / "boxes.csv") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_dataset(
    folder: str | Path,
    *,
    counts: Mapping[str, int],
    kinds: Sequence[Kind | str] = tuple(Kind),
    first_seed: int = 0,
    shape: tuple[int, int, int] = (256, 256, 96),
    form: str = "nifti",
    difficulty: Difficulty | str = Difficulty.USUAL,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Write phantoms and their ``datalist.json``; finished phantoms are skipped.

    Args:
        folder: where; made if missing.
        counts: phantoms of each kind in each part, such as ``{"training": 100, "validation": 20, "test": 20}``.
        kinds: which kinds.
        first_seed: the training part's first seed; the parts follow one another, so no seed is in two parts.
        shape: of each volume.
        form: ``nifti``, ``dicom`` (one folder a study), ``xray``, ``lateral`` (no masks: the lungs overlap) or
            ``slices``.
        difficulty: usual; hard: small, faint lesions beside what only looks like them; mixed: every other one hard.
        workers: processes; 1 works in this one.
        progress: show a progress bar on standard error.

    Returns:
        The datalist: ``{"training": [{"image", "label", "mask", "lungs", "patient_id"}, ...], "validation": ...,
        "test": ...}`` with paths relative to it and integer labels. X-rays also have ``boxes`` around the infection,
        which ``boxes.csv`` beside it holds too.

    Raises:
        ValueError: for an unknown form, part or difficulty, or a negative count or seed.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
    if set(counts) - set(PARTS) or any(count < 0 for count in counts.values()) or first_seed < 0:
        raise ValueError(f"counts must be 0 or more for {', '.join(PARTS)}, got {dict(counts)} from seed {first_seed}")
    difficulty = Difficulty(difficulty)
    folder, chosen = Path(folder), [Kind(kind) for kind in kinds]
    jobs, seed = [], first_seed
    for part in PARTS:
        number = counts.get(part, 0)
        jobs += [(part, kind, seed + index) for index in range(number) for kind in chosen]
        seed += number
    found: dict[int, list[dict[str, object]]] = {}
    with step_progress(hidden=not progress) as tell:
        if workers <= 1:
            for index, (_, kind, number) in enumerate(jobs):
                found[index] = _make(folder, kind, number, shape, form, difficulty)
                tell("phantoms", len(found), len(jobs))
        else:
            # Spawned, not forked: the caller may hold threads (PyTorch's, say).
            with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
                futures = {
                    pool.submit(_make, folder, kind, number, shape, form, difficulty): index
                    for index, (_, kind, number) in enumerate(jobs)
                }
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    tell("phantoms", len(found), len(jobs))
    datalist: dict[str, list[dict[str, object]]] = {part: [] for part in PARTS}
    for index, (part, _, _) in enumerate(jobs):
        datalist[part] += found[index]
    if form == "xray":
        _write_box_table(folder, [entry for part in PARTS for entry in datalist[part]])
    path = folder / "datalist.json"
    name = "synthetic thorax phantoms" + ("" if difficulty is Difficulty.USUAL else f", {difficulty.value}")
    _write_json(path, {"name": name, **datalist})
    return path
