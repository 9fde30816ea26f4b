"""What a file of a phantom says of itself, so that it is never taken for a patient's."""

from __future__ import annotations

DESCRIPTION = "Synthetic phantom, not a patient"
"""DICOM: StudyDescription and SeriesDescription. NIfTI: ``descrip``. PNG: the text ``Description``."""


def says_synthetic(text: str) -> bool:
    """Whether a description is that of a phantom.

    Examples:
        >>> says_synthetic("Synthetic phantom, not a patient"), says_synthetic("Chest PA")
        (True, False)
    """
    return text.replace("\0", "").strip().lower().startswith(DESCRIPTION.lower())
