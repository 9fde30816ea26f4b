"""What the pages for readers share: templates, style, pictures inside the page, and a policy that asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import io
from functools import lru_cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from PIL import Image

from pneumonai.pipeline.outputs.sprites import data_address


def jpeg(picture: Image.Image) -> str:
    """A picture as an address that holds it."""
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=80)
    return data_address(stream.getvalue(), "JPEG")


def policy(style: str, script: str | None = None) -> str:
    """Content-Security-Policy: no network, and only this style and this script, or none."""

    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") + "'"

    scripts = "" if script is None else f"script-src {hashed(script)}; "
    return f"default-src 'none'; img-src data:; style-src {hashed(style)}; {scripts}base-uri 'none'; form-action 'none'"


@lru_cache(maxsize=4)
def part(name: str) -> str:
    """The inside of a style or script file: its text between the first line's tag and the last line's."""
    lines = source(name).strip().split("\n")
    return "\n" + "\n".join(lines[1:-1]) + "\n"


def source(name: str) -> str:
    """The text of a template, a style or a script."""
    return resources.files("pneumonai.pipeline.outputs").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Where templates are found; what comes from files is escaped, and what is missing is an error."""
    made = Environment(
        loader=FunctionLoader(source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["percent"] = lambda share, digits=0: f"{100 * share:.{digits}f}\u00a0%"
    return made
