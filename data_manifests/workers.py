"""Work on many files over processes, results as they come, clean when interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pneumonai.data_manifests.errors import ManifestError

Job = TypeVar("Job")
Answer = TypeVar("Answer")
#: Starting processes takes as long as so many pictures.
_WORTH_PROCESSES = 100


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_through(
    function: Callable[[Job], Answer],
    jobs: Sequence[Job],
    *,
    workers: int | None = None,
    at_once: int = 16,
    worth: int = _WORTH_PROCESSES,
) -> Iterator[tuple[int, Answer]]:
    """Apply a function of a module to each job; pairs of position and answer, in order of completion.

    Args:
        function: found by name in the worker, so no lambda; what it raises comes out here.
        jobs: what it is given.
        workers: processes; None is one a core that this process may use; 1 works in this process.
        at_once: jobs sent to a worker in one piece.
        worth: with fewer jobs no process is started.

    Raises:
        ManifestError: a worker died (out of memory, or a decoder crashed).

    An interrupt (Ctrl-C) drops what has not begun and waits for the pieces at work.
    """
    workers = min(workers or usable_cores(), len(jobs))
    if workers <= 1 or len(jobs) < worth:
        for number, job in enumerate(jobs):
            yield number, function(job)
        return
    pieces = iter(range(0, len(jobs), at_once))
    # Spawned, not forked: the caller may hold threads.
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_parent
    )
    pending: dict[Future[list[Answer]], int] = {}
    try:
        while True:
            while len(pending) < 2 * workers and (start := next(pieces, None)) is not None:
                pending[pool.submit(_piece, function, jobs[start : start + at_once])] = start
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                start = pending.pop(future)
                yield from enumerate(future.result(), start)
    except BrokenProcessPool as error:
        raise ManifestError(
            "workers", "a worker process died (out of memory, or a decoder crashed)", "try --workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _piece(function: Callable[[Job], Answer], jobs: Sequence[Job]) -> list[Answer]:
    return [function(job) for job in jobs]


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
