"""How answers hold when the scan changes: noise, slices, rotation, flips, a lost lobe, metal.

``python benchmarks/robustness.py --bundle NAME --datalist DATALIST --output DIR`` takes the NIfTI volumes of a
datalist of phantoms (with ``lungs`` and ``mask``, as ``pneumonai phantom --count`` writes it), shifts each in every
way of ``SHIFTS``, writes it as NIfTI, and answers it by the very steps of ``pneumonai predict`` (open, check, prepare,
answer). ``DIR`` gets ``robustness.md`` and ``robustness.json`` (accuracy with a bootstrap interval over patients,
verdicts that differ from the unshifted answer, studies referred and refused, warnings), ``examples.png`` (one slice
a shift) and ``answers.jsonl``, from which a broken run goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from machine import describe_machine
from robustness_report import draw_examples, summarise, write_tables

from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom import shifts
from pneumonai.pipeline.predict import Options, answer, open_for, prepare

Scan = tuple[np.ndarray, np.ndarray]
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator, dict[str, np.ndarray]], Scan]
AXES = {"left-right": 0, "front-back": 1, "head-feet": 2}


def _plain(shift: shifts.Shift) -> Change:
    """A shift that needs no truth."""
    return lambda volume, affine, rng, truth: shift(volume, affine, rng)


def _without_lobe(volume: np.ndarray, affine: np.ndarray, rng: np.random.Generator, truth: dict[str, Any]) -> Scan:
    return shifts.remove_lobe(volume, affine, rng, lungs=truth["lungs"], infection=truth["mask"])


SHIFTS: dict[str, Change] = {
    "none": lambda volume, affine, rng, truth: (volume, affine),
    **{f"noise {s} HU": _plain(partial(shifts.add_noise, sigma=float(s))) for s in (10, 30, 60)},
    **{f"slices of {mm} mm": _plain(partial(shifts.thicken, thickness=float(mm))) for mm in (1, 2, 4, 8)},
    **{f"{n} slices": _plain(partial(shifts.reslice, count=n)) for n in (16, 32, 128, 300, 600)},
    **{
        f"turned 10 degrees about {name}": _plain(partial(shifts.rotate, axis=axis, degrees=10.0))
        for name, axis in AXES.items()
    },
    **{f"stored flipped, {name}": _plain(partial(shifts.flip, axes=(axis,))) for name, axis in AXES.items()},
    **{f"labelled wrongly, {name}": _plain(partial(shifts.mislabel, axis=axis)) for name, axis in AXES.items()},
    "a lobe missing": _without_lobe,
    "metal streaks": _plain(shifts.add_metal),
}


def choose(items: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """The first ``limit`` items, taken from the labels in turn."""
    by_label: dict[Any, list[dict[str, Any]]] = {}
    for item in items:
        by_label.setdefault(item["label"], []).append(item)
    turns = [group[index] for index in range(len(items)) for group in by_label.values() if index < len(group)]
    return turns if limit is None else turns[:limit]


def load(folder: Path, item: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Voxels, affine and truth of an item."""
    scan = nib.load(folder / item["image"])
    truth = {key: np.asarray(nib.load(folder / item[key]).dataobj) for key in ("lungs", "mask")}
    return np.asarray(scan.dataobj), scan.affine, truth


def ask(scan: Scan, model: Model, folder: Path) -> dict[str, Any]:
    """The answer to a scan as a user gets it: its file is opened, checked, prepared and answered."""
    path = folder / "scan.nii"
    nib.Nifti1Image(*scan).to_filename(path)
    options = Options(report=False)
    try:
        result, _ = answer(prepare(open_for(model.bundle, path, options), model), model, options)
    except StudyError as error:
        return {"refused": f"{error.reason}; {error.remedy}"}
    return {
        "verdict": result.verdict,
        "confidence": result.confidence,
        "referred": bool(result.refer),
        "warnings": result.warnings,
    }


def answers(
    items: list[dict[str, Any]], folder: Path, model: Model, seed: int, record: Path
) -> Iterator[dict[str, Any]]:
    """One row a study and shift; rows that ``record`` has for these weights and seed are not asked again."""
    key = {"weights": model.weights_sha256, "seed": seed}
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    known = [json.loads(line) for line in lines]
    done = {(row["image"], row["shift"]): row for row in known if key.items() <= row.items()}
    names = model.bundle.class_names
    with tempfile.TemporaryDirectory() as scratch, record.open("a", encoding="utf-8") as stream:
        for item in items:
            volume, affine, truth = load(folder, item)
            for index, (name, change) in enumerate(SHIFTS.items()):
                row = done.get((item["image"], name))
                if row is None:
                    rng = np.random.default_rng([seed, index, *item["image"].encode()])
                    shifted = change(volume, affine, rng, truth)
                    label = item["label"] if isinstance(item["label"], str) else names[item["label"]]
                    row = key | {"image": item["image"], "patient_id": item.get("patient_id", item["image"])}
                    row |= {"label": label, "shift": name} | ask(shifted, model, Path(scratch))
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
                yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="nl_ran_ct_classification")
    parser.add_argument("--datalist", type=Path, required=True)
    parser.add_argument("--part", default="test")
    parser.add_argument("--limit", type=int, help="studies, the classes in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    items = choose(json.loads(arguments.datalist.read_text(encoding="utf-8"))[arguments.part], arguments.limit)
    if not items:
        parser.error(f"the part {arguments.part!r} of {arguments.datalist} is empty; name another with --part")
    arguments.output.mkdir(parents=True, exist_ok=True)
    model = Model(find_bundle(arguments.bundle))
    folder = arguments.datalist.parent
    rows = []
    for row in answers(items, folder, model, arguments.seed, arguments.output / "answers.jsonl"):
        rows.append(row)
        print(f"{len(rows)}/{len(items) * len(SHIFTS)} {row['image']}: {row['shift']}", flush=True)
    volume, affine, truth = load(folder, next((i for i in items if i["label"] in (1, "ncp")), items[0]))
    made = {}
    for index, (name, change) in enumerate(SHIFTS.items()):
        made[name] = change(volume, affine, np.random.default_rng([arguments.seed, index]), truth)
    draw_examples(made, arguments.output / "examples.png")
    facts = {
        "machine": describe_machine(),
        "bundle": arguments.bundle,
        "weights_sha256": model.weights_sha256,
        "datalist": arguments.datalist.name,
        "part": arguments.part,
        "studies": len(items),
        "seed": arguments.seed,
    }
    write_tables(summarise(rows, list(SHIFTS), arguments.seed), facts, arguments.output)
    print((arguments.output / "robustness.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
