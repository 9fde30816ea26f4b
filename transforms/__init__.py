"""Transforms in MONAI's array and dictionary forms, one file a family; geometry moves with the voxels."""

from .attention_augmentation import (
    GUIDED_AUGMENTATIONS,
    attention_dimming,
    attention_mix_up,
    attention_patching,
    draw_attention,
)
from .black_out import BlackOut, BlackOutD, BlackOutd, BlackOutDict
from .clahe import CLAHE, CLAHED, CLAHEd, CLAHEDict
from .ct_slices import (
    LungWindow,
    LungWindowD,
    LungWindowd,
    LungWindowDict,
    PictureAsSlice,
    PictureAsSliceD,
    PictureAsSliced,
    PictureAsSliceDict,
)
from .lung_box import LungBox, LungBoxD, LungBoxd, LungBoxDict
from .lung_crop import LungCrop, LungCropD, LungCropd, LungCropDict
from .lung_segment import LungSegment, LungSegmentD, LungSegmentd, LungSegmentDict, LungsNotFoundError
from .picture_lungs import (
    PictureLungSegment,
    PictureLungSegmentD,
    PictureLungSegmentd,
    PictureLungSegmentDict,
    split_lungs,
)
from .rand_foreground_scale_crop import (
    RandForegroundScaleCrop,
    RandForegroundScaleCropD,
    RandForegroundScaleCropd,
    RandForegroundScaleCropDict,
)
from .sample_slices import SampleSlices, SampleSlicesD, SampleSlicesd, SampleSlicesDict
from .square_box import SquareBox, SquareBoxD, SquareBoxd, SquareBoxDict
from .standardise_slices import StandardiseSlices, StandardiseSlicesD, StandardiseSlicesd, StandardiseSlicesDict

__all__ = [
    "CLAHE",
    "CLAHED",
    "GUIDED_AUGMENTATIONS",
    "BlackOut",
    "BlackOutD",
    "BlackOutDict",
    "BlackOutd",
    "CLAHEDict",
    "CLAHEd",
    "LungBox",
    "LungBoxD",
    "LungBoxDict",
    "LungBoxd",
    "LungCrop",
    "LungCropD",
    "LungCropDict",
    "LungCropd",
    "LungSegment",
    "LungSegmentD",
    "LungSegmentDict",
    "LungSegmentd",
    "LungWindow",
    "LungWindowD",
    "LungWindowDict",
    "LungWindowd",
    "LungsNotFoundError",
    "PictureAsSlice",
    "PictureAsSliceD",
    "PictureAsSliceDict",
    "PictureAsSliced",
    "PictureLungSegment",
    "PictureLungSegmentD",
    "PictureLungSegmentDict",
    "PictureLungSegmentd",
    "RandForegroundScaleCrop",
    "RandForegroundScaleCropD",
    "RandForegroundScaleCropDict",
    "RandForegroundScaleCropd",
    "SampleSlices",
    "SampleSlicesD",
    "SampleSlicesDict",
    "SampleSlicesd",
    "SquareBox",
    "SquareBoxD",
    "SquareBoxDict",
    "SquareBoxd",
    "StandardiseSlices",
    "StandardiseSlicesD",
    "StandardiseSlicesDict",
    "StandardiseSlicesd",
    "attention_dimming",
    "attention_mix_up",
    "attention_patching",
    "draw_attention",
    "split_lungs",
]
