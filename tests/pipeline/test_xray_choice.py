"""Of an X-ray study the frontal image is answered, and of several the newest."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import find_studies
from pneumonai.pipeline.study import Modality, open_study
from pneumonai.pipeline.xray_choice import Seen, view_in

write_xray = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))["write_xray"]
STORED = (np.add.outer(np.arange(80), np.arange(80)) * 20).astype(np.uint16)


def write(path: Path, columns: int, **tags: object) -> None:
    """An X-ray in a series of its own, told from others by its width."""

    def edit(ds: Dataset, k: int) -> None:
        ds.SeriesInstanceUID = generate_uid()
        for name, value in tags.items():
            if value is None:
                delattr(ds, name)
            else:
                setattr(ds, name, value)

    write_xray(path, STORED[:, :columns], edit=edit)


@pytest.mark.parametrize(
    ("position", "description", "directions", "seen"),
    [
        ("PA", "CHEST LATERAL", ("P", "F"), Seen.FRONTAL),
        ("LL", "CHEST PA", ("L", "F"), Seen.LATERAL),
        ("", "Thorax p.a. lat", (), Seen.LATERAL),
        ("", "chest ap portable", (), Seen.FRONTAL),
        ("", "CHEST PA AND LATERAL", (), Seen.UNKNOWN),
        ("", "CHEST PA AND LATERAL", ("A", "F"), Seen.LATERAL),
        ("", "bilateral infiltrates", (), Seen.UNKNOWN),
        ("", "", ("L", "F"), Seen.FRONTAL),
        ("", "", (), Seen.UNKNOWN),
    ],
)
def test_what_says_the_view(position: str, description: str, directions: tuple[str, ...], seen: Seen) -> None:
    assert view_in(position, description, directions) is seen


def test_the_frontal_of_a_study_is_answered(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", 70, ViewPosition="LL")
    write(tmp_path / "b.dcm", 72, ViewPosition=None, SeriesDescription="Chest")
    write(tmp_path / "c.dcm", 74, ViewPosition="AP")
    study = open_study(tmp_path)
    assert study.image.shape == (80, 74) and study.modality is Modality.CXR
    assert study.converted[0] == "AP image of 3 images chosen"
    assert study.warnings == []
    # Without it the one whose view is not known is better than the lateral.
    (tmp_path / "c.dcm").unlink()
    assert open_study(tmp_path).image.shape == (80, 72)


def test_of_several_frontals_the_newest_is_answered_with_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", 70, AcquisitionDate="20200301", AcquisitionTime="101500", SeriesNumber=1)
    write(tmp_path / "b.dcm", 72, AcquisitionDate="20200301", AcquisitionTime="181500.5", SeriesNumber=2)
    write(tmp_path / "c.dcm", 74, ContentDate="20200229", ContentTime="235959", SeriesNumber=3)
    study = open_study(tmp_path)
    assert study.image.shape == (80, 72)
    assert study.warnings == [
        "the study has 3 frontal images: the newest is answered (b.dcm); name another with --series"
    ]
    source = find_studies([tmp_path])[0]
    uid = open_study(tmp_path / "a.dcm").series_uid
    assert open_study(source, series=uid).image.shape == (80, 70)


def test_raw_images_and_unknown_times(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", 70, PresentationIntentType="FOR PROCESSING", AcquisitionDate="20210101")
    write(tmp_path / "b.dcm", 72)
    study = open_study(tmp_path)
    assert study.image.shape == (80, 72) and study.warnings == []
    write(tmp_path / "c.dcm", 74, SeriesNumber=4)
    study = open_study(tmp_path)
    assert study.image.shape == (80, 72)
    assert study.warnings == [
        "the study has 2 frontal images: the first is answered (b.dcm); name another with --series"
    ]


def test_laterals_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", 70, ViewPosition="RL")
    write(tmp_path / "b.dcm", 72, ViewPosition="", SeriesDescription="CHEST LAT")
    write(tmp_path / "c.dcm", 74, ViewPosition="", SeriesDescription="", PatientOrientation=["P", "F"])
    with pytest.raises(StudyError, match="is a lateral view, where a frontal one is wanted; send the frontal"):
        open_study(tmp_path)
