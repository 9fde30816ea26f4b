from __future__ import annotations

import re

import pytest

from pneumonai.pipeline.outputs.report_charts import INFECTION_BANDS, density_chart, slice_charts
from pneumonai.pipeline.result import Result


def classified(index: int, *shares: float) -> dict:
    names = ("normal", "ncp", "cp") if len(shares) == 3 else ("noncovid", "covid")
    return {"index": index, "classes": [{"name": n, "probability": p} for n, p in zip(names, shares, strict=True)]}


def measured(index: int, percent: float | None) -> dict:
    return {"index": index, "position_mm": 0.0, "classes": None, "infection_percent": percent}


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_the_infected_share_is_an_area_of_steps_with_gaps() -> None:
    slices = [measured(10, 0.0), measured(11, 20.0), measured(14, 5.0)]
    (chart,) = slice_charts(Result({}, {}, slices=slices, lungs={"total_ml": 1.0}))
    assert (chart.x_words, chart.y_words) == ("Slice, from the feet to the head", "Infected share of the lung (%)")
    assert chart.words.endswith("highest in slice 12, 20.0 %")
    # Five slices of 120 units; 20 % is the top, 8 of 140 units below the edge.
    assert [points(area) for area in chart.areas] == [
        [(0, 140), (0, 140), (120, 140), (120, 8), (240, 8), (240, 140)],
        [(480, 140), (480, 107), (600, 107), (600, 140)],
    ]
    assert [(tick.at, tick.text) for tick in chart.y_ticks] == [(140, "0"), (74, "10"), (8, "20")]
    assert [(tick.at, tick.text) for tick in chart.x_ticks] == [
        (60, "11"), (180, "12"), (300, "13"), (420, "14"), (540, "15")
    ]  # fmt: skip


def test_two_classes_give_one_line_and_three_give_three() -> None:
    (chart,) = slice_charts(Result({}, {}, slices=[classified(0, 0.75, 0.25), classified(1, 0.0, 1.0)]))
    assert chart.y_words == "Probability of COVID-19 (%)"
    assert [points(line.path) for line in chart.lines] == [[(0, 107), (300, 107), (300, 8), (600, 8)]]
    assert chart.areas == []
    (chart,) = slice_charts(Result({}, {}, slices=[classified(3, 0.5, 0.25, 0.25), classified(4, 1.0, 0.0, 0.0)]))
    assert [line.words for line in chart.lines] == ["Normal", "COVID-19 pneumonia (NCP)", "Common pneumonia (CP)"]
    assert len({line.style for line in chart.lines}) == 3


@pytest.mark.parametrize("slices", [None, [], [measured(3, 1.0)], [measured(3, None), measured(4, None)]])
def test_no_chart_where_there_is_nothing_to_compare(slices: list[dict] | None) -> None:
    assert slice_charts(Result({}, {}, slices=slices)) == []


def test_many_slices_have_few_ticks() -> None:
    (chart,) = slice_charts(Result({}, {}, slices=[measured(index, 0.3) for index in range(7, 307)]))
    assert [tick.text for tick in chart.x_ticks] == ["50", "100", "150", "200", "250", "300"]
    assert [tick.text for tick in chart.y_ticks] == ["0", "0.5", "1"]
    assert chart.y_words == "Infected share of the slice (%)"


def test_the_infection_s_histogram_names_ground_glass_and_consolidation() -> None:
    histogram = {"edges": [-1050, -800, -550, -300, -50, 200], "counts": [0, 1, 4, 2, 0]}
    chart = density_chart(histogram, "infection", INFECTION_BANDS)
    assert chart is not None
    assert chart.words == "Histogram of Hounsfield units inside the infection from -1050 to 200, highest near -550"
    assert [(band.start, band.end, band.words) for band in chart.bands] == [
        (144, 360, "ground glass"),
        (360, 528, "consolidation"),
    ]
    assert [tick.text for tick in chart.x_ticks] == ["−1000", "−800", "−600", "−400", "−200", "0", "200"]
    assert points(chart.areas[0])[5:7] == [(240, 8), (360, 8)]
    assert density_chart({"edges": [0, 1], "counts": [0]}, "infection") is None
    assert density_chart(None, "lungs") is None
