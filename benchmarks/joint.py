"""Several bundles on one study: what it costs beside one bundle alone, how often they agree, where a mask contradicts.

    python benchmarks/joint.py time STUDY --bundle all
    pneumonai predict STUDIES --bundle all --no-report --output answers
    python benchmarks/joint.py agree answers --labels labels.csv
    python benchmarks/joint.py limit answers --labels labels.csv --bundle fusa_resunet_ct_segmentation
    python benchmarks/joint.py folds --row dspp RUNS/fold*/scores/predictions.csv --row mag_sd OTHER/*/predictions.csv

``labels.csv`` has the columns ``study, label``: the study's folder in ``answers``, and its class. ``time`` runs the
first bundle alone and all of them in turn, each in a process of its own, and holds the second against the first one's
whole job plus, for each other bundle, 1.3 times its network and heat map and a second of writing. ``limit``
finds the share of the lungs for ``infected_from_percent`` in the bundle's metadata, the one that parts normal studies
from others best, on validation data alone. ``folds`` tells the agreement of answers to images held out, one row a
bundle: what ``agree`` tells, for images that all rows answered.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from machine import describe_machine, refuse_when_busy
from pooled_folds import pool

from pneumonai.pipeline.agreement import COVID, NORMAL, Row
from pneumonai.pipeline.outputs.joint_json import Joint, read_joint_json
from pneumonai.pipeline.outputs.result_json import read_json
from pneumonai.pipeline.training.predictions import Predictions

FIRST = "nl_ran_ct_classification"
NETWORK_FACTOR, WRITE_SECONDS = 1.3, 1.0


def run_predict(study: str, bundles: Sequence[str], output: Path) -> float:
    """Wall seconds of ``pneumonai predict``, from start to end of its process."""
    command = [sys.executable, "-c", "from pneumonai.pipeline.cli import main; main()", "predict", study, "--quiet"]
    for bundle in bundles:
        command += ["--bundle", bundle]
    start = time.perf_counter()
    subprocess.run([*command, "--output", str(output)], check=True)
    return time.perf_counter() - start


def compare_times(study: str, bundles: Sequence[str], repeats: int) -> None:
    """The job of the first bundle and that of all in turn, and the budget that the second has."""
    alone, together, budgets = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            alone.append(run_predict(study, [FIRST], Path(scratch) / "alone"))
            together.append(run_predict(study, bundles, Path(scratch) / "all"))
            results = [read_json(path) for path in sorted((Path(scratch) / "all").glob("*/*/result.json"))]
        others = [result for result in results if result.bundle["name"] != FIRST]
        networks = [result.timing_s["network"] for result in others]
        budgets.append(alone[-1] + NETWORK_FACTOR * sum(networks) + WRITE_SECONDS * len(others))
    for result in results:
        print(f"{result.bundle['name']}: {result.timing_s}")
    for words, seconds in (("first bundle alone", alone), ("all", together), ("budget of all", budgets)):
        print(f"{words}: median {statistics.median(seconds):.1f} s, {min(seconds):.1f} to {max(seconds):.1f}")
    ratio = statistics.median(t / b for t, b in zip(together, budgets, strict=True))
    print(f"all over its budget: {ratio:.2f} (at most 1)")


def read_labels(path: Path) -> dict[str, str]:
    """Class of each study."""
    with path.open(newline="", encoding="utf-8") as file:
        return {row["study"]: row["label"] for row in csv.DictReader(file)}


def read_joints(answers: Path, labels: dict[str, str]) -> list[tuple[Joint, str]]:
    """The joint answers of the labelled studies, with their labels."""
    found = [(study, answers / study / "joint.json") for study in labels]
    missing = [study for study, path in found if not path.is_file()]
    if missing:
        print(f"without a joint answer, left out: {len(missing)} ({', '.join(missing[:3])}, ...)")
    return [(read_joint_json(path), labels[study]) for study, path in found if path.is_file()]


def tell_agreement(joints: Sequence[tuple[Joint, str]]) -> None:
    """Share of the studies that differ, and accuracy (covid or not) of those that agree, and of those not referred."""
    compared = [(joint, label) for joint, label in joints if joint.agreement.agree is not None]
    agreeing = [(joint, label) for joint, label in compared if joint.agreement.agree]
    contradicted = sum(bool(joint.agreement.contradictions) for joint, _ in compared)
    print(f"{len(joints)} studies, {len(compared)} with something to compare")
    print(f"differ: {len(compared) - len(agreeing)} of {len(compared)} (a mask contradicts: {contradicted})")
    for words, group in (
        ("agree", agreeing),
        ("not referred", [one for one in joints if one[0].refer is False]),
        ("all with one answer", [one for one in joints if one[0].agreement.answer is not None]),
    ):
        told = [(joint, label) for joint, label in group if joint.agreement.answer is not None]
        right = sum((joint.agreement.answer == "covid") == (label in COVID) for joint, label in told)
        print(f"{words}: {right} of {len(told)} right ({100 * right / max(len(told), 1):.1f} %)")


def tell_fold_agreement(rows: dict[str, Predictions]) -> None:
    """The same for answers to images held out: verdicts as covid or not, of the images that every row has."""
    verdicts, truth = [], {}
    for row in rows.values():
        covid = np.array([name in COVID for name in row.class_names])
        assert row.labels is not None  # pooled answers have labels
        truth |= dict(zip(row.images, covid[row.labels].tolist(), strict=True))
        verdicts.append(dict(zip(row.images, covid[row.probabilities.argmax(axis=1)].tolist(), strict=True)))
    images = sorted(set.intersection(*(set(verdict) for verdict in verdicts)))
    print(f"{len(images)} images that {', '.join(rows)} answered; right is right about covid or not")
    agreeing = [image for image in images if len({verdict[image] for verdict in verdicts}) == 1]
    print(f"differ: {len(images) - len(agreeing)} of {len(images)}")
    for words, group, answers in (
        ("agree", agreeing, verdicts[:1]),
        *((f"{name}, all", images, [verdict]) for name, verdict in zip(rows, verdicts, strict=True)),
    ):
        right = sum(answer[image] == truth[image] for answer in answers for image in group)
        print(f"{words}: {right} of {len(group)} right ({100 * right / max(len(group), 1):.1f} %)")


def choose_limit(joints: Sequence[tuple[Joint, str]], bundle: str) -> None:
    """The share of the lungs that parts normal studies from others with the highest balanced accuracy."""
    rows: list[tuple[Row, str]] = [
        (row, label)
        for joint, label in joints
        for row in joint.rows
        if row.bundle == bundle and row.infection_percent is not None
    ]
    normal = sorted(float(row.infection_percent or 0) for row, label in rows if label == NORMAL)
    ill = sorted(float(row.infection_percent or 0) for row, label in rows if label != NORMAL)
    if not normal or not ill:
        sys.exit(f"error: {bundle}: {len(normal)} normal and {len(ill)} other studies with a share; both are needed")
    values = sorted({*normal, *ill})
    # Half way between neighbours, so that no study lies on the limit.
    limits = [(low + high) / 2 for low, high in pairwise(values)] or values
    scores = {
        limit: (sum(v < limit for v in normal) / len(normal) + sum(v > limit for v in ill) / len(ill)) / 2
        for limit in limits
    }
    best = max(scores, key=lambda limit: scores[limit])
    print(f"normal: median {statistics.median(normal):.2f} %, highest {normal[-1]:.2f} % of {len(normal)}")
    print(f"others: median {statistics.median(ill):.2f} %, lowest {ill[0]:.2f} % of {len(ill)}")
    print(f"infected_from_percent {best:.2f}: balanced accuracy {scores[best]:.3f}")


def main() -> None:
    """Read the command line and do the job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("time")
    job.add_argument("study")
    job.add_argument("--bundle", action="append", help="repeat it; default: all")
    job.add_argument("--repeats", type=int, default=3)
    job.add_argument("--force", action="store_true", help="measure on a busy machine too")
    for name in ("agree", "limit"):
        job = jobs.add_parser(name)
        job.add_argument("answers", type=Path)
        job.add_argument("--labels", type=Path, required=True)
    job.add_argument("--bundle", default="fusa_resunet_ct_segmentation")
    job = jobs.add_parser("folds")
    job.add_argument("--row", action="append", nargs="+", required=True, metavar=("NAME", "PREDICTIONS"))
    chosen = parser.parse_args()
    if chosen.job == "folds":
        tell_fold_agreement({name: pool(name, paths) for name, *paths in chosen.row})
        return
    if chosen.job == "time":
        print(describe_machine())
        refuse_when_busy(force=chosen.force)
        compare_times(chosen.study, chosen.bundle or ["all"], chosen.repeats)
        return
    joints = read_joints(chosen.answers, read_labels(chosen.labels))
    if chosen.job == "agree":
        tell_agreement(joints)
    else:
        choose_limit(joints, chosen.bundle)


if __name__ == "__main__":
    main()
