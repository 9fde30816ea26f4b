"""Which pictures are told to be no CT slice: false warnings of slices, warnings of X-rays and photographs; the fit.

Run: ``python benchmarks/ct_pictures.py --slices FOLDER... --xrays FOLDER... [--fit]``. Every JPEG and PNG below the
folders is looked at in grey; the sample pictures of scikit-image, scikit-learn and matplotlib, whole and in crops, are
the photographs. ``--fit`` fits the weights anew: logistic regressions of slices against X-rays and against photographs,
with all folders weighted alike.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pneumonai.pipeline.ct_picture_checks import PHOTOGRAPH_WEIGHTS, XRAY_WEIGHTS, look_at_slice, measure

ENDINGS = (".png", ".jpg", ".jpeg")
SAMPLES = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
LEAST_SIDE = 100


def grey_pictures(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS and "mask" not in str(path.relative_to(folder)):
            yield str(path), np.asarray(Image.open(path).convert("L"))


def photographs() -> Iterator[tuple[str, np.ndarray]]:
    """The sample pictures of packages, each whole and in four crops."""
    generator = np.random.default_rng(0)
    for package, place in SAMPLES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name, picture in grey_pictures(Path(spec.origin).parent / place):
            if min(picture.shape) < LEAST_SIDE or np.ptp(np.percentile(picture, (2, 98))) < 1:
                continue
            yield name, picture
            for _ in range(4):
                share = generator.uniform(0.35, 0.8)
                first = [int(generator.uniform(0, side * (1 - share))) for side in picture.shape]
                sides = [int(side * share) for side in picture.shape]
                yield name, picture[first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]]


def report(what: str, pictures: Iterator[tuple[str, np.ndarray]]) -> None:
    warned = [bool(look_at_slice(picture)) for _, picture in pictures]
    print(f"{what}: {sum(warned)} of {len(warned)} warned of ({100 * np.mean(warned or [0]):.1f} %)")


def fit(names: list[str], slices: list[list[dict[str, float]]], others: list[list[dict[str, float]]]) -> None:
    groups = [*slices, *others]
    values = np.array([[found[name] for name in names] for group in groups for found in group])
    labels = np.concatenate([np.full(len(group), index < len(slices)) for index, group in enumerate(groups)])
    weights = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups]) * len(values) / len(groups)
    scaler = StandardScaler().fit(values)
    model = LogisticRegression(max_iter=5000).fit(scaler.transform(values), labels, sample_weight=weights)
    found = model.coef_[0] / scaler.scale_
    print(
        dict(zip(names, found.round(1).tolist(), strict=True)),
        round(float(model.intercept_[0] - found @ scaler.mean_), 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=Path, nargs="*", default=[])
    parser.add_argument("--xrays", type=Path, nargs="*", default=[])
    parser.add_argument("--fit", action="store_true")
    options = parser.parse_args()
    for folder in [*options.slices, *options.xrays]:
        report(f"{folder.name}, {'slices' if folder in options.slices else 'no slices'}", grey_pictures(folder))
    report("photographs, whole and in crops, in grey", photographs())
    if options.fit:
        slices = [[measure(picture) for _, picture in grey_pictures(folder)] for folder in options.slices]
        xrays = [[measure(picture) for _, picture in grey_pictures(folder)] for folder in options.xrays]
        fit([name for name in XRAY_WEIGHTS if name != "offset"], slices, xrays)
        fit([name for name in PHOTOGRAPH_WEIGHTS if name != "offset"], slices, [[measure(p) for _, p in photographs()]])


if __name__ == "__main__":
    main()
