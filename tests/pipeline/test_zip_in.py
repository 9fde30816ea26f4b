"""Zips: one study is read, and nothing is written that the limits or the folder do not allow."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import as_source, source_fingerprint
from pneumonai.pipeline.study import open_study
from pneumonai.pipeline.zip_in import ZipLimits, open_zip, unpacked

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
write_series, chest = made["write_series"], made["chest"]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files, empty again after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def refusal(path: Path, temporary: Path, **options: ZipLimits) -> str:
    with pytest.raises(StudyError) as caught:
        open_zip(as_source(path), **options)
    assert list(temporary.iterdir()) == []
    assert str(temporary) not in caught.value.line()
    return caught.value.line().removeprefix(f"{path}: ")


def test_a_zipped_series_is_read_as_its_folder_is(tmp_path: Path, temporary: Path) -> None:
    write_series(tmp_path / "P1" / "deep", chest(12))
    path = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path, "P1"))
    study = open_study(path)
    assert np.array_equal(study.image, open_study(tmp_path / "P1").image)
    assert (study.path, study.id) == (str(path), "scan")
    assert study.fingerprint == source_fingerprint(path)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "C:\\evil.dcm", "..\\evil.dcm"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, temporary: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    assert refusal(tmp_path / "a.zip", temporary).startswith("holds a file name that leads outside its folder")
    assert not list(tmp_path.rglob("evil*"))


def test_links_and_encrypted_files_are_refused(tmp_path: Path, temporary: Path) -> None:
    link = zipfile.ZipInfo("link.dcm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in refusal(tmp_path / "a.zip", temporary)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.dcm", b"x")
    data = bytearray((tmp_path / "b.zip").read_bytes())
    data[data.find(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    assert "is encrypted" in refusal(tmp_path / "b.zip", temporary)


def test_limits_on_count_size_and_ratio(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.dcm", bytes(100_000))
    assert "zip over the limits: 5 files" in refusal(path, temporary, limits=ZipLimits(files=4))
    assert "zip over the limits: 0.0 GB" in refusal(path, temporary, limits=ZipLimits(bytes=400_000))
    limits = ZipLimits(ratio=100, ratio_from_bytes=1000)
    assert "times its size" in refusal(path, temporary, limits=limits)


def test_sizes_that_lie_are_counted_while_unpacking(tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(3_000_000))
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\1\2") + 24
    data[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(StudyError), unpacked(str(path), ZipLimits(bytes=1_000_000)):
        pass
    assert sum(f.stat().st_size for f in temporary.rglob("*") if f.is_file()) == 0


def test_zips_that_hold_no_single_study(tmp_path: Path, temporary: Path) -> None:
    write_series(tmp_path / "two" / "a", chest(2), study="1.1")
    write_series(tmp_path / "two" / "b", chest(2), study="1.2")
    path = Path(shutil.make_archive(str(tmp_path / "two"), "zip", tmp_path / "two"))
    assert refusal(path, temporary) == "holds 2 studies; send a zip of one study"
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.write(path, "inner.zip")
    assert refusal(tmp_path / "nested.zip", temporary).startswith("holds nothing that could be read")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "is empty" in refusal(tmp_path / "empty.zip", temporary)


def test_damaged_zips_give_words(tmp_path: Path, temporary: Path) -> None:
    write_series(tmp_path / "P1", chest(3, 32))
    path = Path(shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "P1"))
    whole, random = path.read_bytes(), np.random.default_rng(2)
    for cut in random.integers(0, len(whole), 15):
        path.write_bytes(whole[:cut])
        refusal(path, temporary)
    for _ in range(25):
        broken = bytearray(whole)
        for at in random.integers(0, len(whole), 20):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        refusal(path, temporary)
    assert os.listdir(temporary) == []  # noqa: PTH208
