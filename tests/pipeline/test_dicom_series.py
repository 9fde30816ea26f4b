"""DICOM series into volumes: sorted in space, rescaled slice by slice, decoded from every syntax, or refused."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from pneumonai.pipeline.dicom_headers import read_all_headers
from pneumonai.pipeline.dicom_series import choose_series, group_series
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, Modality, open_study

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
write_series, write_multiframe, chest = made["write_series"], made["write_multiframe"], made["chest"]


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(StudyError) as caught:
        open_study(path, **options)
    line = caught.value.line()
    assert line.startswith(f"{path}: ")
    assert "QQ" not in line.removeprefix(str(path))
    return line


def lps(affine: np.ndarray, index: tuple[float, ...]) -> np.ndarray:
    """Where a voxel lies, in DICOM's patient axes."""
    return np.array([-1, -1, 1]) * (affine @ [*index, 1])[:3]


def test_slices_are_sorted_by_position_whatever_the_files_are_called(tmp_path: Path) -> None:
    volume = chest(24)
    shuffled = np.random.default_rng(0).permutation(24)
    write_series(tmp_path, volume, order=shuffled, spacing=(4.0, 3.0, 5.0))
    study = open_study(tmp_path)
    assert study.modality is Modality.CT
    assert study.kind is InputKind.VOLUME
    assert study.image.dtype == np.int16
    assert np.array_equal(study.image, volume.transpose(2, 1, 0))
    # Columns lie 3 mm apart towards the patient's left (LPS x), rows 4 mm towards the back (LPS y).
    expected = [[-3, 0, 0, 160], [0, -4, 0, 150], [0, 0, 5, -300], [0, 0, 0, 1]]
    assert np.allclose(study.affine, expected)
    assert study.identifiers["PatientID"] == "QQ1"
    assert study.series_uid == "1.2.826.0.1.1.9"
    assert study.study_uid == "1.2.826.0.1.1"


ORIENTATIONS = {
    "feet first": (-1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "flipped rows": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": tuple(np.array([[0.96, 0.28, 0.0], [-0.2688, 0.9216, 0.28]]).ravel()),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_each_voxel_lies_where_its_header_says(tmp_path: Path, name: str) -> None:
    orientation, volume = ORIENTATIONS[name], chest(12)
    origin, spacing = (-100.0, 40.0, 7.0), (2.0, 3.0, 4.0)
    write_series(tmp_path, volume, orientation=orientation, origin=origin, spacing=spacing)
    study = open_study(tmp_path)
    across, down = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(across, down)
    for k, row, column in ((0, 0, 0), (3, 10, 50), (11, 63, 1)):
        assert study.image[column, row, k] == volume[k, row, column]
        where = np.array(origin) + column * 3.0 * across + row * 2.0 * down + k * 4.0 * normal
        assert np.allclose(lps(study.affine, (column, row, k)), where, atol=1e-4)


def test_slices_have_their_own_rescale(tmp_path: Path) -> None:
    volume = chest(12)

    def edit(ds: Dataset, k: int) -> None:
        ds.RescaleIntercept = -1024 - 100 * (k % 3)
        stored = volume[k].astype(np.int32) - int(ds.RescaleIntercept)
        ds.PixelData = stored.astype(np.uint16).tobytes()

    write_series(tmp_path, volume, edit=edit)
    study = open_study(tmp_path)
    assert np.array_equal(study.image, volume.transpose(2, 1, 0))
    assert any("own slope" in step for step in study.converted)


@pytest.mark.parametrize(
    ("dtype", "bits", "intercept"), [("uint16", 12, -1024), ("int16", 16, 0), ("int16", 12, 0), ("uint16", 16, -8192)]
)
def test_signed_and_unsigned_12_and_16_bits(tmp_path: Path, dtype: str, bits: int, intercept: int) -> None:
    volume = chest(10)
    write_series(tmp_path, volume, dtype=dtype, bits=bits, intercept=intercept)
    assert np.array_equal(open_study(tmp_path).image, volume.transpose(2, 1, 0))


def test_bits_above_the_stored_ones_are_not_values(tmp_path: Path) -> None:
    volume = chest(10)

    def overlay(ds: Dataset, k: int) -> None:
        stored = np.frombuffer(ds.PixelData, dtype=np.uint16).copy()
        stored[::7] |= 0x8000
        ds.PixelData = stored.tobytes()
        ds.add_new(0x60000100, "US", 16)
        ds.add_new(0x60000102, "US", 15)

    write_series(tmp_path, volume, bits=12, edit=overlay)
    assert np.array_equal(open_study(tmp_path).image, volume.transpose(2, 1, 0))


def test_values_beyond_the_stored_bits_are_refused(tmp_path: Path) -> None:
    volume = chest(10)
    volume[3, 30, 30] = 3500
    write_series(tmp_path, volume, bits=12)
    assert "its values need more than the 12 bits" in refusal(tmp_path)


def test_fractional_slopes_give_float32(tmp_path: Path) -> None:
    volume = chest(10)
    write_series(tmp_path, volume, slope=0.5)
    study = open_study(tmp_path)
    assert study.image.dtype == np.float32
    assert np.array_equal(study.image, volume.transpose(2, 1, 0))


@pytest.mark.parametrize("padding", [-2000, -1500, None])
def test_padding_becomes_air(tmp_path: Path, padding: int | None) -> None:
    volume = chest(10)
    padded = volume.copy()
    padded[:, :8, :8] = -2000 if padding is None else padding

    def edit(ds: Dataset, k: int) -> None:
        if padding is not None:
            ds.PixelPaddingValue = padding

    write_series(tmp_path, padded, dtype="int16", intercept=0, edit=edit)
    study = open_study(tmp_path)
    assert (study.image[:8, :8] == -1024).all()
    assert np.array_equal(study.image[8:], volume.transpose(2, 1, 0)[8:])
    assert any("set to air" in step for step in study.converted)


def test_a_padding_value_that_is_also_tissue_is_left(tmp_path: Path) -> None:
    volume = chest(10)
    write_series(tmp_path, volume, dtype="int16", intercept=0, edit=lambda ds, k: setattr(ds, "PixelPaddingValue", 40))
    assert np.array_equal(open_study(tmp_path).image, volume.transpose(2, 1, 0))


SYNTAXES = [
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    RLELossless,
]


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.name.split(",")[0])
def test_transfer_syntaxes(tmp_path: Path, syntax: UID) -> None:
    volume = chest(10)
    write_series(tmp_path, volume, syntax=syntax, bits=12)
    assert np.array_equal(open_study(tmp_path).image, volume.transpose(2, 1, 0))


def test_an_unknown_transfer_syntax_is_named(tmp_path: Path) -> None:
    def edit(ds: Dataset, k: int) -> None:
        from pydicom.encaps import encapsulate

        ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")
        ds.PixelData = encapsulate([b"\0\0\1\xb3" + bytes(100)])
        ds["PixelData"].VR = "OB"

    write_series(tmp_path, chest(10), edit=edit)
    assert "cannot be decoded" in refusal(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_enhanced_ct_frames_have_their_own_position_and_rescale(tmp_path: Path, compressed: bool) -> None:
    volume = chest(12)
    order = np.random.default_rng(1).permutation(12)
    rescale = [(1, -1024) if n % 2 else (2, -2048) for n in range(12)]
    even = volume // 2 * 2
    write_multiframe(
        tmp_path / "enhanced.dcm",
        even[order],
        positions=[5.0 * int(k) for k in order],
        rescale=rescale,
        compressed=compressed,
    )
    study = open_study(tmp_path / "enhanced.dcm")
    assert np.array_equal(study.image, even.transpose(2, 1, 0))
    assert np.allclose(np.diag(study.affine), [-5, -5, 5, 1])


def remove(*keywords: str) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, k: int) -> None:
        for keyword in keywords:
            delattr(ds, keyword)

    return edit


def move(where: Callable[[int, list[float]], list[float]]) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = where(k, [float(v) for v in ds.ImagePositionPatient])

    return edit


def assign(**values: Any) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, k: int) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return edit


REFUSED: list[tuple[str, Callable[[Dataset, int], None], str]] = [
    ("gap", move(lambda k, p: [p[0], p[1], p[2] + (15.0 if k > 10 else 0.0)]), "a gap in the slices: about 3 of"),
    ("duplicate", move(lambda k, p: [p[0], p[1], p[2] - (5.0 if k == 7 else 0.0)]), "duplicated slices: 1 position"),
    (
        "uneven",
        move(lambda k, p: [p[0], p[1], -300 + 5.0 * k + 0.05 * k * k]),
        "uneven spacing: slices lie 5.05 to 7.25",
    ),
    (
        "tilt",
        move(lambda k, p: [p[0], p[1] + 1.0 * k, p[2]]),
        "gantry tilt: slices are shifted against each other by 11.3",
    ),
    ("tilt in the tag alone", assign(GantryDetectorTilt=12.0), "gantry tilt"),
    ("no rescale", remove("RescaleSlope", "RescaleIntercept"), "missing rescale: IM0000.dcm"),
    ("zero slope", assign(RescaleSlope=0), "rescale slope of IM0000.dcm is 0"),
    ("no position", remove("ImagePositionPatient"), "no position or orientation"),
    ("no spacing", remove("PixelSpacing"), "no pixel spacing"),
    ("bent orientation", assign(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "right angles"),
    ("MR", assign(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), "holds MR, neither CT nor a chest X-ray"),
    ("localizer", assign(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only a localizer"),
    ("secondary capture", assign(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "secondary capture"),
    ("other unit", assign(RescaleType="MGML"), "its values are MGML"),
    ("colour", assign(PhotometricInterpretation="RGB"), "in colour"),
]


@pytest.mark.parametrize(("edit", "gist"), [(e, g) for _, e, g in REFUSED], ids=[name for name, _, _ in REFUSED])
def test_refused_in_words(tmp_path: Path, edit: Callable[[Dataset, int], None], gist: str) -> None:
    write_series(tmp_path, edit=edit)
    line = refusal(tmp_path)
    assert gist in line
    assert "; " in line


def test_small_deviations_are_noted_and_smaller_ones_pass(tmp_path: Path) -> None:
    for name, deviation, noted in (("a", 0.04, False), ("b", 0.3, True)):
        move_one = move(lambda k, p, d=deviation: [p[0], p[1], p[2] + (d if k == 5 else 0.0)])
        write_series(tmp_path / name, edit=move_one)
        assert any("deviate" in text for text in open_study(tmp_path / name).warnings) is noted


def test_two_patients_in_a_folder_are_refused_without_their_names(tmp_path: Path) -> None:
    write_series(tmp_path, study="1.2.1", patient="QQ1")
    write_series(tmp_path, study="1.2.2", patient="QQ2", prefix="B")
    assert "files of 2 patients lie in one folder" in refusal(tmp_path)


def test_two_studies_of_a_patient_are_told_apart_by_uid(tmp_path: Path) -> None:
    write_series(tmp_path, chest(12), study="1.2.1")
    write_series(tmp_path, chest(20), study="1.2.2", prefix="B")
    assert "holds 2 studies" in refusal(tmp_path)
    assert open_study(f"{tmp_path}#1.2.2").image.shape[2] == 20


def test_damaged_files_are_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(12))
    whole = files[4].read_bytes()
    for size, gist in ((300, "IM0004.dcm"), (len(whole) - 100, "IM0004.dcm: is cut off")):
        files[4].write_bytes(whole[:size])
        assert gist in refusal(tmp_path)
    files[4].write_text("<html>404</html>")
    assert "IM0004.dcm is no DICOM file, or is damaged" in refusal(tmp_path)
    files[4].unlink()
    assert "a gap in the slices: about 1 of 12" in refusal(tmp_path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1])
def test_broken_files_give_the_right_volume_or_words(tmp_path: Path, syntax: UID) -> None:
    """Cut off anywhere, or with bytes changed in the header: never another exception."""
    random = np.random.default_rng(7)
    volume = chest(4, 32)
    file = write_series(tmp_path, volume, syntax=syntax, bits=12)[2]
    whole = file.read_bytes()
    for cut in random.integers(0, len(whole) - 1, 25):
        file.write_bytes(whole[:cut])
        with pytest.raises(StudyError):
            open_study(tmp_path)
    for _ in range(40):
        broken = bytearray(whole)
        for at in random.integers(0, min(len(whole), 1100), 3):
            broken[at] = random.integers(0, 256)
        file.write_bytes(broken)
        try:
            study = open_study(tmp_path)
        except StudyError:
            continue
        assert study.image.shape[:2] == (32, 32)


def series_of(folder: Path) -> list[Any]:
    headers, errors = read_all_headers([str(p) for p in sorted(folder.rglob("*.dcm"))])
    assert not errors
    return group_series(headers)


def name(text: str, **values: Any) -> Callable[[Dataset, int], None]:
    return assign(SeriesDescription=text, **values)


def test_the_thin_axial_chest_series_is_chosen(tmp_path: Path) -> None:
    spacing = (5.0, 5.0, 5.0)
    derived = ["DERIVED", "SECONDARY", "AXIAL"]
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    coronal = (1, 0, 0, 0, 0, -1)
    write_series(tmp_path / "1", chest(2), series="1.1", edit=name("scout", ImageType=scout))
    write_series(tmp_path / "2", chest(24), series="1.2", spacing=(5, 5, 10.0), edit=name("thick"))
    write_series(tmp_path / "3", chest(48), series="1.3", spacing=spacing, edit=name("thin soft"))
    thin_lung = name("thin", ConvolutionKernel="B60f", SeriesNumber=9)
    write_series(tmp_path / "4", chest(47), series="1.4", spacing=spacing, edit=thin_lung)
    write_series(tmp_path / "5", chest(96), series="1.5", spacing=(5, 5, 2.5), edit=name("MPR", ImageType=derived))
    write_series(tmp_path / "6", chest(60), series="1.6", orientation=coronal, edit=name("coronal"))
    write_series(tmp_path / "7", chest(60), series="1.7", spacing=(5, 5, 0.6), edit=name("heart"))
    write_series(tmp_path / "8", chest(90), series="1.8", edit=name("knee", BodyPartExamined="KNEE"))
    study = open_study(tmp_path)
    assert study.series_uid == "1.4"
    assert study.converted[0] == "series chosen: of 7 CT series the one with 47 slices, 5 mm apart, axial, lung kernel"
    assert open_study(tmp_path, series="1.2").image.shape[2] == 24
    assert "series 1.1 is a localizer" in refusal(tmp_path, series="1.1")
    assert "holds no series 9.9" in refusal(tmp_path, series="9.9")


def test_a_sound_series_is_taken_before_one_with_a_gap(tmp_path: Path) -> None:
    files = write_series(tmp_path / "1", chest(60), series="1.1", spacing=(5, 5, 4.0))
    files[30].unlink()
    write_series(tmp_path / "2", chest(48), series="1.2")
    assert choose_series(series_of(tmp_path), "x").group.head.series_uid == "1.2"


def test_repeats_in_one_series_are_told_apart_by_kernel_and_phase(tmp_path: Path) -> None:
    write_series(tmp_path, chest(48), series="1.1", edit=assign(ConvolutionKernel="B30f"))
    write_series(tmp_path, chest(48), series="1.1", edit=assign(ConvolutionKernel="LUNG"), prefix="L")
    groups = series_of(tmp_path)
    assert [len(group.slices) for group in groups] == [48, 48]
    assert not any(group.problems for group in groups)
    assert choose_series(groups, "x").group.head.kernel == "LUNG"


def test_a_localizer_inside_the_series_is_set_aside(tmp_path: Path) -> None:
    write_series(tmp_path, chest(20), series="1.1")
    scout = assign(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path, chest(1), series="1.1", orientation=(1, 0, 0, 0, 0, -1), edit=scout, prefix="S")
    assert open_study(tmp_path).image.shape == (64, 64, 20)


def test_files_without_a_dicom_name_or_mark_are_passed_over(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(12))
    for file in files:
        file.rename(file.with_suffix(""))
    (tmp_path / "LOCKFILE").write_text("")
    (tmp_path / "readme.txt").write_text("hello")
    assert open_study(tmp_path).image.shape[2] == 12
