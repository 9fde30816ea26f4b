"""``joint.json``: what several bundles say of one study; its schema ``joint.schema.json`` is shipped beside this."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from pneumonai.pipeline.agreement import Agreement, Row
from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.result import Result


@dataclass
class Joint:
    """What several bundles say of one study: ``joint.json``.

    Attributes:
        study: as in ``result.json``, and ``synthetic``: whether it is a phantom.
        rows: one a bundle, in the order in which they were asked; of an earlier run last.
        agreement: how they go together.
        refer: True where a reader should decide; ``refer_reason`` says why.
        files: beside the bundles' own, relative to the study's folder.
        timing_s: seconds of the steps that the bundles share.
        software: versions, device.
        notice: that none of it is for clinical use.
        results: of the bundles that answered, by name; each lies in its own ``result.json``, and not in ``joint.json``.
    """

    study: dict[str, Any]
    rows: list[Row]
    agreement: Agreement = field(default_factory=Agreement)
    refer: bool | None = None
    refer_reason: str | None = None
    files: list[str] = field(default_factory=list)
    timing_s: dict[str, float] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)
    notice: str = "not for clinical use"
    results: dict[str, Result] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """The joint answer as plain data, ready for JSON."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name != "results"}

    def says_the_same(self, other: Joint) -> bool:
        """Whether but for the seconds and the software two are alike: then nothing must be written again."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("study", "rows", "agreement", "refer", "refer_reason", "files", "notice")
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Agreement):
        return asdict(value)
    return [asdict(one) if isinstance(one, Row) else one for one in value] if isinstance(value, list) else value


def write_joint_json(joint: Joint, path: str | Path) -> None:
    """Write ``joint.json`` (UTF-8, indented).

    Raises:
        OutputError: the file cannot be written.
    """
    text = json.dumps(joint.as_dict(), indent=2, ensure_ascii=False, allow_nan=False, default=float)
    write_bytes(path, (text + "\n").encode())


def read_joint_json(path: str | Path) -> Joint:
    """Read a ``joint.json`` back, without the bundles' results.

    Raises:
        OutputError: the file is missing, unreadable, or of another version.
    """
    remedy = "remove it and run predict again"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = [Row(**row) for row in document.pop("rows")]
        return Joint(rows=rows, agreement=Agreement(**document.pop("agreement")), **document)
    except OSError as error:
        raise OutputError(str(path), f"cannot be read: {error.strerror or type(error).__name__}", remedy) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(str(path), "is no joint answer of this version of pneumonai", remedy) from error


def joint_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of ``joint.json``."""
    text = resources.files("pneumonai.pipeline.outputs").joinpath("joint.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
