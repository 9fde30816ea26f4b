"""Altered copies are found; slices of other patients, and neighbouring slices of one, are not taken for copies."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.data_manifests.duplicates import Likeness, find_pairs
from pneumonai.data_manifests.file_figures import FileFigures, read_figures
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.phantom.projections import axial_picture

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def altered(picture: np.ndarray, rng: np.random.Generator) -> dict[str, Image.Image]:
    """The picture with another grey level, in another size, compressed again, and all of it."""
    shifted = np.clip(picture * rng.uniform(0.8, 1.1) + rng.uniform(-25, 25), 0, 255).astype(np.uint8)
    factor = rng.uniform(0.5, 1.5)
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))

    def compressed(image: Image.Image, quality: int) -> Image.Image:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality)
        return Image.open(data)

    plain = Image.fromarray(picture)
    return {
        "grey shift": Image.fromarray(shifted),
        "resize": plain.resize(size, Image.Resampling.BILINEAR),
        "recompression": compressed(plain, int(rng.integers(25, 70))),
        "all": compressed(Image.fromarray(shifted).resize(size, Image.Resampling.BICUBIC), 40),
    }


def figures_of(images: list[Image.Image], folder: Path) -> list[FileFigures]:
    figures = []
    for number, image in enumerate(images):
        path = folder / f"{number}.png"
        image.save(path)
        figures.append(read_figures((str(path),)))
    return figures


def pairs_of(figures: list[FileFigures], sides: list[int], labels: list[int] | None = None):
    return find_pairs(
        np.stack([known.thumb for known in figures]),
        np.stack([np.frombuffer(known.hash, np.uint8) for known in figures]),
        [known.digest for known in figures],
        sides,
        labels,
    )


@pytest.fixture(scope="module")
def slices() -> dict[int, list[np.ndarray]]:
    """Slices with lung of three phantoms, 256 x 256."""
    phantoms = [make_phantom("ncp", seed, shape=(128, 128, 48)) for seed in range(3)]
    pictures = {seed: [axial_picture(phantom, k) for k in range(8, 42)] for seed, phantom in enumerate(phantoms)}
    return {
        seed: [np.asarray(Image.fromarray(one).resize((256, 256), Image.Resampling.BICUBIC)) for one in of_patient]
        for seed, of_patient in pictures.items()
    }


def test_altered_copies_of_slices_are_near_identical(slices: dict[int, list[np.ndarray]], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    originals = [slices[seed][int(rng.integers(34))] for seed in range(3)]
    copies = [(n, how, image) for n, one in enumerate(originals) for how, image in altered(one, rng).items()]
    figures = figures_of([Image.fromarray(one) for one in originals] + [image for _, _, image in copies], tmp_path)
    pairs = pairs_of(figures, [0] * 3 + [1] * len(copies))
    found = {(pair.first, pair.second - 3): pair for pair in pairs}
    assert set(found) == {(n, number) for number, (n, _, _) in enumerate(copies)}
    for number, (n, how, _) in enumerate(copies):
        # A drawn size can be the picture's own: then the copy is identical.
        assert found[n, number].likeness is not Likeness.SIMILAR, (how, found[n, number])


def test_neighbouring_slices_are_no_copies_and_other_patients_not_even_similar(
    slices: dict[int, list[np.ndarray]], tmp_path: Path
) -> None:
    images = [Image.fromarray(one) for seed in range(3) for one in slices[seed]]
    patient = [seed for seed in range(3) for _ in slices[seed]]
    # Odd and even slices on two sides: every neighbour is on the other side.
    pairs = pairs_of(figures_of(images, tmp_path), [n % 2 for n in range(len(images))])
    assert pairs and all(pair.likeness is Likeness.SIMILAR for pair in pairs)
    assert all(patient[pair.first] == patient[pair.second] for pair in pairs)


def test_the_same_pixels_in_another_file_format_are_identical(
    slices: dict[int, list[np.ndarray]], tmp_path: Path
) -> None:
    picture = Image.fromarray(slices[0][20])
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.bmp")
    figures = [read_figures((str(tmp_path / name),)) for name in ("a.png", "b.bmp")]
    assert [pair.likeness for pair in pairs_of(figures, [0, 1])] == [Likeness.IDENTICAL]


def test_one_side_is_searched_for_contradicting_labels_only(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (80, 80)).astype(np.uint8))
    figures = figures_of([picture, picture], tmp_path)
    assert pairs_of(figures, [0, 0]) == [] == pairs_of(figures, [0, 0], [1, 1])
    assert len(pairs_of(figures, [0, 0], [0, 1])) == 1


def test_even_pictures_are_alike_only_when_identical(tmp_path: Path) -> None:
    greys = [np.full((70, 70), grey, np.uint8) for grey in (40, 41, 40)]
    pairs = pairs_of(figures_of([Image.fromarray(grey) for grey in greys], tmp_path), [0, 1, 1])
    assert [(pair.first, pair.second, pair.likeness) for pair in pairs] == [(0, 2, Likeness.IDENTICAL)]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        find_pairs(np.zeros((2, 64, 64), np.uint8), np.zeros((2, 32), np.uint8), [b"", b""], [0])


def test_real_slices_of_different_patients_are_not_reported() -> None:
    """COVID-CT: no pair across its official training and validation parts, whose patients differ."""
    if not (SHARED / "manifest.csv").exists():
        pytest.skip("the shared data packs are not there")
    with (SHARED / "manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["pack"] == "ct2d"]
    figures = [read_figures((str(SHARED / row["file"]),)) for row in rows]
    assert pairs_of(figures, [row["split"] == "train" for row in rows]) == []
    patients = [row["patient_id"] for row in rows]
    numbers = {patient: number for number, patient in enumerate(patients)}
    assert pairs_of(figures, [numbers[patient] for patient in patients]) == []
