"""A synthetic chest with known truth, for the demonstration, the tests and the training of demonstration weights.

``make_phantom(kind, seed)`` gives the same patient each time; the writers give it as DICOM, NIfTI, X-ray or slices.
Needs numpy and scipy alone; the writers import what they write with when they are called.
"""

from pneumonai.pipeline.phantom.dataset import write_dataset
from pneumonai.pipeline.phantom.patient import Difficulty, Kind
from pneumonai.pipeline.phantom.phantom import Phantom, make_phantom
from pneumonai.pipeline.phantom.projections import View, project_masks, project_xray
from pneumonai.pipeline.phantom.write import write_dicom, write_lateral, write_nifti, write_slices, write_xray

__all__ = [
    "Difficulty",
    "Kind",
    "Phantom",
    "View",
    "make_phantom",
    "project_masks",
    "project_xray",
    "write_dataset",
    "write_dicom",
    "write_lateral",
    "write_nifti",
    "write_slices",
    "write_xray",
]
