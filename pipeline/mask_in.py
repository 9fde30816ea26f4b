"""A mask file, drawn by a reader or made by a program, onto the grid of its study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import NIFTI_ENDINGS, PICTURE_ENDINGS
from pneumonai.pipeline.study import study_name

MARKS = ("_infection", "_mask", "_truth", "")
"""What may follow a study's name in the name of its mask; a marked name goes before the name alone, which may be the
study itself."""
_HALF_A_VOXEL = 0.5


def open_mask(path: str | Path, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Read a mask: whatever is not 0 is marked (in JPEG, which knows no clean 0, whatever is above 127).

    A NIfTI mask may be stored with other axes or flipped; it is turned as the two affines say, and must then lie where
    the study lies, to half a voxel. A picture must have the study's rows and columns.

    Args:
        path: NIfTI for a volume, PNG, TIFF, BMP or JPEG for a picture.
        shape: of the study's image.
        affine: 4 x 4, of the study's image, RAS+; not used for pictures.

    Returns:
        uint8 of the study's shape, 0 or 1.

    Raises:
        StudyError: it cannot be read, or is not on the study's grid.
    """
    name = str(path)
    if not Path(path).is_file():
        raise StudyError(name, "no such mask", "check the path")
    if name.lower().endswith(NIFTI_ENDINGS):
        return _nifti_mask(name, shape, np.asarray(affine, dtype=float))
    if name.lower().endswith(PICTURE_ENDINGS):
        return _picture_mask(name, shape)
    raise StudyError(name, "is no mask that could be read", "give NIfTI for a volume, PNG for a picture")


def find_mask(
    truth: str | Path, study_id: str, *, option: str = "--truth", marks: Sequence[str] = MARKS
) -> Path | None:
    """The mask of a study: ``truth`` itself where it is a file, else the file in it that is named as the study.

    Args:
        truth: a mask, or a folder of masks ``STUDY.nii.gz``, ``STUDY.png`` (``_infection``, ``_mask`` or ``_truth`` may
            follow the name).
        study_id: the study.
        option: how the command calls ``truth``, for errors.
        marks: what may follow the name, the most telling first.

    Raises:
        StudyError: ``truth`` does not exist, or two masks in it are named as the study.
    """
    folder = Path(truth)
    if folder.is_file():
        return folder
    if not folder.is_dir():
        raise StudyError(str(truth), "no such mask or folder of masks", f"check {option}")
    endings = (*NIFTI_ENDINGS, *PICTURE_ENDINGS)
    masks = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(endings)]
    for mark in marks:
        found = [path for path in masks if study_name(path) == study_id + mark]
        if len(found) > 1:
            names = f"{found[0].name} and {found[1].name}"
            raise StudyError(study_id, f"{names} are both named as its mask", f"leave one of them in {option}")
        if found:
            return found[0]
    return None


def is_box_table(truth: str | Path) -> bool:
    """Whether a truth is a table of boxes: a CSV file."""
    return str(truth).lower().endswith(".csv")


def open_boxes(path: str | Path, study_id: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """The boxes of one study in a table (:func:`pneumonai.data_manifests.boxes.read_box_table`), filled.

    Args:
        path: CSV file with the columns ``study, x, y, width, height``.
        study_id: the study; its file's name, with the ending, serves too.
        shape: rows and columns of the study's picture.

    Returns:
        uint8 of the picture's shape, 0 or 1; None where the table does not name the study.

    Raises:
        ManifestError: the table cannot be read.
        StudyError: the study is a volume, or a box goes beyond its picture.
    """
    from pneumonai.data_manifests.boxes import read_box_table
    from pneumonai.pipeline.localisation import fill_boxes

    if len(shape) != 2:
        raise StudyError(study_id, "is a volume, where boxes mark pictures", "give a NIfTI mask on the study's grid")
    named = [of_study for study, of_study in read_box_table(path).items() if study_id in (study, study_name(study))]
    if not named:
        return None
    boxes, (rows, columns) = [box for of_study in named for box in of_study], shape
    beyond = [box for box in boxes if box["x"] + box["width"] > columns or box["y"] + box["height"] > rows]
    if beyond:
        size = _times((columns, rows))
        raise StudyError(study_id, f"the box {beyond[0]} goes beyond the picture, {size} pixels", f"check {path}")
    return fill_boxes(boxes, shape)


def _nifti_mask(path: str, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    import nibabel as nib

    if len(shape) != 3:
        raise StudyError(path, "is a volume, where the study is a picture", "give a mask of the picture's size")
    try:
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
        own = np.asarray(image.affine, dtype=float)
    except Exception as error:
        raise StudyError(path, "is damaged or no NIfTI file", "copy it again") from error
    values = values.reshape(values.shape[:3] + (1,) * (3 - values.ndim)) if values.ndim < 3 else values
    if values.ndim > 3 and values.size == int(np.prod(values.shape[:3])):
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise StudyError(path, f"is {values.ndim}D, where one mask is wanted", "give one mask a study")
    if not np.isfinite(own).all() or abs(np.linalg.det(own[:3, :3])) < 1e-9:
        raise StudyError(path, "its affine is not finite or has no volume", "write it again with the study's affine")
    orientations = nib.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(own), orientations.io_orientation(affine))
    turned = orientations.apply_orientation(values, turn)
    own = own @ orientations.inv_ornt_aff(turn, values.shape)
    if turned.shape != tuple(shape):
        raise StudyError(path, f"is {_times(turned.shape)} voxels, the study {_times(shape)}", "put it on its grid")
    corners = np.array([[i, j, k, 1.0] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
    apart = float(np.linalg.norm(corners @ (own - affine).T[:, :3], axis=1).max())
    if apart > _HALF_A_VOXEL * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
        raise StudyError(path, f"lies up to {apart:.1f} mm from the study", "write it with the study's affine")
    return (turned != 0).astype(np.uint8)


def _picture_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
    return (read_picture_mask(path, shape) > 0).astype(np.uint8)


def read_picture_mask(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The values of a picture's mask as stored; of a JPEG, which knows no clean 0, 1 for what is above 127.

    Raises:
        StudyError: it cannot be read, or is not of the study's rows and columns.
    """
    from PIL import Image

    if len(shape) != 2:
        raise StudyError(path, "is a picture, where the study is a volume", "give a NIfTI mask on the study's grid")
    try:
        with Image.open(path) as picture:
            lossy = picture.format == "JPEG"
            values = np.asarray(picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("L"))
    except Exception as error:
        raise StudyError(path, "is damaged or no picture", "copy it again") from error
    if values.shape != tuple(shape):
        size, wanted = values.shape[::-1], tuple(shape)[::-1]
        raise StudyError(path, f"is {_times(size)} pixels, the study {_times(wanted)}", "put it on its grid")
    return (values > 127).astype(np.uint8) if lossy else values


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
