"""MONAI's door to :func:`~pneumonai.pipeline.study.open_study`: the reader with which preprocessing begins."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.study import InputKind, Modality, Study, open_checked

_handed_over: dict[str, Study] = {}
_lock = threading.Lock()


def _key(token: str | Path) -> str:
    # LoadImage passes names through Path and expanduser; the keys must match what comes out of there.
    return str(Path(token).expanduser())


class StudyReader(ImageReader):
    """Read chest CT studies and X-rays for MONAI's ``LoadImage(d)``, checked, or refused in words.

    ``LoadImaged(keys="image", reader=StudyReader(), dtype=None)`` gives a MetaTensor of the study's own grid
    (``[i, j, k]``, HU, affine RAS+; a picture: ``[row, column]``) without channel. ``dtype=None`` keeps int16 and the
    memory order of the slices: a cast here costs a transposition of the whole volume.

    ``read`` only stores the path, and all that can go wrong goes wrong in ``get_data``: LoadImage swallows what
    ``read`` raises and tries MONAI's other readers, so that a refused study would be loaded after all.

    Args:
        modality: what the bundle reads: CT or CXR.
        input_kind: volume, slice or picture.
        series: SeriesInstanceUID to read, instead of the one that would be chosen.
    """

    def __init__(
        self,
        modality: Modality | str = Modality.CT,
        input_kind: InputKind | str = InputKind.VOLUME,
        series: str | None = None,
    ) -> None:
        self.modality = Modality(modality)
        self.input_kind = InputKind(input_kind)
        self.series = series

    @staticmethod
    def hand_over(token: str | Path, study: Study) -> None:
        """Give the reader a study that is opened and checked already; the next ``get_data`` of ``token`` takes it."""
        with _lock:
            _handed_over[_key(token)] = study

    @staticmethod
    def take_back(token: str | Path) -> None:
        """Forget a study handed over for ``token``, if it was not taken."""
        with _lock:
            _handed_over.pop(_key(token), None)

    def verify_suffix(self, filename: Any) -> bool:
        """Every name is taken: what cannot be read is refused in ``get_data``, and not left to other readers."""
        return True

    def read(self, data: Any, **kwargs: Any) -> tuple[str, ...]:
        """The names, as given. Never raises."""
        if isinstance(data, Sequence) and not isinstance(data, str):
            return tuple(str(name) for name in data)
        return (str(data),)

    def get_data(self, img: Any) -> tuple[Any, dict[str, Any]]:
        """Open and check the study.

        Returns:
            The image (a tensor that shares the study's memory) and its meta data: ``affine`` (4 x 4, RAS+),
            ``original_channel_dim``, ``spatial_shape``, ``space``, and of the study ``warnings``, ``converted`` (lists
            of str), ``study_id``, ``series_uid``, ``study_uid``, ``modality``, ``kind``, ``fingerprint``.

        Raises:
            StudyError: the study cannot be read or is not what the bundle reads.
        """
        names = self.read(img)
        if len(names) != 1:
            raise StudyError(
                ", ".join(names[:2]),
                f"{len(names)} files given as one image",
                "give one study (a folder or a file) each",
            )
        with _lock:
            study = _handed_over.pop(_key(names[0]), None)
        if study is None:
            study = open_checked(names[0], series=self.series, modality=self.modality, input_kind=self.input_kind)
        return torch.from_numpy(study.image), self._meta(study)

    def _meta(self, study: Study) -> dict[str, Any]:
        affine = np.asarray(study.affine, dtype=np.float64)
        return {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(study.image.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel",
            MetaKeys.SPACE: SpaceKeys.RAS,
            "warnings": list(study.warnings),
            "converted": list(study.converted),
            "study_id": study.id,
            "study_uid": study.study_uid or "",
            "series_uid": study.series_uid or "",
            "modality": str(study.modality),
            "kind": str(study.kind),
            "fingerprint": study.fingerprint,
        }
