"""The study record, names, and that opening one loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, Modality, Study, open_checked, open_study, study_name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/Ünal 3.nii.gz", "_nal_3"),
        ("P001", "P001"),
        ("x/IMG.DCM", "IMG"),
        (".hidden", "hidden"),
        ("scan.v2.zip", "scan.v2"),
        ("...", "study"),
        ("../a;rm -rf", "a_rm_-rf"),
    ],
)
def test_names_are_safe(path: str, name: str) -> None:
    assert study_name(path) == name


def test_spacing_and_volume_of_a_voxel() -> None:
    affine = np.array([[0, -2.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros((4, 5, 6), np.int16), affine)
    assert study.spacing == (3.0, 2.0, 5.0)
    assert study.voxel_ml == pytest.approx(0.03)
    study.assumed_geometry = True
    assert study.voxel_ml is None
    picture = Study("p", "p", Modality.CXR, InputKind.PICTURE, np.zeros((4, 5), np.uint8), np.eye(4))
    assert picture.voxel_ml is None


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys; from pneumonai.pipeline import study, sources, errors; "
        "heavy = {'torch', 'monai', 'scipy', 'pydicom', 'SimpleITK', 'nibabel', 'PIL'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).returncode == 0


def test_opening_loads_neither_torch_nor_monai(tmp_path: Path) -> None:
    import nibabel as nib

    volume = np.full((40, 40, 12), -900, np.int16)
    volume[10:30, 10:30] = 40
    nib.save(nib.Nifti1Image(volume, np.diag([6.0, 6, 6, 1])), tmp_path / "a.nii")
    code = (
        "import sys; from pneumonai.pipeline.study import open_checked; open_checked(sys.argv[1]); "
        "sys.exit(', '.join({'torch', 'monai'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.nii"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reader_is_found_by_its_name_and_nothing_else_is() -> None:
    import pneumonai.pipeline.study as module
    from pneumonai.pipeline.study_reader import StudyReader

    assert module.StudyReader is StudyReader
    with pytest.raises(AttributeError, match="no attribute 'Studyreader'"):
        _ = module.Studyreader


@pytest.mark.parametrize(
    ("make", "gist"),
    [
        (lambda p: None, "no such file or folder; check the path"),
        (lambda p: p.mkdir(), "is empty; a DICOM folder"),
        (lambda p: (p.mkdir(), (p / "notes.txt").write_text("x")), "holds nothing that could be read; a DICOM folder"),
        (lambda p: p.write_text("x"), "is no file that could be read; a DICOM folder"),
    ],
)
def test_what_is_no_study_is_refused(tmp_path: Path, make, gist: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "given"
    make(path)
    with pytest.raises(StudyError) as caught:
        open_study(path)
    assert caught.value.line().startswith(f"{path}: {gist}")


@pytest.mark.parametrize("content", ["plain text", ""])
def test_a_text_file_named_dcm_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "slice.dcm"
    path.write_text(content)
    for given in (path, tmp_path):
        with pytest.raises(StudyError, match=r"slice\.dcm is no DICOM file, or is damaged; copy it again"):
            open_checked(given)


def test_files_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads everything, so that the refusal is made here."""
    for name in ("a.nii.gz", "b.png", "c.zip", "d.dcm"):
        (tmp_path / name).write_bytes(b"x" * 200)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    for name in ("a.nii.gz", "b.png", "c.zip", "d.dcm"):
        with pytest.raises(StudyError, match=r"may not be read|cannot be read \(Permission denied\)"):
            open_study(tmp_path / name)
