"""pydicom's warnings, which quote header values (a patient's name among them), kept off the screen and the log."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydicom import config

_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_stack = ExitStack()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings about header values, which quote them, off the screen and the log.

    The switches are the process's; they are set by the first that enters and set back by the last that leaves.
    """
    global _quiet_depth
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            _quiet_stack.enter_context(config.disable_value_validation())
            _quiet_stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module="pydicom")
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_stack.close()
