"""``manifest check``: every check on made folders, the report, and the command."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from pneumonai.data_manifests.check import check_datalist
from pneumonai.data_manifests.check_report import Report
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.workers import work_through
from pneumonai.pipeline.manifest_cli import manifest_app
from pneumonai.pipeline.phantom import make_phantom, write


def picture(seed: int, side: int = 96) -> np.ndarray:
    """A smooth texture of its own."""
    noise = np.random.default_rng(seed).normal(size=(side, side))
    smooth = ndimage.gaussian_filter(noise, 1.5) * 3 + ndimage.gaussian_filter(noise, 8) * 12
    return np.clip(128 + 60 * smooth, 0, 255).astype(np.uint8)


def save(folder: Path, name: str, values: np.ndarray) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(folder / name)
    return name


def items(folder: Path, part: str, seeds: range) -> list[dict[str, Any]]:
    labels = ("covid", "noncovid")
    return [
        {"image": save(folder, f"{part}/{n}.png", picture(n)), "label": labels[n % 2], "patient_id": f"P{n}"}
        for n in seeds
    ]


def sound(folder: Path) -> dict[str, Any]:
    """A datalist without faults."""
    return {
        "pneumonai": {"class_names": ["noncovid", "covid"], "patients": "known"},
        "training": items(folder, "training", range(6)),
        "validation": items(folder, "validation", range(6, 8)),
        "test": items(folder, "test", range(8, 10)),
    }


def checked(folder: Path, content: dict[str, Any], **options: Any) -> Report:
    path = folder / "datalist.json"
    path.write_text(json.dumps(content))
    return check_datalist(path, folder, **options)


def told(report: Report, name: str) -> list[str]:
    return [f"{finding.severity}: {finding.message}" for finding in report.row(name).findings]


def test_a_sound_datalist_has_no_findings(tmp_path: Path) -> None:
    report = checked(tmp_path, sound(tmp_path))
    assert (report.errors, report.warnings) == (0, 0)
    assert report.parts["training"] == {"covid": 3, "noncovid": 3}
    assert {row.name: row.status for row in report.rows if row.status != "ok"} == {
        "counts": "left out",
        "masks": "left out",
        "confounding": "left out",
    }
    assert "too few" in str(report.row("confounding").left_out)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    content = sound(tmp_path)
    (tmp_path / "training/2.png").unlink()
    (tmp_path / "validation/6.png").write_bytes((tmp_path / "validation/6.png").read_bytes()[:900])
    save(tmp_path, "test/9.png", np.full((96, 96), 7, np.uint8))
    save(tmp_path, "test/8.png", picture(8)[:50])
    report = checked(tmp_path, content)
    assert told(report, "files") == ["error: training[2]: training/2.png is not there"]
    unreadable, even = told(report, "readable")
    assert unreadable.startswith("error: validation[0] validation/6.png cannot be decoded")
    assert even == "error: test[1] test/9.png has one value throughout"
    assert told(report, "sizes") == ["warning: test[0] test/8.png is 96 x 50, under 64 pixels"]


def test_labels(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["training"][0]["label"] = 0
    content["training"][1]["label"] = "cap"
    content["training"][2]["label"] = 2
    del content["training"][3]["label"]
    report = checked(tmp_path, content)
    assert [line.split(";")[0] for line in told(report, "labels")] == [
        "error: training[1] training/1.png: unknown label 'cap'",
        "error: training[2] training/2.png: unknown label '2'",
        "error: training[3] training/3.png has no label",
    ]
    assert report.parts["training"] == {"2": 1, "cap": 1, "covid": 1, "no label": 1, "noncovid": 2}


def test_one_patient_on_two_sides_by_part_fold_and_group(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["test"][0]["patient_id"] = "P3"
    for entry in content["training"][:2]:
        del entry["patient_id"]
        entry["group"] = "G"
    for n, entry in enumerate(content["training"]):
        entry["fold"] = n % 2
    group, patient, without = told(checked(tmp_path, content), "patients")
    assert group.startswith("error: group G is in training fold 0 and training fold 1: training[0] training/0.png; ")
    assert patient.endswith("patient P3 is in training fold 1 and test: training[3] training/3.png; test[0] test/8.png")
    assert without == "warning: 2 of 10 images have no patient id"


def test_one_file_in_two_lists(tmp_path: Path) -> None:
    content = sound(tmp_path)
    content["test"].append({**content["training"][0], "patient_id": "P99", "image": "training/../training/0.png"})
    content["training"].append(content["training"][1])
    lines = told(checked(tmp_path, content), "same_file")
    assert lines == [
        "error: training/0.png is listed 2 times: training[0], test[2]",
        "warning: training/1.png is listed 2 times: training[1], training[6]",
    ]


def test_empty_parts_and_missing_classes(tmp_path: Path) -> None:
    content = sound(tmp_path) | {"training": [], "test": []}
    content["validation"].pop()
    assert told(checked(tmp_path, content), "parts") == [
        "error: the training part is empty",
        "warning: the test part is empty",
    ]
    content = sound(tmp_path)
    content["test"].pop(0)
    assert told(checked(tmp_path, content), "parts") == ["warning: test has no covid"]


def test_planted_copies_opposite_labels_first(tmp_path: Path) -> None:
    content = sound(tmp_path)
    shifted = np.clip(picture(0).astype(int) - 20, 0, 255).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(picture(1)).save(data, "JPEG", quality=50)
    planted = {
        "shift": (Image.fromarray(shifted), "noncovid"),  # of 0, covid
        "jpeg": (Image.open(data), "noncovid"),  # of 1, noncovid
        "resize": (Image.fromarray(picture(2)).resize((150, 140)), "covid"),  # of 2, covid
        "same": (Image.fromarray(picture(4)), "covid"),  # of 4, covid
    }
    for n, (name, (image, label)) in enumerate(planted.items()):
        image.save(tmp_path / f"{name}.png")
        content["test"].append({"image": f"{name}.png", "label": label, "patient_id": f"Q{n}"})
    report = checked(tmp_path, content)
    assert told(report, "identical") == ["error: training[4] training/4.png = test[5] same.png"]
    near = [line.partition(" (")[0] for line in told(report, "near_identical")]
    assert near[0] == "error: labels covid and noncovid: training[0] training/0.png ~ test[2] shift.png"
    assert sorted(near[1:]) == [
        "warning: training[1] training/1.png ~ test[3] jpeg.png",
        "warning: training[2] training/2.png ~ test[4] resize.png",
    ]
    assert told(report, "similar") == []
    assert report.errors == 2


def test_likeness_speaks_of_one_patient_only_where_patients_are_unknown(tmp_path: Path) -> None:
    phantom = make_phantom("ncp", 0, shape=(128, 128, 48))
    for k in (20, 21):
        grey = np.clip((phantom.image[:, :, k].T + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
        save(tmp_path, f"{k}.png", grey)
    content = sound(tmp_path)
    content["training"].append({"image": "20.png", "label": "covid", "patient_id": "one"})
    content["test"].append({"image": "21.png", "label": "covid", "patient_id": "another"})
    assert told(checked(tmp_path, content), "similar") == []
    for part in ("training", "test"):
        del content[part][-1]["patient_id"]
    (line,) = told(checked(tmp_path, content), "similar")
    assert line.startswith("warning: training[6] 20.png ~ test[2] 21.png")


def test_copies_within_a_side_matter_only_with_opposite_labels(tmp_path: Path) -> None:
    content = sound(tmp_path)
    for label in ("covid", "noncovid"):
        save(tmp_path, f"{label}.png", picture(0))
        content["training"].append({"image": f"{label}.png", "label": label, "patient_id": label})
    lines = told(checked(tmp_path, content), "identical")
    assert len(lines) == 2 and all(line.startswith("warning: labels ") for line in lines)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    content = sound(tmp_path)
    mask = np.zeros((96, 96), np.uint8)
    mask[20:40, 20:40] = 255
    masks = [mask, mask // 255, mask[:80], np.zeros_like(mask), picture(50)]
    for n, values in enumerate(masks):
        content["training"][n]["mask"] = save(tmp_path, f"masks/{n}.png", values)
    content["training"][5]["mask"] = "masks/none.png"
    content["training"][5]["lungs"] = save(tmp_path, "masks/lungs.png", mask[:, :60] // 255)
    report = checked(tmp_path, content)
    assert told(report, "files") == ["error: training[5]: masks/none.png is not there"]
    assert told(report, "masks") == [
        "error: training[2] masks/2.png: mask 96 x 80, image 96 x 96",
        "error: training[4] masks/4.png: more than 16 values, no mask (or saved with loss)",
        "error: training[5] masks/lungs.png: mask 60 x 96, image 96 x 96",
        "warning: 1 of 5 masks under 'mask' are empty: training[3]",
        "warning: masks under 'mask' mix values: 1 go to 1, 1 to 255",
    ]
    only = {"training": [{"image": "training/0.png", "mask": "masks/3.png"}]}
    assert told(checked(tmp_path, only), "masks") == ["error: all masks under 'mask' are empty"]


def test_volumes_are_compared_too(tmp_path: Path) -> None:
    phantoms = [make_phantom("ncp", seed, shape=(64, 64, 32)) for seed in range(2)]
    for n, phantom in enumerate(phantoms):
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / f"{n}.nii.gz")
    flipped = phantoms[0].affine @ np.diag([-1, 1, 1, 1])
    flipped[:3, 3] += phantoms[0].affine[:3, 0] * 63
    nib.save(nib.Nifti1Image(phantoms[0].image[::-1], flipped), tmp_path / "stored_otherwise.nii.gz")
    nib.save(nib.Nifti1Image(phantoms[1].infection, np.eye(4)), tmp_path / "mask.nii.gz")
    write.write_dicom(phantoms[0], tmp_path / "series")
    write.write_dicom(phantoms[0], tmp_path / "again")
    content = {
        "training": [{"image": "0.nii.gz"}, {"image": "1.nii.gz", "mask": "mask.nii.gz"}, {"image": "series"}],
        "test": [{"image": "stored_otherwise.nii.gz"}, {"image": "again"}],
    }
    report = checked(tmp_path, content)
    assert told(report, "identical") == [
        "error: training[0] 0.nii.gz = test[0] stored_otherwise.nii.gz",
        "error: training[2] series and test[1] again share 32 DICOM images",
    ]
    assert told(report, "masks") == [
        "error: training[1] mask.nii.gz: mask and image lie elsewhere in space (their affines differ)"
    ]
    assert report.row("readable").summary == "3 NIfTI, 2 DICOM"


def test_folders_of_slices_and_folders_of_nothing(tmp_path: Path) -> None:
    for n in range(12):
        save(tmp_path, f"scan/{n}.png", picture(n))
    save(tmp_path, "mixed/1.png", picture(1))
    save(tmp_path, "mixed/2.png", picture(1, 80))
    (tmp_path / "empty").mkdir()
    report = checked(tmp_path, {"training": [{"image": name} for name in ("scan", "mixed", "empty")]})
    assert report.row("sizes").summary == "1 sizes (1 of 96 x 96 x 12)"
    assert [line.partition(" (")[2] for line in told(report, "readable")] == [
        "ValueError: its pictures have 2 different sizes)",
        "ValueError: a folder without DICOM files)",
    ]


def test_counts_against_a_description(tmp_path: Path) -> None:
    lines = told(checked(tmp_path, sound(tmp_path), description="covid_ct"), "counts")
    assert any(line.startswith("warning: 5 items of covid, expected ") for line in lines)


def test_confounded_classes_are_warned_of(tmp_path: Path) -> None:
    content: dict[str, Any] = {"training": []}
    for n in range(40):
        label, side = ("covid", 64) if n % 2 else ("noncovid", 80)
        content["training"].append({"image": save(tmp_path, f"{n}.png", picture(n, side)), "label": label})
    row = checked(tmp_path, content).row("confounding")
    assert row.status == "warning" and row.figures["auc"] > 0.95
    assert "AUC of 1.00 (40 units, cross-validated)" in row.findings[0].message


def test_workers_give_the_same_in_another_order() -> None:
    found = dict(work_through(abs, range(-9, 9), workers=2, at_once=4, worth=1))
    assert [found[n] for n in range(18)] == [abs(n) for n in range(-9, 9)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a readable JSON datalist"),
        ("[1]", "no datalist"),
        ("{}", "none of the parts training, validation, test has an item"),
        ('{"training": [{"image": "a.png"}, {"label": 1}]}', "training[1]: an item needs an entry 'image'"),
        ('{"training": [{"image": "a.png", "mask": 3}]}', "training[0]: mask 3 is no path"),
        ('{"training": [{"image": "a.png"}]}', "none of its files is in "),
    ],
)
def test_what_is_no_datalist_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(ManifestError, match=words.replace("[", r"\[")):
        check_datalist(tmp_path / "datalist.json", tmp_path)


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text('{"training": [{"image": "a.png"}]}')
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        check_datalist(tmp_path / "datalist.json", tmp_path / "nowhere")


def test_the_command(tmp_path: Path) -> None:
    content, path = sound(tmp_path), tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    run = CliRunner().invoke
    shown = run(manifest_app, ["check", str(path)])
    assert shown.exit_code == 0 and "files readable" in shown.stdout and "0 errors, 0 warnings" in shown.stdout
    content["training"][0]["label"] = "cap"
    path.write_text(json.dumps(content))
    only_json = run(manifest_app, ["check", str(path), str(tmp_path), "--json", "-"])
    assert only_json.exit_code == 1
    report = json.loads(only_json.stdout)
    assert report["errors"] == 1
    assert {c["name"]: c for c in report["checks"]}["labels"]["findings"][0]["items"] == ["training[0]"]
    both = run(manifest_app, ["check", str(path), "--json", str(tmp_path / "report.json")])
    assert both.exit_code == 1 and "error: training[0]" in both.stdout
    assert json.loads((tmp_path / "report.json").read_text())["errors"] == 1
    with pytest.raises(ManifestError):
        run(manifest_app, ["check", str(tmp_path / "none.json")], catch_exceptions=False)
