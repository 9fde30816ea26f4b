"""The class told by traits of files: planted traits are found and named, chance is not."""

from __future__ import annotations

import numpy as np
import pytest

from pneumonai.data_manifests.confounding import MIN_UNITS, class_from_traits
from pneumonai.data_manifests.file_figures import FileFigures


def files(count: int, rng: np.random.Generator, **traits: object) -> list[FileFigures]:
    plain = {"kind": "picture", "form": "PNG", "bits": 8, "black_border": 0.0, "white_border": 0.0}
    return [
        FileFigures(
            **{
                **plain,
                "size_bytes": int(rng.integers(9_000, 11_000)),
                "shape": (int(rng.integers(200, 260)), 256),
                "frame_grey": float(rng.uniform(0, 40)),
                **traits,
            }
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("trait", "words"),
    [
        ({"size_bytes": 30_000}, "file size"),
        ({"form": "JPEG"}, "file format"),
        ({"white_border": 0.2}, "white borders"),
    ],
)
def test_a_planted_trait_is_found_and_named(trait: dict[str, object], words: str) -> None:
    rng = np.random.default_rng(0)
    labels = ["covid"] * 40 + ["noncovid"] * 40
    told = class_from_traits(files(40, rng) + files(40, rng, **trait), labels, list(range(80)))
    assert told.auc is not None and told.auc > 0.95
    assert told.trait is not None and words in told.trait


def test_chance_is_near_a_half() -> None:
    rng = np.random.default_rng(0)
    labels = ["covid"] * 150 + ["noncovid"] * 150
    told = class_from_traits(files(300, rng), labels, list(range(300)))
    assert told.auc is not None and 0.4 < told.auc < 0.6


def test_a_trait_of_single_patients_tells_nothing_of_others() -> None:
    """Each patient has a size of its own, many images each: by image the class would be told, by patient not."""
    rng = np.random.default_rng(3)
    figures, labels, units = [], [], []
    for patient in range(60):
        figures += files(8, rng, size_bytes=int(rng.integers(10_000, 99_000)), shape=(256, 256), frame_grey=0.0)
        labels += ["covid" if patient % 2 else "noncovid"] * 8
        units += [patient] * 8
    by_patient = class_from_traits(figures, labels, units).auc
    by_image = class_from_traits(figures, labels, list(range(len(units)))).auc
    assert by_patient is not None and by_image is not None
    assert by_image > 0.9 > 0.7 > by_patient


def test_too_few_or_one_class_give_words_instead_of_a_number() -> None:
    rng = np.random.default_rng(0)
    few = class_from_traits(files(40, rng), ["a"] * 26 + ["b"] * 14, list(range(40)))
    assert few.auc is None and few.reason is not None and "too few: 14" in few.reason and str(MIN_UNITS) in few.reason
    one = class_from_traits(files(40, rng), ["a"] * 40, list(range(40)))
    assert one.auc is None and one.reason == "all images have one class"


def test_the_same_traits_everywhere_tell_nothing() -> None:
    same = files(40, np.random.default_rng(0), size_bytes=1, shape=(9, 9), frame_grey=0.0)
    assert class_from_traits(same, ["a", "b"] * 20, list(range(40))).auc == 0.5
