"""Which studies lie under what a user names."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import StudySource, find_studies, source_fingerprint, split_token
from pneumonai.pipeline.study import open_study

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
write_series, chest = made["write_series"], made["chest"]


def tokens(sources: list[StudySource], root: Path) -> dict[str, str]:
    return {source.token.removeprefix(f"{root}/"): source.id for source in sources}


def test_a_dicom_study_is_one_however_nested(tmp_path: Path) -> None:
    root = tmp_path / "P1"
    write_series(root / "a" / "s1", chest(2), study="1.1", series="1.1.1")
    write_series(root / "b", chest(3), study="1.1", series="1.1.2")
    (found,) = find_studies([root])
    assert (found.path, found.token, found.id, found.study_uid) == (str(root), str(root), "P1", "1.1")
    assert len(found.files) == 5


def test_each_kind_of_input(tmp_path: Path) -> None:
    write_series(tmp_path / "x" / "CT", chest(2), study="1.1", patient="QQ1")
    write_series(tmp_path / "y" / "CT", chest(2), study="1.2", patient="QQ2")
    for name in ("n.nii.gz", "n.nii", "sub/z.zip", "sub/p.JPG", ".hidden.png", "notes.txt", "__MACOSX/a.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0")
    expected = {"n.nii": "n", "n.nii.gz": "n-2", "sub/p.JPG": "p", "sub/z.zip": "z", "x/CT": "CT", "y/CT": "CT-2"}
    assert tokens(find_studies([tmp_path]), tmp_path) == expected
    several = find_studies([tmp_path / "n.nii", tmp_path / "x", tmp_path / "n.nii"])
    assert tokens(several, tmp_path) == {"n.nii": "n", "x/CT": "CT"}
    assert tokens(find_studies(str(tmp_path / "n.nii")), tmp_path) == {"n.nii": "n"}


def test_studies_that_share_a_folder_are_named_by_their_uid(tmp_path: Path) -> None:
    write_series(tmp_path, chest(12), study="1.2.1")
    write_series(tmp_path, chest(14), study="1.2.2", prefix="B")
    found = find_studies([tmp_path])
    assert [source.token for source in found] == [f"{tmp_path}#1.2.1", f"{tmp_path}#1.2.2"]
    assert len({source.id for source in found}) == 2
    for source, count in zip(found, (12, 14), strict=True):
        by_source, by_token = open_study(source), open_study(source.token)
        assert by_source.image.shape[2] == by_token.image.shape[2] == count
        assert by_source.path == source.token
        assert by_source.fingerprint == by_token.fingerprint == source_fingerprint(source)


def test_two_patients_in_a_folder_fail_as_one_study_and_others_go_on(tmp_path: Path) -> None:
    write_series(tmp_path / "good", chest(12), study="1.1", patient="QQ1")
    write_series(tmp_path / "mixed", chest(12), study="1.2", patient="QQ2")
    write_series(tmp_path / "mixed", chest(12), study="1.3", patient="QQ3", prefix="B")
    good, mixed = find_studies([tmp_path])
    assert open_study(good).image.shape[2] == 12
    assert mixed.token == str(tmp_path / "mixed")
    with pytest.raises(StudyError, match="files of 2 patients lie in one folder; put each patient in a folder"):
        open_study(mixed)


def test_a_folder_of_damaged_files_fails_by_itself(tmp_path: Path) -> None:
    write_series(tmp_path / "good", chest(12))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.dcm").write_text("x")
    bad, good = find_studies([tmp_path])
    assert open_study(good).image.shape[2] == 12
    with pytest.raises(StudyError, match="is no DICOM file, or is damaged"):
        open_study(bad)


def test_a_dicomdir_is_passed_over(tmp_path: Path) -> None:
    from pydicom.dataset import Dataset, FileMetaDataset

    write_series(tmp_path, chest(12))
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.FileSetID = "X"
    directory.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (found,) = find_studies([tmp_path])
    assert open_study(found).image.shape[2] == 12
    assert open_study(tmp_path).image.shape[2] == 12
    assert open_study(tmp_path).fingerprint == open_study(found).fingerprint


def test_a_named_series_picks_its_study(tmp_path: Path) -> None:
    write_series(tmp_path / "a", chest(12), study="1.1", series="1.1.5")
    write_series(tmp_path / "b", chest(12), study="1.2", series="1.2.5")
    (found,) = find_studies([tmp_path], series="1.2.5")
    assert found.study_uid == "1.2"
    assert open_study(found).series_uid == "1.2.5"
    with pytest.raises(StudyError, match="holds no series 9"):
        find_studies([tmp_path], series="9")


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file or folder; check the path"):
        find_studies([tmp_path / "none"])
    with pytest.raises(StudyError, match="is empty; a DICOM folder or file"):
        find_studies([tmp_path])
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(StudyError, match="holds nothing that could be read; a DICOM folder or file"):
        find_studies([tmp_path])


def test_tokens_are_split_at_a_uid_only(tmp_path: Path) -> None:
    assert split_token("a/b#1.2.3") == ("a/b", "1.2.3")
    assert split_token("a/b#2nd") == ("a/b#2nd", None)
    assert split_token("a/b") == ("a/b", None)
    odd = tmp_path / "scan#1.2"
    odd.mkdir()
    assert split_token(str(odd)) == (str(odd), None)


def test_fingerprints_change_with_names_and_contents_and_not_with_times(tmp_path: Path) -> None:
    files = write_series(tmp_path / "a", chest(12))
    before = source_fingerprint(tmp_path / "a")
    assert before == open_study(tmp_path / "a").fingerprint
    copy = tmp_path / "b"
    shutil.copytree(tmp_path / "a", copy, copy_function=shutil.copyfile)
    assert source_fingerprint(copy) == before == source_fingerprint(find_studies([copy])[0])
    data = bytearray(files[5].read_bytes())
    data[-1] ^= 1
    files[5].write_bytes(data)
    assert source_fingerprint(tmp_path / "a") != before
    (copy / "IM0003.dcm").rename(copy / "X.dcm")
    assert source_fingerprint(copy) != before


def test_fingerprints_of_single_files(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.arange(6400, dtype=np.uint8).reshape(80, 80)).save(tmp_path / "a.png")
    assert source_fingerprint(tmp_path / "a.png") == open_study(tmp_path / "a.png").fingerprint
    made["write_xray"](tmp_path / "x.dcm", np.arange(6400).reshape(80, 80) % 4096)
    assert source_fingerprint(tmp_path / "x.dcm") == open_study(tmp_path / "x.dcm").fingerprint
