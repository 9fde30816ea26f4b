"""Descriptions: every one meets its schema, marks what is not verified, and agrees with the papers' printed counts."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from pneumonai.data_manifests.description import (
    description_names,
    description_schema,
    load_description,
    read_description,
)
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.pipeline.manifest_cli import manifest_app

NAMES = [
    "bimcv_covid19", "cc_ccii", "chest_xray_pneumonia", "chestxray14", "chestxray14_boxes", "covid_19_20",
    "covid_chestxray", "covid_ct", "covid_ct_md", "covid_semiseg", "covid_xray_5k", "radiopaedia_pneumonia",
    "sars_cov_2_ct", "sirm", "v7_covid_xray",
]  # fmt: skip
#: Addresses printed in the papers, or repositories that the read-me of the data at hand names.
PRINTED = {
    "http://ncov-ai.big.ac.cn/download",
    "https://github.com/ieee8023/covid-chestxray-dataset",
    "https://www.kaggle.com/paultimothymooney/chest-xray-pneumonia",
    "https://github.com/v7labs/covid-19-xray-dataset",
    "https://radiopaedia.org/articles/pneumonia",
    "https://www.sirm.org/category/senza-categoria/COVID-19/",
    "https://github.com/UCSD-AI4H/COVID-CT",
    "https://github.com/DengPingFan/Inf-Net",
    "https://github.com/ShahinSHH/COVID-CT-MD",
}


def facts(content: Any) -> Iterator[dict[str, Any]]:
    """Every statement with a standing, however deep."""
    if isinstance(content, dict):
        if "verified" in content:
            yield content
        for value in content.values():
            yield from facts(value)
    elif isinstance(content, list):
        for value in content:
            yield from facts(value)


def expressions(content: Any, key: str = "") -> Iterator[str]:
    """Every expression of the rules."""
    if isinstance(content, dict):
        for name, value in content.items():
            if key in ("map", "search"):
                yield name
            yield from expressions(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from expressions(value, key)
    elif key in ("path", "matches"):
        yield content


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(description_schema())


def test_all_datasets_are_described() -> None:
    assert description_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_description_meets_the_schema_and_says_what_it_knows(name: str) -> None:
    description = load_description(name)
    assert description.name == name and description.title.value and description.flaws
    assert all(fact["source"] for fact in facts(dict(description.content)))
    assert set(description.class_counts) <= set(description.classes)
    for expression in expressions(dict(description.build)):
        re.compile(expression)
    # A checksum cannot have been verified, and an address is verified only where it is printed.
    assert not re.search(r"\b[0-9a-f]{32,}\b", str(description.content))
    for fact in facts(dict(description.content)):
        link = fact.get("link") or fact.get("value")
        if isinstance(link, str) and link.startswith("http"):
            assert fact["verified"] == (link in PRINTED)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("cc_ccii", {"ncp": 1519, "cp": 1482, "normal": 1078}),
        ("covid_ct", {"covid": 349, "noncovid": 397}),
        ("sars_cov_2_ct", {"covid": 1252, "noncovid": 1230}),
        ("covid_xray_5k", {"covid": 71, "noncovid": 5000}),
        ("radiopaedia_pneumonia", {"cap": 304}),
        ("chestxray14_boxes", {"cap": 118}),
    ],
)
def test_counts_are_those_of_the_papers(name: str, counts: dict[str, int]) -> None:
    description = load_description(name)
    assert description.class_counts == counts
    assert all(count.verified for count in description.counts if count.label)


def test_other_printed_counts() -> None:
    found = {(count.what, count.part): count.value for count in load_description("covid_19_20").counts}
    assert found == {("items", None): 199, ("patients", None): 199, ("slices", None): 13705}
    found = {(count.what, count.part): count.value for count in load_description("covid_ct").counts if count.part}
    assert list(found.values()) == [425, 118, 203] and sum(found.values()) == 349 + 397


def test_picture_stacks_say_what_is_assumed() -> None:
    assumed = load_description("cc_ccii").assumed
    assert assumed is not None
    assert assumed["hounsfield"]["value"] == {"at_0": -1350, "at_255": 150}
    assert not assumed["spacing_mm"]["verified"] and len(assumed["spacing_mm"]["value"]) == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("home_page", "value"), "a page", "home_page"),
        (("licence",), "MIT", "licence"),
        (("title", "verified"), "yes", "title.verified"),
        (("classes",), ["Covid"], "classes"),
        (("build", "items"), [], "build.items"),
        (("build", "items", 0, "label"), {"folder": 1}, "build.items"),
        (("checksum",), "abc", "checksum"),
    ],
)
def test_the_schema_refuses(path: tuple[Any, ...], value: Any, message: str) -> None:
    content = copy.deepcopy(dict(load_description("covid_ct").content))
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ManifestError, match=message):
        read_description(content, "mine.json")


def test_missing_facts_are_refused() -> None:
    content = copy.deepcopy(dict(load_description("covid_ct").content))
    del content["licence"]["source"]
    with pytest.raises(ManifestError, match="'source' is a required property"):
        read_description(content, "mine.json")


def test_names_are_lenient_in_letter_case_and_hyphens() -> None:
    assert load_description("COVID-CT").name == "covid_ct"


def test_list_and_show_say_what_is_not_verified() -> None:
    runner = CliRunner()
    listed = runner.invoke(manifest_app, ["list"]).stdout.splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    rows = runner.invoke(manifest_app, ["list", "--markdown"]).stdout.splitlines()
    assert len(rows) == len(NAMES) + 2 and len({row.count("|") for row in rows}) == 1
    docs = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in docs, "write the output of `pneumonai manifest list --markdown` into docs/data.md"
    shown = runner.invoke(manifest_app, ["show", "sars_cov_2_ct"]).stdout
    assert "1,252 covid items [D-SPP + CID paper" in shown and "not verified" in shown
