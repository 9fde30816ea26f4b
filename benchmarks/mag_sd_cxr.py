"""MAG-SD on chest X-rays: normal, covid, cap on outer folds by patient, its parts left out, the shipped recipe.

    python benchmarks/mag_sd_cxr.py PACKS --imagenet mobilenet_v2.pt --output runs/mag_sd --weights

PACKS holds ``manifest.csv`` and ``cxr``.

1. five folds by patient through ``pneumonai compare``, one row a recipe. The number of epochs is fixed and the last
   averaged weights are kept, so that nothing is chosen on a fold: the validation part, which every bundle's training
   wants, is a phantom X-ray and decides nothing;
2. the pooled answers: scores of all, a class at a time, and the share called right by class and source, since the
   two go together in these pictures. ``OUTPUT/SIZE/ROW.csv`` has the answers, for ``pneumonai bundle calibrate``;
3. ``--weights``: the first row's recipe on all pictures; these weights ship.

What is done already is not done again. ``--rows`` takes some rows only (none: the weights alone), ``--folds`` some
folds, ``--seeds`` other seeds, ``--size`` another size of the pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

from bundle_runs import BundleRuns, pneumonai
from pooled_folds import compare_pooled, table, write_answers

from pneumonai.pipeline.training.predictions import Predictions

BUNDLE = "mag_sd_cxr_classification"
GUIDED = ("mix_up", "patching", "dimming")
PLAIN = {"learning_rate": 0.01}
"""Of networks without attention pooling, whose features are not scaled to a length of 100."""
ROWS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "mag-sd": (["anatomical.json"], {}),
    "backbone": (["mobilenet_v2.json", "anatomical.json"], PLAIN),
    "no-clahe": (["anatomical.json"], {"clahe": False}),
    "backbone-no-clahe": (["mobilenet_v2.json", "anatomical.json"], {"clahe": False, **PLAIN}),
    "no-guided": (["anatomical.json"], {"guided_augmentations": []}),
    **{
        f"no-{left_out.replace('_', '-')}": (
            ["anatomical.json"],
            {"guided_augmentations": [name for name in GUIDED if name != left_out]},
        )
        for left_out in GUIDED
    },
    "table-2-augmentation": ([], {}),
    "resnet18-random": (["anatomical.json"], {"backbone": "resnet18", "base_channels": 48, "imagenet": None}),
}
"""A recipe: its overlays and settings; the first one's weights ship."""
SETTINGS: dict[str, Any] = {
    "max_epochs": 6,
    "val_interval": 6,
    "batch_size": 12,
    "learning_rate": 0.001,
    "average_decay": 0.9,
}
METRICS = ["accuracy", "macro_recall", "macro_specificity", "macro_f1", "macro_auc"]
CLASSES = ("normal", "covid", "cap")


def write_datalist(packs: Path, output: Path) -> Path:
    """``folds.json``: five folds by patient."""
    datalist = output / "folds.json"
    if datalist.exists():
        return datalist
    source = ("--from-csv", packs / "manifest.csv", "--where", "pack=cxr", "--image-column", "file")
    classes = [word for name in CLASSES for word in ("--class", name)]
    split = ("--modality", "CXR", "--split", "folds=5", "--output", datalist)
    output.mkdir(parents=True, exist_ok=True)
    pneumonai("manifest", "build", packs, *source, *classes, *split)
    content = json.loads(datalist.read_text())
    pneumonai("phantom", "--kind", "normal", "--format", "xray", "--count", 1, "--output", output / "phantom")
    (phantom,) = (output / "phantom").glob("*_cxr.png")
    content["validation"] = [{"image": str(phantom), "label": "normal", "patient_id": "phantom"}]
    datalist.write_text(json.dumps(content, indent=1))
    return datalist


def by_source(rows: dict[str, Predictions], packs: Path) -> str:
    """Markdown: of each class and source (Cohen et al., NIH) the share called right, a column a recipe."""
    with (packs / "cxr" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        sources = {row["file"]: "NIH" if row["source"].startswith("NIH") else "Cohen" for row in csv.DictReader(file)}
    counts: dict[tuple[str, str], Counter[str]] = {}
    for name, row in rows.items():
        assert row.labels is not None
        for image, label, p in zip(row.images, row.labels, row.probabilities, strict=True):
            file = Path(image)
            key = (row.class_names[label], sources[f"{file.parent.name}/{file.name}"])
            counts.setdefault(key, Counter())[name] += int(p.argmax() == label)
            counts[key][f"{name}, all"] += 1
    lines = ["| class, source | pictures | " + " | ".join(rows) + " |", "| --- | ---: |" + " ---: |" * len(rows)]
    first = next(iter(rows))
    for (label, source), found in sorted(counts.items()):
        shares = [f"{found[name] / found[f'{name}, all']:.2f}" for name in rows]
        lines.append(f"| {label}, {source} | {found[f'{first}, all']} | {' | '.join(shares)} |")
    return "\n".join(lines)


def compare(
    arguments: argparse.Namespace, datalist: Path, packs: Path, settings: dict[str, Any]
) -> dict[str, Predictions]:
    """The pooled answers to the pictures held out, by row."""
    output = datalist.parent
    chosen = {name: ROWS[name] for name in ROWS if name in arguments.rows}
    comparison = {
        "title": f"MAG-SD on chest X-rays, {arguments.size} pixels",
        "datalist": datalist.name,
        "dataset_dir": str(packs),
        "folds": arguments.folds,
        "seeds": arguments.seeds,
        "metrics": METRICS,
        "settings": settings,
        "rows": [
            {"name": name, "bundle": BUNDLE, "overlays": overlays, "settings": own}
            for name, (overlays, own) in chosen.items()
        ],
    }
    config = output / f"comparison_{arguments.size}.json"
    return compare_pooled(comparison, config, output / str(arguments.size), arguments.jobs)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--imagenet", type=Path, required=True, help="weights of MobileNetV2")
    parser.add_argument("--output", type=Path, default=Path("runs/mag_sd"))
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of several the mean answer counts")
    parser.add_argument("--size", type=int, default=128, help="pixels a side of the network's input")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--weights", action="store_true", help="also train the shipped recipe on all pictures")
    arguments = parser.parse_args()
    packs, output = arguments.packs.resolve(), arguments.output.resolve()
    datalist = write_datalist(packs, output)
    sides = [arguments.size, arguments.size]
    settings = SETTINGS | {"picture_size": sides, "imagenet": str(arguments.imagenet.resolve())}
    rows = compare(arguments, datalist, packs, settings) if arguments.rows else {}
    if rows:
        print(table(rows, METRICS))
        for name in CLASSES:
            scores = [f"{score}:{name}" for score in ("auc", "recall", "specificity", "f1")]
            print(f"\n{name}\n\n{table(rows, scores)}")
        print("\n" + by_source(rows, packs))
    for name, row in rows.items():
        write_answers(row, output / str(arguments.size) / f"{name}.csv")
    if arguments.weights:
        runs, (overlays, own) = BundleRuns(BUNDLE), next(iter(ROWS.values()))
        where = {"dataset_dir": packs, "datalist": datalist, "cache_root": output / str(arguments.size) / "cache"}
        given = settings | own | where
        names = tuple(overlay.removesuffix(".json") for overlay in overlays)
        print(runs.train(output / "all", given.pop("max_epochs"), names, **given))


if __name__ == "__main__":
    main()
