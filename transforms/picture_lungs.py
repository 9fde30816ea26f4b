"""Lungs of a frontal chest X-ray: a mask of one value parted into right and left, and a network that finds both.

Labels everywhere: 0 background, 1 the patient's right lung, at the picture's left, 2 the left lung.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms import AsDiscrete, Compose, FillHoles, KeepLargestConnectedComponent, Resize
from monai.transforms.transform import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from scipy import ndimage

from pneumonai.transforms.lung_segment import LEFT, RIGHT, LungSegmentd, LungsNotFoundError

__all__ = [
    "PictureLungSegment",
    "PictureLungSegmentD",
    "PictureLungSegmentDict",
    "PictureLungSegmentd",
    "split_lungs",
]

LUNG_NOT_FOUND = "lung not found"
LUNGS_UNEQUAL = "lungs of unequal size"
"""How the warnings begin that are a reason to refer the study to a reader."""
LEAST_LUNG = 0.5
"""Of the larger lung, for the smaller one not to be warned of: 0.52 at least in 73 masks of X-rays."""
LEAST_PART = 0.05
"""Of the marked pixels, for a connected part to count when right and left are told apart."""


def split_lungs(mask: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Part a mask of both lungs of a frontal X-ray into the patient's right (1) and left (2).

    Its connected parts go to the side of the mask on which they lie. Where that leaves a side empty, or parts of both
    sides lie above each other (lungs that touch, a single lung), the mask is cut from top to bottom near the picture's
    midline, where it is thinnest.

    Args:
        mask: ``[row, column]`` as displayed, what is not 0 is lung.

    Returns:
        uint8 of the same shape, 0, 1, 2; and a warning in words where it was cut.

    Example:
        >>> split_lungs(np.array([[1, 1, 0, 1], [0, 1, 0, 1]]))[0].tolist()
        [[1, 1, 0, 2], [0, 1, 0, 2]]
    """
    marked = np.asarray(mask) != 0
    labels = np.zeros(marked.shape, np.uint8)
    if not marked.any():
        return labels, []
    parts, count = ndimage.label(marked, structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(parts)
    sizes = np.bincount(parts.ravel())[1:]
    columns = np.flatnonzero(marked.any(axis=0))
    middle = (columns[0] + columns[-1]) / 2
    centres = np.array([middles[1] for middles in ndimage.center_of_mass(marked, parts, range(1, count + 1))])
    on_right = centres < middle
    large = sizes >= LEAST_PART * sizes.sum()
    if (large & on_right).any() and (large & ~on_right).any():
        right_end = max(boxes[n][1].stop for n in np.flatnonzero(large & on_right))
        left_start = min(boxes[n][1].start for n in np.flatnonzero(large & ~on_right))
        if right_end - left_start < 0.25 * (columns[-1] - columns[0] + 1):
            sides = np.concatenate([[0], np.where(on_right, RIGHT, LEFT)]).astype(np.uint8)
            return sides[parts], []
    cut = _thinnest_column(marked)
    labels[:, :cut][marked[:, :cut]] = RIGHT
    labels[:, cut:][marked[:, cut:]] = LEFT
    return labels, ["the lung mask is not in two parts: it was cut into right and left near the midline"]


def _thinnest_column(marked: np.ndarray) -> int:
    """The column of the picture's middle third with the fewest marked pixels, the one nearest to the midline."""
    width = marked.shape[1]
    third = np.arange(width // 3, width - width // 3)
    filled = marked[:, third].sum(axis=0)
    return int(min(zip(filled, np.abs(third - width / 2), third, strict=True))[2])


class PictureLungSegment(Transform):
    """Label map of the lungs in a frontal chest X-ray by a network: 0 background, 1 right lung, 2 left lung.

    The picture is resized to the network's input (bilinear, smoothed before it shrinks), scaled from 0..255 to 0..1,
    and of each lung the largest connected part is kept, its holes filled; the map is brought back to the picture's
    own size. The bundle ``cxr_lung_segmentation`` does the same in its config.

    Input: ``[1, H, W]``, grey values 0..255 as displayed: MetaTensor, tensor or array. Output: the same type and shape
    as uint8; a MetaTensor keeps affine and meta.

    Args:
        network: maps ``[1, 1, *size]`` in 0..1 to logits ``[1, 3, *size]`` (background, right, left).
        weights: path of its state dict, read with ``weights_only=True``; None for a network that has its weights.
        size: rows and columns of the network's input.

    Raises:
        ValueError: the weights cannot be read or are another network's; the picture is not ``[1, H, W]``.
        LungsNotFoundError: the network finds no lung.
    """

    backend: ClassVar = [TransformBackends.TORCH]

    def __init__(
        self, network: torch.nn.Module, weights: str | Path | None = None, size: tuple[int, int] = (256, 256)
    ) -> None:
        self.network = (network if weights is None else _loaded(network, Path(weights))).eval()
        self.resize = Resize(tuple(size), mode="bilinear", anti_aliasing=True)
        both = [RIGHT, LEFT]
        self.tidy = Compose(
            [
                AsDiscrete(argmax=True),
                KeepLargestConnectedComponent(applied_labels=both),
                FillHoles(applied_labels=both),
                AsDiscrete(to_onehot=3),
            ]
        )

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """The label map of ``img`` (see the class)."""
        return self.with_warnings(img)[0]

    @torch.inference_mode()
    def with_warnings(self, img: NdarrayOrTensor) -> tuple[NdarrayOrTensor, list[str]]:
        """The label map, and what a reader should know about it, in words (a lung that was not found)."""
        if img.ndim != 3 or img.shape[0] != 1:
            raise ValueError(
                f"PictureLungSegment needs a picture of shape [1, H, W], got {list(img.shape)}; add the channel axis"
            )
        picture = convert_to_tensor(img, dtype=torch.float32, track_meta=False)
        small = self.resize(picture) / 255.0
        logits = self.network(torch.as_tensor(small)[None])[0]
        one_hot = torch.as_tensor(self.tidy(logits))
        whole = torch.nn.functional.interpolate(one_hot[None], size=picture.shape[1:], mode="bilinear")[0]
        labels = whole.argmax(dim=0, keepdim=True).to(torch.uint8)
        if not labels.any():
            raise LungsNotFoundError(
                "no lungs found in the picture; give a frontal chest X-ray, or a mask of its lungs"
            )
        return convert_to_dst_type(labels, img, dtype=torch.uint8)[0], lungs_not_found(labels)


def lungs_not_found(labels: np.ndarray | torch.Tensor) -> list[str]:
    """A warning for each lung that a map (0, 1 right, 2 left) lacks, or for one far smaller than the other."""
    pixels = {name: int((labels == label).sum()) for name, label in (("right", RIGHT), ("left", LEFT))}
    small, large = sorted(pixels, key=lambda name: pixels[name])
    if pixels[small] and pixels[small] < LEAST_LUNG * pixels[large]:
        share = 100 * pixels[small] / pixels[large]
        return [f"{LUNGS_UNEQUAL}: the {small} one is {share:.0f} % of the {large} one; look at the lung mask"]
    return [f"{LUNG_NOT_FOUND}: the {name} one; look at the lung mask" for name, number in pixels.items() if not number]


def _loaded(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    """The network with the weights of a file, cast to its own types."""
    if not path.is_file():
        raise ValueError(f"there is no weights file {path} for the lungs; take a whole copy of the bundle")
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path.name} is corrupt or no weights of the lungs' network; take a whole copy of it"
        ) from None
    return network


class PictureLungSegmentd(LungSegmentd):
    """Dictionary form of :class:`PictureLungSegment`: writes the label map of ``keys`` under ``lungs_key``.

    Does nothing where ``lungs_key`` is already there. Warnings are appended to the image's ``meta["warnings"]``.

    Args:
        keys: the picture, ``[1, H, W]``; one key.
        network: see :class:`PictureLungSegment`.
        weights: see :class:`PictureLungSegment`.
        size: see :class:`PictureLungSegment`.
        lungs_key: where the label map goes.
        allow_missing_keys: pass over a missing picture.

    Raises:
        ValueError: more than one key, and as :class:`PictureLungSegment`.
        LungsNotFoundError: as :class:`PictureLungSegment`.
    """

    backend: ClassVar = PictureLungSegment.backend

    def __init__(
        self,
        keys: KeysCollection,
        network: torch.nn.Module,
        weights: str | Path | None = None,
        size: tuple[int, int] = (256, 256),
        lungs_key: str = "lungs",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, lungs_key, allow_missing_keys)
        self.segment = PictureLungSegment(network, weights, size)


PictureLungSegmentD = PictureLungSegmentDict = PictureLungSegmentd
