"""What is known of a dataset: JSON files in ``descriptions/``, checked against ``description.schema.json``.

Every fact stands with whether it could be verified (from the papers, or from data at hand) and with its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pneumonai.data_manifests.errors import ManifestError


@dataclass(frozen=True)
class Fact:
    """A statement, whether it was verified, and where it stands (or why it is believed)."""

    value: Any
    verified: bool
    source: str


@dataclass(frozen=True)
class Paper:
    """What to cite, its address where one is printed, and its facts' standing."""

    citation: str
    link: str | None
    verified: bool
    source: str


@dataclass(frozen=True)
class Count:
    """How many there should be: of ``items`` (what a datalist lists), ``patients`` or ``slices``.

    ``label`` and ``part`` narrow it to a class or to a part of the official split.
    """

    what: str
    value: int
    label: str | None
    part: str | None
    verified: bool
    source: str


@dataclass(frozen=True)
class Description:
    """One dataset; ``classes`` are in label order, empty where items have masks but no labels.

    ``build`` holds the rules that :mod:`pneumonai.data_manifests.build` follows, ``assumed`` what ``convert`` takes
    for granted of picture stacks (None elsewhere).
    """

    name: str
    title: Fact
    papers: tuple[Paper, ...]
    home_page: Fact
    licence: Fact
    terms: Fact
    modality: str
    item: str
    layout: Fact
    labels: Fact
    classes: tuple[str, ...]
    patients: Fact
    official_split: Fact
    counts: tuple[Count, ...]
    flaws: tuple[Fact, ...]
    build: Mapping[str, Any]
    assumed: Mapping[str, Any] | None
    content: Mapping[str, Any]

    @property
    def class_counts(self) -> dict[str, int]:
        """Items expected of each class, where known."""
        return {
            count.label: count.value
            for count in self.counts
            if count.what == "items" and count.label is not None and count.part is None
        }

    def unverified(self) -> list[str]:
        """Names of the facts that could not be verified, such as ``licence``; ``flaws`` when it is one of several."""
        return [key for key, entry in self.content.items() if _any_unverified(entry)]


def _any_unverified(entry: Any) -> bool:
    parts = entry if isinstance(entry, list) else [entry]
    return any(isinstance(part, Mapping) and part.get("verified") is False for part in parts)


def _folder() -> Any:
    return files("pneumonai.data_manifests") / "descriptions"


def description_names() -> list[str]:
    """Names of all descriptions, sorted."""
    return sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name.endswith(".json"))


@cache
def description_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of descriptions."""
    text = (files("pneumonai.data_manifests") / "description.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def load_description(name: str) -> Description:
    """The description of that name (letter case ignored, hyphens as underscores).

    Raises:
        ManifestError: there is none, or it does not meet the schema.
    """
    names = description_names()
    known = name.strip().lower().replace("-", "_")
    if known not in names:
        raise ManifestError(name, "no such dataset description", f"known are {', '.join(names)}; or use --from-csv")
    text = (_folder() / f"{known}.json").read_text(encoding="utf-8")
    return read_description(json.loads(text), f"{known}.json")


def read_description(content: Mapping[str, Any], where: str) -> Description:
    """A description from its JSON content, validated.

    Raises:
        ManifestError: it does not meet the schema; says where.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(description_schema()).iter_errors(content))
    if error is not None:
        raise ManifestError(f"{where}, {error.json_path}", error.message, "see description.schema.json")

    def fact(key: str) -> Fact:
        return Fact(**content[key])

    counts = tuple(Count(**{"label": None, "part": None, **count}) for count in content["counts"])
    return Description(
        name=content["name"],
        title=fact("title"),
        papers=tuple(Paper(**paper) for paper in content["papers"]),
        home_page=fact("home_page"),
        licence=fact("licence"),
        terms=fact("terms"),
        modality=content["modality"],
        item=content["item"],
        layout=fact("layout"),
        labels=fact("labels"),
        classes=tuple(content["classes"]),
        patients=fact("patients"),
        official_split=fact("official_split"),
        counts=counts,
        flaws=tuple(Fact(**flaw) for flaw in content["flaws"]),
        build=content["build"],
        assumed=content.get("assumed"),
        content=content,
    )
