"""What every benchmark shares: the machine in words, the refusal on a busy machine, times and peak memory.

A benchmark prints :func:`describe_machine` first, calls :func:`refuse_when_busy`, and compares both sides of a ratio
in one run: figures of two runs, or of two machines, are not comparable.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

PACKAGES = ("numpy", "scipy", "scikit-image", "torch", "monai", "SimpleITK", "connected-components-3d", "kornia")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_machine() -> str:
    """Processor, cores this process may use, memory, and the versions that decide the figures, in three lines."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    gib = psutil.virtual_memory().total / 2**30
    return (
        f"{_processor()}, {cores} cores, {gib:.0f} GiB memory\n"
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}\n" + ", ".join(versions)
    )


def busy_cores(seconds: float = 1.0) -> float:
    """Cores that other processes keep busy, measured over ``seconds`` while this process sleeps."""
    return psutil.cpu_percent(interval=seconds) / 100.0 * (psutil.cpu_count() or 1)


def refuse_when_busy(limit: float = 0.2, force: bool = False) -> None:
    """End the benchmark when other processes keep more than ``limit`` cores busy, since its times would mean nothing.

    Args:
        limit: cores of other load that are allowed.
        force: print the load and go on instead.

    Raises:
        SystemExit: the machine is busy and ``force`` is false.
    """
    load = busy_cores()
    if load <= limit:
        return
    message = f"other processes use {load:.2f} cores, {limit:.2f} allowed"
    if not force:
        raise SystemExit(f"error: {message}; wait, or give --force (times then mean little)")
    print(f"NOT A CLEAN RUN: {message}")


def measure(function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Wall-clock seconds of ``function()`` over ``repeats`` calls after one to warm up: median, min and max."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def peak_memory_of(command: Sequence[str]) -> float:
    """Peak resident set of a command in GB (1e9 bytes), as the kernel counts it for that process.

    The command runs under a small Python parent of its own, because the peak that a process reports for its children
    is the largest of all of them, and a child starts with the peak of the process it was forked from.

    Raises:
        RuntimeError: the command failed; its error output is in the message.
    """
    parent = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(done.returncode)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"the command {' '.join(command[:3])} failed with exit code {done.returncode}: {done.stderr}"
        )
    unit = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout.split()[-1]) * unit / 1e9
