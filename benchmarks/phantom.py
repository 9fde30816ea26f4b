"""Time of one phantom, and how far two numbers alone tell the classes apart (``--difficulty``).

``python benchmarks/phantom.py`` times ``make_phantom`` at 256x256x96. ``--difficulty 100`` makes 100 a kind and
prints the cross-validated accuracy of a logistic regression on the share of the lung above -700 HU and the difference
of that share between the sides: the figure that stands beside every accuracy on phantoms; ``--hard`` takes hard
phantoms. It says too how far lesions stand out from the lung around them. ``--datalist FILE`` fits the regression on
the training part of a data set of ``pneumonai phantom --count`` and scores the test part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from machine import describe_machine, refuse_when_busy
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumonai.pipeline.metrics.classification import classification_report
from pneumonai.pipeline.phantom import Difficulty, Kind, Phantom, make_phantom


def two_numbers(image: np.ndarray, lungs: np.ndarray) -> list[float]:
    """Share of the lung above -700 HU, and the absolute difference of that share between the sides."""
    dense = image > -700
    shares = [float(dense[lungs == side].mean()) for side in (1, 2)]
    return [float(dense[lungs > 0].mean()), abs(shares[0] - shares[1])]


def lesion_contrast(phantom: Phantom, smooth_mm: float = 3.0, ring_mm: float = 10.0) -> float:
    """How far the lesion stands out: median lesion less median lung around it, over the deviation of that lung.

    The image is smoothed by 3 mm, as an attentive eye does; the lung around lies within 10 mm of the lesion.
    NaN without a lesion.
    """
    lesion = phantom.infection > 0
    if not lesion.any():
        return float("nan")
    smooth = ndimage.gaussian_filter(phantom.image.astype(np.float32), [smooth_mm / 2.35 / s for s in phantom.spacing])
    away = ndimage.distance_transform_edt(~lesion, sampling=phantom.spacing)
    around = smooth[(phantom.lungs > 0) & (away > 2) & (away < ring_mm)]
    deviation = 1.4826 * float(np.median(np.abs(around - np.median(around))))
    return float(np.median(smooth[lesion]) - np.median(around)) / deviation


def measure(job: tuple[Kind, int], shape: tuple[int, int, int], difficulty: Difficulty) -> list[float]:
    """Label, the two numbers, load, both lungs in litres, and the lesion's contrast."""
    phantom = make_phantom(*job, shape=shape, difficulty=difficulty)
    litres = float(np.prod(phantom.spacing)) / 1e6
    sides = [phantom.lungs == side for side in (1, 2)]
    inside = phantom.lungs > 0
    volumes = [float(side.sum()) * litres for side in sides]
    return [
        phantom.label,
        *two_numbers(phantom.image, phantom.lungs),
        float(phantom.infection.sum() / inside.sum()),
        *volumes,
        lesion_contrast(phantom),
    ]


def print_difficulty(count: int, shape: tuple[int, int, int], first_seed: int, difficulty: Difficulty) -> None:
    jobs = [(kind, first_seed + index) for index in range(count) for kind in Kind]
    with ProcessPoolExecutor(2) as pool:
        table = np.array(list(pool.map(partial(measure, shape=shape, difficulty=difficulty), jobs, chunksize=8)))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    scores = cross_val_score(model, table[:, 1:3], table[:, 0], cv=folds)
    print(
        f"{len(jobs)} {difficulty} phantoms of {shape}: "
        f"logistic regression on two numbers {scores.mean():.3f} ({scores.round(3)})"
    )
    print("kind     share above -700 HU   left-right difference   diseased share   (5th, 50th, 95th percentile)")
    for kind in Kind:
        rows = np.percentile(table[table[:, 0] == kind.label, 1:4], (5, 50, 95), axis=0).T
        print(f"{kind.value:8s} " + "   ".join(" ".join(f"{value:6.3f}" for value in row) for row in rows))
    for kind in (Kind.NCP, Kind.CP):
        low, middle = np.percentile(table[table[:, 0] == kind.label, 6], (5, 50))
        print(f"{kind.value}: lesions stand out by {middle:.1f} deviations of the lung around (5th centile {low:.1f})")
    total = table[:, 4] + table[:, 5]
    low, middle, high = np.percentile(total, (0, 50, 100))
    larger = (table[:, 4] > table[:, 5]).mean()
    print(f"lungs {low:.1f} to {high:.1f} litres, median {middle:.1f}; right larger in {larger:.0%}")


def measure_item(item: dict[str, Any], folder: Path) -> list[float]:
    """Label and the two numbers of one item of a phantom datalist, the true lungs given."""
    image, lungs = (np.asarray(nib.load(folder / item[key]).dataobj) for key in ("image", "lungs"))
    return [item["label"], *two_numbers(image, lungs)]


def print_baseline(datalist: Path) -> None:
    """Fit the logistic regression on a datalist's training part and print its accuracy on the test part."""
    content = json.loads(datalist.read_text(encoding="utf-8"))
    with ProcessPoolExecutor(2) as pool:
        read = partial(measure_item, folder=datalist.parent)
        training, test = (np.array(list(pool.map(read, content[p], chunksize=8))) for p in ("training", "test"))
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(training[:, 1:], training[:, 0].astype(int))
    names = [kind.value for kind in Kind]
    report = classification_report(test[:, 0].astype(int), model.predict_proba(test[:, 1:]), names)
    low, high = report["accuracy"]["interval"]
    print(
        f"logistic regression on two numbers, {len(training)} training and {len(test)} test phantoms: "
        f"accuracy {report['accuracy']['value']:.3f} (95 % interval {low:.3f} to {high:.3f}), "
        f"AUC {report['weighted_auc']['value']:.3f}"
    )


def print_times(shape: tuple[int, int, int], repeats: int, force: bool) -> None:
    refuse_when_busy(force=force)
    make_phantom(Kind.NORMAL, 0, shape=(32, 32, 32))
    for kind in Kind:
        times = []
        for seed in range(repeats):
            start = time.perf_counter()
            make_phantom(kind, seed, shape=shape)
            times.append(time.perf_counter() - start)
        print(
            f"{kind.value:8s} {shape}: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=None, help="256 256 96; with --difficulty 96 96 48")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--difficulty", type=int, default=0, metavar="COUNT", help="phantoms a kind")
    parser.add_argument("--hard", action="store_true", help="with --difficulty: hard phantoms")
    parser.add_argument("--datalist", type=Path, help="fit on its training part, score its test part")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="time on a busy machine too")
    arguments = parser.parse_args()
    print(describe_machine())
    if arguments.datalist:
        print_baseline(arguments.datalist)
    elif arguments.difficulty:
        difficulty = Difficulty.HARD if arguments.hard else Difficulty.USUAL
        print_difficulty(arguments.difficulty, tuple(arguments.shape or (96, 96, 48)), arguments.first_seed, difficulty)
    else:
        print_times(tuple(arguments.shape or (256, 256, 96)), arguments.repeats, arguments.force)


if __name__ == "__main__":
    main()
