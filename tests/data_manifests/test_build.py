"""Made folders that look like each dataset's download become datalists; what is wrong is named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from pneumonai.data_manifests.assemble import SplitChoice, parse_split
from pneumonai.data_manifests.build import build_datalist
from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.data_manifests.description import description_names, load_description
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.manifest_cli import manifest_app


def picture(path: Path) -> None:
    """A tiny grey picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), 90, np.uint8)).save(path)


def volume(path: Path) -> None:
    """A tiny NIfTI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), path)


def dicom(path: Path) -> None:
    """A DICOM file of one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.Rows = 1
    file.save_as(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def cc_ccii(root: Path) -> None:
    for label, first in (("NCP", 1), ("CP", 1070), ("Normal", 1660)):
        for patient in range(first, first + 12):
            for scan in range(1 + patient % 2):
                for number in (1, 2, 10):
                    picture(root / f"{label}/{patient}/{patient}{scan}/{number:04d}.png")
    picture(root / "__MACOSX/NCP/1/10/._0001.png")


def covid_19_20(root: Path) -> None:
    for number in range(12):
        for kind in ("ct", "seg"):
            volume(root / f"COVID-19-20_v2/Train/volume-covid19-A-{number:04d}_{kind}.nii.gz")
    volume(root / "COVID-19-20_v2/Validation/volume-covid19-A-0900.nii.gz")


def covid_ct(root: Path) -> None:
    for label, folder in (("COVID", "CT_COVID"), ("NonCOVID", "CT_NonCOVID")):
        names = [f"2020.01.{n:02d}.20017-p7-52%{k}.png" for n in range(6) for k in range(2)]
        names = names if label == "COVID" else [f"{n}%{k}.jpg" for n in range(6) for k in range(2)]
        for name in names:
            picture(root / "Images-processed" / folder / name)
        for part, chosen in (("train", names[:8]), ("val", names[8:10]), ("test", names[10:])):
            text(root / f"Data-split/{label}/{part}CT_{label}.txt", *chosen)


def sars_cov_2_ct(root: Path) -> None:
    for n in range(1, 21):
        picture(root / f"COVID/Covid ({n}).png")
        picture(root / f"non-COVID/Non-Covid ({n}).png")


def covid_semiseg(root: Path) -> None:
    for folder, count in (("TrainingSet/LungInfection-Train/Doctor-label", 5), ("TestingSet/LungInfection-Test", 4)):
        for n in range(count):
            picture(root / "Dataset" / folder / f"Imgs/{n}.jpg")
            picture(root / "Dataset" / folder / f"GT/{n}.png")
    picture(root / "Dataset/TrainingSet/LungInfection-Train/Pseudo-label/Imgs/9.jpg")


def covid_ct_md(root: Path) -> None:
    for label, prefix in (("COVID-19", "P"), ("CAP", "cap"), ("Normal", "normal")):
        for patient in range(10):
            for n in (1, 2):
                dicom(root / f"{label} subjects/{prefix}{patient:03d}/IM{n:04d}.dcm")
    text(root / "Index.csv", "a,b", "1,2")


def covid_chestxray(root: Path) -> None:
    findings = ["Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial/Klebsiella", "No Finding", "Tuberculosis"]
    rows = ["patientid,offset,finding,view,modality,folder,filename,license"]
    for n in range(40):
        picture(root / f"images/im-{n}.jpg")
        view = "L" if n == 39 else "PA"
        rows.append(f'{n // 2},0,{findings[n // 2 % 4]},{view},X-ray,images,im-{n}.jpg,"CC BY"')
    picture(root / "annotations/lungVAE-masks/im-0_mask.png")
    text(root / "metadata.csv", *rows, "99,0,No Finding,PA,X-ray,images,gone.jpg,CC0")
    scores = ["## Severity scores, mean of 3 raters", "filename,geographic_mean,opacity_mean", "im-0.jpg,5.7,4.0"]
    text(root / "annotations/covid-severity-scores.csv", *scores)


def sirm(root: Path) -> None:
    for case in range(10):
        picture(root / f"case_{case}/ap.png")


def chestxray14(root: Path) -> None:
    rows = ["Image Index,Finding Labels,Follow-up #,Patient ID,View Position"]
    for n in range(40):
        name = f"{n // 2:08d}_{n % 2:03d}.png"
        picture(root / f"images_{1 + n // 20:03d}/images/{name}")
        finding = ("No Finding", "Infiltration|Pneumonia", "Hernia", "Pneumonia")[n // 2 % 4]
        rows.append(f"{name},{finding},{n % 2},{n // 2},PA")
    text(root / "Data_Entry_2017_v2020.csv", *rows)
    text(root / "train_val_list.txt", *(row.split(",")[0] for row in rows[1:29]))
    text(root / "test_list.txt", *(row.split(",")[0] for row in rows[29:]))


def chestxray14_boxes(root: Path) -> None:
    chestxray14(root)
    # As published: the brackets of the header are cut by its own commas.
    rows = [
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        *(f"{n:08d}_000.png,Pneumonia,1.5,2,30,40" for n in range(10)),
    ]
    rows += [
        "00000003_000.png,Pneumonia,40,2,10.25,9",
        "00000003_000.png,Mass,5,6,7,8",
        "00000015_001.png,Mass,5,6,7,8",
    ]
    text(root / "BBox_List_2017.csv", *rows)


def bimcv_covid19(root: Path) -> None:
    for n in range(10):
        folder = root / f"covid19_posi/sub-S03{n:03d}/ses-E07{n:03d}"
        for view in ("vp-pa_cr", "vp-lat_cr"):
            picture(folder / f"mod-rx/sub-S03{n:03d}_ses-E07{n:03d}_run-1_bp-chest_{view}.png")


def covid_xray_5k(root: Path) -> None:
    for part in ("train", "test"):
        for n in range(3):
            picture(root / f"data_upload_v3/{part}/covid/{part}-{n}.jpg")
            picture(root / f"data_upload_v3/{part}/non/Edema/patient{n:05d}{part[0]}.jpg")
            picture(root / f"data_upload_v3/{part}/non/patient1{n:04d}_{part}.jpg")


def chest_xray_pneumonia(root: Path) -> None:
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for n in range(count):
            picture(root / f"chest_xray/{part}/NORMAL/IM-{part.count('t')}{n:03d}-0001.jpeg")
            picture(root / f"chest_xray/{part}/PNEUMONIA/person{n}_{part}_bacteria_{n}.jpeg")
            picture(root / f"chest_xray/{part}/PNEUMONIA/person{n}_{part}_virus_{n}.jpeg")


def v7_covid_xray(root: Path) -> None:
    tags = ["COVID-19", "No Pneumonia (healthy)", "Viral Pneumonia", "Lung"]
    for n in range(40):
        picture(root / f"images/{n}.jpg")
        tag = {"annotations": [{"name": "Lung", "polygon": {}}, {"name": tags[n % 4], "tag": {}}]}
        text(root / f"annotations/{n}.json", json.dumps({"dataset": "covid-19-chest-x-ray-dataset", **tag}))


def radiopaedia_pneumonia(root: Path) -> None:
    for case in range(10):
        for n in range(2):
            picture(root / f"case-{case}/{n}.jpg")


MAKERS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker
    for maker in (
        cc_ccii, covid_19_20, covid_ct, sars_cov_2_ct, covid_semiseg, covid_ct_md, covid_chestxray, sirm, chestxray14,
        chestxray14_boxes, bimcv_covid19, covid_xray_5k, chest_xray_pneumonia, v7_covid_xray, radiopaedia_pneumonia,
    )
}  # fmt: skip

#: Items of each class, how patients are known, and the sizes of training, validation and test.
EXPECTED: dict[str, tuple[dict[str | None, int], str, tuple[int, int, int] | None]] = {
    "cc_ccii": ({"ncp": 18, "cp": 18, "normal": 18}, "known", None),
    "covid_19_20": ({None: 12}, "known", (10, 1, 1)),
    "covid_ct": ({"covid": 12, "noncovid": 12}, "grouped", (16, 4, 4)),
    "sars_cov_2_ct": ({"covid": 20, "noncovid": 20}, "unknown", (32, 4, 4)),
    "covid_semiseg": ({None: 9}, "unknown", (5, 0, 4)),
    "covid_ct_md": ({"covid": 10, "cap": 10, "normal": 10}, "known", (24, 3, 3)),
    "covid_chestxray": ({"covid": 10, "cap": 10, "normal": 10}, "known", None),
    "sirm": ({"covid": 10}, "known", (8, 1, 1)),
    "chestxray14": ({"normal": 10, "cap": 20}, "known", (22, 0, 8)),
    "chestxray14_boxes": ({"cap": 10}, "known", (8, 1, 1)),
    "bimcv_covid19": ({"covid": 10}, "known", (8, 1, 1)),
    "covid_xray_5k": ({"covid": 6, "noncovid": 12}, "unknown", (9, 0, 9)),
    "chest_xray_pneumonia": ({"normal": 11, "cap": 22}, "known", (18, 6, 9)),
    "v7_covid_xray": ({"covid": 10, "normal": 10, "cap": 10}, "unknown", (24, 3, 3)),
    "radiopaedia_pneumonia": ({"cap": 20}, "known", (16, 2, 2)),
}


def parts(datalist: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {part: datalist[part] for part in ("training", "validation", "test")}


def test_boxes_of_a_table_come_with_their_pictures(tmp_path: Path) -> None:
    chestxray14_boxes(tmp_path)
    datalist = build_datalist(load_description("chestxray14_boxes"), tmp_path)
    boxes = {Path(item["image"]).name: item["boxes"] for part in parts(datalist).values() for item in part}
    first = {"x": 1.5, "y": 2.0, "width": 30.0, "height": 40.0}
    assert boxes.pop("00000003_000.png") == [first, {"x": 40.0, "y": 2.0, "width": 10.25, "height": 9.0}]
    assert len(boxes) == 9 and all(found == [first] for found in boxes.values())
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    assert len(load_datalist(tmp_path / "datalist.json", "training", keys=("image", "boxes"))[0]["boxes"]) >= 1


def test_every_description_has_a_made_folder() -> None:
    assert sorted(MAKERS) == sorted(EXPECTED) == description_names()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_made_download_becomes_a_datalist(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    datalist = build_datalist(load_description(name), tmp_path)
    classes, patients, sizes = EXPECTED[name]
    items = [item for part in parts(datalist).values() for item in part]
    assert Counter(item.get("label") for item in items) == classes
    block = datalist["pneumonai"]
    assert block["patients"] == patients and block["dataset"] == name
    if sizes is not None:
        assert tuple(len(part) for part in parts(datalist).values()) == sizes
    # Relative paths with forward slashes, no empty values; the loader finds every file.
    assert all(not Path(item["image"]).is_absolute() and None not in item.values() for item in items)
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(datalist))
    for part in parts(datalist):
        if datalist[part]:
            assert load_datalist(path, part, class_names=block["class_names"] or None)


@pytest.mark.parametrize("name", ["cc_ccii", "covid_chestxray", "covid_ct"])
def test_patients_do_not_cross_parts_or_folds(name: str, tmp_path: Path) -> None:
    MAKERS[name](tmp_path)
    for split in ("8:1:1", "folds=3", "7:3"):
        datalist = build_datalist(load_description(name), tmp_path, parse_split(split, 4))
        sides: dict[str, set[object]] = {}
        for part, items in parts(datalist).items():
            for item in items:
                unit = item.get("patient_id") or item["group"]
                sides.setdefault(unit, set()).add((part, item.get("fold")))
        assert all(len(where) == 1 for where in sides.values())


def test_patients_and_groups_come_from_names(tmp_path: Path) -> None:
    cc_ccii(tmp_path / "ccii")
    covid_ct(tmp_path / "ct")
    split = parse_split("1:0:0")
    items = build_datalist(load_description("cc_ccii"), tmp_path / "ccii", split)["training"]
    assert {"image": "NCP/1/10", "label": "ncp", "patient_id": "1"} in items
    items = build_datalist(load_description("covid_ct"), tmp_path / "ct", split)["training"]
    image = "Images-processed/CT_COVID/2020.01.03.20017-p7-52%1.png"
    assert {"image": image, "label": "covid", "group": "2020.01.03.20017"} in items
    assert {"image": "Images-processed/CT_NonCOVID/3%0.jpg", "label": "noncovid", "group": "3"} in items


def test_lung_masks_and_severity_come_along_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    covid_chestxray(tmp_path)
    datalist = build_datalist(load_description("COVID-chestxray"), tmp_path)
    (first,) = [item for part in parts(datalist).values() for item in part if item["image"] == "images/im-0.jpg"]
    assert first == {
        "image": "images/im-0.jpg",
        "label": "covid",
        "lungs": "annotations/lungVAE-masks/im-0_mask.png",
        "patient_id": "0",
        "severity_extent": 5.7,
        "severity_opacity": 4.0,
    }
    said = "\n".join(datalist["pneumonai"]["warnings"])
    assert "10 images are left out by the description's rules (9 Tuberculosis, 1 L)" in said
    assert "29 of 30 images have no lungs" in said
    assert "1 rows of metadata.csv name files that are not there (row 42: gone.jpg)" in said


def test_folds_keep_an_official_test_part(tmp_path: Path) -> None:
    covid_ct(tmp_path)
    datalist = build_datalist(load_description("covid_ct"), tmp_path, SplitChoice("folds", folds=4, seed=1))
    assert (len(datalist["training"]), len(datalist["validation"]), len(datalist["test"])) == (20, 0, 4)
    assert {item["fold"] for item in datalist["training"]} == {0, 1, 2, 3}
    assert datalist["pneumonai"]["split"] == {"method": "folds", "ratios": None, "folds": 4, "seed": 1}


def test_validation_is_taken_from_an_official_training_part(tmp_path: Path) -> None:
    covid_xray_5k(tmp_path)
    described = load_description("covid_xray_5k")
    assert any("--validation" in warning for warning in build_datalist(described, tmp_path)["pneumonai"]["warnings"])
    datalist = build_datalist(described, tmp_path, parse_split("official", validation=0.3))
    assert [len(part) for part in parts(datalist).values()] == [6, 3, 9]
    with pytest.raises(ManifestError, match="goes with an official split only"):
        parse_split("8:1:1", validation=0.1)


def test_patients_on_two_sides_of_an_official_split_are_said(tmp_path: Path) -> None:
    chest_xray_pneumonia(tmp_path)
    warnings = build_datalist(load_description("chest_xray_pneumonia"), tmp_path)["pneumonai"]["warnings"]
    assert any("patients lie in two parts of the given split (" in warning for warning in warnings)


def test_missing_lists_are_said_and_another_split_is_made(tmp_path: Path) -> None:
    covid_ct(tmp_path)
    for file in tmp_path.glob("Data-split/*/*.txt"):
        file.unlink()
    block = build_datalist(load_description("covid_ct"), tmp_path)["pneumonai"]
    assert block["split"]["method"] == "ratio"
    assert "the official list of the test part, **/COVID/testCT_COVID.txt, is not there" in block["warnings"]
    with pytest.raises(ManifestError, match="covid_ct: no official split is known; use --split 8:1:1"):
        build_datalist(load_description("covid_ct"), tmp_path, SplitChoice("official"))


def test_a_link_back_up_is_not_followed_for_ever(tmp_path: Path) -> None:
    sars_cov_2_ct(tmp_path)
    (tmp_path / "COVID" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert len(build_datalist(load_description("sars_cov_2_ct"), tmp_path)["training"]) == 32


def test_two_copies_of_a_listed_file_are_refused(tmp_path: Path) -> None:
    covid_ct(tmp_path)
    picture(tmp_path / "copy/CT_NonCOVID/2%1.jpg")
    with pytest.raises(ManifestError, match=r"2%1.jpg: .*2%1.jpg has the same name; remove one copy"):
        build_datalist(load_description("covid_ct"), tmp_path)


def test_a_wrong_folder_says_what_was_expected_and_found(tmp_path: Path) -> None:
    sars_cov_2_ct(tmp_path)
    with pytest.raises(ManifestError) as raised:
        build_datalist(load_description("cc_ccii"), tmp_path)
    line = raised.value.line()
    assert "expected for cc_ccii: NCP/PATIENT/SCAN/*.png" in line
    assert "found there: COVID/ (20 files), non-COVID/ (20 files)" in line
    with pytest.raises(ManifestError, match="no such folder"):
        build_datalist(load_description("cc_ccii"), tmp_path / "nowhere")
    with pytest.raises(
        ManifestError, match=r"no such dataset description; known are bimcv_covid19, cc_ccii, .*; or use --from-csv"
    ):
        load_description("cc_cci")


def _list_twice(root: Path) -> None:
    text(root / "Data-split/COVID/testCT_COVID.txt", "2020.01.00.20017-p7-52%0.png")


def _list_missing(root: Path) -> None:
    text(root / "Data-split/NonCOVID/testCT_NonCOVID.txt", "5%0.jpg", "77.jpg")


def _truncate(root: Path) -> None:
    (root / "Images-processed/CT_COVID/2020.01.02.20017-p7-52%1.png").write_bytes(b"\x89PNG\r\n")


def _empty(root: Path) -> None:
    (root / "Images-processed/CT_NonCOVID/4%1.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_list_twice, r"testCT_COVID.txt, row 1: 2020.*52%0.png is listed in .*trainCT_COVID.txt, row 1 too"),
        (_list_missing, r"testCT_NonCOVID.txt, row 2: 77.jpg is not there"),
        (_truncate, r"CT_COVID/2020.01.02.20017-p7-52%1.png: cannot be read"),
        (_empty, r"CT_NonCOVID/4%1.jpg: an empty file"),
    ],
)
def test_a_spoiled_download_names_the_file_or_row(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    covid_ct(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ManifestError, match=message):
        build_datalist(load_description("covid_ct"), tmp_path)


def test_a_missing_mask_or_column_is_named(tmp_path: Path) -> None:
    covid_19_20(tmp_path / "a")
    (tmp_path / "a/COVID-19-20_v2/Train/volume-covid19-A-0003_seg.nii.gz").unlink()
    with pytest.raises(ManifestError, match=r"A-0003_ct.nii.gz: its mask .*A-0003_seg.nii.gz is missing"):
        build_datalist(load_description("covid_19_20"), tmp_path / "a")
    covid_chestxray(tmp_path / "b")
    table = tmp_path / "b/metadata.csv"
    table.write_text(table.read_text().replace("finding", "diagnosis"))
    with pytest.raises(ManifestError, match=r"no column 'finding'; the columns are patientid, offset, diagnosis"):
        build_datalist(load_description("covid_chestxray"), tmp_path / "b")


@pytest.mark.parametrize(
    ("spelled", "ratios"),
    [("8:1:1", (8.0, 1.0, 1.0)), ("7:3", (7.0, 0.0, 3.0)), ("0.6:0.15:0.25", (0.6, 0.15, 0.25))],
)
def test_splits_are_spelled(spelled: str, ratios: tuple[float, ...]) -> None:
    assert parse_split(spelled).ratios == ratios


@pytest.mark.parametrize("spelled", ["8-1-1", "folds=x", "0:0:0", "1:1:1:1", "", "8:1:1.1.1"])
def test_other_spellings_are_refused(spelled: str) -> None:
    with pytest.raises(ManifestError, match="is no split; use official, 8:1:1"):
        parse_split(spelled)


def test_the_command_writes_prints_and_does_not_overwrite(tmp_path: Path) -> None:
    sars_cov_2_ct(tmp_path / "data")
    output = tmp_path / "out" / "datalist.json"
    arguments = ["build", "sars_cov_2_ct", str(tmp_path / "data"), "--output", str(output)]
    done = CliRunner().invoke(manifest_app, arguments)
    assert done.exit_code == 0, done.output
    assert "training" in done.stdout and "16 (16)" in done.stdout and "32 (32)" in done.stdout
    assert done.stderr.startswith("warning: no image has a patient id, and every image is its own unit")
    assert json.loads(output.read_text())["pneumonai"]["warnings"]
    assert [file.name for file in output.parent.iterdir()] == ["datalist.json"]
    refused = CliRunner().invoke(manifest_app, arguments)
    assert isinstance(refused.exception, ManifestError) and "is there already" in str(refused.exception)
    assert CliRunner().invoke(manifest_app, [*arguments, "--force", "--split", "folds=4"]).exit_code == 0
    assert json.loads(output.read_text())["pneumonai"]["split"]["folds"] == 4
    alone = CliRunner().invoke(manifest_app, ["build", str(tmp_path / "data"), "--output", str(tmp_path / "x.json")])
    assert isinstance(alone.exception, ManifestError) and "NAME and DATA_DIR are needed" in str(alone.exception)
