"""Frames of a multi-frame DICOM file (enhanced CT): one record a frame, from the functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from pneumonai.pipeline.dicom_headers import SliceHeader, exactly


def read_frames(path: str, header: SliceHeader) -> list[SliceHeader]:
    """One record a frame, from the functional groups (shared, then the frame's own)."""
    dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame:
        return [replace(header, frame=number) for number in range(header.frames)]
    if len(per_frame) != header.frames:
        raise ValueError("as many functional groups as frames are required")
    records = []
    for number, own in enumerate(per_frame):

        def find(sequence: str, keyword: str, own: Dataset = own) -> Any:
            for group in (own, shared[0]):
                items = group.get(sequence)
                if items and items[0].get(keyword) is not None:
                    return items[0].get(keyword)
            return None

        def floats(sequence: str, keyword: str, count: int, find: Any = find) -> tuple[float, ...] | None:
            value = find(sequence, keyword)
            return None if value is None else exactly(tuple(float(v) for v in value), count)

        slope = find("PixelValueTransformationSequence", "RescaleSlope")
        intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
        kind = find("PixelValueTransformationSequence", "RescaleType")
        kernel = find("CTReconstructionSequence", "ConvolutionKernel")
        frame_type = find("CTImageFrameTypeSequence", "FrameType")
        thickness = find("PixelMeasuresSequence", "SliceThickness")
        records.append(
            replace(
                header,
                frame=number,
                position=floats("PlanePositionSequence", "ImagePositionPatient", 3),
                orientation=floats("PlaneOrientationSequence", "ImageOrientationPatient", 6),
                pixel_spacing=floats("PixelMeasuresSequence", "PixelSpacing", 2),
                slope=header.slope if slope is None else float(slope),
                intercept=header.intercept if intercept is None else float(intercept),
                rescale_type=header.rescale_type if kind is None else str(kind).upper(),
                kernel=header.kernel if kernel is None else str(kernel),
                image_type=header.image_type if frame_type is None else tuple(str(p).upper() for p in frame_type),
                thickness=header.thickness if thickness is None else float(thickness),
            )
        )
    return records
