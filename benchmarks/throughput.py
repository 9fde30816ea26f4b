"""Scans a minute of ``pneumonai predict`` on many studies, against what the machine allows, and memory over the run.

    pneumonai phantom --kind all --count 17 --seed 7000 --format dicom --output studies
    python benchmarks/throughput.py studies --limit 50 --figure docs/figures/throughput_memory.png

The bound is what no arrangement of the steps can beat: the larger of the slowest step and of all CPU seconds over the
cores. The first study, which is read while torch and the network load, is left out of both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil
from machine import describe_machine, refuse_when_busy
from matplotlib.figure import Figure

from pneumonai.pipeline.batch import Outcome, run_batch
from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.metrics.figures import save_figure
from pneumonai.pipeline.predict import Options
from pneumonai.pipeline.sources import find_studies


class Watch(threading.Thread):
    """Notes the memory of this process and its children twice a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.started_at = time.perf_counter()
        self.samples: list[tuple[float, float]] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Sample until told that it is over."""
        process = psutil.Process()
        while not self.over.wait(0.5):
            memory = 0
            for one in [process, *process.children(recursive=True)]:
                try:
                    memory += one.memory_info().rss
                except psutil.Error:
                    continue  # a decoder that has just ended
            self.samples.append((time.perf_counter() - self.started_at, memory / 1e9))


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = psutil.Process().cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def draw(samples: list[tuple[float, float]], finished: list[float], path: Path) -> None:
    """Memory over time, a mark on the axis for each study that is done."""
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*samples, strict=True), color="#0072B2", linewidth=1.2)
    axes.plot(finished, [0.0] * len(finished), "|", color="#D55E00", markersize=8, label="study done")
    axes.set(xlabel="seconds", ylabel="memory in use (GB)", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, path)


def main() -> None:
    """Run the batch, print steps, rate and bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, help="a folder of studies")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--no-report", action="store_true")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--force", action="store_true", help="run on a busy machine")
    arguments = parser.parse_args()
    print(describe_machine())
    refuse_when_busy(force=arguments.force)
    sources = find_studies([arguments.studies])[: arguments.limit]
    bundle = find_bundle("nl_ran_ct_classification")

    def load_model() -> object:
        from pneumonai.pipeline.model import Model

        return Model(bundle)

    watch = Watch()
    watch.start()
    with tempfile.TemporaryDirectory() as folder:
        outcomes: list[Outcome] = []
        finished: list[float] = []
        options = Options(report=not arguments.no_report)
        for outcome in run_batch(sources, bundle, Path(folder), options, load_model):  # type: ignore[arg-type]
            if outcome.error is not None:
                raise SystemExit(f"error: {outcome.error.line()}")
            outcomes.append(outcome)
            finished.append(time.perf_counter() - watch.started_at)
            if len(outcomes) == 1:
                used, began = cpu_seconds(), time.perf_counter()
        wall, cpu = time.perf_counter() - began, cpu_seconds() - used
    watch.over.set()
    watch.join()
    done = len(outcomes) - 1
    cores = len(psutil.Process().cpu_affinity())
    steps: dict[str, list[float]] = {}
    for outcome in outcomes[1:]:
        for step, seconds in outcome.result.timing_s.items():  # type: ignore[union-attr]
            steps.setdefault(step, []).append(seconds)
    means = {step: statistics.fmean(values) for step, values in steps.items()}
    print(f"\n{done} studies after the first: {wall:.1f} s, {60 * done / wall:.1f} scans a minute")
    print("  steps (mean s): " + ", ".join(f"{step} {seconds:.2f}" for step, seconds in means.items()))
    slowest = max(means, key=means.__getitem__)
    share = cpu / done / cores
    bound = max(means[slowest], share)
    print(f"  CPU {cpu / done:.2f} s a study, over {cores} cores {share:.2f} s")
    print(f"  slowest step: {slowest}, {means[slowest]:.2f} s")
    print(f"  bound {bound:.2f} s a study, reached {100 * bound * done / wall:.0f} %")
    memory = [value for second, value in watch.samples if second >= finished[0]]
    thirds = [max(memory[i * len(memory) // 3 : (i + 1) * len(memory) // 3]) for i in range(3)]
    print("  largest memory in each third of the run: " + ", ".join(f"{value:.2f} GB" for value in thirds))
    if arguments.figure:
        draw(watch.samples, finished, arguments.figure)


if __name__ == "__main__":
    main()
