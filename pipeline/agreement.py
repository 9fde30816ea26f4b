"""Do the answers of several bundles agree, and should a reader decide? From rows alone, whoever made them.

Verdicts are compared as covid (``ncp``, ``covid``) against not covid, since the bundles' classes differ. Weights that
have seen phantoms alone say nothing of a patient: on a patient's study their verdict is shown and not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pneumonai.pipeline.bundle import Bundle
from pneumonai.pipeline.errors import PneumonaiError
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.study_folder import RESULT

DONE, FAILED = "done", "failed"
COVID = frozenset({"ncp", "covid"})
PNEUMONIA = COVID | {"cp", "cap"}
NORMAL = "normal"
NO_VERDICT = "no verdict of weights trained on patients"


@dataclass
class Row:
    """What one bundle said of a study, or why it said nothing; a field of ``rows`` in ``joint.json``.

    Attributes:
        bundle: its name; empty where no bundle could be asked.
        status: done or failed.
        error: why it failed, in one line.
        version: of the bundle; ``weights_sha256``, ``trained_on``, ``notice`` as in ``result.json``.
        trained_on_phantoms_alone: whether its weights have seen no patient.
        counted: whether its verdict, or its mask, is compared with the others'.
        covid: whether its verdict says COVID-19; None where it has no verdict, or no class for it.
        verdict: as in ``result.json``; ``confidence``, ``classes``, ``refer``, ``refer_reason``, ``warnings`` too.
        infection_ml: of the mask; ``infection_percent`` of the lungs, ``infection_percent_of_picture`` where no lungs
            are known.
        infected_from_percent: share of the lungs from which the mask contradicts ``normal``.
        severity: score of an X-ray.
        result: path of its ``result.json`` from the study's folder; ``report`` of its report, None without.
        seconds: of the steps that it does not share with others.
    """

    bundle: str
    status: str = DONE
    error: str | None = None
    version: str | None = None
    weights_sha256: str | None = None
    trained_on: str | None = None
    notice: str | None = None
    trained_on_phantoms_alone: bool = False
    counted: bool = False
    covid: bool | None = None
    verdict: str | None = None
    confidence: float | None = None
    classes: list[dict[str, Any]] | None = None
    infection_ml: float | None = None
    infection_percent: float | None = None
    infection_percent_of_picture: float | None = None
    infected_from_percent: float | None = None
    severity: int | None = None
    refer: bool | None = None
    refer_reason: str | None = None
    warnings: list[str] = field(default_factory=list)
    result: str | None = None
    report: str | None = None
    seconds: float | None = None


def answered(bundle: Bundle, result: Result, *, synthetic: bool) -> Row:
    """The row of an answer.

    Args:
        bundle: who answered.
        result: what it said.
        synthetic: whether the study is a phantom, of which weights trained on phantoms may speak.
    """
    infection = result.infection or {}
    knows_covid = result.verdict is not None and not COVID.isdisjoint(bundle.answers)
    return Row(
        bundle=bundle.name,
        version=result.bundle.get("version"),
        weights_sha256=result.bundle.get("weights_sha256"),
        trained_on=result.bundle.get("trained_on"),
        notice=result.notice,
        trained_on_phantoms_alone=bundle.trained_on_phantoms_alone,
        counted=synthetic or not bundle.trained_on_phantoms_alone,
        covid=result.verdict in COVID if knows_covid else None,
        verdict=result.verdict,
        confidence=result.confidence,
        classes=result.classes,
        infection_ml=infection.get("total_ml"),
        infection_percent=infection.get("total_percent"),
        infection_percent_of_picture=infection.get("percent_of_picture"),
        infected_from_percent=bundle.infected_from_percent,
        severity=None if result.severity is None else result.severity["score"],
        refer=result.refer,
        refer_reason=result.refer_reason,
        warnings=list(result.warnings),
        result=f"{bundle.name}/{RESULT}",
        report=f"{bundle.name}/report.html" if "report.html" in result.files else None,
        seconds=round(sum(result.timing_s.values()), 3),
    )


def failed(bundle: Bundle | None, error: PneumonaiError) -> Row:
    """The row of a bundle that could not answer; of no bundle where none could be asked."""
    row = Row(bundle="" if bundle is None else bundle.name, status=FAILED, error=" ".join(error.line().split()))
    if bundle is not None:
        row.version = bundle.metadata.get("version")
        row.trained_on_phantoms_alone = bundle.trained_on_phantoms_alone
    return row


@dataclass
class Agreement:
    """How the answers of a study go together; ``agreement`` in ``joint.json``.

    Attributes:
        agree: None where there is nothing to compare.
        answer: ``covid`` or ``not covid``, where all verdicts that count say so.
        covid: bundles whose verdict counts and says covid; ``not_covid`` those that say something else.
        not_counted: bundles whose answer is shown and not counted.
        contradictions: masks against verdicts, in words.
    """

    agree: bool | None = None
    answer: str | None = None
    covid: list[str] = field(default_factory=list)
    not_covid: list[str] = field(default_factory=list)
    not_counted: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)


def compare(rows: Sequence[Row]) -> Agreement:
    """Hold the answers against each other: verdict against verdict, and mask against verdict."""
    done = [row for row in rows if row.status == DONE]
    counted = [row for row in done if row.counted]
    covid = [row.bundle for row in counted if row.covid]
    not_covid = [row.bundle for row in counted if row.covid is False]
    masks = [row for row in counted if row.infection_percent is not None and row.infected_from_percent is not None]
    verdicts = [row for row in counted if row.verdict in PNEUMONIA | {NORMAL}]
    contradictions = [words for mask in masks for row in verdicts if (words := _contradiction(mask, row))]
    compared = len(covid) + len(not_covid) > 1 or bool(masks and verdicts)
    return Agreement(
        agree=not (covid and not_covid) and not contradictions if compared else None,
        answer=None if bool(covid) == bool(not_covid) else "covid" if covid else "not covid",
        covid=covid,
        not_covid=not_covid,
        not_counted=[row.bundle for row in done if not row.counted],
        contradictions=contradictions,
    )


def _contradiction(mask: Row, row: Row) -> str | None:
    share, limit = mask.infection_percent, mask.infected_from_percent
    if share is None or limit is None:
        return None
    against = share > limit if row.verdict == NORMAL else share < limit
    if not against:
        return None
    return (
        f"{mask.bundle} marks {share:.1f} % of the lungs ({'above' if share > limit else 'below'} {limit:g} %), "
        f"{row.bundle} says {row.verdict}"
    )


def joint_refer(rows: Sequence[Row], agreement: Agreement) -> tuple[bool | None, str | None]:
    """Whether a reader should decide, and why: the models differ, a mask contradicts, or one that counts asks for it.

    Returns:
        ``refer``: None where no verdict came, or nothing at all; and the reasons in words, None without.
    """
    done = [row for row in rows if row.status == DONE]
    reasons = []
    if agreement.covid and agreement.not_covid:
        said = f"covid by {', '.join(agreement.covid)}, not covid by {', '.join(agreement.not_covid)}"
        reasons.append(f"the models differ: {said}")
    reasons += agreement.contradictions
    has_verdicts = any(row.verdict is not None for row in done)
    if has_verdicts and not any(row.counted and row.verdict is not None for row in done):
        reasons.append(NO_VERDICT)
    by_reason: dict[str, list[str]] = {}
    for row in done:
        if row.counted and row.refer_reason:
            by_reason.setdefault(row.refer_reason, []).append(row.bundle)
    reasons += [f"{', '.join(bundles)}: {reason}" for reason, bundles in by_reason.items()]
    return (True if reasons else False if has_verdicts else None), "; ".join(reasons) or None
