"""Memory that a training step frees and the next one asks for again: kept, where the C library can."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's ``malloc.h``."""


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, instead of giving every large tensor back and faulting its pages in again.

    On a CPU a step allocates and frees each activation, and the kernel zeroes the pages anew each time: most of the
    time of a step with large batches, which then peaks a quarter higher (``benchmarks/mag_sd.py``). For processes that
    do one thing again and again, as training does.

    Returns:
        Whether it was done: not without glibc, and not where a variable such as ``MALLOC_TRIM_THRESHOLD_`` says that
        somebody else decides.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
