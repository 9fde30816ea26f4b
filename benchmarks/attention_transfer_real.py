"""Attention transfer on the real X-rays and CT figures: outer folds by patient, shortcut checks, the shipped weights.

    python benchmarks/attention_transfer_real.py cxr PACKS --output runs/attention_transfer --weights
    python benchmarks/attention_transfer_real.py ct PACKS --output runs/attention_transfer --rows whole sars --weights

PACKS holds ``manifest.csv``, and ``cxr``, or ``ct2d`` (COVID-CT, its training and validation parts together) and
``sars_cov_2_ct``.

1. five folds by patient, pictures that look alike on one side;
2. the folds asked for through ``pneumonai compare``: of X-rays ``train.json`` as it is, with all but the rectangle
   around the lungs blacked out (``lungs-only``), with nothing blacked out (``whole``) and with the rectangle itself
   (``lungs-black``); of CT figures as it is (``whole``) and pre-trained on the SARS-CoV-2 slices (``sars``; a tenth
   of these decides on the epoch). The number of epochs is fixed and the last weights count, so that nothing is chosen
   on a fold: the validation part, which ``train.json`` asks for, is made of phantoms and decides nothing;
3. ``--weights``: the first row's recipe on all pictures; these weights ship.

What is done already is not done again. The table has the score within one source of X-rays too; ``predictions.csv`` of
all folds together lies beside it, for ``pneumonai bundle calibrate``.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from bundle_runs import BundleRuns, pneumonai
from ct_slices import large_enough, write_sars
from pooled_folds import compare_pooled, table, write_answers
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.training.predictions import Predictions

ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "cxr": {"lungs-only": {}, "whole": {"black_out": "nothing"}, "lungs-black": {"black_out": "inside"}},
    "ct": {"whole": {}, "sars": {}},
}
"""The settings of each recipe; the first one's weights ship."""
RECIPE = {"batch_size": 8, "learning_rate": 0.002, "autocast": "bfloat16"}
EPOCHS = {"cxr": 60, "ct": 30}
PRE_TRAINING_EPOCHS = 8
FOLDS = 5
PACKS = {"cxr": "cxr", "ct": "ct2d"}
METRICS = {"cxr": ["accuracy", "macro_auc", "auc:covid"], "ct": ["accuracy", "recall:covid", "precision:covid", "auc"]}
NAMES = {"normal": "normal", "ncp": "covid", "cp": "cap"}
"""Of phantoms among X-rays."""


def write_datalist(kind: str, packs: Path, output: Path) -> Path:
    """The folds, with phantoms as a validation part; its paths start from the output folder."""
    datalist = output / f"{kind}.json"
    if datalist.exists():
        return datalist
    columns = ("--image-column", "file", "--modality", kind.upper(), "--where", f"pack={PACKS[kind]}")
    folds = ("--split", f"folds={FOLDS}", "--alike-together", "--output", datalist)
    pneumonai("manifest", "build", packs, "--from-csv", packs / "manifest.csv", *columns, *folds, "--force")
    made = output / f"phantoms_{kind}"
    pneumonai("phantom", "--kind", "all", "--count", "1", "--validation", "1", "--test", "1", "--format",
              "xray" if kind == "cxr" else "slices", "--shape", "128", "128", "48", "--output", made)  # fmt: skip
    content = json.loads(datalist.read_text())
    phantoms = json.loads((made / "datalist.json").read_text())["validation"]
    names = NAMES if kind == "cxr" else {"normal": "noncovid", "ncp": "covid", "cp": "noncovid"}
    content["validation"] = [
        {"image": str(made / one["image"]), "label": names[("normal", "ncp", "cp")[one["label"]]]} for one in phantoms
    ]
    content["training"] = [item for item in content["training"] if large_enough(packs / item["image"])]
    datalist.write_text(json.dumps(content, indent=1))
    return datalist


def starts(kind: str, names: list[str], packs: Path, output: Path) -> dict[str, dict[str, Any]]:
    """The settings of the rows, with the weights that ``sars`` starts from, trained where they are missing."""
    chosen = {name: ROWS[kind][name] for name in names}
    if "sars" in chosen:
        where = {"dataset_dir": packs, "datalist": write_sars(packs, output / "sars.json")}
        cache = {"cache_root": output / kind / "cache"}
        folder = output / "sars"
        weights = BundleRuns(bundle(kind)).train(folder, PRE_TRAINING_EPOCHS, **(RECIPE | where | cache))
        chosen["sars"] = {"pretrained": str(weights)}
    return chosen


def compare(
    kind: str,
    rows: dict[str, dict[str, Any]],
    folds: list[int],
    packs: Path,
    output: Path,
    settings: dict[str, Any],
    jobs: int,
) -> dict[str, Predictions]:
    """Answers to the pictures held out, by the rows."""
    config, folder = output / f"comparison_{kind}.json", output / kind
    comparison = {
        "title": f"Attention transfer, {kind}",
        "datalist": f"{kind}.json",
        "dataset_dir": str(packs),
        "folds": folds,
        "metrics": METRICS[kind],
        "settings": settings,
        "rows": [{"name": name, "bundle": bundle(kind), "settings": own} for name, own in rows.items()],
    }
    return compare_pooled(comparison, config, folder, jobs)


def bundle(kind: str) -> str:
    return f"attention_transfer_{kind}_classification"


def fixed(kind: str) -> dict[str, Any]:
    """Settings of a training whose last weights count."""
    return RECIPE | {"max_epochs": EPOCHS[kind], "val_interval": EPOCHS[kind]}


def within_source(answers: Predictions, packs: Path) -> str:
    """Covid against cap within ieee8023, normal against cap within NIH: the AUC of the ratio of both probabilities."""
    with (packs / "cxr" / "manifest.csv").open(newline="", encoding="utf-8-sig") as file:
        sources = {row["file"]: row["source"] for row in csv.DictReader(file)}
    lines = ["| within | pair | images | AUC |", "| --- | --- | ---: | --- |"]
    of_image = [sources["/".join(Path(image).parts[-2:])] for image in answers.images]
    for source, pair in (("ieee8023", ("covid", "cap")), ("NIH", ("normal", "cap"))):
        classes = [answers.class_names.index(name) for name in pair]
        kept = np.array(
            [
                source.lower() in s.lower() and label in classes
                for s, label in zip(of_image, answers.labels, strict=True)
            ]
        )
        two = answers.probabilities[kept][:, classes[::-1]]
        two = two / two.sum(axis=1, keepdims=True).clip(1e-30)
        labels = (answers.labels[kept] == classes[0]).astype(int)
        patients = [patient for patient, keep in zip(answers.patient_ids, kept, strict=True) if keep]
        report = classification_report(labels, two, [pair[1], pair[0]], patient_ids=patients)
        found = report["classes"][pair[0]]["auc"] if "auc" in report["classes"][pair[0]] else report["auc"]
        low, high = found["interval"] or (np.nan, np.nan)
        score = f"{found['value']:.3f} ({low:.3f} to {high:.3f})"
        lines.append(f"| {source} | {pair[0]} against {pair[1]} | {int(kept.sum())} | {score} |")
    return "\n".join(lines)


def rectangle_alone(datalist: Path, packs: Path) -> Predictions:
    """What place and size of the lungs' rectangle tell of an X-ray: with all but it blacked out they are still seen.

    A logistic regression on the rectangle's four sides, in shares of the square that the picture is cut to, over the
    same folds.
    """
    parser = inference_config(find_bundle(bundle("cxr")).root)
    prepare = parser.get_parsed_content("preprocessing")
    names = parser.get_parsed_content("class_names")
    items = [load_datalist(datalist, "test", packs, fold=fold, class_names=names) for fold in range(FOLDS)]
    folds = np.repeat(np.arange(FOLDS), [len(fold) for fold in items])
    every = [item for fold in items for item in fold]
    sides = []
    for item in every:
        lungs = prepare({"image": item["image"]})["lungs"][0] > 0
        ends = [np.flatnonzero(lungs.any(dim=axis).numpy())[[0, -1]] / lungs.shape[1 - axis] for axis in (0, 1)]
        sides.append(np.concatenate(ends))
    features, labels = np.array(sides), np.array([item["label"] for item in every])
    probabilities = np.empty((len(every), len(names)))
    for fold in range(FOLDS):
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(features[folds != fold], labels[folds != fold])
        probabilities[folds == fold] = model.predict_proba(features[folds == fold])
    images, patients = ([str(item.get(key) or "") for item in every] for key in ("image", "patient_id"))
    return Predictions(images, patients, labels, probabilities, names)


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(PACKS))
    parser.add_argument("packs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/attention_transfer"))
    parser.add_argument(
        "--rows", nargs="+", help="of X-rays lungs-only, whole, lungs-black, of CT whole, sars; default: the first"
    )
    parser.add_argument("--folds", type=int, nargs="*", default=list(range(FOLDS)), help="none: weights alone")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--rectangle", action="store_true", help="of X-rays: what the lungs' rectangle alone tells")
    parser.add_argument("--weights", action="store_true", help="also train the recipe on all pictures")
    arguments = parser.parse_args()
    names = arguments.rows or list(ROWS[arguments.kind])[:1]
    unknown = [name for name in names if name not in ROWS[arguments.kind]]
    if unknown:
        parser.error(f"--rows {unknown[0]}: of {arguments.kind} there are {', '.join(ROWS[arguments.kind])}")
    if arguments.rectangle and arguments.kind != "cxr":
        parser.error("--rectangle is of X-rays")
    kind, packs, output = arguments.kind, arguments.packs.resolve(), arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    datalist = write_datalist(kind, packs, output)
    settings = fixed(kind)
    if arguments.epochs:
        settings |= {"max_epochs": arguments.epochs, "val_interval": arguments.epochs}
    if arguments.rectangle:
        print(table({"the lungs' rectangle alone": rectangle_alone(datalist, packs)}, METRICS["cxr"]))
    rows = starts(kind, names, packs, output)
    answers: dict[str, Predictions] = {}
    if arguments.folds:
        answers = compare(kind, rows, arguments.folds, packs, output, settings, arguments.jobs)
        print(table(answers, METRICS[kind]))
    for name, one in answers.items():
        write_answers(one, output / f"{kind}_{name}.csv")
        if kind == "cxr":
            print(f"\n{name}\n\n{within_source(one, packs)}")
    if arguments.weights:
        where = {"dataset_dir": packs, "datalist": datalist, "cache_root": output / kind / "cache"}
        shipped = settings | rows[names[0]] | where
        print(BundleRuns(bundle(kind)).train(output / f"{kind}_all", shipped.pop("max_epochs"), **shipped))


if __name__ == "__main__":
    main()
