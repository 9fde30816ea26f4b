"""Phantoms as files: a DICOM series, NIfTI, an X-ray, slices. Each file appears whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pneumonai.data_manifests.whole_files import whole_file
from pneumonai.pipeline.phantom.patient import Difficulty
from pneumonai.pipeline.phantom.phantom import Phantom
from pneumonai.pipeline.phantom.projections import View, axial_picture, project_masks, project_xray, slice_positions
from pneumonai.pipeline.synthetic import DESCRIPTION

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def _save(path: Path, write: Callable[[Path], object]) -> Path:
    """Write a whole file or none; returns its path."""
    with whole_file(path) as unfinished:
        write(unfinished)
    return path


def _save_png(path: Path, picture: np.ndarray) -> Path:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("Description", DESCRIPTION)
    return _save(path, lambda unfinished: Image.fromarray(picture).save(unfinished, format="PNG", pnginfo=said))


def _uid(phantom: Phantom, *parts: object) -> str:
    """A UID that follows from what is described, so that the same phantom has the same UIDs everywhere."""
    from pydicom.uid import generate_uid

    sources = ["pneumonai phantom", phantom.name, *phantom.image.shape, *phantom.spacing, *parts]
    if phantom.difficulty is not Difficulty.USUAL:
        sources.append(phantom.difficulty.value)
    return str(generate_uid(entropy_srcs=[str(part) for part in sources]))


def _header(phantom: Phantom, modality: str, sop_class: str, *parts: object) -> Dataset:
    """What every DICOM file of a phantom says of patient, study, series and maker."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = UID(sop_class)
    ds.SOPInstanceUID = UID(_uid(phantom, modality, *parts))
    ds.PatientName = f"Phantom^{phantom.kind.value.upper()} {phantom.seed:04d}"
    ds.PatientID = f"PHANTOM-{phantom.kind.value.upper()}-{phantom.seed:04d}"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.StudyInstanceUID = UID(_uid(phantom, modality, "study"))
    ds.SeriesInstanceUID = UID(_uid(phantom, modality, "series"))
    ds.FrameOfReferenceUID = UID(_uid(phantom, modality, "frame"))
    ds.PositionReferenceIndicator = ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20200101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "1"
    ds.Modality, ds.SeriesNumber = modality, 1
    ds.Manufacturer, ds.ManufacturerModelName = "pneumonai (synthetic phantom)", "phantom"
    ds.StudyDescription = ds.SeriesDescription = DESCRIPTION
    ds.BodyPartExamined, ds.PatientPosition = "CHEST", "HFS"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _ct_slice(phantom: Phantom, k: int) -> Dataset:
    """One axial slice as a CT Image object (PS3.3 A.3), 12 bit in 16."""
    from pydicom.uid import CTImageStorage

    count = phantom.image.shape[2]
    si, sj, sk = phantom.spacing
    ds = _header(phantom, "CT", CTImageStorage, k)
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.InstanceNumber, ds.AcquisitionNumber = count - k, 1
    # RAS+ to DICOM's LPS+.
    position = np.diag([-1, -1, 1]) @ phantom.affine[:3, 3] + np.array([0, 0, k * sk])
    ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SliceLocation = f"{position[2]:.6f}"
    ds.PixelSpacing = [f"{sj:.9f}", f"{si:.9f}"]
    ds.SliceThickness = ds.SpacingBetweenSlices = f"{sk:.9f}"
    ds.KVP, ds.XRayTubeCurrent, ds.ConvolutionKernel = 120, 200, "PHANTOM"
    stored = np.clip(phantom.image[:, :, k].T.astype(np.int32) + 1024, 0, 4095).astype(np.uint16)
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.WindowCenter, ds.WindowWidth = -600, 1500
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def write_dicom(phantom: Phantom, folder: str | Path, *, transfer_syntax: str | None = None) -> list[Path]:
    """Write one CT series, ``IM0001.dcm`` (nearest to the head) onwards.

    Args:
        phantom: what to write.
        folder: where; made if missing.
        transfer_syntax: UID of a syntax that pydicom can encode (explicit little endian by default; RLE,
            JPEG 2000 and JPEG-LS where their encoders are installed).

    Returns:
        The files, from head to feet.
    """
    files = []
    for k in reversed(range(phantom.image.shape[2])):
        ds = _ct_slice(phantom, k)
        if transfer_syntax is not None and transfer_syntax != ds.file_meta.TransferSyntaxUID:
            ds.compress(transfer_syntax, generate_instance_uid=False)
        path = Path(folder) / f"IM{ds.InstanceNumber:04d}.dcm"
        files.append(_save(path, partial(ds.save_as, enforce_file_format=True)))
    return files


def write_nifti(phantom: Phantom, folder: str | Path, *, masks: bool = True) -> list[Path]:
    """Write ``NAME.nii.gz`` (int16 HU) and, with ``masks``, ``NAME_lungs.nii.gz`` and ``NAME_infection.nii.gz``."""
    import nibabel as nib
    from nibabel.openers import Opener

    arrays = {"": phantom.image}
    if masks:
        arrays |= {"_lungs": phantom.lungs, "_infection": phantom.infection}
    files = []
    # The image comes last: where it is, its masks are.
    for ending, array in reversed(arrays.items()):
        nifti = nib.Nifti1Image(array, phantom.affine)
        nifti.header.set_xyzt_units("mm")
        nifti.header["descrip"] = DESCRIPTION
        nifti.set_qform(phantom.affine, 1)
        nifti.set_sform(phantom.affine, 1)

        def write(partial: Path, nifti: nib.Nifti1Image = nifti) -> None:
            with Opener(str(partial), "wb", compresslevel=1) as stream:
                nifti.to_stream(stream)

        files.append(_save(Path(folder) / f"{phantom.name}{ending}.nii.gz", write))
    return files[::-1]


def write_xray(phantom: Phantom, folder: str | Path, *, dicom: bool = False) -> list[Path]:
    """Write the X-ray as ``NAME_cxr.png`` (or ``.dcm``, Computed Radiography) and its masks as PNG.

    ``NAME_cxr_lungs.png`` holds 0, 1, 2 and ``NAME_cxr_infection.png`` 0, 255, both of the picture's size.
    """
    folder, truth = Path(folder), project_masks(phantom)
    files = [
        _save_png(folder / f"{phantom.name}_cxr_lungs.png", truth["lungs"]),
        _save_png(folder / f"{phantom.name}_cxr_infection.png", truth["infection"] * np.uint8(255)),
    ]
    return [_write_film(phantom, folder / f"{phantom.name}_cxr", View.PA, dicom=dicom), *files]


def write_lateral(phantom: Phantom, folder: str | Path, *, dicom: bool = False) -> list[Path]:
    """Write the X-ray seen from the side as ``NAME_lateral.png`` (or ``.dcm``); the lungs overlap, so no masks."""
    return [_write_film(phantom, Path(folder) / f"{phantom.name}_lateral", View.LATERAL, dicom=dicom)]


def _write_film(phantom: Phantom, path: Path, view: View, *, dicom: bool) -> Path:
    """One X-ray as PNG or as a Computed Radiography image; ``path`` lacks the ending."""
    from pydicom.uid import ComputedRadiographyImageStorage

    picture, lateral = project_xray(phantom, view=view), view is View.LATERAL
    if not dicom:
        return _save_png(path.with_name(f"{path.name}.png"), picture)
    ds = _header(phantom, "CR", ComputedRadiographyImageStorage, *([view.value] if lateral else []))
    del ds.FrameOfReferenceUID, ds.PositionReferenceIndicator, ds.PatientPosition
    ds.ImageType, ds.InstanceNumber = ["DERIVED", "SECONDARY"], 2 if lateral else 1
    ds.ViewPosition, ds.PatientOrientation, ds.KVP = ("LL", ["P", "F"], 110) if lateral else ("PA", ["L", "F"], 110)
    ds.ImagerPixelSpacing = [f"{phantom.spacing[1 - view.beam]:.9f}"] * 2
    ds.Rows, ds.Columns = picture.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.WindowCenter, ds.WindowWidth = 128, 256
    ds.PixelData = picture.tobytes() + b"\0" * (picture.size % 2)
    ds["PixelData"].VR = "OW"
    return _save(path.with_name(f"{path.name}.dcm"), partial(ds.save_as, enforce_file_format=True))


def write_slices(phantom: Phantom, folder: str | Path, *, count: int = 8) -> list[Path]:
    """Write up to ``count`` axial slices with lung as ``NAME_kKKK.png``, -1350..150 HU as 0..255, and their masks.

    ``NAME_kKKK_lungs.png`` holds 0, 1, 2 and ``NAME_kKKK_infection.png`` 0, 255. Returns the pictures, without masks,
    from the feet upwards.
    """
    pictures = []
    for k in slice_positions(phantom, count):
        stem = f"{phantom.name}_k{k:03d}"
        _save_png(Path(folder) / f"{stem}_lungs.png", np.ascontiguousarray(phantom.lungs[:, :, k].T))
        _save_png(Path(folder) / f"{stem}_infection.png", phantom.infection[:, :, k].T * np.uint8(255))
        pictures.append(_save_png(Path(folder) / f"{stem}.png", axial_picture(phantom, k)))
    return pictures
