"""Severity 0 to 8 by hand; when it is given, and what is said where it is not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pneumonai.pipeline.lungs_in import NO_SEVERITY
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.severity import add_severity, severity_score, share_score
from pneumonai.pipeline.study import Modality


def chest(right_share: float, left_share: float) -> tuple[np.ndarray, np.ndarray]:
    """Two lungs of 100 pixels; the share of each, from above, is hot; what lies outside is hotter still, and colder."""
    lungs = np.zeros((12, 24), np.uint8)
    lungs[1:11, 1:11], lungs[1:11, 13:23] = 1, 2
    heat_map = np.full(lungs.shape, 255, np.uint8)
    heat_map[11] = 0
    for label, share in ((1, right_share), (2, left_share)):
        values = np.full(100, 20, np.uint8)
        values[: round(100 * share)] = 60
        heat_map[lungs == label] = values
    return heat_map, lungs


@pytest.mark.parametrize(
    ("shares", "parts"),
    [
        ((0.1, 0.3), (1, 2)),
        ((0.24, 0.25), (1, 2)),
        ((0.49, 0.5), (2, 3)),
        ((0.75, 0.76), (3, 4)),
        ((0.0, 1.0), (0, 4)),
    ],
)
def test_scores_of_table_3_by_hand(shares: tuple[float, float], parts: tuple[int, int]) -> None:
    made = severity_score(*chest(*shares))
    assert made is not None
    assert made["parts"] == dict(zip(("right", "left"), parts, strict=True))
    assert (made["score"], made["maximum"]) == (sum(parts), 8)


def test_half_of_the_range_within_the_lungs_counts() -> None:
    """Values 20 and 60 have the middle 40, which is not above it; 41 is."""
    heat_map, lungs = chest(0.1, 0.1)
    heat_map[lungs == 1] = np.where(heat_map[lungs == 1] == 20, 40, 60)
    heat_map[lungs == 2] = np.where(heat_map[lungs == 2] == 20, 41, 20)
    made = severity_score(heat_map, lungs)
    assert made is not None
    assert made["parts"] == {"right": 1, "left": 4}
    again = severity_score(heat_map / 8.0 - 3.0, lungs)
    assert again == made
    assert severity_score(np.full(lungs.shape, 9, np.uint8), lungs)["score"] == 0  # type: ignore[index]
    assert [share_score(share) for share in (0.0, 1e-9, 1.0)] == [0, 1, 4]


def given(verdict: str = "covid", modality: Modality = Modality.CXR, answers: tuple[str, ...] = ("normal", "covid")):
    study: Any = SimpleNamespace(modality=modality)
    bundle: Any = SimpleNamespace(answers=list(answers))
    return Result(study={}, bundle={}, verdict=verdict), study, bundle


def test_severity_is_given_for_an_xray_with_the_verdict_covid_alone() -> None:
    heat_map, lungs = chest(0.3, 0.9)
    maps = Maps(heat_map=heat_map, lungs=lungs)
    result, study, bundle = given()
    add_severity(result, study, bundle, maps)
    assert result.severity is not None
    assert result.severity["score"] == 6
    others = [given("normal"), given(modality=Modality.CT), given(answers=("normal", "ncp"))]
    for result, study, bundle in others:
        add_severity(result, study, bundle, maps)
        assert result.severity is None
    result, study, bundle = given()
    for partial in (replace(maps, lungs=None), replace(maps, heat_map=None)):
        add_severity(result, study, bundle, partial)
    assert result.severity is None
    assert result.warnings == []


def test_an_empty_lung_gives_no_severity_and_the_reason_once() -> None:
    heat_map, lungs = chest(0.3, 0.9)
    maps = Maps(heat_map=heat_map, lungs=np.where(lungs == 1, 0, lungs))
    result, study, bundle = given()
    add_severity(result, study, bundle, maps)
    assert result.severity is None
    assert result.warnings == [f"the right lung is empty in the lung mask, {NO_SEVERITY}"]
    add_severity(result, study, bundle, maps)
    assert len(result.warnings) == 1
