"""D-SPP + CID on COVID-CT: the recipe behind the shipped weights, what its steps give, and its score on outer folds.

    python benchmarks/dspp_covid_ct.py PACKS --imagenet lite2.pth mobilenet_v2.pt --output runs/dspp --weights

PACKS holds ``manifest.csv``, ``ct2d`` (COVID-CT, its training and validation parts together) and ``sars_cov_2_ct``.

1. pre-training on the SARS-CoV-2 slices from ImageNet weights, a backbone at a time; near duplicates on one side, a
   tenth held out, whose accuracy decides on the epoch;
2. five folds of COVID-CT by patient through ``pneumonai compare``, one row a recipe. The number of epochs is fixed and
   the last averaged weights are kept, so that nothing is chosen on a fold (the validation part, which decides
   nothing, is that tenth of the SARS slices);
3. ``--weights``: the first row's recipe on all of COVID-CT; these weights ship.

What is done already is not done again. ``--rows`` takes some rows only, ``--folds`` some folds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bundle_runs import BundleRuns, pneumonai
from PIL import Image
from pooled_folds import pool, table

from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison

BUNDLE = "dspp_cid_ct_classification"
RUNS = BundleRuns(BUNDLE)
BACKBONES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "efficientnet_lite2": (("efficientnet_lite2",), {"width": 128}),
    "mobilenet_v2": ((), {}),
}
"""Overlays and settings; the width keeps the weights within 16 MB."""
ROWS = {
    "lite2-imagenet-sars": ("efficientnet_lite2", "sars"),
    "lite2-imagenet": ("efficientnet_lite2", "imagenet"),
    "lite2-random": ("efficientnet_lite2", "random"),
    "mobilenet-imagenet-sars": ("mobilenet_v2", "sars"),
}
"""A recipe: its backbone, and what its weights start from."""
FINE_TUNING = {"average_decay": 0.98, "max_epochs": 30, "val_interval": 30}
SMALLEST_SIDE = 64
"""Pixels; the bundle refuses smaller pictures."""


def write_datalists(packs: Path, output: Path) -> None:
    """``sars.json`` and ``folds.json``."""
    sars, folds = output / "sars.json", output / "folds.json"
    if folds.exists():
        return
    output.mkdir(parents=True, exist_ok=True)
    columns = ("--image-column", "file", "--modality", "CT")
    index = packs / "sars_cov_2_ct" / "index.csv"
    of_sars = ("--from-csv", index, "--group-column", "near_duplicate_group", "--split", "9:1:0")
    pneumonai("manifest", "build", index.parent, *of_sars, *columns, "--output", sars)
    of_covid_ct = ("--from-csv", packs / "manifest.csv", "--where", "pack=ct2d", "--split", "folds=5")
    pneumonai("manifest", "build", packs, *of_covid_ct, "--alike-together", *columns, "--output", folds)
    datalist, pre_training = json.loads(folds.read_text()), json.loads(sars.read_text())
    for part in ("training", "validation"):
        pre_training[part] = [item | {"image": f"sars_cov_2_ct/{item['image']}"} for item in pre_training[part]]
    sars.write_text(json.dumps(pre_training, indent=1))
    datalist["validation"] = pre_training["validation"]
    datalist["training"] = [item for item in datalist["training"] if _large_enough(packs / item["image"])]
    folds.write_text(json.dumps(datalist, indent=1))


def _large_enough(image: Path) -> bool:
    with Image.open(image) as picture:
        return min(picture.size) >= SMALLEST_SIDE


def pre_trained(backbone: str, imagenet: dict[str, Path], packs: Path, output: Path) -> Path:
    """Weights of a backbone after six epochs on the SARS-CoV-2 slices."""
    overlays, settings = BACKBONES[backbone]
    common = {"dataset_dir": packs, "datalist": output / "sars.json", "average_decay": 0.99}
    where = {"cache_root": output / "cache", "imagenet": imagenet[backbone]}
    return RUNS.train(output / f"sars_{backbone}", 6, overlays, **(settings | common | where))


def recipes(wanted: list[str], imagenet: dict[str, Path], packs: Path, output: Path) -> list[dict[str, Any]]:
    """Rows of a comparison."""
    rows = []
    for name in wanted:
        backbone, start = ROWS[name]
        overlays, settings = BACKBONES[backbone]
        row = {"name": name, "bundle": BUNDLE, "overlays": [f"{overlay}.json" for overlay in overlays]}
        begin: dict[str, str] = {}
        if start == "sars":
            begin = {"pretrained": str(pre_trained(backbone, imagenet, packs, output))}
        elif start == "imagenet":
            begin = {"imagenet": str(imagenet[backbone])}
        rows.append(row | {"settings": settings | begin})
    return rows


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--imagenet", type=Path, nargs=2, required=True, metavar=tuple(BACKBONES), help="weights")
    parser.add_argument("--output", type=Path, default=Path("runs/dspp_covid_ct"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--weights", action="store_true", help="also train the first row on all of COVID-CT")
    arguments = parser.parse_args()
    packs, output = arguments.packs.resolve(), arguments.output.resolve()
    imagenet = dict(zip(BACKBONES, [path.resolve() for path in arguments.imagenet], strict=True))
    write_datalists(packs, output)
    comparison: dict[str, Any] = {
        "title": "D-SPP + CID on COVID-CT",
        "datalist": "folds.json",
        "dataset_dir": str(packs),
        "folds": arguments.folds,
        "metrics": ["accuracy", "f1", "auc"],
        "settings": FINE_TUNING,
        "rows": recipes(arguments.rows, imagenet, packs, output),
    }
    config = output / "comparison.json"
    config.write_text(json.dumps(comparison, indent=1))
    pneumonai("compare", config, "--output", output / "folds", "--jobs", arguments.jobs)
    runs = plan_runs(read_comparison(config), output / "folds")
    answers = {
        name: pool(name, [str(run.folder / "scores" / "predictions.csv") for run in runs if run.row.name == name])
        for name in arguments.rows
    }
    print(table(answers, comparison["metrics"]))
    if arguments.weights:
        overlays, settings = BACKBONES[ROWS[arguments.rows[0]][0]]
        settings = settings | FINE_TUNING | comparison["rows"][0]["settings"]
        where = {"dataset_dir": packs, "datalist": output / "folds.json", "cache_root": output / "folds" / "cache"}
        epochs = settings.pop("max_epochs")
        print(RUNS.train(output / "all", epochs, overlays, **(settings | where)))


if __name__ == "__main__":
    main()
