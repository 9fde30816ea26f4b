"""Lungs of X-rays: the tables from which ``cxr_lung_segmentation`` is trained, its scores, and pictures to look at.

    pneumonai phantom --kind all --format xray --count 10 --validation 5 --difficulty mixed --seed 50000 \\
        --shape 192 192 72 --output PHANTOMS
    python benchmarks/cxr_lungs.py tables CXR PHANTOMS --output DATA
    pneumonai manifest build DATA --from-csv DATA/folds.csv --split folds=5 --modality CXR --output DATA/folds.json
    pneumonai manifest build DATA --from-csv DATA/all.csv --split official --modality CXR --output DATA/all.json
    python benchmarks/cxr_lungs.py scores SCORES/fold*/predictions.csv
    python benchmarks/cxr_lungs.py sheet ANSWERS XRAY... --output lungs.png

CXR holds ``manifest.csv`` (file, patient_id, lung_mask) with its pictures and masks. ``folds.csv`` has every masked
picture and the training phantoms; ``all.csv`` trains on all of them and validates on the validation phantoms.
``scores`` keeps patients' pictures, whose masks a model made, and phantoms, whose lungs are known, apart.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sheet import write_sheet
from skimage.segmentation import find_boundaries

from pneumonai.pipeline.metrics.resampling import interval, resampled_means

PHANTOM = "phantom-"
COLOURS = {1: (64, 224, 208), 2: (255, 170, 64)}


def write_tables(cxr: Path, phantoms: Path, output: Path) -> None:
    """Write ``folds.csv`` and ``all.csv``, and links to both data sets beside them."""
    output.mkdir(parents=True, exist_ok=True)
    for name, folder in (("cxr", cxr), ("phantoms", phantoms)):
        link = output / name
        if not link.exists():
            link.symlink_to(folder.resolve(), target_is_directory=True)
    with (cxr / "manifest.csv").open(newline="", encoding="utf-8") as file:
        masked = [row for row in csv.DictReader(file) if row["lung_mask"]]
    patients = [(f"cxr/{row['file']}", f"cxr/{row['lung_mask']}", row["patient_id"], "training") for row in masked]
    datalist = json.loads((phantoms / "datalist.json").read_text(encoding="utf-8"))
    made = [
        (f"phantoms/{item['image']}", f"phantoms/{item['lungs']}", item["patient_id"], part)
        for part in ("training", "validation")
        for item in datalist[part]
    ]
    trained = [row for row in made if row[3] == "training"]
    _write(output / "folds.csv", ("image", "mask", "patient_id"), [row[:3] for row in patients + trained])
    _write(output / "all.csv", ("image", "mask", "patient_id", "split"), patients + made)
    print(f"{len(patients)} pictures of {len({row[2] for row in patients})} patients, {len(made)} phantoms: {output}")


def _write(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def print_scores(files: Sequence[Path]) -> None:
    """Mean Dice, its interval and tenth percentile over several ``predictions.csv``, patients and phantoms apart."""
    rows = []
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    print("| pictures | n | patients | Dice of both lungs | 95 % interval | right | left | tenth percentile |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, phantom in (("patients (a model's masks)", False), ("phantoms (known lungs)", True)):
        chosen = [row for row in rows if row["patient_id"].startswith(PHANTOM) is phantom]
        if not chosen:
            continue
        dice = {key: np.array([float(row[key]) for row in chosen]) for key in ("dice", "dice_right", "dice_left")}
        mean = {key: f"{values.mean():.3f}" for key, values in dice.items()}
        people = [row["patient_id"] for row in chosen]
        bounds = interval(resampled_means(dice["dice"], people))
        between = "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        print(
            f"| {name} | {len(chosen)} | {len(set(people))} | {mean['dice']} | {between} | {mean['dice_right']} "
            f"| {mean['dice_left']} | {np.percentile(dice['dice'], 10):.3f} |"
        )


def draw_borders(answers: Path, path: Path) -> Image.Image:
    """A picture with the borders of ``ANSWERS/NAME/lungs.png`` drawn in."""
    grey = np.asarray(Image.open(path).convert("L"))
    labels = np.asarray(Image.open(answers / path.stem / "lungs.png"))
    drawn = np.repeat(grey[..., None], 3, axis=2)
    for label, colour in COLOURS.items():
        drawn[find_boundaries(labels == label, mode="inner")] = colour
    return Image.fromarray(drawn)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tables = commands.add_parser("tables")
    tables.add_argument("cxr", type=Path)
    tables.add_argument("phantoms", type=Path)
    tables.add_argument("--output", type=Path, required=True)
    scores = commands.add_parser("scores")
    scores.add_argument("files", type=Path, nargs="+")
    sheet = commands.add_parser("sheet")
    sheet.add_argument("answers", type=Path)
    sheet.add_argument("pictures", type=Path, nargs="+")
    sheet.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "tables":
        write_tables(given.cxr, given.phantoms, given.output)
    elif given.command == "scores":
        print_scores(given.files)
    else:
        tiles = [(draw_borders(given.answers, path), "") for path in given.pictures]
        write_sheet(tiles, given.output, columns=6, quality=50)


if __name__ == "__main__":
    main()
