"""The joint answer as a file and as a page, made of rows by hand."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image

from pneumonai.pipeline.agreement import FAILED, Row, compare, joint_refer
from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.joint_json import Joint, joint_schema, read_joint_json, write_joint_json
from pneumonai.pipeline.outputs.joint_report import common_warnings, joint_headline, write_joint_report

LONG = "a_bundle_with_a_rather_long_name_that_somebody_chose"


def classes(*shares: tuple[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "probability": share} for name, share in shares]


def named(bundle: str, verdict: str, *, counted: bool = True, **fields: Any) -> Row:
    made: dict[str, Any] = {
        "version": "0.1.0",
        "weights_sha256": "a" * 64,
        "trained_on": "x",
        "notice": "trained on x, not for clinical use",
        "counted": counted,
        "covid": verdict == "covid",
        "verdict": verdict,
        "confidence": 0.8,
        "classes": classes(("noncovid", 0.2), ("covid", 0.8)),
        "refer": False,
        "result": f"{bundle}/result.json",
        "report": f"{bundle}/report.html",
        "seconds": 1.5,
    }
    return Row(bundle, **made | fields)


MARKED = Row(
    "marks", counted=True, infection_ml=1234.0, infection_percent=20.0, infected_from_percent=1.0, refer=None,
    result="marks/result.json",
)  # fmt: skip


def joined(*rows: Row, **fields: Any) -> Joint:
    study: dict[str, Any] = {
        "id": "s",
        "path": "in/s",
        "modality": "CT",
        "kind": "volume",
        "series_uid": None,
        "study_uid": None,
        "shape": [4, 5, 6],
        "spacing": [1.0, 1.0, 2.5],
        "converted": ["slices sorted"],
        "fingerprint": "f",
        "synthetic": False,
    }
    agreement = compare(rows)
    refer, reason = joint_refer(rows, agreement)
    made = {"files": ["joint.json", "report.html"], "timing_s": {"read": 0.5}, "software": {"torch": "2.13.0"}}
    return Joint(study | fields, list(rows), agreement, refer, reason, **made)  # type: ignore[arg-type]


EVERY = joined(
    named("one", "covid", warnings=["lungs cut off", "noise"]),
    named(LONG, "noncovid", refer=True, refer_reason="confidence 0.60 is below 0.88", warnings=["lungs cut off"]),
    named("phantoms", "covid", counted=False, trained_on_phantoms_alone=True, warnings=["lungs cut off"]),
    named("normals", "normal", warnings=["lungs cut off"]),
    Row("broken", status=FAILED, error="broken: there is no weights file; take a whole copy"),
    MARKED,
)


def test_it_is_read_back_as_it_was_and_fits_the_schema(tmp_path: Path) -> None:
    write_joint_json(EVERY, tmp_path / "joint.json")
    jsonschema.validate(json.loads((tmp_path / "joint.json").read_text()), joint_schema())
    read = read_joint_json(tmp_path / "joint.json")
    assert read == EVERY and read.says_the_same(EVERY)
    assert not read.says_the_same(joined(MARKED))
    document = json.loads((tmp_path / "joint.json").read_text())
    assert document["agreement"]["contradictions"] == [
        "marks marks 20.0 % of the lungs (above 1 %), normals says normal"
    ]
    for text in ("{", "[]", '{"rows": [{"bundle": "a", "unknown": 1}]}', '{"rows": []}'):
        (tmp_path / "joint.json").write_text(text)
        with pytest.raises(OutputError, match="no joint answer of this version"):
            read_joint_json(tmp_path / "joint.json")
    with pytest.raises(OutputError, match="cannot be read"):
        read_joint_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("rows", "headline", "note"),
    [
        ([named("a", "covid"), named("b", "covid")], "COVID-19", "2 verdicts that count agree"),
        ([named("a", "noncovid"), named("b", "cap")], "No COVID-19", "2 verdicts that count agree"),
        ([named("a", "covid"), MARKED], "COVID-19", "the mask of infection fits the verdict"),
        ([named("a", "covid")], "COVID-19", "one verdict alone, nothing to compare it with"),
        ([named("a", "covid"), named("b", "noncovid")], "The models differ", "a reader should decide"),
        ([named("a", "normal"), MARKED], "The models differ", "a reader should decide"),
        ([named("a", "covid", counted=False)], "No answer that counts", ""),
        ([MARKED], "Regions alone, no verdict", ""),
    ],
)
def test_the_headline(rows: list[Row], headline: str, note: str) -> None:
    assert joint_headline(joined(*rows)) == (headline, note)


def test_a_warning_of_all_names_nobody() -> None:
    assert common_warnings(EVERY.rows[:2]) == [("lungs cut off", ""), ("noise", "one")]


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    for name, picture in (("one", "pictures/axial.png"), (LONG, "pictures/overlay.png")):
        (tmp_path / name / "pictures").mkdir(parents=True)
        Image.new("RGB", (1088, 728), (90, 60, 60)).save(tmp_path / name / picture)
    write_joint_report(EVERY, tmp_path / "report.html")
    return tmp_path / "report.html"


def test_the_page_shows_every_answer_and_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    assert "Refer to a reader" in text and str(EVERY.refer_reason).split(";")[0] in text
    for row in EVERY.rows:
        assert row.bundle in text
        assert row.report is None or f'href="{row.report}"' in text
    assert "there is no weights file; take a whole copy" in text
    assert "not counted: its weights have seen phantoms alone".capitalize() in text
    assert "Infection: 20.0\u00a0% of both lungs" in text and "1\u202f234 ml" in text
    assert text.count("data:image/jpeg;base64,") == 2
    assert "Not for clinical use" in text
    outline = _Outline()
    outline.feed(text)
    assert "script" not in outline.tags and "link" not in outline.tags
    assert re.search(r"Content-Security-Policy\" content=\"default-src &#39;none&#39;", text)
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    levels = [int(tag[1]) for tag in outline.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert outline.tags.count("table") == outline.tags.count("caption")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (Row("a", infection_percent_of_picture=2.5), "Infection: 2.5\u00a0% of the picture"),
        (Row("a"), "<strong>Lungs</strong>"),
        (Row("a", verdict="cp", confidence=0.5, severity=3), "Severity 3"),
    ],
)
def test_other_kinds_of_answers(row: Row, words: str, tmp_path: Path) -> None:
    write_joint_report(joined(row), tmp_path / "report.html")
    assert words in (tmp_path / "report.html").read_text()


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    joint = joined(named("a", "covid", warnings=["<b>bold</b>"]), path="in/<script>alert(1)</script>")
    write_joint_report(joint, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text and "<b>bold</b>" not in text
    assert "&lt;script&gt;" in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found on PATH: the joint report is not tested in a browser")
def test_answers_stand_in_rows_and_below_each_other_on_a_phone(page: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, columns in ((1280, 3), (360, 1)):
            for scheme in ("light", "dark"):
                opened = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
                complaints: list[str] = []
                opened.on("console", lambda message, told=complaints: told.append(message.text))
                opened.goto(page.as_uri())
                boxes = [card.bounding_box() for card in opened.locator(".answers article").all()]
                assert len(boxes) == 6 and len({round(box["x"]) for box in boxes}) == columns
                assert opened.evaluate("() => document.documentElement.scrollWidth") == width
                grounds = opened.evaluate(
                    "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
                )
                assert (sum(grounds) < 200) == (scheme == "dark")
                assert complaints == []
                opened.context.close()
        browser.close()
