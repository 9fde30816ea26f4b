"""Small DICOM series for tests, written with pydicom; loaded by the tests with ``runpy``, being no test itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

Edit = Callable[[Dataset, int], None]
NATIVE = {ExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def chest(slices: int = 24, size: int = 64) -> np.ndarray:
    """HU ``[slice, row, column]``, int16: two unlike lungs in a body in air, every slice and side different."""
    z, y, x = np.meshgrid(np.arange(slices), np.arange(size), np.arange(size), indexing="ij")
    u, v = (x - size / 2) / size, (y - size / 2) / size
    hu = np.full(z.shape, -1000, dtype=np.int16)
    hu[(u / 0.45) ** 2 + (v / 0.33) ** 2 < 1] = 40
    for centre, width, value in ((-0.2, 0.14, -880), (0.2, 0.11, -800)):
        inside = ((u - centre) / width) ** 2 + (v / 0.22) ** 2 < 1
        hu[inside] = value
    return (hu + z * 2 + (y % 5)).astype(np.int16)


def _common(study: str, series: str, patient: str, syntax: UID) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = patient, f"Name^{patient}", "19700101"
    ds.AccessionNumber, ds.InstitutionName = "ACC7", "Hospital"
    ds.Modality, ds.SeriesNumber, ds.AcquisitionNumber = "CT", 1, 1
    ds.SeriesDescription, ds.BodyPartExamined = "Chest", "CHEST"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    return ds


def _set_pixels(ds: Dataset, stored: np.ndarray, bits: int) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    big = ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    ds.PixelData = stored.astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
    ds["PixelData"].VR = "OW"


def _compress(path: Path, syntax: UID) -> None:
    """JPEG Lossless and JPEG-LS by GDCM, the others by pydicom's plugins."""
    import gdcm

    kinds = {
        "1.2.840.10008.1.2.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "1.2.840.10008.1.2.4.80": gdcm.TransferSyntax.JPEGLSLossless,
        "1.2.840.10008.1.2.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
        "1.2.840.10008.1.2.5": gdcm.TransferSyntax.RLELossless,
    }
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kinds[str(syntax)]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()


def save(ds: Dataset, path: Path) -> None:
    """Write a data set as its file meta says; compressed pixels must be encapsulated already."""
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path,
    hounsfield: np.ndarray | None = None,
    *,
    study: str = "1.2.826.0.1.1",
    series: str | None = None,
    patient: str = "QQ1",
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-160.0, -150.0, -300.0),
    spacing: Sequence[float] = (5.0, 5.0, 5.0),
    slope: float = 1,
    intercept: float = -1024,
    dtype: str = "uint16",
    bits: int = 16,
    syntax: UID = ExplicitVRLittleEndian,
    edit: Edit | None = None,
    order: Sequence[int] | None = None,
    prefix: str = "IM",
) -> list[Path]:
    """Write a CT series, one file a slice, ascending along the normal.

    ``spacing`` is between rows, columns, slices. ``edit`` changes the data set of slice k before it is written.
    ``order`` gives the numbers in the files' names. Returns the files by slice.
    """
    volume = chest() if hounsfield is None else hounsfield
    series = series or f"{study}.9"
    across, down = np.asarray(orientation[:3]), np.asarray(orientation[3:])
    normal = np.cross(across, down)
    files = []
    for k, picture in enumerate(volume):
        ds = _common(study, series, patient, syntax if syntax in NATIVE else ExplicitVRLittleEndian)
        ds.SOPClassUID = CTImageStorage
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [round(float(v), 6) for v in np.asarray(origin) + normal * spacing[2] * k]
        ds.ImageOrientationPatient = [round(float(v), 8) for v in orientation]
        ds.PixelSpacing, ds.SliceThickness = [float(spacing[0]), float(spacing[1])], float(spacing[2])
        ds.RescaleSlope, ds.RescaleIntercept, ds.ConvolutionKernel = slope, intercept, "B30f"
        stored = np.rint((picture.astype(float) - intercept) / slope).astype(dtype)
        _set_pixels(ds, stored, bits)
        if edit is not None:
            edit(ds, k)
        number = k if order is None else order[k]
        path = Path(folder) / f"{prefix}{number:04d}.dcm"
        save(ds, path)
        if syntax not in NATIVE:
            _compress(path, syntax)
        files.append(path)
    return files


def write_multiframe(
    path: Path,
    hounsfield: np.ndarray,
    *,
    positions: Sequence[float],
    rescale: Sequence[tuple[float, float]],
    compressed: bool = False,
) -> None:
    """Write an Enhanced CT: frame n at z = ``positions[n]`` with its own slope and intercept; 5 mm pixels."""
    ds = _common("1.2.826.0.1.7", "1.2.826.0.1.7.9", "QQ7", ExplicitVRLittleEndian)
    ds.SOPClassUID = EnhancedCTImageStorage
    ds.NumberOfFrames = len(hounsfield)
    shared, plane, measures = Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [5.0, 5.0], 5.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [plane], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    frames, stored = [], []
    for picture, z, (slope, intercept) in zip(hounsfield, positions, rescale, strict=True):
        own, where, values = Dataset(), Dataset(), Dataset()
        where.ImagePositionPatient = [-160.0, -150.0, z]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, intercept, "HU"
        own.PlanePositionSequence, own.PixelValueTransformationSequence = [where], [values]
        frames.append(own)
        stored.append(np.rint((picture.astype(float) - intercept) / slope).astype(np.uint16))
    ds.PerFrameFunctionalGroupsSequence = frames
    _set_pixels(ds, np.stack(stored), 16)
    if compressed:
        from pydicom.uid import RLELossless

        ds.compress(RLELossless, generate_instance_uid=False)
    save(ds, path)


def write_xray(
    path: Path, stored: np.ndarray, *, patient: str = "QQ1", bits: int = 12, edit: Edit | None = None
) -> None:
    """Write a chest X-ray (DX), MONOCHROME2 unless ``edit`` says otherwise."""
    ds = _common("1.2.826.0.1.5", "1.2.826.0.1.5.9", patient, ExplicitVRLittleEndian)
    ds.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    ds.Modality, ds.ViewPosition, ds.PresentationIntentType = "DX", "PA", "FOR PRESENTATION"
    ds.InstanceNumber = 1
    _set_pixels(ds, stored.astype(np.uint16), bits)
    if edit is not None:
        edit(ds, 0)
    save(ds, path)


__all__ = ["AXIAL", "chest", "save", "write_multiframe", "write_series", "write_xray"]
