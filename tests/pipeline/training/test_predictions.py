"""The writers of predictions behind a real engine, and the way back from their file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from PIL import Image

from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.training.lung_predictions import LungPredictionsWriter
from pneumonai.pipeline.training.predictions import (
    MaskPredictionsWriter,
    PredictionsWriter,
    SegmentationPredictionsWriter,
    read_dice,
    read_predictions,
)

NAMES = ["noncovid", "covid"]


def image(name: str, affine: torch.Tensor | None = None, **meta: Any) -> MetaTensor:
    return MetaTensor(torch.zeros(1, 2, 2), affine=affine, meta={"filename_or_obj": name} | meta)


def run(writer: PredictionsWriter | MaskPredictionsWriter, batches: list[list[tuple[Any, Any]]]) -> None:
    """An engine that has each batch of (item, output) in its state, as MONAI's evaluators have after decollating."""

    def process(engine: Engine, batch: list[tuple[Any, Any]]) -> list[Any]:
        engine.state.batch = [item for item, _ in batch]
        return [output for _, output in batch]

    engine = Engine(process)
    writer.attach(engine)
    engine.run(batches, epoch_length=len(batches))


def answer(p: float, name: str = "a.png", **item: Any) -> tuple[Any, Any]:
    return {"image": image(name)} | item, {"pred": torch.tensor([1 - p, p])}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_answers_go_to_disk_and_back(tmp_path: Path) -> None:
    batches = [
        [answer(0.75, "a.png", label=1, patient_id="P1"), answer(0.25, "b.png", label=torch.tensor(1), group="g7")],
        [answer(0.125, "c, d.png", label=0)],
    ]
    writer = PredictionsWriter(tmp_path, NAMES, metrics=True)
    run(writer, batches)
    run(writer, batches)
    files = ["confusion.png", "metrics.csv", "metrics.json", "pr.png", "predictions.csv", "reliability.png", "roc.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert list(rows(tmp_path)[0]) == ["image", "patient_id", "label", "pred", "p_noncovid", "p_covid"]
    assert [row["pred"] for row in rows(tmp_path)] == ["covid", "noncovid", "noncovid"]
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["n_images"], report["n_patients"], report["positive"]) == (3, 3, "covid")
    assert report["recall"]["value"] == 0.5
    read = read_predictions(tmp_path / "predictions.csv")
    assert (read.images, read.patient_ids) == (["a.png", "b.png", "c, d.png"], ["P1", "g7", ""])
    assert read.labels is not None
    assert (read.labels.tolist(), read.class_names) == ([1, 1, 0], NAMES)
    # As a spreadsheet saves it, with a byte order mark.
    text = (tmp_path / "predictions.csv").read_text(encoding="utf-8")
    (tmp_path / "predictions.csv").write_text(text, encoding="utf-8-sig")
    assert read_predictions(tmp_path / "predictions.csv").images == read.images
    assert read.probabilities.tolist() == [[0.25, 0.75], [0.75, 0.25], [0.875, 0.125]]


@pytest.mark.parametrize("labels", [[1], [1, 1]])
def test_a_test_part_of_one_class(labels: list[int], tmp_path: Path) -> None:
    run(PredictionsWriter(tmp_path, NAMES, metrics=True), [[answer(0.75, label=label)] for label in labels])
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["accuracy"]["value"], report["auc"]["value"]) == (1.0, None)


def test_without_labels(tmp_path: Path) -> None:
    run(PredictionsWriter(tmp_path, NAMES), [[answer(0.75)]])
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    assert read_predictions(tmp_path / "predictions.csv").labels is None
    with pytest.raises(ManifestError, match=r"a\.png: has no label"):
        run(PredictionsWriter(tmp_path, NAMES, metrics=True), [[answer(0.75)]])


HEADER = "image,patient_id,label,pred,p_noncovid,p_covid\n"
GOOD = "a.png,,covid,covid,0.25,0.75\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "has no column image, patient_id, label, pred"),
        ("image,patient_id,label,pred,p_covid\n", "p_CLASS of at least two classes"),
        (HEADER, "holds no rows"),
        (HEADER + GOOD + "b.png,,flu,covid,0.25,0.75\n", "row 3: unknown label 'flu'"),
        (HEADER + GOOD + "b.png,,,covid,0.25,0.75\n", "row 3: has no label, while other rows have"),
        (HEADER + GOOD + "b.png,,covid,cov", "row 3: a probability is no number, or the row is cut off"),
        (HEADER + "b.png,,covid,covid,0.25,0.25\n", "row 2: .* no probabilities that sum to 1"),
        (HEADER + "b.png,,covid,covid,nan,1\n", "row 2: .* no probabilities"),
        (HEADER.encode() + b"\xff\xfe", "not a readable CSV file"),
    ],
)
def test_broken_files_are_named_with_their_row(text: str | bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ManifestError, match=message) as error:
        read_predictions(path)
    assert str(error.value).startswith(str(path))


def segmented(marked: list[int], true: list[int] | None, name: str, **item: Any) -> tuple[Any, Any]:
    """A volume of 2 x 2 x 2 voxels of 5 x 10 x 10 mm, axes S, P, L, the first slice empty."""
    affine = torch.tensor([[0, 0, -10, 0], [0, -10, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    meta = item.pop("meta", {})

    def mask(voxels: list[int]) -> MetaTensor:
        return MetaTensor(torch.tensor([0, 0, 0, 0, *voxels], dtype=torch.float32).reshape(1, 2, 2, 2), affine=affine)

    batch = {"image": image(name, affine, **meta)} | item
    return batch | ({} if true is None else {"mask": mask(true)}), {"pred": mask(marked)}


def test_segmentations_by_hand(tmp_path: Path) -> None:
    lungs = torch.ones(1, 2, 2, 2)
    batches = [
        [segmented([1, 1, 0, 0], [1, 0, 1, 1], "a.nii.gz", patient_id="P1", lungs=lungs)],
        [segmented([0, 0, 0, 0], [0, 0, 0, 0], "b.nii.gz", patient_id="P2")],
    ]
    run(SegmentationPredictionsWriter(tmp_path, metrics=True), batches)
    assert list(rows(tmp_path)[0].values()) == ["a.nii.gz", "P1", "0.4", "0.5", str(1 / 3), "1.0", "25.0"]
    assert list(rows(tmp_path)[1].values()) == ["b.nii.gz", "P2", "1.0", "1.0", "1.0", "0.0", ""]
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["dice_patient_mean"]["value"] == pytest.approx(0.7)
    assert report["dice_slice_mean"]["value"] == pytest.approx((1 + 0.4 + 1 + 1) / 4)
    assert report["volume_error_ml"]["value"] == pytest.approx(-0.25)
    assert report["surface_distance_mm"]["value"] == pytest.approx((0 + 10 + 0 + 10 + 10) / 5)


def test_the_affine_says_along_which_axis_the_slices_lie(tmp_path: Path) -> None:
    batch, output = segmented([1, 1, 0, 0], [1, 0, 1, 1], "a.nii.gz")

    def turned(tensor: MetaTensor) -> MetaTensor:
        return MetaTensor(tensor.as_tensor().permute(0, 3, 2, 1), affine=tensor.affine[:, [2, 1, 0, 3]])

    batch |= {"mask": turned(batch["mask"])}
    run(SegmentationPredictionsWriter(tmp_path, metrics=True), [[(batch, {"pred": turned(output["pred"])})]])
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["dice_slice_mean"]["value"] == pytest.approx((1 + 0.4) / 2)
    assert report["surface_distance_mm"]["value"] == pytest.approx((0 + 10 + 0 + 10 + 10) / 5)


def test_the_share_of_the_lungs_holds_across_grids(tmp_path: Path) -> None:
    # Lungs on a grid of half the resolution: one of its four voxels is as large as four of the prediction's eight.
    affine = torch.tensor([[0, 0, -20, 0], [0, -20, 0, 0], [5, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    lungs = MetaTensor(torch.ones(1, 2, 1, 1), affine=affine)
    run(SegmentationPredictionsWriter(tmp_path), [[segmented([1, 1, 0, 0], None, "a.nii.gz", lungs=lungs)]])
    assert rows(tmp_path)[0]["infection_percent"] == "25.0"


def test_masks_are_written_in_their_own_geometry(tmp_path: Path) -> None:
    volume = segmented([1, 0, 0, 0], None, "x/a.nii.gz")
    again = segmented([0, 1, 0, 0], None, "y/a.nii.gz")
    picture = ({"image": image("b.png")}, {"pred": torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])})
    run(SegmentationPredictionsWriter(tmp_path, masks=True), [[volume], [again], [picture]])
    written = nib.load(tmp_path / "a_infection.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), volume[1]["pred"][0].numpy())
    np.testing.assert_allclose(written.affine, volume[1]["pred"].affine.numpy())
    assert np.asarray(nib.load(tmp_path / "a-2_infection.nii.gz").dataobj).ravel()[5] == 1
    assert np.asarray(Image.open(tmp_path / "b_infection.png")).tolist() == [[255, 0], [0, 0]]


def test_the_dice_of_each_image_is_read_back(tmp_path: Path) -> None:
    batches = [[segmented([1, 1, 0, 0], [1, 0, 1, 1], "a.nii.gz", patient_id="P1")]]
    run(SegmentationPredictionsWriter(tmp_path), batches)
    table = read_dice(tmp_path / "predictions.csv")
    assert (table.images, table.patient_ids, table.dice.tolist()) == (["a.nii.gz"], ["P1"], [0.4])
    run(SegmentationPredictionsWriter(tmp_path), [[segmented([1, 0, 0, 0], None, "a.nii.gz")]])
    with pytest.raises(ManifestError, match="row 2: has no dice"):
        read_dice(tmp_path / "predictions.csv")
    with pytest.raises(ManifestError, match="not a readable CSV"):
        read_dice(tmp_path / "nothing.csv")


def test_segmentations_without_truth_or_spacing(tmp_path: Path) -> None:
    picture = {"pred": torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])}
    batches = [
        [segmented([1, 0, 0, 0], None, "a.nii.gz", meta={"assumed_geometry": True})],
        [({"image": image("b.png")}, picture)],
    ]
    run(SegmentationPredictionsWriter(tmp_path), batches)
    header = ["image", "patient_id", "dice", "precision", "recall", "infection_ml", "infection_percent"]
    assert list(rows(tmp_path)[0]) == header
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["a.nii.gz", "", "", "", "", "", ""],
        ["b.png", "", "", "", "", "", "25.0"],
    ]
    with pytest.raises(ManifestError, match=r"b\.png: has no mask"):
        run(SegmentationPredictionsWriter(tmp_path, metrics=True), batches[1:])


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    item, output = segmented([1, 0, 0, 0], None, "a.nii.gz")
    item["mask"] = torch.zeros(1, 2, 2, 3)
    with pytest.raises(ManifestError, match=r"a\.nii\.gz: the mask is \(2, 2, 3\), the prediction \(2, 2, 2\)"):
        run(SegmentationPredictionsWriter(tmp_path), [[(item, output)]])
    assert not np.any([path.suffix == ".csv" for path in tmp_path.iterdir()])


def test_lungs_by_hand(tmp_path: Path) -> None:
    def labels(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).reshape(1, 2, 3)

    found, true = labels(1, 1, 2, 0, 0, 2), labels(1, 0, 2, 1, 0, 2)
    batches = [
        [({"image": image("a.png"), "mask": true, "patient_id": "P1"}, {"pred": found})],
        [({"image": image("b.png"), "mask": true}, {"pred": labels(0, 0, 0, 0, 0, 0)})],
    ]
    run(LungPredictionsWriter(tmp_path, metrics=True, masks=True), batches)
    columns = ["image", "patient_id", "dice", "dice_right", "dice_left", "right_percent", "left_percent"]
    assert list(rows(tmp_path)[0]) == columns
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["a.png", "P1", "0.75", "0.5", "1.0", "33.333", "33.333"],
        ["b.png", "", "0.0", "0.0", "0.0", "0.0", "0.0"],
    ]
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["dice_slice_mean"]["value"] == pytest.approx(0.375)
    assert report["classes"]["right lung"]["support"] == 2
    assert report["classes"]["left lung"]["dice_pooled"]["value"] == pytest.approx(2 * 2 / (2 + 4))
    assert np.asarray(Image.open(tmp_path / "a_lungs.png")).tolist() == [[1, 1, 2], [0, 0, 2]]
