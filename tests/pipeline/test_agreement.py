"""When the answers of several bundles agree, and when a reader is asked for, on rows made by hand."""

from __future__ import annotations

import pytest

from pneumonai.pipeline.agreement import FAILED, NO_VERDICT, PNEUMONIA, Row, compare, joint_refer


def said(bundle: str, verdict: str, *, counted: bool = True, reason: str | None = None) -> Row:
    covid = verdict in ("ncp", "covid")
    return Row(bundle, verdict=verdict, counted=counted, covid=covid, refer=reason is not None, refer_reason=reason)


def marked(percent: float | None, *, limit: float | None = 1.0, counted: bool = True) -> Row:
    return Row("mask", infection_percent=percent, infected_from_percent=limit, counted=counted)


@pytest.mark.parametrize(
    ("verdicts", "agree", "answer"),
    [
        (["ncp", "covid"], True, "covid"),
        (["cp", "noncovid"], True, "not covid"),
        (["normal", "cap"], True, "not covid"),
        (["normal", "noncovid", "covid"], False, None),
        (["covid"], None, "covid"),
        ([], None, None),
    ],
)
def test_verdicts_are_compared_as_covid_or_not(verdicts: list[str], agree: bool | None, answer: str | None) -> None:
    rows = [said(f"b{number}", verdict) for number, verdict in enumerate(verdicts)]
    found = compare(rows)
    assert (found.agree, found.answer) == (agree, answer)
    assert sorted([*found.covid, *found.not_covid]) == [row.bundle for row in rows]
    refer, reason = joint_refer(rows, found)
    assert refer is (None if not verdicts else agree is False)
    assert (reason is not None) == bool(refer)


def test_weights_that_saw_phantoms_alone_are_shown_and_not_counted() -> None:
    rows = [said("phantoms", "normal", counted=False, reason="confidence 0.4 is below 0.5"), said("patients", "covid")]
    found = compare(rows)
    assert (found.agree, found.answer, found.not_counted) == (None, "covid", ["phantoms"])
    assert joint_refer(rows, found) == (False, None)
    alone = rows[:1]
    assert joint_refer(alone, compare(alone)) == (True, NO_VERDICT)


@pytest.mark.parametrize("verdict", ["normal", "noncovid", *sorted(PNEUMONIA)])
@pytest.mark.parametrize(("percent", "against"), [(1.5, {"normal"}), (0.5, PNEUMONIA), (1.0, set()), (None, set())])
def test_a_mask_contradicts_normal_above_its_share_and_pneumonia_below(
    verdict: str, percent: float | None, against: set[str]
) -> None:
    rows = [said("names", verdict), marked(percent)]
    found = compare(rows)
    assert bool(found.contradictions) == (verdict in against)
    told = verdict != "noncovid" and percent is not None
    assert found.agree is (None if not told else verdict not in against)
    refer, reason = joint_refer(rows, found)
    assert refer is bool(verdict in against)
    if refer:
        place = "above" if verdict == "normal" else "below"
        assert reason == f"mask marks {percent:.1f} % of the lungs ({place} 1 %), names says {verdict}"


@pytest.mark.parametrize("mask", [marked(5.0, limit=None), marked(5.0, counted=False)])
def test_a_mask_without_a_limit_or_that_does_not_count_contradicts_nothing(mask: Row) -> None:
    assert compare([said("names", "normal"), mask]).contradictions == []


def test_what_failed_takes_no_part() -> None:
    rows = [said("a", "covid"), Row("b", status=FAILED, error="broken"), said("c", "covid")]
    found = compare(rows)
    assert found.agree is True
    assert joint_refer(rows, found) == (False, None)
    failed = rows[1:2]
    assert joint_refer(failed, compare(failed)) == (None, None)


def test_a_reason_that_several_give_is_told_once_with_their_names() -> None:
    rows = [said("a", "covid", reason="lungs cut off"), said("b", "covid", reason="lungs cut off"), marked(3.0)]
    rows.append(said("c", "ncp", reason="confidence 0.60 is below 0.75"))
    refer, reason = joint_refer(rows, compare(rows))
    assert refer is True
    assert reason == "a, b: lungs cut off; c: confidence 0.60 is below 0.75"


def test_a_mask_alone_has_no_verdict_to_be_referred() -> None:
    assert joint_refer([marked(3.0)], compare([marked(3.0)])) == (None, None)
