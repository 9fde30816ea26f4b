"""Severity of X-rays against raters' scores: Spearman, Pearson, R squared, r squared, with intervals by patient.

The answers are folders that ``pneumonai predict`` wrote, each with ``heat_map.png`` and ``lungs.png``; the score is
taken from them whatever the verdict. Give every picture to the weights that did not see its patient, one call a fold::

    pneumonai predict PICTURES_OF_FOLD --bundle BUNDLE_OF_FOLD --output answers/FOLD
    python benchmarks/severity.py --answers answers/* --scores severity_scores.csv --manifest manifest.csv --output OUT

``--scores`` has the columns ``file`` and ``geographic_mean``, ``--manifest`` ``file`` and ``patient_id``; the study of
a picture is the folder named as it. ``OUT/severity.csv``, ``severity.json`` and ``severity.md`` are written.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pneumonai.pipeline.metrics.score_agreement import AGREEMENT, score_agreement
from pneumonai.pipeline.severity import severity_score
from pneumonai.pipeline.study import study_name

WORDS = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "determination": "R² of the score itself (1 - SSE / SST)",
    "squared_pearson": "r² (best line)",
}
PUBLISHED = {"pearson": "0.76", "determination": "0.57"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def measure(answers: list[Path], scores: Path, manifest: Path, column: str) -> list[dict[str, Any]]:
    """Our score and the raters' of every picture that has been answered."""
    patients = {row["file"]: row["patient_id"] for row in rows_of(manifest)}
    found: list[dict[str, Any]] = []
    for row in rows_of(scores):
        name = study_name(row["file"])
        folders = [folder / name for folder in answers if (folder / name / "result.json").is_file()]
        if len(folders) != 1:
            raise SystemExit(f"{row['file']} was answered {len(folders)} times; give each fold's answers once")
        heat_map, lungs = (np.asarray(Image.open(folders[0] / f"{part}.png")) for part in ("heat_map", "lungs"))
        made = severity_score(heat_map, lungs)
        verdict = json.loads((folders[0] / "result.json").read_text(encoding="utf-8"))["verdict"]
        found.append(
            {
                "file": row["file"],
                "patient_id": patients[row["file"]],
                "verdict": verdict,
                "severity": None if made is None else made["score"],
                "raters": float(row[column]),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--answers", type=Path, nargs="+", required=True, help="output folders of predict")
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--column", default="geographic_mean", help="of the scores")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    rows = measure(options.answers, options.scores, options.manifest, options.column)
    with (options.output / "severity.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kept = [row for row in rows if row["severity"] is not None]
    made = score_agreement(
        [row["severity"] for row in kept], [row["raters"] for row in kept], [row["patient_id"] for row in kept]
    )
    made["without_a_lung"] = [row["file"] for row in rows if row["severity"] is None]
    (options.output / "severity.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    lines = ["| measure | ours (95 % interval) | published, 94 pictures |", "| --- | --- | --- |"]
    for name in AGREEMENT:
        value, bounds = made[name]["value"], made[name]["interval"]
        words = "–" if value is None else f"{value:.2f}" + (f" ({bounds[0]:.2f} to {bounds[1]:.2f})" if bounds else "")
        lines.append(f"| {WORDS[name]} | {words} | {PUBLISHED.get(name, '–')} |")
    lines.append(f"\n{made['n_images']} pictures of {made['n_patients']} patients; bootstrap by patient.")
    text = "\n".join(lines) + "\n"
    (options.output / "severity.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
