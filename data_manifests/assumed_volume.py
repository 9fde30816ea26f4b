"""Volumes whose Hounsfield units and spacing are assumed, written so that the mark stays with them.

The mark stands in the file itself (NIfTI's ``descrip``, DICOM's Derivation Description), so that a copy keeps it, and
in a JSON file beside it, which says what was assumed and is the record by which a broken run goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pneumonai.data_manifests.whole_files import whole_file

MARK = "assumed: hounsfield, spacing"
"""How ``descrip`` and Derivation Description of such a volume begin."""


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a stack of pictures.

    Attributes:
        dataset: name of the description that it comes from.
        at_0, at_255: Hounsfield units of grey 0 and 255.
        spacing_mm: between columns, rows, slices.
    """

    dataset: str
    at_0: float
    at_255: float
    spacing_mm: tuple[float, float, float]

    @property
    def rule(self) -> str:
        """How grey becomes Hounsfield units, as a formula."""
        return f"HU = {self.at_0:g} + grey / 255 * {self.at_255 - self.at_0:g}"

    def as_block(self) -> dict[str, Any]:
        """The block ``pneumonai.assumed`` of a datalist."""
        return {"hounsfield": self.rule, "spacing_mm": list(self.spacing_mm)}


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _origin(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> np.ndarray:
    """Position of the first voxel, RAS+ mm, so that the volume's middle is at 0."""
    sign = np.array([1.0, 1.0, -1.0])
    return sign * (np.array(shape) - 1) / 2 * np.array(spacing)


def write_nifti(hounsfield: np.ndarray, assumed: Assumed, path: Path) -> None:
    """Write int16 HU ``[columns, rows, slices]`` (left, back, head are where indices grow) as ``.nii.gz``."""
    import nibabel as nib

    affine = np.diag([-assumed.spacing_mm[0], -assumed.spacing_mm[1], assumed.spacing_mm[2], 1.0])
    affine[:3, 3] = _origin(hounsfield.shape, assumed.spacing_mm)
    image = nib.Nifti1Image(hounsfield, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, 2)
    image.set_sform(affine, 2)
    image.header["descrip"] = f"{MARK}; {assumed.rule}".encode()[:79]
    with whole_file(path) as partial:
        nib.save(image, partial)


def write_dicom(hounsfield: np.ndarray, assumed: Assumed, folder: Path, *, name: str, patient_id: str) -> None:
    """Write int16 HU as a CT series, ``IM0001.dcm`` nearest to the head; the folder appears whole or not at all.

    Args:
        hounsfield: as for :func:`write_nifti`.
        assumed: what the header says of it.
        folder: of the series; what an earlier run left there is replaced.
        name: of the scan; its UIDs follow from it and from the dataset's name.
        patient_id: pseudonym.
    """
    partial = folder.with_name(f".partial.{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for k in range(hounsfield.shape[2]):
            dataset = _ct_slice(hounsfield, assumed, k, name, patient_id)
            dataset.save_as(partial / f"IM{dataset.InstanceNumber:04d}.dcm", enforce_file_format=True)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _ct_slice(hounsfield: np.ndarray, assumed: Assumed, k: int, name: str, patient_id: str) -> Any:
    """One axial slice as a CT Image object (PS3.3 A.3), 16 bit."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(*parts: object) -> Any:
        return generate_uid(entropy_srcs=["pneumonai convert", assumed.dataset, name, *map(str, parts)])

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid("image", k)
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame")
    ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.ReferringPhysicianName = ds.StudyID = ""
    ds.PatientName = ds.PatientBirthDate = ds.PatientSex = ds.PositionReferenceIndicator = ds.Manufacturer = ""
    ds.PatientID, ds.PatientPosition, ds.Modality, ds.SeriesNumber = patient_id, "HFS", "CT", 1
    ds.SeriesDescription = "converted from pictures"
    ds.DerivationDescription = f"{MARK}; {assumed.rule}"
    ds.BodyPartExamined, ds.KVP = "CHEST", None
    ds.InstanceNumber, ds.AcquisitionNumber = hounsfield.shape[2] - k, None
    step_i, step_j, step_k = assumed.spacing_mm
    # RAS+ to DICOM's LPS+.
    position = _origin(hounsfield.shape, assumed.spacing_mm) * [-1, -1, 1] + [0, 0, k * step_k]
    ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [f"{step_j:.6f}", f"{step_i:.6f}"]
    ds.SliceThickness = f"{step_k:.6f}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    stored = np.ascontiguousarray(hounsfield[:, :, k].T)
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.WindowCenter, ds.WindowWidth = -600, 1500
    ds.PixelData = stored.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
