"""The base of all errors that a user can cause, and the one of this floor.

It lies here because this is the lowest floor that raises them; :mod:`pneumonai.pipeline.errors` has the others.
"""

from __future__ import annotations


class PneumonaiError(ValueError):
    """Base of the errors a user can cause; a command prints them as one line and never as a traceback.

    Args:
        subject: the study, file, bundle or manifest that the error is about.
        reason: what is wrong with it, in words, without a full stop.
        remedy: what to do about it, in words; may be empty.
    """

    def __init__(self, subject: object, reason: str, remedy: str = "") -> None:
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        super().__init__(self.line())

    def line(self) -> str:
        """The error as one line: ``SUBJECT: reason; remedy``."""
        text = f"{self.subject}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")
        return " ".join(text.split())

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Errors cross process borders with their parts."""
        return type(self), (self.subject, self.reason, self.remedy)


class ManifestError(PneumonaiError):
    """A datalist or a dataset description is wrong."""
