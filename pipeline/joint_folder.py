"""``joint.json`` and the joint report of a study's folder, above the answers of several bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

from pneumonai.pipeline.agreement import DONE, Row
from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.files import output_error
from pneumonai.pipeline.outputs.joint_json import Joint, read_joint_json, write_joint_json
from pneumonai.pipeline.study_folder import JOINT, RESULT


def write_joint(joint: Joint, folder: Path) -> bool:
    """Write the joint report and ``joint.json``, the report first; not where the same stands there already.

    Args:
        joint: the answer.
        folder: ``OUTPUT/STUDY``, with the bundles' own answers in it.

    Returns:
        Whether anything was written.

    Raises:
        OutputError: a file cannot be written.
    """
    from pneumonai.pipeline.outputs.joint_report import write_joint_report

    earlier = read_earlier(folder)
    if earlier is not None and earlier.says_the_same(joint) and all((folder / name).is_file() for name in joint.files):
        return False
    if "report.html" in joint.files:
        write_joint_report(joint, folder / "report.html")
    write_joint_json(joint, folder / JOINT)
    return True


def read_earlier(folder: Path) -> Joint | None:
    """The joint answer that stands in a study's folder; None where there is none that can be read."""
    if not (folder / JOINT).is_file():
        return None
    try:
        return read_joint_json(folder / JOINT)
    except OutputError:
        return None


def rows_of_others(folder: Path, fingerprint: str, asked: set[str]) -> list[Row]:
    """Rows of bundles that are not asked now, whose answers to the same source still lie in the folder."""
    earlier = read_earlier(folder)
    if earlier is None or earlier.study.get("fingerprint") != fingerprint:
        return []
    return [row for row in earlier.rows if row.bundle not in asked and row.status == DONE and _stands(folder, row)]


def remove_answers(folder: Path, joint: Joint, *, keep: set[str]) -> None:
    """Remove the answers of an earlier run that its joint answer names, but those of some bundles.

    Raises:
        OutputError: a folder cannot be removed.
    """
    for row in joint.rows:
        if row.bundle not in keep and _stands(folder, row):
            try:
                shutil.rmtree(folder / row.bundle)
            except OSError as error:
                raise output_error(folder / row.bundle, error) from error


def _stands(folder: Path, row: Row) -> bool:
    """Whether the answer of a row lies in its place; a name that leads elsewhere is nobody's."""
    return Path(row.bundle).name == row.bundle and (folder / row.bundle / RESULT).is_file()
