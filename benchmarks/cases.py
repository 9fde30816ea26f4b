"""The surest right and wrong answers of a recipe to X-rays or slices held out, with their maps, on one sheet.

    python benchmarks/cases.py RUNS/mag-sd-*fold* --output cases.jpg

RUNS are folders of a comparison's trainings (``pneumonai compare``), each with ``scores/predictions.csv``: every
picture is answered again by the network that had not seen its patient, and drawn as ``pneumonai predict`` draws it.
The first row has right answers, the second wrong ones, the surest of each class in turn, one a patient.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from sheet import write_sheet

from pneumonai.pipeline.derive import derive_bundle
from pneumonai.pipeline.predict import predict_study
from pneumonai.pipeline.training.predictions import read_predictions


@dataclass(frozen=True)
class Case:
    """An answer to a picture held out: the run that gave it, the classes, and the probability of the one said."""

    run: Path
    image: str
    patient: str
    truth: str
    said: str
    sure: float


def read_cases(run: Path) -> list[Case]:
    """The answers of a run, the surest first."""
    found = read_predictions(run / "scores" / "predictions.csv")
    assert found.labels is not None  # an evaluation's answers have labels
    cases = [
        Case(run, image, patient, found.class_names[label], found.class_names[p.argmax()], float(p.max()))
        for image, patient, label, p in zip(
            found.images, found.patient_ids, found.labels, found.probabilities, strict=True
        )
    ]
    return sorted(cases, key=lambda case: -case.sure)


def surest(cases: list[Case], count: int) -> list[Case]:
    """The surest of each true class in turn, one a patient."""
    chosen: list[Case] = []
    classes = sorted({case.truth for case in cases})
    while len(chosen) < count:
        before = len(chosen)
        for truth in classes[: count - before]:
            seen = {case.patient for case in chosen}
            chosen += [case for case in cases if case.truth == truth and case.patient not in seen][:1]
        if len(chosen) == before:
            break
    return chosen


def draw(case: Case, scratch: Path) -> tuple[Image.Image, str]:
    """The picture with its map, and what is said of it."""
    bundle = scratch / case.run.name
    if not bundle.exists():
        derive_bundle(case.run, bundle)
    result = predict_study(case.image, bundle=bundle, output=scratch / "answers")
    with Image.open(scratch / "answers" / result.study["id"] / "pictures" / "overlay.png") as picture:
        return picture.convert("RGB"), f"{case.truth}: said {case.said}, {case.sure:.2f}"


def main() -> None:
    """Read, choose, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=6, help="of right, and of wrong answers")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    cases = sorted((case for run in options.runs for case in read_cases(run.resolve())), key=lambda case: -case.sure)
    rows = [
        surest([case for case in cases if (case.truth == case.said) is right], options.count) for right in (True, False)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        tiles = [draw(case, Path(scratch)) for row in rows for case in row]
    write_sheet(tiles, options.output, columns=options.count)


if __name__ == "__main__":
    main()
