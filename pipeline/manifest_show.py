"""What ``pneumonai manifest`` prints: tables of parts and classes, of descriptions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from pneumonai.data_manifests.datalist import PARTS
from pneumonai.data_manifests.split import unit_of

if TYPE_CHECKING:
    from pneumonai.data_manifests.description import Description, Fact


def parts_table(datalist: Mapping[str, Any]) -> Table:
    """Parts (or folds) by classes, images and patients, such as ``191 (104)``."""
    block = datalist.get("pneumonai", {})
    units = {"known": "patients", "grouped": "groups"}.get(block.get("patients", ""), "units")
    title = f"{datalist.get('name', '')}: images ({units})"
    table = Table(title=title, title_justify="left", min_width=len(title))
    rows: dict[str, Sequence[Mapping[str, Any]]] = {}
    for part in PARTS:
        items = datalist.get(part, [])
        folds = sorted({item["fold"] for item in items if "fold" in item})
        for fold in folds:
            rows[f"{part}, fold {fold}"] = [item for item in items if item.get("fold") == fold]
        if not folds:
            rows[part] = items
    everything = [item for items in rows.values() for item in items]
    labels = list(dict.fromkeys([*block.get("class_names", []), *(str(item.get("label", "")) for item in everything)]))
    labels = [label for label in labels if any(str(item.get("label", "")) == label for item in everything)]
    table.add_column("part")
    for label in labels:
        table.add_column(label or ("no label" if len(labels) > 1 else "images"), justify="right")
    if len(labels) > 1:
        table.add_column("all", justify="right")
    for name, items in [*rows.items(), ("all", everything)]:
        sets = [[item for item in items if str(item.get("label", "")) == label] for label in labels]
        if len(labels) > 1:
            sets.append(list(items))
        cells = [f"{len(part)} ({len({unit_of(item) for item in part})})" for part in sets]
        table.add_row(name, *cells, end_section=name == list(rows)[-1])
    return table


def tell_built(datalist: Mapping[str, Any], output: object) -> None:
    """The table on stdout, the datalist's warnings on stderr."""
    Console(width=None if Console().is_terminal else 120).print(parts_table(datalist))
    block = datalist["pneumonai"]
    split = block["split"]
    how = {
        "ratio": f"split {':'.join(f'{r:g}' for r in split['ratios'] or ())}, seed {split['seed']}",
        "folds": f"{split['folds']} folds, seed {split['seed']}",
        "column": "split as the CSV's column says",
        "official": "the official split",
    }[split["method"]]
    names = f"; classes in label order: {', '.join(block['class_names'])}" if block["class_names"] else ""
    typer.echo(f"{output}: {how}, patients {block['patients']}{names}")
    for warning in block["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def tell_subsets(subsets: Mapping[float, Mapping[str, Any]], paths: Mapping[float, object]) -> None:
    """A line a subset: what was asked, what it became, and its file."""
    table = Table(title="training part thinned out", title_justify="left")
    for column in ("asked", "actual", "images", "patients"):
        table.add_column(column, justify="right")
    table.add_column("classes")
    table.add_column("file", overflow="fold")
    for percent, datalist in subsets.items():
        items, block = datalist["training"], datalist["pneumonai"]["subset"]
        classes = Counter(str(item.get("label", "no label")) for item in items)
        table.add_row(
            f"{percent:g} % of {block['of']}",
            f"{block['actual_percent']:.2f} %",
            str(len(items)),
            str(len({unit_of(item) for item in items})),
            ", ".join(f"{count} {label}" for label, count in sorted(classes.items())),
            str(paths[percent]),
        )
    Console(width=None if Console().is_terminal else 160).print(table)


def _counts(description: Description) -> str:
    """The expected items in words: by class where known, else the whole."""
    classes = description.class_counts
    if classes:
        return ", ".join(f"{classes[label]:,} {label}" for label in description.classes if label in classes)
    whole = [count for count in description.counts if count.what == "items" and count.label is None]
    return ", ".join(f"{count.value:,}{f' {count.part}' if count.part else ''}" for count in whole) or "not known"


def descriptions_rows(descriptions: Sequence[Description]) -> list[tuple[str, ...]]:
    """Name, title, modality and item, classes, patients, split, counts, and how many facts are unverified."""
    return [
        (
            d.name,
            str(d.title.value),
            f"{d.modality} {d.item}",
            ", ".join(d.classes) or "masks",
            str(d.patients.value),
            str(d.official_split.value or "none"),
            _counts(d),
            ", ".join(d.unverified()).replace("_", " ") or "none",
        )
        for d in descriptions
    ]


COLUMNS = ("name", "dataset", "items", "classes", "patient", "official split", "expected", "not verified")


def descriptions_markdown(descriptions: Sequence[Description]) -> str:
    """The table of all descriptions for the docs."""
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in descriptions_rows(descriptions)]
    return "\n".join(lines)


def description_text(description: Description) -> str:
    """One description for reading; every unverified fact says so."""

    def line(key: str, fact: Fact) -> str:
        return f"{key}: {fact.value or 'not known'}{_mark(fact)}"

    lines = [f"{description.name}: {description.title.value}", ""]
    for paper in description.papers:
        lines.append(f"cite: {paper.citation}{f' {paper.link}' if paper.link else ''}{_mark(paper)}")
    for key in ("home_page", "licence", "terms"):
        lines.append(line(key.replace("_", " "), getattr(description, key)))
    lines.append(f"items: {description.modality}, one a {description.item}")
    lines.append(f"classes: {', '.join(description.classes) or 'none, masks alone'}")
    lines += [line("labels", description.labels), line("patients", description.patients)]
    lines.append(line("official split", description.official_split))
    lines += ["", f"a download holds{_mark(description.layout)}:"]
    lines += [f"  {entry}" for entry in description.layout.value]
    lines += ["", "expected:"]
    for count in description.counts:
        which = " ".join(word for word in (count.label, count.part, count.what) if word)
        lines.append(f"  {count.value:,} {which} [{count.source}{'' if count.verified else '; not verified'}]")
    lines += ["", "known flaws:"]
    lines += [f"  {flaw.value}{_mark(flaw)}" for flaw in description.flaws]
    return "\n".join(lines)


def _mark(fact: Any) -> str:
    return "" if fact.verified else f" [not verified: {fact.source}]"
