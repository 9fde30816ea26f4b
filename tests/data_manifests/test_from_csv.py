"""A user's own table: columns by name, labels whatever their letter case, and errors that name the row."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pneumonai.data_manifests.assemble import parse_split
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.from_csv import Columns, Selection, build_from_csv
from pneumonai.data_manifests.split import unit_of
from pneumonai.pipeline.manifest_cli import manifest_app

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PARTS = ("training", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures a0.png ... a11.png, a NIfTI and a mask folder."""
    for n in range(12):
        Image.fromarray(np.full((3, 4), n, np.uint8)).save(tmp_path / f"a{n}.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "masks" / "a0.png")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "my.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def everything(datalist: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for part in PARTS for item in datalist[part]]


def test_columns_are_found_and_labels_brought_to_lower_case(folder: Path) -> None:
    labels = ["COVID", " Covid ", "covid", "Normal", "NORMAL", "normal"] * 2
    path = table(folder, "File,Diagnosis,Who", *(f"a{n}.png,{label},P{n // 2}" for n, label in enumerate(labels)))
    datalist = build_from_csv(path, folder, Columns("file", "diagnosis", patient="WHO"), split=parse_split("1:1"))
    assert datalist["pneumonai"]["class_names"] == ["normal", "covid"]
    assert datalist["pneumonai"]["patients"] == "known"
    assert Counter(item["label"] for item in everything(datalist)) == {"covid": 6, "normal": 6}
    sides = {part: {item["patient_id"] for item in datalist[part]} for part in PARTS}
    assert not sides["training"] & sides["test"] and sides["validation"] == set()


def test_usual_names_are_taken_and_the_split_column_followed(folder: Path) -> None:
    rows = [f"a{n}.png,{'ab'[n % 2]},P{n},{('Train', 'val', 'TEST')[n % 3]}" for n in range(12)]
    datalist = build_from_csv(table(folder, "image,label,patient_id,split", *rows), folder)
    assert [len(datalist[part]) for part in PARTS] == [4, 4, 4]
    assert datalist["pneumonai"]["split"]["method"] == "column"
    assert datalist["training"][0] == {"image": "a0.png", "label": "a", "patient_id": "P0"}
    drawn = build_from_csv(folder / "my.csv", folder, split=parse_split("8:1:1"))
    assert [len(drawn[part]) for part in PARTS] == [10, 1, 1]


def test_masks_alone_make_a_segmentation_datalist(folder: Path) -> None:
    path = table(folder, "image;mask", "a0.png;masks\\a0.png", "v.nii.gz;")
    datalist = build_from_csv(path, folder, split=parse_split("1:0:0"))
    assert datalist["training"] == [{"image": "a0.png", "mask": "masks/a0.png"}, {"image": "v.nii.gz"}]
    assert datalist["pneumonai"]["class_names"] == []
    assert "1 images have no mask" in datalist["pneumonai"]["warnings"]


def test_absolute_paths_become_relative_and_rows_are_chosen(folder: Path) -> None:
    rows = [f"{folder / f'a{n}.png'},x,{'CT' if n < 8 else 'MR'},{n % 4}" for n in range(12)]
    path = table(folder, "image,label,kind,site", *rows)
    chosen = Selection(where=[("kind", ["ct"]), ("site", ["1", "2"])])
    items = everything(build_from_csv(path, folder, selection=chosen))
    assert sorted(item["image"] for item in items) == ["a1.png", "a2.png", "a5.png", "a6.png"]


def test_classes_are_ordered_by_the_user_or_the_project(folder: Path) -> None:
    labels = ["CAP", "flu", "Covid", "normal"]
    path = table(folder, "image,label", *(f"a{n}.png,{labels[n % 4]}" for n in range(12)))
    assert build_from_csv(path, folder)["pneumonai"]["class_names"] == ["normal", "covid", "cap", "flu"]
    asked = Selection(class_names=["flu", "Normal", "cap", "COVID"])
    assert build_from_csv(path, folder, selection=asked)["pneumonai"]["class_names"] == [
        "flu",
        "normal",
        "cap",
        "covid",
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,klass", "a0.png,x"], r"my.csv: no column 'label'; the columns are image, klass"),
        (["path,label", "a0.png,x"], r"no column 'image'; the columns are path, label"),
        (["image,label", "a0.png,x", "b.png,x"], r"my.csv, row 3 \(b.png\): no such file"),
        (["image,label", "a0.png,x", ",x"], r"my.csv, row 3: column 'image' is empty"),
        (["image,label", "a0.png,x", "a1.png,"], r"my.csv, row 3 \(a1.png\): no label"),
        (["image,label", "a0.png,x", "a1.png,x", "./a0.png,y"], r"row 4: a0.png is listed in row 2 too"),
        (["image,label", "../other.png,x"], r"row 2: \.\./other.png is not inside"),
        (["image,label,split", "a0.png,x,holdout"], r"row 2: unknown part 'holdout'; known are training"),
        (["image,label", "broken.png,x"], r"my.csv, row 2 \(broken.png\): cannot be read"),
        (["image,label", "broken.nii.gz,x"], r"row 2 \(broken.nii.gz\): cannot be read"),
        (["image,label", "masks/none,x"], r"row 2 \(masks/none\): no such file"),
        (["image,label,mask", "a0.png,x,masks/a9.png"], r"row 2 \(masks/a9.png\): no such file"),
        (["image,label"], r"my.csv: no rows under its header"),
        (["image,label,label", "a0.png,x,y"], r"two columns are called 'label'"),
        (["image,label", "a0.png,x,extra"], r"row 2 has 3 values for 2 columns"),
    ],
)
def test_what_is_wrong_is_named_by_its_row(folder: Path, lines: list[str], message: str) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "broken.nii.gz").write_bytes(b"\x1f\x8b no volume")
    with pytest.raises(ManifestError, match=message):
        build_from_csv(table(folder, *lines), folder)


def test_an_unknown_label_names_row_and_known_labels(folder: Path) -> None:
    path = table(folder, "image,label", "a0.png,normal", "a1.png,Flu")
    with pytest.raises(ManifestError, match=r"my.csv, row 3 \(a1.png\): unknown label 'flu'; known are normal, covid"):
        build_from_csv(path, folder, selection=Selection(class_names=["normal", "covid"]))


def test_where_says_which_values_there_are(folder: Path) -> None:
    path = table(folder, "image,label,site", "a0.png,x,Rome", "a1.png,x,Oslo")
    with pytest.raises(ManifestError, match=r"no row with site = Paris; values there are 'Oslo', 'Rome'"):
        build_from_csv(path, folder, selection=Selection(where=[("site", ["Paris"])]))


def test_the_command_reads_a_csv(folder: Path) -> None:
    path = table(folder, "image,label,site", *(f"a{n}.png,{'Normal' if n % 2 else 'Covid'},{n % 3}" for n in range(12)))
    output = folder / "list.json"
    options = ["--where", "site=0", "--where", "site=1", "--class", "covid", "--class", "normal", "--split", "1:1"]
    arguments = ["build", str(folder), "--from-csv", str(path), "--output", str(output), *options]
    done = CliRunner().invoke(manifest_app, arguments)
    assert done.exit_code == 0, done.output
    datalist = json.loads(output.read_text())
    assert datalist["pneumonai"]["class_names"] == ["covid", "normal"] and len(everything(datalist)) == 8
    wrong = CliRunner().invoke(manifest_app, [*arguments, "--force", "--where", "site"])
    assert isinstance(wrong.exception, ManifestError) and "'site' is no COLUMN=VALUE" in str(wrong.exception)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data packs are not at hand")
@pytest.mark.parametrize(
    ("pack", "counts", "patients"),
    [
        ("ct2d", {"covid": 251, "noncovid": 290}, "known"),
        ("cxr", {"covid": 74, "cap": 59, "normal": 58}, "known"),
        ("sars_cov_2_ct", {"covid": 1002, "noncovid": 983}, "unknown"),
        ("ct2d_infseg", {"infection_mask": 50}, "unknown"),
        ("ct2d_infseg_pseudo", {"pseudo_mask": 1600}, "known"),
    ],
)
def test_real_packs_become_datalists(pack: str, counts: dict[str, int], patients: str) -> None:
    columns, chosen = Columns(image="file"), Selection(where=[("pack", [pack])])
    datalist = build_from_csv(SHARED / "manifest.csv", SHARED, columns, chosen, parse_split("8:1:1", 1))
    assert Counter(item["label"] for item in everything(datalist)) == counts
    assert datalist["pneumonai"]["patients"] == patients
    sides = [{unit_of(item) for item in datalist[part]} for part in PARTS]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    for part, share in zip(PARTS, (0.8, 0.1, 0.1), strict=True):
        for label, count in Counter(item["label"] for item in datalist[part]).items():
            # Volumes of the pseudo labels have up to 207 slices; elsewhere a patient has a few images.
            assert count == pytest.approx(share * counts[label], abs=60 if "pseudo" in pack else 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data packs are not at hand")
def test_near_duplicates_of_a_real_pack_stay_together() -> None:
    pack = SHARED / "sars_cov_2_ct"
    columns = Columns(image="file", group="near_duplicate_group")
    datalist = build_from_csv(pack / "index.csv", pack, columns, split=parse_split("folds=5"))
    assert datalist["pneumonai"]["patients"] == "grouped"
    folds: dict[str, set[int]] = {}
    for item in datalist["training"]:
        folds.setdefault(item["group"], set()).add(item["fold"])
    assert len(folds) == 1603 and all(len(fold) == 1 for fold in folds.values())
    sizes = Counter((item["fold"], item["label"]) for item in datalist["training"])
    assert {sizes[fold, "covid"] for fold in range(5)} <= {200, 201}
