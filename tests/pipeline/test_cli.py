"""The command line: instant help, errors in one line, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pneumonai.pipeline import cli


def run(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    """Call the command line as the console script does; exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["pneumonai", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["bundle", "list"], ["bundle", "path"]])
def test_help_and_listings_load_neither_torch_nor_monai_nor_scipy(arguments: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['pneumonai', *{arguments!r}]\n"
        "from pneumonai.pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "heavy = {'torch', 'monai', 'scipy', 'pydicom', 'nibabel', 'SimpleITK', 'numpy.testing'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wrong_call_ends_with_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run("predict", "--no-such-option", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "no-such-option" in err
    code, _, err = run("bundle", "verify", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    small = ("phantom", "--shape", "64", "64", "24", "--output", "made")
    code, _, err = run(*small, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert "32 or more" in err and "--shape" in err


def test_an_unknown_bundle_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(
        "predict", str(tmp_path), "--bundle", "nothing", "-o", str(tmp_path), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert err.startswith("error: nothing: no such bundle; shipped are ")
    assert "nl_ran_ct_classification" in err
    assert err.count("\n") == 1


def test_a_missing_input_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(
        "predict", str(tmp_path / "none"), "-o", str(tmp_path / "out"), capsys=capsys, monkeypatch=monkeypatch
    )
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_explanations_on_offer_are_those_that_there_are() -> None:
    from pneumonai.pipeline.explain import EXPLAINERS

    assert [method.value for method in cli.Explanation] == [*EXPLAINERS, "all"]


def test_bundle_list_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("bundle", "list", "--json", capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0
    (row,) = [row for row in json.loads(out) if row["name"] == "nl_ran_ct_classification"]
    assert row["classes"] == ["normal", "ncp", "cp"]
