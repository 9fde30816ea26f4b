"""FUSA-ResUNet on COVID-SemiSeg: the recipe behind the shipped weights, and its score on outer folds.

    python benchmarks/fusa_covid_semiseg.py PACKS --imagenet efficientnet-lite2.pth --output runs/semiseg --weights

PACKS holds ``ct2d_infseg`` (50 slices, masks drawn by hand) and ``ct2d_infseg_pseudo`` (slices of volumes, masks made
by Inf-Net). In each of five folds, near duplicates on one side:

1. teacher: a U-Net on an ImageNet EfficientNet-Lite2, trained on the machine-made masks (once for all folds: they are
   of other patients), then on the fold's 40 hand-made ones (two stages);
2. the teacher marks slices whose masks were machine-made;
3. student: FUSA-ResUNet, trained on the machine-made masks (once), then on the 40 hand-made and the teacher's together
   (stage 1), then on the hand-made alone (stage 2).

Nothing is chosen on a fold that is held out: epochs are fixed, the last averaged weights are kept. ``--weights`` adds
the run over all 50 slices whose student ships. What is done already is not done again. Several folds may run at once,
each as its own process with ``--folds K`` and ``OMP_NUM_THREADS=1``; a call with all folds then prints the table.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from bundle_runs import BundleRuns, pneumonai
from PIL import Image
from sheet import write_sheet

from pneumonai.pipeline.derive import derive_bundle
from pneumonai.pipeline.metrics.resampling import interval, resampled_means
from pneumonai.pipeline.predict import Options, predict_study

RUNS = BundleRuns("fusa_resunet_ct_segmentation")
TILE = 300
"""Pixels of a slice's side in the picture of cases."""
TEACHER = ("unet_efficientnet_lite2",)


def train(folder: Path, datalist: Path, epochs: int, *, teacher: bool = False, **settings: Any) -> Path:
    """The weights of one training; unfinished ones go on."""
    common = {"dataset_dir": "/", "datalist": datalist, "autocast": "bfloat16", "val_interval": epochs}
    return RUNS.train(folder, epochs, TEACHER if teacher else (), **(common | settings))


def score(folder: Path, weights: Path, datalist: Path, *, teacher: bool = False) -> None:
    """``plain`` and ``mirrored``: the scores of the slices held out, without and with mirrors at test time."""
    configs = ["evaluate", *(TEACHER if teacher else ())]
    for name, settings in (("plain", {"mirrors": "[[]]"}), ("mirrored", {})):
        if not (folder / name / "metrics.json").exists():
            common = {"dataset_dir": "/", "datalist": datalist, "ckpt_path": weights, "output_dir": folder / name}
            RUNS.run(folder / name / "log.txt", configs, **common, **settings)


def mark(folder: Path, weights: Path, slices: Path) -> None:
    """The teacher's masks of the slices of a folder."""
    if not (folder / "predictions.csv").exists():
        settings = {"dataset_dir": slices, "output_dir": folder, "ckpt_path": weights}
        RUNS.run(folder.with_suffix(".log"), ["inference", *TEACHER], **settings)


def write_datalist(
    path: Path, training: list[dict[str, Any]], validation: list[dict[str, Any]], test: list[dict[str, Any]]
) -> Path:
    """The file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"training": training, "validation": validation, "test": test}, indent=1))
    return path


def build_datalist(path: Path, pack: Path, rows: list[str], *options: str) -> dict[str, Any]:
    """``pneumonai manifest build`` of a table; images and masks with their whole paths."""
    if not path.exists():
        table = path.with_suffix(".csv")
        table.write_text("\n".join(["image,mask,patient_id", *rows]) + "\n")
        pneumonai("manifest", "build", pack, "--from-csv", table, "--modality", "CT", "--output", path, *options)
    datalist = json.loads(path.read_text())
    for part in ("training", "validation", "test"):
        datalist[part] = [item | {key: str(pack / item[key]) for key in ("image", "mask")} for item in datalist[part]]
    return datalist


def machine_labelled(packs: Path, output: Path) -> tuple[Path, Path, Path]:
    """Datalists of the volumes' slices, all and every second one, and a folder of every fourth, to be marked anew.

    One volume in ten is held out for validation.
    """
    pack = packs / "ct2d_infseg_pseudo"
    rows = []
    for image in sorted((pack / "images").glob("*.jpg"), key=_volume_and_number):
        # One patient's scan is there in two reconstructions.
        volume = _volume_and_number(image)[0].replace("10_85902_3", "10_85902_1")
        rows.append(f"images/{image.name},masks/{image.stem}.png,{volume}")
    datalist = build_datalist(output / "machine_labelled.json", pack, rows, "--split", "9:1:0")
    training = sorted(datalist["training"], key=lambda item: _volume_and_number(Path(item["image"])))
    folder = output / "to_mark"
    folder.mkdir(parents=True, exist_ok=True)
    for item in training[::4]:
        link = folder / Path(item["image"]).name
        if not link.exists():
            link.symlink_to(item["image"])
    validation = datalist["validation"]
    return (
        write_datalist(output / "slices.json", training, validation, []),
        write_datalist(output / "every_second_slice.json", training[::2], validation[::3], []),
        folder,
    )


def _volume_and_number(image: Path) -> tuple[str, int]:
    volume, number = image.stem.rsplit("_", 1)
    return volume, int(number)


def hand_labelled(packs: Path, output: Path) -> list[dict[str, Any]]:
    """The 50 slices with their folds; near duplicates share one."""
    pack = packs / "ct2d_infseg"
    images = sorted((pack / "images").glob("*.png"), key=lambda image: int(image.stem))
    rows = [f"images/{image.name},masks/{image.name}," for image in images]
    options = ("--split", "folds=5", "--alike-together")
    return build_datalist(output / "hand_labelled.json", pack, rows, *options)["training"]


def one_fold(
    fold: int | None, hand: list[dict[str, Any]], starts: dict[str, Path], slices: Path, arguments: argparse.Namespace
) -> None:
    """Teacher, its masks and student without the slices of a fold (None: with all), and their scores on those."""
    folder = arguments.output / ("all" if fold is None else f"fold_{fold}")
    known = [item for item in hand if item["fold"] != fold]
    unknown = [item for item in hand if item["fold"] == fold]
    datalist = write_datalist(folder / "hand.json", known, known[:1], unknown)
    averaged = {"average_decay": 0.98}
    settings = averaged | {"elastic_share": 0.5, "teacher": True}
    weights = starts["teacher"]
    # Half of the batch halves what a step sees and doubles the steps.
    for stage, rate, size in ((1, 0.0005, 8), (2, 0.0004, 4)):
        stage_settings = settings | {"pretrained": weights, "learning_rate": rate, "batch_size": size}
        weights = train(folder / f"teacher_{stage}", datalist, arguments.teacher_epochs, **stage_settings)
        if unknown:
            score(folder / f"teacher_{stage}_scores", weights, datalist, teacher=True)
    mark(folder / "labels", weights, slices)
    marked = [
        {"image": str(image), "mask": str(folder / "labels" / f"{image.stem}_infection.png")}
        for image in sorted(slices.iterdir())
        if (folder / "labels" / f"{image.stem}_infection.png").exists()
    ]
    mixed = write_datalist(folder / "mixed.json", known * arguments.repeats + marked, known[:1], unknown)
    weights = starts["student"]
    stages = ((1, mixed, arguments.mixed_epochs, 0.001, 8), (2, datalist, arguments.student_epochs, 0.0005, 4))
    for stage, items, epochs, rate, size in stages:
        stage_settings = averaged | {"pretrained": weights, "learning_rate": rate, "batch_size": size}
        weights = train(folder / f"student_{stage}", items, epochs, **stage_settings)
        if unknown:
            score(folder / f"student_{stage}_scores", weights, datalist)


def dice_table(output: Path, folds: list[int], groups: dict[str, str]) -> str:
    """Mean Dice a slice over the outer folds, with a bootstrap interval over groups of alike slices."""
    lines = [
        "| | slices | Dice a slice | 95 % interval | precision | recall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for network in ("teacher_1", "teacher_2", "student_1", "student_2"):
        for mirrors in ("plain", "mirrored"):
            rows: list[dict[str, str]] = []
            for fold in folds:
                path = output / f"fold_{fold}" / f"{network}_scores" / mirrors / "predictions.csv"
                if path.exists():
                    with path.open(newline="") as file:
                        rows += csv.DictReader(file)
            if rows:
                lines.append(f"| {network.replace('_', ', stage ')}, {mirrors} | {len(rows)} | {_row(rows, groups)} |")
    return "\n".join(lines)


def _row(rows: list[dict[str, str]], groups: dict[str, str]) -> str:
    dice = np.array([float(row["dice"]) for row in rows])
    low, high = interval(resampled_means(dice, [groups[Path(row["image"]).name] for row in rows])) or (np.nan, np.nan)
    mean = {key: np.mean([float(row[key]) for row in rows]) for key in ("dice", "precision", "recall")}
    return f"{mean['dice']:.3f} | {low:.3f} to {high:.3f} | {mean['precision']:.3f} | {mean['recall']:.3f}"


def draw_cases(output: Path, folds: list[int], picture: Path, count: int = 3) -> None:
    """The best and the worst slices held out, marked by their fold's student, as ``predict --truth`` draws them."""
    cases: list[tuple[float, Image.Image]] = []
    for fold in folds:
        folder = output / f"fold_{fold}"
        if not (folder / "student_2" / "model.pt").exists():
            continue
        bundle = folder / "bundle"
        if not bundle.exists():
            derive_bundle(folder / "student_2", bundle)
        for item in json.loads((folder / "hand.json").read_text())["test"]:
            answers = folder / "answers"
            result = predict_study(item["image"], bundle=bundle, options=Options(truth=item["mask"]), output=answers)
            tile = Image.open(answers / Path(item["image"]).stem / "pictures" / "overlay.png")
            cases.append((result.truth["dice"], tile))
    cases.sort(key=lambda case: -case[0])
    chosen = [(tile, f"Dice {dice:.2f}") for dice, tile in [*cases[:count], *cases[-count:]]]
    write_sheet(chosen, picture, columns=count, side=TILE)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path, help="folder of ct2d_infseg and ct2d_infseg_pseudo")
    parser.add_argument("--imagenet", type=Path, required=True, help="ImageNet weights of EfficientNet-Lite2")
    parser.add_argument("--output", type=Path, default=Path("runs/fusa_covid_semiseg"))
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(5)))
    parser.add_argument("--weights", action="store_true", help="also train on all 50 slices")
    parser.add_argument("--picture", type=Path, help="also draw the best and the worst slices held out")
    parser.add_argument("--stage_1_epochs", type=int, default=5)
    parser.add_argument("--teacher_epochs", type=int, default=30)
    parser.add_argument("--mixed_epochs", type=int, default=6)
    parser.add_argument("--student_epochs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=4, help="of the hand-labelled slices in an epoch of the student")
    arguments = parser.parse_args()
    arguments.packs, arguments.output = arguments.packs.resolve(), arguments.output.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    all_slices, every_second, to_mark = machine_labelled(arguments.packs, arguments.output)
    hand = hand_labelled(arguments.packs, arguments.output)
    epochs = arguments.stage_1_epochs
    settings = {"learning_rate": 0.0005, "imagenet": arguments.imagenet.resolve(), "val_interval": 1}
    starts = {
        "teacher": train(arguments.output / "teacher", every_second, epochs, teacher=True, **settings),
        "student": train(arguments.output / "student", all_slices, epochs, learning_rate=0.001, val_interval=1),
    }
    for fold in [*arguments.folds, *([None] if arguments.weights else [])]:
        one_fold(fold, hand, starts, to_mark, arguments)
    print(dice_table(arguments.output, arguments.folds, {Path(item["image"]).name: item["group"] for item in hand}))
    if arguments.picture:
        draw_cases(arguments.output, arguments.folds, arguments.picture)


if __name__ == "__main__":
    main()
