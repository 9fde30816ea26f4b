"""The errors that a user can cause, each with its parts as attributes.

Commands print them as one line, ``error: WHAT: reason; remedy``, and never as a traceback. This module imports
nothing of torch or MONAI, so that the command line can name the errors without loading either.
"""

from __future__ import annotations

from pneumonai.data_manifests.errors import ManifestError, PneumonaiError

__all__ = [
    "BundleError",
    "ManifestError",
    "OutputConflictError",
    "OutputError",
    "PneumonaiError",
    "StudyError",
    "our_error",
]


class StudyError(PneumonaiError):
    """A study cannot be read, or must not be answered."""

    @property
    def study(self) -> str:
        """Name or path of the study."""
        return self.subject


class BundleError(PneumonaiError):
    """A bundle, its configuration or its weights are wrong."""


class OutputError(PneumonaiError):
    """A result cannot be written (full disk, read-only folder)."""


class OutputConflictError(OutputError):
    """The output folder holds answers that these would be mixed with: the call is wrong, nothing was answered."""


def our_error(error: BaseException) -> PneumonaiError | None:
    """The first error of ours in the chain of causes, or None: MONAI wraps what a transform raises."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, PneumonaiError):
            return link
        link = link.__cause__ or link.__context__
    return None
