"""D-SPP + CID on COVID-CT: the recipe behind the shipped weights, what its steps give, and its score on outer folds.

    python benchmarks/dspp_covid_ct.py PACKS --imagenet lite2.pth mobilenet_v2.pt --output runs/dspp --weights

PACKS holds ``manifest.csv``, ``ct2d`` (COVID-CT, its training and validation parts together) and ``sars_cov_2_ct``.

1. pre-training on the SARS-CoV-2 slices from ImageNet weights, a backbone at a time; near duplicates on one side, a
   tenth held out, whose accuracy decides on the epoch;
2. five folds of COVID-CT by patient through ``pneumonai compare``, one row a recipe. The number of epochs is fixed and
   the last averaged weights are kept, so that nothing is chosen on a fold (the validation part, which decides
   nothing, is that tenth of the SARS slices);
3. ``--weights``: the recipe ``lite2-imagenet-sars`` on all of COVID-CT; these weights ship.

What is done already is not done again. ``--rows`` takes some rows only, ``--folds`` some folds.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from bundle_runs import BundleRuns, pneumonai
from ct_slices import COLUMNS, large_enough, write_sars
from pooled_folds import compare_pooled, table

from pneumonai.pipeline.training.predictions import Predictions

BUNDLE = "dspp_cid_ct_classification"
RUNS = BundleRuns(BUNDLE)
OVERLAYS: dict[str, tuple[str, ...]] = {"efficientnet_lite2": (), "mobilenet_v2": ("mobilenet_v2",)}
"""Of the backbones; the first is the bundle's own."""
ROWS = {
    "lite2-imagenet-sars": ("efficientnet_lite2", "sars", "folds"),
    "lite2-imagenet": ("efficientnet_lite2", "imagenet", "folds"),
    "lite2-random": ("efficientnet_lite2", "random", "folds"),
    "lite2-imagenet-sars-mixed": ("efficientnet_lite2", "sars", "mixed"),
    "mobilenet-imagenet-sars": ("mobilenet_v2", "sars", "folds"),
}
"""A recipe: its backbone, what its weights start from, and its datalist."""
EPOCHS = {"folds": 20, "mixed": 11}
"""About as many steps with either datalist."""
METRICS = ["accuracy", "f1", "auc"]


def write_datalists(packs: Path, output: Path) -> None:
    """``sars.json``, ``folds.json``, and ``mixed.json``: the folds, and as many SARS slices to train on with each."""
    sars, folds = output / "sars.json", output / "folds.json"
    if folds.exists():
        return
    output.mkdir(parents=True, exist_ok=True)
    pre_training = json.loads(write_sars(packs, sars).read_text())
    of_covid_ct = ("--from-csv", packs / "manifest.csv", "--where", "pack=ct2d", "--split", "folds=5")
    pneumonai("manifest", "build", packs, *of_covid_ct, "--alike-together", *COLUMNS, "--output", folds)
    datalist = json.loads(folds.read_text())
    datalist["validation"] = pre_training["validation"]
    datalist["training"] = [item for item in datalist["training"] if large_enough(packs / item["image"])]
    mixed = random.Random(0).sample(pre_training["training"], len(datalist["training"]) * 4 // 5)
    with_sars = datalist | {"training": datalist["training"] + [item | {"fold": None} for item in mixed]}
    (output / "mixed.json").write_text(json.dumps(with_sars, indent=1))
    folds.write_text(json.dumps(datalist, indent=1))


def pre_trained(backbone: str, imagenet: dict[str, Path], packs: Path, output: Path) -> Path:
    """Weights of a backbone after four epochs on the SARS-CoV-2 slices."""
    common = {"dataset_dir": packs, "datalist": output / "sars.json", "average_decay": 0.99, "autocast": "bfloat16"}
    where = {"cache_root": output / "cache", "imagenet": imagenet[backbone]}
    return RUNS.train(output / f"sars_{backbone}", 4, OVERLAYS[backbone], **(common | where))


def compare(names: list[str], kind: str, arguments: argparse.Namespace) -> dict[str, Predictions]:
    """Answers to the images held out, by the rows of one datalist."""
    imagenet = dict(zip(OVERLAYS, [path.resolve() for path in arguments.imagenet], strict=True))
    rows = []
    for name in names:
        backbone, start, _ = ROWS[name]
        begin: dict[str, str] = {}
        if start == "sars":
            begin = {"pretrained": str(pre_trained(backbone, imagenet, arguments.packs, arguments.output))}
        elif start == "imagenet":
            begin = {"imagenet": str(imagenet[backbone])}
        overlays = [f"{overlay}.json" for overlay in OVERLAYS[backbone]]
        rows.append({"name": name, "bundle": BUNDLE, "overlays": overlays, "settings": begin})
    comparison = {
        "title": f"D-SPP + CID on COVID-CT, {kind}",
        "datalist": f"{kind}.json",
        "dataset_dir": str(arguments.packs),
        "folds": arguments.folds,
        "metrics": METRICS,
        "settings": fine_tuning(kind),
        "rows": rows,
    }
    config, folder = arguments.output / f"comparison_{kind}.json", arguments.output / kind
    return compare_pooled(comparison, config, folder, arguments.jobs)


def fine_tuning(kind: str) -> dict[str, Any]:
    """Settings of a training on COVID-CT."""
    return {"average_decay": 0.98, "autocast": "bfloat16", "max_epochs": EPOCHS[kind], "val_interval": EPOCHS[kind]}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--imagenet", type=Path, nargs=2, required=True, metavar=tuple(OVERLAYS), help="weights")
    parser.add_argument("--output", type=Path, default=Path("runs/dspp_covid_ct"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--weights", action="store_true", help="also train the shipped recipe on all of COVID-CT")
    arguments = parser.parse_args()
    arguments.packs, arguments.output = arguments.packs.resolve(), arguments.output.resolve()
    write_datalists(arguments.packs, arguments.output)
    answers: dict[str, Predictions] = {}
    for kind in EPOCHS:
        names = [name for name in arguments.rows if ROWS[name][2] == kind]
        answers |= compare(names, kind, arguments) if names else {}
    print(table(answers, METRICS))
    if arguments.weights:
        where = {"dataset_dir": arguments.packs, "datalist": arguments.output / "folds.json"}
        start = {"pretrained": arguments.output / "sars_efficientnet_lite2" / "model.pt"}
        cache = {"cache_root": arguments.output / "folds" / "cache"}
        settings = fine_tuning("folds")
        print(RUNS.train(arguments.output / "all", settings.pop("max_epochs"), **(settings | where | start | cache)))


if __name__ == "__main__":
    main()
