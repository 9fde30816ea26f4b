"""``manifest convert``: values, order and place by hand, broken scans in words, resuming, and the mark's effect."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pneumonai.data_manifests.assumed_volume import Assumed, write_dicom, write_nifti
from pneumonai.data_manifests.convert import convert_scans
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.from_csv import build_from_csv
from pneumonai.data_manifests.slice_stack import grey_to_hounsfield
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.manifest_cli import manifest_app
from pneumonai.pipeline.outputs.lung_measures import lung_measures
from pneumonai.pipeline.phantom import make_phantom
from pneumonai.pipeline.study import open_checked, open_study

SLICES = 12
SAID = "HU = -1350 + grey / 255 * 1500; spacing 0.7 x 0.7 x 3.3 mm"


def grey(n: int) -> np.ndarray:
    """Slice n, 20 x 30: bright at the top left, and n tells slices apart."""
    values = np.full((20, 30), n * 10, np.uint8)
    values[:4, :3] = 255
    return values


def scan(root: Path, folder: str, name: str = "{:04d}.png", count: int = SLICES) -> Path:
    place = root / folder
    place.mkdir(parents=True)
    for n in range(count):
        Image.fromarray(grey(n)).save(place / name.format(n))
    return place


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A folder like the download: three classes, four scans, names of both kinds."""
    root = tmp_path / "cc"
    scan(root, "NCP/11/1001")
    scan(root, "NCP/11/1002", "IMG_{:04d}.jpg")
    scan(root, "CP/12/1003")
    scan(root, "Normal/13/1004", "{}.png")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_grey_to_hounsfield_by_hand() -> None:
    table = grey_to_hounsfield(-1350, 150)
    assert table.dtype == np.int16 and table[[0, 51, 102, 255]].tolist() == [-1350, -1050, -750, 150]
    assert np.abs(table - (-1350 + np.arange(256) / 255 * 1500)).max() <= 0.5


def test_a_scan_becomes_a_volume(download: Path, tmp_path: Path) -> None:
    done = convert_scans(download, tmp_path / "out")
    assert done.skipped == []
    assert rows(tmp_path / "out/scans.csv") == [
        {"image": f"{folder}.nii.gz", "label": label, "patient_id": patient, "assumed": SAID}
        for folder, label, patient in (
            ("CP/12/1003", "cp", "12"),
            ("NCP/11/1001", "ncp", "11"),
            ("NCP/11/1002", "ncp", "11"),
            ("Normal/13/1004", "normal", "13"),
        )
    ]
    image = nib.load(tmp_path / "out/CP/12/1003.nii.gz")
    values = np.asanyarray(image.dataobj)
    assert values.dtype == np.int16 and values.shape == (30, 20, SLICES)
    # Picture 0 is at the head, the last index; column, row -> i, j.
    assert values[29, 19].tolist() == [round(-1350 + 10 * n / 255 * 1500) for n in reversed(range(SLICES))]
    assert (values[:3, :4] == 150).all() and (values[3:, :, -1] == -1350).all()
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == pytest.approx((0.7, 0.7, 3.3))
    sidecar = json.loads((tmp_path / "out/CP/12/1003.json").read_text())
    assert sidecar["assumed"] == ["hounsfield", "spacing"]
    assert sidecar["hounsfield"] == "HU = -1350 + grey / 255 * 1500" and sidecar["spacing_mm"] == [0.7, 0.7, 3.3]
    datalist = json.loads((tmp_path / "out/datalist.json").read_text())
    assert datalist["pneumonai"]["assumed"] == {
        "hounsfield": "HU = -1350 + grey / 255 * 1500",
        "spacing_mm": [0.7, 0.7, 3.3],
    }
    assert sum(len(datalist[part]) for part in ("training", "validation", "test")) == 4
    assert build_from_csv(done.table, tmp_path / "out")["pneumonai"]["assumed"] == {"column": [SAID]}


def test_numbers_order_slices_not_names(download: Path, tmp_path: Path) -> None:
    """``10.png`` comes after ``9.png``."""
    convert_scans(download, tmp_path / "out")
    values = np.asanyarray(nib.load(tmp_path / "out/Normal/13/1004.nii.gz").dataobj)
    assert (np.diff(values[29, 19]) < 0).all()


def _replace(name: str, image: Image.Image, **options: object) -> Callable[[Path], object]:
    return lambda place: image.save(place / name, **options)


TURNED = Image.Exif()
TURNED[0x0112] = 6
COLOUR = np.stack([grey(3), grey(3) // 2, grey(3)], axis=-1)
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "gap": (
        lambda place: (place / "0004.png").unlink(),
        "a gap in the numbers: 1 missing, first after 0003.png (next is 0005.png)",
    ),
    "twice": (_replace("4.jpg", Image.fromarray(grey(4))), "two pictures have the number 4 (4.jpg)"),
    "no number": (_replace("cover.png", Image.fromarray(grey(4))), "cover.png has no number in its name"),
    "few": (lambda place: [(place / f"{n:04d}.png").unlink() for n in (9, 10, 11)], "only 9 slices, 10 are needed"),
    "cut off": (
        lambda place: (place / "0005.png").write_bytes((place / "0005.png").read_bytes()[:60]),
        "0005.png cannot be read (",
    ),
    "sizes": (_replace("0006.png", Image.fromarray(grey(6)[:18])), "0006.png is 30 x 18, 0000.png 30 x 20"),
    "square": (_replace("0006.png", Image.fromarray(grey(6).T)), "0006.png is 20 x 30, 0000.png 30 x 20"),
    "colour": (_replace("0003.png", Image.fromarray(COLOUR)), "0003.png is in colour"),
    "deep": (_replace("0003.png", Image.fromarray(grey(3).astype(np.uint16))), "0003.png is of mode I;16"),
    "turned": (_replace("0003.png", Image.fromarray(grey(3)), exif=TURNED), "0003.png is turned"),
    "even": (
        lambda place: [Image.new("L", (30, 20), 9).save(file) for file in place.iterdir()],
        "all pixels have the grey value 9",
    ),
}


def test_broken_scans_are_skipped_and_reported(tmp_path: Path) -> None:
    for number, (name, (break_it, _)) in enumerate(BROKEN.items()):
        break_it(scan(tmp_path / "cc", f"NCP/{number}/{name}"))
    scan(tmp_path / "cc", "CP/99/good")
    done = convert_scans(tmp_path / "cc", tmp_path / "out")
    reasons = {row["scan"].rpartition("/")[2]: row["reason"] for row in rows(tmp_path / "out/skipped.csv")}
    assert {name: reason[: len(BROKEN[name][1])] for name, reason in reasons.items()} == {
        name: words for name, (_, words) in BROKEN.items()
    }
    assert [row["image"] for row in rows(done.table)] == ["CP/99/good.nii.gz"]
    assert [file.name for file in (tmp_path / "out").rglob("*.nii.gz")] == ["good.nii.gz"]


def test_grey_saved_in_colour_is_grey(tmp_path: Path) -> None:
    place = scan(tmp_path / "cc", "NCP/1/1")
    Image.fromarray(grey(3)).convert("RGB").save(place / "0003.png")
    Image.fromarray(grey(4)).convert("RGBA").save(place / "0004.png")
    Image.fromarray(grey(5)).convert("P").save(place / "0005.png")
    done = convert_scans(tmp_path / "cc", tmp_path / "out")
    assert done.skipped == []
    values = np.asanyarray(nib.load(tmp_path / "out/NCP/1/1.nii.gz").dataobj)
    assert values[29, 19, ::-1].tolist() == [round(-1350 + 10 * n / 255 * 1500) for n in range(SLICES)]


def test_interrupted_and_resumed(download: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_scans(download, out, workers=1, progress=stop)
    finished = {file: file.stat().st_mtime_ns for file in out.rglob("*.nii.gz")}
    assert len(finished) == 2 and not list(out.rglob(".*part*"))
    done = convert_scans(download, out, workers=1)
    assert [outcome.resumed for outcome in done.outcomes] == [True, True, False, False]
    assert all(file.stat().st_mtime_ns == then for file, then in finished.items())
    # A volume without its record is not whole, a changed source is another scan, a broken one loses its volume's place.
    (out / "CP/12/1003.json").unlink()
    Image.fromarray(grey(3) // 2).save(download / "NCP/11/1001/0012.png")
    (download / "NCP/11/1002/IMG_0004.jpg").unlink()
    again = convert_scans(download, out, workers=1)
    assert [(o.resumed, o.reason is None) for o in again.outcomes] == [
        (False, True),
        (False, True),
        (False, False),
        (True, True),
    ]


def test_dicom_and_nifti_hold_the_same(download: Path, tmp_path: Path) -> None:
    convert_scans(download, tmp_path / "nifti")
    convert_scans(download, tmp_path / "dicom", form="dicom")
    assert rows(tmp_path / "dicom/scans.csv")[0]["image"] == "CP/12/1003"
    one = open_study(tmp_path / "nifti/CP/12/1003.nii.gz")
    other = open_study(tmp_path / "dicom/CP/12/1003")
    assert nib.aff2axcodes(other.affine) == nib.aff2axcodes(one.affine) == ("L", "P", "S")
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    record = json.loads((tmp_path / "dicom/CP/12/1003/assumed.json").read_text())
    assert record["assumed"] == ["hounsfield", "spacing"]
    assert all(outcome.resumed for outcome in convert_scans(download, tmp_path / "dicom", form="dicom").outcomes)


@pytest.mark.parametrize("form", ["nifti", "dicom"])
def test_no_ml_of_an_assumed_volume_and_a_warning(form: str, tmp_path: Path) -> None:
    phantom = make_phantom("ncp", 3, shape=(64, 64, 32))
    assumed = Assumed("cc_ccii", -1350, 150, (5.6, 5.6, 9.0))
    path = tmp_path / ("a.nii.gz" if form == "nifti" else "a")
    if form == "nifti":
        write_nifti(phantom.image, assumed, path)
    else:
        write_dicom(phantom.image, assumed, path, name="a", patient_id="1")
    study = open_checked(path)
    assert study.voxel_ml is None and study.assumed_geometry
    assert study.warnings[0] == (
        "its Hounsfield units and spacing are assumed, not measured: no volume in ml is reported"
    )
    assert study.converted[-1].endswith("assumed: hounsfield, spacing; HU = -1350 + grey / 255 * 1500")
    assert set(lung_measures(phantom.lungs, study.voxel_ml)) == {"right_pixels", "left_pixels", "total_pixels"}
    if form == "nifti":
        nib.save(nib.Nifti1Image(phantom.image, phantom.affine), tmp_path / "plain.nii.gz")
        assert open_checked(tmp_path / "plain.nii.gz").voxel_ml is not None


def test_grey_values_are_refused_unless_the_file_beside_says_assumed(tmp_path: Path) -> None:
    stacked = np.random.default_rng(0).integers(0, 256, (64, 64, 20)).astype(np.uint8)
    nib.save(nib.Nifti1Image(stacked, np.diag([-3, -3, 6, 1])), tmp_path / "a.nii.gz")
    with pytest.raises(StudyError, match="grey values 0 to 255 of pictures"):
        open_checked(tmp_path / "a.nii.gz")
    (tmp_path / "a.json").write_text('{"assumed": ["spacing"]}')
    study = open_checked(tmp_path / "a.nii.gz")
    assert study.voxel_ml is None
    assert study.warnings == ["its spacing is assumed, not measured: no volume in ml is reported"]
    (tmp_path / "a.json").write_text('{"assumed": []}')
    with pytest.raises(StudyError):
        open_checked(tmp_path / "a.nii.gz")


def test_wrong_calls(download: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        convert_scans(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("")
    with pytest.raises(ManifestError, match=r"no scans of cc_ccii there .*notes\.txt.*NCP/PATIENT/SCAN"):
        convert_scans(tmp_path / "other", tmp_path / "out")
    with pytest.raises(ManifestError, match="covid_ct: its description has no block 'assumed'"):
        convert_scans(download, tmp_path / "out", dataset="covid_ct")
    with pytest.raises(ManifestError, match="no such dataset description"):
        convert_scans(download, tmp_path / "out", dataset="unknown")


def test_the_command(download: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    call = ["convert", str(download), "--output", str(tmp_path / "out")]
    good = run(manifest_app, [*call, "--workers", "2"])
    assert good.exit_code == 0 and good.stdout.startswith("4 of 4 scans are volumes (0 from an earlier run); ")
    (download / "CP/12/1003/0005.png").unlink()
    some = run(manifest_app, call)
    assert some.exit_code == 1 and "3 of 4 scans are volumes (3 from an earlier run)" in some.stdout
    assert "warning: CP/12/1003: a gap in the numbers" in some.stderr
    (tmp_path / "file").write_text("")
    refused = run(manifest_app, [*call[:-1], str(tmp_path / "file")])
    assert "a file stands where a folder is needed" in str(refused.exception)
