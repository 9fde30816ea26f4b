"""The lungs of an X-ray as a user gives them: a mask, a folder of masks, or a bundle that finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pneumonai.pipeline.bundle import Bundle, find_bundle, shipped_bundles
from pneumonai.pipeline.errors import BundleError, StudyError
from pneumonai.pipeline.mask_in import find_mask, read_picture_mask
from pneumonai.pipeline.sources import PICTURE_ENDINGS
from pneumonai.pipeline.study import Modality

MARKS = ("_lungs", "_lung", "_mask", "")
"""What may follow a study's name in the name of its lung mask."""
NO_SEVERITY = "so no severity is given"


def lungs_bundle(where: str | Path, wanted_by: Bundle) -> Bundle | None:
    """The bundle that ``--lungs`` names, or None where it is a mask or a folder of masks.

    Args:
        where: a mask, a folder of masks, a bundle's name or folder.
        wanted_by: the bundle that is to be given the lungs.

    Raises:
        BundleError: it names a bundle that does not mark lungs, or the one that wants them is of no use with them.
        StudyError: there is no such mask, folder or bundle.
    """
    path = Path(where)
    if wanted_by.modality is not Modality.CXR or wanted_by.marks_lungs:
        reason = "finds the lungs itself" if wanted_by.marks_lungs else "reads CT, whose lungs are found without help"
        raise BundleError(wanted_by.name, f"{reason}: --lungs is of no use", "leave it out")
    if path.is_file():
        return None
    if not (path / "configs" / "metadata.json").is_file() and str(where) not in {b.name for b in shipped_bundles()}:
        if path.is_dir():
            return None
        raise StudyError(str(where), "no such lung mask, folder of masks or bundle", "check --lungs")
    bundle = find_bundle(where)
    if not bundle.marks_lungs:
        raise BundleError(bundle.name, "does not mark lungs", "choose cxr_lung_segmentation for --lungs")
    return bundle


def lungs_of(study_id: str, where: str | Path) -> Path:
    """The lung mask of a study: ``where`` itself, or the file in it that is named as the study.

    Args:
        study_id: the study.
        where: a mask, or a folder of masks ``STUDY.png`` (``_lungs``, ``_lung`` or ``_mask`` may follow the name).

    Raises:
        StudyError: none, or more than one, is named as the study.
    """
    path = find_mask(where, study_id, option="--lungs", marks=MARKS)
    if path is None:
        raise StudyError(study_id, f"no lung mask in {where} is named as it", f"add {study_id}.png")
    return path


def open_lungs(path: str | Path, shape: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """Read a lung mask of a picture: 1 right, 2 left, or one value for both, which is parted.

    Args:
        path: PNG, TIFF or BMP (or JPEG, whose values count as one), of the picture's size.
        shape: rows and columns of the picture.

    Returns:
        uint8 ``[row, column]``, 0, 1 right, 2 left; and warnings, in words.

    Raises:
        StudyError: it cannot be read, has another size, is empty, or holds other values.
    """
    from pneumonai.transforms.picture_lungs import split_lungs

    name = str(path)
    if not Path(path).is_file():
        raise StudyError(name, "no such mask", "check the path")
    if not name.lower().endswith(PICTURE_ENDINGS):
        raise StudyError(name, "is no lung mask that could be read", "give a PNG of the picture's size")
    values = read_picture_mask(name, shape)
    found = np.unique(values)
    found = found[found != 0]
    if not len(found):
        raise StudyError(name, "is an empty lung mask", "mark the lungs: 1 right, 2 left, or both with one value")
    if len(found) == 1:
        labels, warnings = split_lungs(values)
    elif found.tolist() == [1, 2]:
        labels, warnings = values.astype(np.uint8), []
    else:
        said = ", ".join(str(int(value)) for value in found[:3]) + (", ..." if len(found) > 3 else "")
        raise StudyError(name, f"holds the values {said}", "give 1 for the right lung and 2 for the left, or one value")
    return labels, warnings + missing_lungs(labels)


def missing_lungs(labels: np.ndarray) -> list[str]:
    """A warning where one lung of a map (0, 1 right, 2 left) is empty."""
    return [
        f"the {side} lung is empty in the lung mask, {NO_SEVERITY}"
        for side, label in (("right", 1), ("left", 2))
        if not (labels == label).any()
    ]
