"""Every link and every command in the documents: what they name is there, and takes the options that they give."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "bundles/*/docs/README.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"(?<!`)`((?:pneumonai|python|torchrun) [^`]+)`")


def commands(document: Path) -> Iterator[list[str]]:
    """The words of each command in code blocks and in quotes, joined over broken lines, without its comment."""
    text = document.read_text(encoding="utf-8")
    lines = [line for block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *QUOTED.findall(FENCED.sub("", text))]:
        line = line.split(" #")[0].replace("$(", "").strip()
        if line.startswith(("pneumonai ", "python ", "torchrun ")) and " - " not in line and "..." not in line:
            yield shlex.split(line.rstrip(")"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    missing = [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_have_the_options_that_they_are_given(document: Path) -> None:
    from pneumonai.pipeline.cli import app

    for words in commands(document):
        if words[0] == "pneumonai" and "|" not in words:
            _check_options(typer.main.get_command(app), words[1:])
        elif "monai.bundle" in words:
            _check_config_ids(document, words)
        elif words[0] == "python" and words[1].endswith(".py"):
            _check_script(ROOT / words[1], words[2:])


def _check_options(command: Any, words: list[str]) -> None:
    """Walk down to the subcommand, or its group, whose options must have those names."""
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {"-h", "--help"} | {
        name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]
    }
    given = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert [option for option in given if option not in known] == [], words


def _check_config_ids(document: Path, words: list[str]) -> None:
    """Each ``--id`` stands at the top of one of the configs named, or is one of MONAI's own options."""
    named = re.findall(r"configs/(\w+)\.json", " ".join(words))
    folders = [document.parents[1]] if document.parent.name == "docs" and document.name == "README.md" else []
    folders += [ROOT / "bundles" / bundle for bundle in re.findall(r"bundles/(\w+)", " ".join(words))]
    folders = [folder for folder in folders if (folder / "configs").is_dir()] or list((ROOT / "bundles").glob("*_*"))
    own = {"config_file", "bundle_root", "meta_file", "nproc_per_node", "filepath", "ckpt_file", "key_in_ckpt"}
    ids = set(own)
    for folder in folders:
        for name in named:
            if (folder / "configs" / f"{name}.json").exists():
                ids |= set(json.loads((folder / "configs" / f"{name}.json").read_text(encoding="utf-8")))
    given = {word[2:].split("=")[0].split("::")[0] for word in words if word.startswith("--")}
    assert given <= ids, (words, sorted(given - ids))
    if len(folders) == 1:
        missing = [name for name in named if not (folders[0] / "configs" / f"{name}.json").exists()]
        assert missing == [], words


def _check_script(script: Path, words: list[str]) -> None:
    assert script.is_file(), script
    source = script.read_text(encoding="utf-8")
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    assert [option for option in options if f'"{option}"' not in source] == [], script
