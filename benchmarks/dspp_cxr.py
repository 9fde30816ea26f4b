"""D-SPP + CID on chest X-rays: covid against the rest on outer folds by patient, and the recipe of the shipped weights.

    python benchmarks/dspp_cxr.py PACKS --imagenet mobilenet_v2.pt --output runs/dspp_cxr --weights

PACKS holds ``cxr`` with its ``manifest.csv``; normal and cap together are ``noncovid``.

1. five folds by patient through ``pneumonai compare``, one row a recipe. The number of epochs is fixed and the last
   averaged weights are kept, so that nothing is chosen on a fold: the validation part, which every bundle's training
   wants, is a phantom X-ray and decides nothing;
2. the pooled answers: accuracy, F1, AUC of all, and the accuracy on each kind of picture alone, which is its recall;
   normal and cap also by their source, since most normal pictures and no covid one come from NIH. Beside the rows
   stands a logistic regression on what the untrained backbone makes of the pictures (its last map, averaged);
3. ``--weights``: the first row's recipe on all pictures; these weights ship.

What is done already is not done again. ``--rows`` takes some rows only, ``--folds`` some folds.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_runs import BundleRuns, pneumonai
from pooled_folds import compare_pooled, table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonai.networks.pretrained import load_imagenet_weights
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.training.predictions import Predictions

BUNDLE = "dspp_cid_cxr_classification"
ROWS: dict[str, tuple[list[str], bool]] = {
    "dspp-cid": ([], True),
    "no-modules": (["none.json"], True),
    "dspp-cid-random": ([], False),
}
"""A recipe: its overlays, and whether it starts from ImageNet weights; the first one's weights ship."""
SETTINGS: dict[str, Any] = {"max_epochs": 10, "val_interval": 10, "average_decay": 0.95}
METRICS = ["accuracy", "f1", "auc"]
NIH = "NIH"
"""How the source begins that has no covid picture."""


def write_datalist(packs: Path, output: Path) -> Path:
    """``folds.json``: five folds by patient, covid against normal and cap together."""
    datalist, listed = output / "folds.json", output / "xrays.csv"
    if datalist.exists():
        return datalist
    output.mkdir(parents=True, exist_ok=True)
    with (packs / "cxr" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with listed.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "patient_id"])
        for row in rows:
            label = "covid" if row["label"] == "covid" else "noncovid"
            writer.writerow([f"cxr/{row['file']}", label, row["patient_id"]])
    classes = ("--class", "noncovid", "--class", "covid", "--modality", "CXR")
    pneumonai("manifest", "build", packs, "--from-csv", listed, *classes, "--split", "folds=5", "--output", datalist)
    content = json.loads(datalist.read_text())
    pneumonai("phantom", "--kind", "normal", "--format", "xray", "--count", 1, "--output", output / "phantom")
    (phantom,) = (output / "phantom").glob("*_cxr.png")
    content["validation"] = [{"image": str(phantom), "label": "noncovid", "patient_id": "phantom"}]
    datalist.write_text(json.dumps(content, indent=1))
    return datalist


def kinds(packs: Path) -> dict[str, set[str]]:
    """Names of the pictures of each kind, and of each kind and source."""
    found: dict[str, set[str]] = {}
    with (packs / "cxr" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            source = "NIH" if row["source"].startswith(NIH) else "Cohen et al."
            for kind in (row["label"], f"{row['label']}, {source}"):
                found.setdefault(kind, set()).add(Path(row["file"]).name)
    return {kind: found[kind] for kind in sorted(found) if kind != "covid, Cohen et al."}


def frozen(datalist: Path, packs: Path, imagenet: Path, folds: list[int]) -> Predictions:
    """Answers of a logistic regression on the mean of the ImageNet backbone's last map; nothing of it is trained."""
    config = inference_config(find_bundle(BUNDLE).root)
    preprocessing, network = config.get_parsed_content("preprocessing"), config.get_parsed_content("network_def").eval()
    load_imagenet_weights(network, imagenet)
    items = json.loads(datalist.read_text())["training"]
    features = []
    with torch.inference_mode():
        for item in items:
            picture = preprocessing({"image": str(packs / item["image"])})["image"].as_tensor()[None]
            features.append(network.backbone.forward_features(picture)[2].mean(dim=(2, 3))[0].numpy())
    values, labels = np.array(features), np.array([int(item["label"] == "covid") for item in items])
    of_fold = np.array([item["fold"] for item in items])
    order, probabilities = [], []
    for fold in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=5000))
        model.fit(values[of_fold != fold], labels[of_fold != fold])
        order += np.flatnonzero(of_fold == fold).tolist()
        probabilities.append(model.predict_proba(values[of_fold == fold]))
    names = [str(packs / items[number]["image"]) for number in order]
    sorted_ = np.argsort(names)
    return Predictions(
        [names[number] for number in sorted_],
        [items[order[number]]["patient_id"] for number in sorted_],
        labels[np.array(order)[sorted_]],
        np.concatenate(probabilities)[sorted_],
        ["noncovid", "covid"],
    )


def only(answers: Predictions, names: set[str]) -> Predictions:
    """The answers to the pictures of these names."""
    kept = [number for number, image in enumerate(answers.images) if Path(image).name in names]
    return answers._replace(
        images=[answers.images[number] for number in kept],
        patient_ids=[answers.patient_ids[number] for number in kept],
        labels=answers.labels[kept],
        probabilities=answers.probabilities[kept],
    )


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packs", type=Path)
    parser.add_argument("--imagenet", type=Path, required=True, help="weights of MobileNetV2")
    parser.add_argument("--output", type=Path, default=Path("runs/dspp_cxr"))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--weights", action="store_true", help="also train the shipped recipe on all pictures")
    arguments = parser.parse_args()
    packs, output, imagenet = (path.resolve() for path in (arguments.packs, arguments.output, arguments.imagenet))
    datalist = write_datalist(packs, output)
    rows = [
        {"name": name, "bundle": BUNDLE, "overlays": overlays, "settings": {"imagenet": str(imagenet)} if start else {}}
        for name, (overlays, start) in ROWS.items()
        if name in arguments.rows
    ]
    comparison = {
        "title": "D-SPP + CID, covid on chest X-rays",
        "datalist": datalist.name,
        "dataset_dir": str(packs),
        "folds": arguments.folds,
        "metrics": METRICS,
        "settings": SETTINGS,
        "rows": rows,
    }
    config = output / "comparison.json"
    pooled = compare_pooled(comparison, config, output / "folds", arguments.jobs)
    answers = {name: pooled[name] for name in arguments.rows}
    answers["logistic regression, frozen"] = frozen(datalist, packs, imagenet, arguments.folds)
    print(table(answers, METRICS))
    for kind, images in kinds(packs).items():
        of_kind = {name: only(row, images) for name, row in answers.items()}
        if next(iter(of_kind.values())).images:
            print(f"\n{kind} alone\n\n{table(of_kind, ['accuracy'])}")
    if arguments.weights:
        settings = {"dataset_dir": packs, "datalist": datalist, "imagenet": imagenet, **SETTINGS}
        print(BundleRuns(BUNDLE).train(output / "all", settings.pop("max_epochs"), **settings))


if __name__ == "__main__":
    main()
