"""The FUSA-ResUNet bundle: slices of volumes and pictures, through MONAI's commands and through predict."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import run_config
from PIL import Image
from threshold_network import ThresholdNetwork

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.phantom.write import write_dicom, write_nifti, write_slices
from pneumonai.pipeline.predict import Options, answer, open_for, predict_study, prepare

SEGMENTATION = "fusa_resunet_ct_segmentation"
THRESHOLD = 0.55
DENSE_HU = THRESHOLD * 1500 - 1350


def threshold_network(**settings: Any) -> dict[str, Any]:
    return {"_target_": "threshold_network.ThresholdNetwork", "threshold": THRESHOLD, **settings}


@pytest.fixture(scope="module")
def marking(small_copy: Any) -> Path:
    """The segmentation bundle with a network that marks what is dense."""
    return small_copy(SEGMENTATION, network_def=threshold_network())


@pytest.fixture(scope="module")
def marking_model(marking: Path) -> Model:
    return Model(find_bundle(marking), device="cpu", precision="fp32")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


def test_verify_passes_a_small_copy(small_copy: Any) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    root = small_copy(SEGMENTATION, channels=[4, 4, 8, 8, 8], slice_size=[64, 64])
    checks = bundle_checks.verify(find_bundle(root), inference=False)
    assert [check for check in checks if check.problem] == []


def test_the_shipped_weights_find_a_phantoms_infection(tmp_path: Path) -> None:
    """The whole chain against the known truth; the weights have seen real slices only, so the bar is low."""
    phantom = make_phantom("ncp", 8, shape=(128, 128, 48))
    files = write_nifti(phantom, tmp_path)
    truth = next(file for file in files if "infection" in file.name)
    result = predict_study(files[0], bundle=SEGMENTATION, options=Options(truth=str(truth)), precision="fp32")
    assert result.truth is not None and result.infection is not None
    assert result.truth["dice"] > 0.5
    true_ml = float((phantom.infection > 0).sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000)
    assert result.infection["total_ml"] == pytest.approx(true_ml, rel=0.5)


@pytest.mark.parametrize("form", ["nifti", "turned nifti", "dicom"])
def test_what_the_network_marks_lies_where_it_is_in_the_volume(
    form: str, marking_model: Model, small_phantom: Any, tmp_path: Path
) -> None:
    if form == "dicom":
        write_dicom(small_phantom, tmp_path / "study")
    else:
        image = nib.load(write_nifti(small_phantom, tmp_path / "made", masks=False)[0])
        if form == "turned nifti":
            image = image.as_reoriented(np.array([[1, 1], [2, -1], [0, 1]]))
        nib.save(image, tmp_path / "study.nii.gz")
    path = tmp_path / ("study" if form == "dicom" else "study.nii.gz")
    prepared = prepare(open_for(marking_model.bundle, path, Options()), marking_model)
    result, maps = answer(prepared, marking_model, Options())
    assert maps.infection is not None and maps.lungs is not None
    expected = (prepared.study.image > DENSE_HU) & (maps.lungs > 0)
    assert maps.infection.shape == prepared.study.image.shape
    assert dice(maps.infection > 0, expected) > 0.9
    ml = expected.sum() * prepared.study.voxel_ml
    assert result.infection is not None and result.infection["total_ml"] == pytest.approx(ml, rel=0.1)
    assert result.classes is None and result.verdict is None and result.refer is None
    with_lung = np.flatnonzero((maps.lungs > 0).any(axis=tuple(np.argsort(np.abs(prepared.study.affine[2, :3]))[:2])))
    assert result.slices is not None
    assert sorted(one["index"] for one in result.slices)[0] >= 0
    assert len(result.slices) == len(with_lung)


def test_a_picture_keeps_its_size_and_may_lie_on_its_side(
    marking_model: Model, small_phantom: Any, tmp_path: Path
) -> None:
    upright = write_slices(small_phantom, tmp_path, count=3)[1]
    grey = np.asarray(Image.open(upright))
    Image.fromarray(np.rot90(grey)).save(tmp_path / "side.png")
    Image.fromarray(grey[20:-20, 10:-10]).save(tmp_path / "cut.jpg", quality=95)
    marks = {}
    for path in (upright, tmp_path / "side.png", tmp_path / "cut.jpg"):
        result = predict_study(path, model=marking_model, output=tmp_path / "out")
        assert result.infection is not None and set(result.infection) == {"percent_of_picture"}
        assert result.slices is None and result.lungs is None
        marks[path.name] = np.asarray(Image.open(tmp_path / "out" / path.stem / "infection.png")) > 0
    assert marks[upright.name].shape == grey.shape
    # Bilinear there and back: only pixels at an edge may differ.
    assert dice(marks["side.png"], np.rot90(marks[upright.name])) > 0.97
    assert dice(marks["cut.jpg"], marks[upright.name][20:-20, 10:-10]) > 0.9


def test_monai_and_predict_mark_the_same(
    marking: Path, marking_model: Model, small_phantom: Any, tmp_path: Path
) -> None:
    studies = tmp_path / "studies"
    write_nifti(small_phantom, studies, masks=False)
    (tmp_path / "made").mkdir()
    picture = write_slices(small_phantom, tmp_path / "made", count=1)[0]
    picture.rename(studies / picture.name)
    run_config(marking, "inference", data=studies, output_dir=tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    for path in sorted(studies.iterdir()):
        result = predict_study(path, model=marking_model, output=tmp_path / "predict")
        name = path.name.removesuffix(".nii.gz").removesuffix(".png")
        assert result.infection is not None
        if path.suffix == ".png":
            one = np.asarray(Image.open(tmp_path / "out" / f"{name}_infection.png"))
            other = np.asarray(Image.open(tmp_path / "predict" / name / "infection.png"))
        else:
            one, other = (
                np.asarray(nib.load(file).dataobj)
                for file in (
                    tmp_path / "out" / f"{name}_infection.nii.gz",
                    tmp_path / "predict" / name / "infection.nii.gz",
                )
            )
            share = float(rows[path.name]["infection_percent"])
            assert share == pytest.approx(result.infection["total_percent"], rel=0.1)
        np.testing.assert_array_equal(one, other)


def test_a_truth_is_compared_on_the_studys_grid(marking_model: Model, small_phantom: Any, tmp_path: Path) -> None:
    files = write_nifti(small_phantom, tmp_path / "studies")
    image, mask = files[0], next(file for file in files if "infection" in file.name)
    result = predict_study(image, model=marking_model, options=Options(truth=str(mask)), output=tmp_path / "out")
    marked = (
        np.asarray(nib.load(tmp_path / "out" / image.name.removesuffix(".nii.gz") / "infection.nii.gz").dataobj) > 0
    )
    true = small_phantom.infection > 0
    assert result.truth is not None
    assert result.truth["dice"] == pytest.approx(dice(marked, true))
    assert result.truth["precision"] == pytest.approx((marked & true).sum() / marked.sum())
    assert result.truth["recall"] == pytest.approx((marked & true).sum() / true.sum())
    by_folder = predict_study(image, model=marking_model, options=Options(truth=str(tmp_path / "studies")))
    assert by_folder.truth == result.truth
    (tmp_path / "empty").mkdir()
    without = predict_study(image, model=marking_model, options=Options(truth=str(tmp_path / "empty")))
    assert without.truth is None
    assert any("nothing to compare with" in warning for warning in without.warnings)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    with pytest.raises(StudyError, match=r"other\.nii\.gz: is 4 x 4 x 4 voxels"):
        predict_study(image, model=marking_model, options=Options(truth=str(tmp_path / "other.nii.gz")))


def test_pictures_and_volumes_train_and_evaluate_together(dataset: Path, train_and_use: Any) -> None:
    small = {"channels": [4, 4, 8, 8, 8], "slice_size": [32, 32]}
    train_and_use(SEGMENTATION, dataset, small, slices_per_study=2, average_decay=0.9)


def evaluate(bundle: Path, dataset: Path, output: Path, **settings: Any) -> str:
    """The predictions.csv of the bundle's evaluate.json."""
    run_config(bundle, "evaluate", data=dataset, output_dir=output, **settings)
    return (output / "predictions.csv").read_text()


def test_evaluation_scores_on_the_source_grid(marking: Path, dataset: Path, tmp_path: Path) -> None:
    """What the threshold network marks is compared with the masks as they lie on disk."""
    predictions = csv.DictReader(evaluate(marking, dataset, tmp_path).splitlines())
    rows = {Path(row["image"]).name: row for row in predictions}
    model = Model(find_bundle(marking), device="cpu", precision="fp32")
    for item in json.loads((dataset / "datalist.json").read_text())["test"]:
        result = predict_study(dataset / item["image"], model=model, options=Options(truth=str(dataset / item["mask"])))
        assert result.truth is not None
        assert float(rows[item["image"]]["dice"]) == pytest.approx(result.truth["dice"], abs=1e-6)


def test_an_evaluation_from_the_cache_scores_the_same(marking: Path, dataset: Path, tmp_path: Path) -> None:
    first = evaluate(marking, dataset, tmp_path, cache="disk")
    assert evaluate(marking, dataset, tmp_path, cache="disk") == first


def test_the_papers_widths_and_the_tables_networks_build() -> None:
    sizes = {"linknet": 11.5, "pspnet": 12.6, "deeplabv3": 15.3, "unet": 10.5, "resunet": 2.1, "paper": 40.1}
    for name, millions in sizes.items():
        changes = json.loads((find_bundle(SEGMENTATION).root / "configs" / f"{name}.json").read_text())
        with torch.device("meta"):
            network = inference_config(find_bundle(SEGMENTATION).root, **changes).get_parsed_content("network_def")
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=0.03), name


def test_the_threshold_network_is_what_it_says() -> None:
    logits = ThresholdNetwork(0.5)(torch.tensor([[[[0.4, 0.6]]]]))
    assert logits.argmax(dim=1).tolist() == [[[0, 1]]]
