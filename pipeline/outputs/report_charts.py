"""The report's charts: a result's numbers as SVG paths, ticks and words; ``report.html`` draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pneumonai.pipeline.outputs.lung_measures import CONSOLIDATION_HU, GROUND_GLASS_HU
from pneumonai.pipeline.outputs.report_content import class_words, slice_whole
from pneumonai.pipeline.result import Result

INFECTION_BANDS = ((*GROUND_GLASS_HU, "ground glass"), (*CONSOLIDATION_HU, "consolidation"))
"""Named between upright lines in the chart of the infection's densities."""

_WIDTH, _HEIGHT = 600.0, 140.0
_HEADROOM = 8.0
_ROUND_TOPS = (1, 2, 4, 6, 8, 10, 20, 30, 40, 60, 80, 100)
_ROUND_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_MOST_TICKS = 7
_LINE_STYLES = 4


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, at ``at`` along it."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One of several curves: its path, its name, and the number of its style."""

    path: str
    words: str
    style: int


@dataclass(frozen=True)
class Band:
    """A named range along the x axis."""

    start: float
    end: float
    words: str


@dataclass
class Chart:
    """A chart of ``width`` x ``height`` units, origin top left; ticks and words lie outside.

    Attributes:
        words: what is seen, for those who do not see it.
        x_words, y_words: names of the axes.
        areas: paths that are filled.
        lines: paths that are drawn.
    """

    words: str
    x_words: str
    y_words: str = ""
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    areas: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    width: float = _WIDTH
    height: float = _HEIGHT


def density_chart(
    histogram: dict[str, Any] | None, where: str, bands: Sequence[tuple[float, float, str]] = ()
) -> Chart | None:
    """A histogram of Hounsfield units as a path of steps, with ticks every 200 HU.

    Args:
        histogram: edges and counts, or None.
        where: what was counted, in words: "lungs".
        bands: ranges of HU to be named in the chart, each (low, high, name).

    Returns:
        The chart; None where nothing was counted.
    """
    if histogram is None or not sum(histogram["counts"]):
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    first, last, most = edges[0], edges[-1], max(counts)

    def x_of(value: float) -> float:
        return round((value - first) / (last - first) * _WIDTH, 1)

    steps = [f"M0 {_HEIGHT}"]
    for edge, following, count in zip(edges, edges[1:], counts, strict=False):
        y = _y_of(count, most)
        steps.append(f"L{x_of(edge)} {y}L{x_of(following)} {y}")
    steps.append(f"L{_WIDTH} {_HEIGHT}Z")
    shown = (value for value in range(-1000, 201, 200) if first <= value <= last)
    peak = edges[counts.index(most)]
    return Chart(
        words=f"Histogram of Hounsfield units inside the {where} from {first} to {last}, highest near {peak}",
        x_words="Hounsfield units",
        x_ticks=[Tick(x_of(value), str(value).replace("-", "−")) for value in shown],
        areas=["".join(steps)],
        bands=[Band(x_of(low), x_of(high), name) for low, high, name in bands],
    )


def slice_charts(result: Result) -> list[Chart]:
    """The answers over the slices, from the feet to the head; none where fewer than two slices are answered.

    A segmentation gives the infected share as an area, a classification the probability of each class as a line (of
    two classes the last alone: the first is what it leaves of 100 %). Slices without an answer are left empty.
    """
    if len(result.slices or []) < 2:
        return []
    return [chart for chart in (_share_chart(result), _class_chart(result)) if chart is not None]


def _share_chart(result: Result) -> Chart | None:
    slices = result.slices or []
    given = {one["index"]: one.get("infection_percent") for one in slices}
    shares = {index: float(share) for index, share in given.items() if share is not None}
    if not shares:
        return None
    what = f"Infected share of the {slice_whole(result)}"
    top = next((top for top in _ROUND_TOPS if top >= max(shares.values())), 100)
    highest = max(shares, key=lambda index: shares[index])
    x_of, x_ticks = _slice_axis(slices)
    return Chart(
        words=f"{what}, slice by slice from the feet to the head; highest in slice {highest + 1}, "
        f"{shares[highest]:.1f} %",
        x_words="Slice, from the feet to the head",
        y_words=f"{what} (%)",
        x_ticks=x_ticks,
        y_ticks=_percent_ticks(top),
        areas=_steps(shares, x_of, top, closed=True),
    )


def _class_chart(result: Result) -> Chart | None:
    slices = [one for one in result.slices or [] if one["classes"]]
    if not slices:
        return None
    names = [item["name"] for item in slices[0]["classes"]]
    shown = names[-1:] if len(names) == 2 else names
    what = f"Probability of {class_words(shown[0])}" if len(shown) == 1 else "Probability of each class"
    x_of, x_ticks = _slice_axis(slices)
    lines: list[Line] = []
    for number, name in enumerate(shown):
        values = {
            one["index"]: 100.0 * next(item["probability"] for item in one["classes"] if item["name"] == name)
            for one in slices
        }
        path = "".join(_steps(values, x_of, 100, closed=False))
        lines.append(Line(path, class_words(name), number % _LINE_STYLES))
    return Chart(
        words=f"{what}, slice by slice from the feet to the head",
        x_words="Slice, from the feet to the head",
        y_words=f"{what} (%)",
        x_ticks=x_ticks,
        y_ticks=_percent_ticks(100),
        lines=lines,
    )


def _slice_axis(slices: list[dict[str, Any]]) -> tuple[Callable[[float], float], list[Tick]]:
    """Where a slice begins along the axis, by its index; and ticks at round slice numbers, which count from 1."""
    first, last = min(one["index"] for one in slices), max(one["index"] for one in slices)
    count = last - first + 1

    def x_of(index: float) -> float:
        return round((index - first) / count * _WIDTH, 1)

    step = next((step for step in _ROUND_STEPS if count / step <= _MOST_TICKS), count)
    numbers = (number for number in range(first + 1, last + 2) if number % step == 0)
    return x_of, [Tick(x_of(number - 0.5), str(number)) for number in numbers]


def _percent_ticks(top: float) -> list[Tick]:
    return [Tick(_y_of(value, top), f"{value:g}") for value in (0, top / 2, top)]


def _y_of(value: float, top: float) -> float:
    return round(_HEIGHT - min(value, top) / top * (_HEIGHT - _HEADROOM), 1)


def _steps(values: dict[int, float], x_of: Callable[[float], float], top: float, *, closed: bool) -> list[str]:
    """A path of steps for every run of neighbouring slices, closed down to the axis or open."""
    runs: list[list[int]] = []
    for index in sorted(values):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    paths: list[str] = []
    for run in runs:
        levels = ((index, _y_of(values[index], top)) for index in run)
        points = "L".join(f"{x_of(index)} {y}L{x_of(index + 1)} {y}" for index, y in levels)
        if closed:
            points = f"{x_of(run[0])} {_HEIGHT}L{points}L{x_of(run[-1] + 1)} {_HEIGHT}Z"
        paths.append("M" + points)
    return paths
