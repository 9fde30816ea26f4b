"""Several runs at a time, each in its own process; what is done stays done, and an interruption loses no epoch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pneumonai.pipeline.comparison.plan import Run
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.training.checkpoint import HISTORY

LOG = "log.txt"
_POLL_SECONDS = 0.5


@dataclass
class _Job:
    run: Run
    process: subprocess.Popen[bytes]
    log: IO[bytes]


def do_runs(runs: Sequence[Run], *, jobs: int, gpus: Sequence[str] = (), quiet: bool = False) -> dict[Run, str]:
    """Do all runs that are not done.

    Args:
        runs: the runs.
        jobs: how many at a time; they share the cores.
        gpus: ids for ``CUDA_VISIBLE_DEVICES``, given to the jobs in turn.
        quiet: no progress.

    Returns:
        The runs that failed, with the last line of their log.
    """
    waiting = [(number, run) for number, run in enumerate(runs) if not run.record.exists()]
    failed: dict[Run, str] = {}
    running: list[_Job] = []
    display = _Display(len(runs), len(runs) - len(waiting), quiet)
    with display.bar:
        try:
            while waiting or running:
                while waiting and len(running) < (jobs if _images_prepared(runs) else 1):
                    number, run = waiting.pop(0)
                    running.append(_start(run, jobs, gpus[number % len(gpus)] if gpus else None))
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    job.log.close()
                    if not job.run.record.exists():
                        failed[job.run] = last_line(job.run.folder / LOG)
                    display.finished(job.run, failed.get(job.run))
                display.running([job.run for job in running])
                time.sleep(_POLL_SECONDS)
        finally:
            for job in running:
                job.process.terminate()
                job.process.wait()
                job.log.close()
    return failed


def _images_prepared(runs: Sequence[Run]) -> bool:
    """Whether a first epoch has filled the cache: side by side, first epochs would prepare the same images twice."""
    return any((run.folder / HISTORY).exists() for run in runs)


def _start(run: Run, jobs: int, gpu: str | None) -> _Job:
    spec = run.folder / "spec.json"
    write_bytes(spec, (json.dumps(run.spec, indent=2) + "\n").encode())
    environment = {**os.environ, "PNEUMONAI_PROGRESS": "0"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    log = (run.folder / LOG).open("ab")
    command = [sys.executable, "-m", "pneumonai.pipeline.comparison.run", str(spec)]
    # Where a library reads the terminal or a signal for all, Ctrl-C must reach this process alone.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    return _Job(run, process, log)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "no word in its log")


def epoch_of(log: Path) -> str:
    """How far a run is by its log, as ``epoch 3``; empty before its first."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            found = re.findall(rb"Epoch\[(\d+)\]", file.read())
    except OSError:
        return ""
    return f"epoch {int(found[-1])}" if found else "preparing"


class _Display:
    """A line for each run that ends; on a terminal a bar below, with what is left and what is at work."""

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.quiet, self.total, self.done = quiet, total, done
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = quiet or not self.console.is_terminal
        now = TextColumn("{task.fields[now]}")
        self.bar = Progress(*columns, TimeRemainingColumn(), now, console=self.console, disable=hidden)
        self.task = self.bar.add_task("runs", total=total, completed=done, now="")

    def finished(self, run: Run, problem: str | None) -> None:
        """A run has ended."""
        self.done += 1
        self.bar.advance(self.task)
        if not self.quiet:
            end = "done" if problem is None else f"FAILED ({problem})"
            self.console.print(f"{self.done} of {self.total}: {run.name}: {end}", highlight=False, markup=False)

    def running(self, runs: Sequence[Run]) -> None:
        """These are at work."""
        self.bar.update(self.task, now="; ".join(f"{run.name}: {epoch_of(run.folder / LOG)}" for run in runs))
