"""Memory that is kept after it was freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

RESIDENT_AFTER_FREEING = """
import os, sys, numpy
from pneumonai.pipeline.training.memory import keep_freed_memory
done = keep_freed_memory() if sys.argv[1] == "keep" else None
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
array = numpy.ones(25_000_000)
del array
print(done, (resident() - before) // 1_000_000)
"""


def run(how: str, **variables: str) -> tuple[str, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    command = [sys.executable, "-c", RESIDENT_AFTER_FREEING, how]
    done, megabytes = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return done, int(megabytes)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_a_process_keeps_what_it_freed() -> None:
    done, kept = run("keep")
    assert done == "True"
    assert kept >= 190
    assert run("leave")[1] < 50


def test_a_variable_of_malloc_decides_instead() -> None:
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"
