"""The lungs of an opened study, once for its preprocessing, its measures and its maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from pneumonai.pipeline.checks import check_lungs
from pneumonai.pipeline.lungs_in import open_lungs
from pneumonai.pipeline.model import Model, study_error
from pneumonai.pipeline.result import in_order_of
from pneumonai.pipeline.study import Modality, Study
from pneumonai.transforms import LungSegment


def find_lungs(study: Study, mask: Path | None, model: Model | None) -> np.ndarray | None:
    """The lungs of a CT in Hounsfield units or of an X-ray; what a reader should know of them joins the warnings.

    Args:
        study: opened and checked; not the picture of a CT slice, whose lungs the preprocessing finds.
        mask: lungs of an X-ray as the user gave them.
        model: the bundle that is to answer, which may find those of an X-ray; None finds none of them.

    Returns:
        uint8 on the study's grid, laid in memory as it is, 0, 1 right, 2 left; None where nothing finds them.

    Raises:
        StudyError: there are no lungs, or the mask cannot be used.
    """
    if study.modality is Modality.CT:
        return _lungs_of_ct(study)
    if mask is not None:
        found: tuple[np.ndarray, list[str]] | None = open_lungs(mask, study.image.shape)
    else:
        found = None if model is None else model.find_lungs(study)
    if found is None:
        return None
    labels, warnings = found
    study.warnings += warnings
    return labels


def _lungs_of_ct(study: Study) -> np.ndarray:
    image = MetaTensor(torch.from_numpy(study.image)[None], affine=torch.from_numpy(study.affine))
    try:
        labels, warnings = LungSegment().with_warnings(image)
    except ValueError as error:
        raise study_error(study.id, error) from error
    # As the image lies in memory: measures and writers read along it.
    lungs = in_order_of(study.image, torch.as_tensor(labels)[0].numpy())
    study.warnings += [*warnings, *check_lungs(lungs, study.voxel_ml)]
    return lungs
