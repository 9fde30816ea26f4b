"""The joint ``report.html`` of a study: the answers of several bundles side by side, and how they go together.

Like the bundles' own reports it asks for nothing: pictures and style are inside, and it has no script. It is made of
``joint.json`` and the pictures that lie in the bundles' folders, so that it can be made again when a row changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from pneumonai.pipeline.agreement import DONE, Agreement, Row
from pneumonai.pipeline.outputs import report_content as content
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.outputs.joint_json import Joint
from pneumonai.pipeline.outputs.page import environment, jpeg, part, policy

PICTURES = ("pictures/axial.png", "pictures/overlay.png")
PICTURE_WIDTH = 720


@dataclass(frozen=True)
class Card:
    """One bundle's answer as it is shown.

    Attributes:
        row: the answer.
        headline: the verdict, or the size of the infection, in words; empty where it failed.
        note: what stands small behind it.
        bars: its classes.
        says: how it counts in the comparison.
        picture: address of its picture, with what is laid over.
        report: addresses of its own report and data, relative to the page.
        result: likewise.
    """

    row: Row
    headline: str
    note: str
    bars: list[content.Bar]
    says: str
    picture: str | None
    report: str | None
    result: str | None


def write_joint_report(joint: Joint, path: str | Path) -> None:
    """Write the joint report of one study.

    Args:
        joint: the joint answer.
        path: the file, usually ``OUTPUT/STUDY/report.html``; the bundles' folders lie beside it.

    Raises:
        OutputError: the file cannot be written.
    """
    path = Path(path)
    style = part("report_style.html") + part("joint_style.html")
    headline, note = joint_headline(joint)
    page = (
        environment()
        .get_template("joint_report.html")
        .render(
            joint=joint,
            # Ours and safe as it is; nothing in it comes from a study.
            style=Markup(style),
            policy=policy(style),
            modality=content.MODALITY_WORDS.get(str(joint.study.get("modality")), "Chest study"),
            headline=headline,
            note=note,
            sides=sides(joint.agreement),
            cards=[_card(row, path.parent) for row in joint.rows],
            warnings=common_warnings(joint.rows),
            study_rows=content.rows_of_study(joint.study),
            timing=content.steps_of(joint.timing_s),
            done=sum(row.status == DONE for row in joint.rows),
        )
    )
    write_bytes(path, page.encode())


def joint_headline(joint: Joint) -> tuple[str, str]:
    """What the bundles say together, and how that came about, in words."""
    agreement = joint.agreement
    if agreement.agree is False:
        return "The models differ", "a reader should decide"
    words = {"covid": "COVID-19", "not covid": "No COVID-19"}.get(agreement.answer or "", "")
    count = len(agreement.covid) + len(agreement.not_covid)
    if not words:
        has_verdict = any(row.verdict is not None for row in joint.rows)
        return ("No answer that counts", "") if has_verdict else ("Regions alone, no verdict", "")
    if agreement.agree:
        return words, f"{count} verdicts that count agree" if count > 1 else "the mask of infection fits the verdict"
    return words, "one verdict alone, nothing to compare it with"


def sides(agreement: Agreement) -> list[tuple[str, str]]:
    """Who says what, for the table of the joint answer; empty sides are left out."""
    named = [
        ("COVID-19", agreement.covid),
        ("No COVID-19", agreement.not_covid),
        ("Not counted", agreement.not_counted),
    ]
    return [(words, ", ".join(bundles)) for words, bundles in named if bundles]


def common_warnings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each warning once, with the bundles that gave it where not all that answered did."""
    done = [row for row in rows if row.status == DONE]
    by_warning: dict[str, list[str]] = {}
    for row in done:
        for warning in dict.fromkeys(row.warnings):
            by_warning.setdefault(warning, []).append(row.bundle)
    return [
        (warning, "" if len(bundles) == len(done) else ", ".join(bundles)) for warning, bundles in by_warning.items()
    ]


def _card(row: Row, folder: Path) -> Card:
    headline, note = _headline(row)
    return Card(
        row=row,
        headline=headline,
        note=note,
        bars=content.bars_of(row.classes, row.verdict),
        says=_says(row),
        picture=_picture(folder / row.bundle) if row.status == DONE else None,
        report=None if row.report is None else quote(row.report),
        result=None if row.result is None else quote(row.result),
    )


def _headline(row: Row) -> tuple[str, str]:
    if row.status != DONE:
        return "", ""
    if row.verdict is not None:
        note = "" if row.confidence is None else f"confidence {100 * row.confidence:.0f}\u00a0%"
        return content.class_words(row.verdict), note
    if row.infection_percent is not None:
        amount = "" if row.infection_ml is None else f"{row.infection_ml:,.0f} ml in all".replace(",", "\u202f")
        return f"Infection: {row.infection_percent:.1f}\u00a0% of both lungs", amount
    if row.infection_percent_of_picture is not None:
        return f"Infection: {row.infection_percent_of_picture:.1f}\u00a0% of the picture", ""
    return "Lungs", "marked in the picture"


def _says(row: Row) -> str:
    """How an answer counts in the comparison."""
    if row.status != DONE:
        return "failed"
    if not row.counted:
        return "not counted: its weights have seen phantoms alone"
    if row.covid is not None:
        return "counts as COVID-19" if row.covid else "counts as no COVID-19"
    if row.infection_percent is not None and row.infected_from_percent is not None:
        return f"held against the verdicts (normal, or pneumonia from {row.infected_from_percent:g}\u00a0% on)"
    return "not compared"


def _picture(folder: Path) -> str | None:
    """A bundle's picture inside the page; None without a report of its own."""
    for name in PICTURES:
        if (folder / name).is_file():
            with Image.open(folder / name) as picture:
                small = picture.convert("RGB")
            small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
            return jpeg(small)
    return None
