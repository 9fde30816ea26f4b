"""The errors that a user can cause, each with its parts as attributes.

Commands print them as one line, ``error: WHAT: reason; remedy``, and never as a traceback. This module imports
nothing of torch or MONAI, so that the command line can name the errors without loading either.
"""

from __future__ import annotations


class PneumonaiError(ValueError):
    """Base of the errors a user can cause.

    Args:
        subject: the study, file, bundle or manifest that the error is about.
        reason: what is wrong with it, in words, without a full stop.
        remedy: what to do about it, in words; may be empty.
    """

    def __init__(self, subject: str, reason: str, remedy: str = "") -> None:
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one line: ``SUBJECT: reason; remedy``."""
        text = f"{self.subject}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(text.split())


class StudyError(PneumonaiError):
    """A study cannot be read, or must not be answered."""

    @property
    def study(self) -> str:
        """Name or path of the study."""
        return self.subject


class ManifestError(PneumonaiError):
    """A datalist or a dataset description is wrong."""


class BundleError(PneumonaiError):
    """A bundle, its configuration or its weights are wrong."""


class OutputError(PneumonaiError):
    """A result cannot be written (full disk, read-only folder)."""
