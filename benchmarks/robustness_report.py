"""Table and figure of ``robustness.py``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pneumonai.pipeline.image_checks import canonical

ROUNDS = 2000
TILE = 220
COLUMNS = 6


def interval(correct: dict[str, list[bool]], seed: int) -> tuple[float, float]:
    """95 % percentile interval of the accuracy by drawing patients with replacement."""
    rng = np.random.default_rng(seed)
    groups = [np.array(values, float) for values in correct.values()]
    sums, sizes = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = rng.integers(0, len(groups), (ROUNDS, len(groups)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def wording(warning: str) -> str:
    """A warning without its numbers and its advice, so that like ones are counted together."""
    gist = re.split(r"[:;]", warning)[0]
    return re.sub(r" ?\(.*?\)", "", re.sub(r"\d+(\.\d+)?", "#", gist)).strip()


def summarise(rows: Sequence[dict[str, Any]], names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """One record a shift. Accuracy is over all studies, a refused one counts as not correct."""
    plain = {row["image"]: row for row in rows if row["shift"] == "none"}
    silent_before = {image: set(map(wording, row.get("warnings", []))) for image, row in plain.items()}
    table = []
    for name in names:
        own = [row for row in rows if row["shift"] == name]
        correct: dict[str, list[bool]] = {}
        for row in own:
            correct.setdefault(str(row["patient_id"]), []).append(row.get("verdict") == row["label"])
        answered = [row for row in own if "verdict" in row]
        flips = [row for row in answered if row["verdict"] != plain[row["image"]].get("verdict")]
        # Silent: neither referred nor with a warning that the unshifted scan does not have.
        silent = [
            row
            for row in flips
            if not row["referred"] and not set(map(wording, row["warnings"])) - silent_before[row["image"]]
        ]
        table.append(
            {
                "shift": name,
                "studies": len(own),
                "accuracy": float(np.mean([value for values in correct.values() for value in values])),
                "interval": interval(correct, seed),
                "flips": len(flips),
                "silent_flips": len(silent),
                "referred": sum(row["referred"] for row in answered),
                "refused": len(own) - len(answered),
                "reasons": dict(Counter(wording(row["refused"]) for row in own if "refused" in row)),
                "warnings": dict(Counter(w for row in answered for w in {wording(x) for x in row["warnings"]})),
            }
        )
    return table


def write_tables(table: Sequence[dict[str, Any]], facts: dict[str, Any], folder: Path) -> None:
    """Write ``robustness.json`` and ``robustness.md``."""
    content = facts | {"shifts": list(table)}
    (folder / "robustness.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"{facts['studies']} studies of the part `{facts['part']}` of {facts['datalist']}, bundle {facts['bundle']}, "
        f"weights {facts['weights_sha256'][:12]}.",
        "",
        "| shift | accuracy (95 % interval) | verdicts changed | silently | referred | refused | warnings (studies) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table:
        low, high = row["interval"]
        said = "; ".join(f"{text} ({n})" for text, n in (row["warnings"] | row["reasons"]).items()) or "none"
        lines.append(
            f"| {row['shift']} | {row['accuracy']:.3f} ({low:.3f} to {high:.3f}) | {row['flips']} | "
            f"{row['silent_flips']} | {row['referred']} | {row['refused']} | {said} |"
        )
    (folder / "robustness.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_examples(scans: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """One slice of each scan, as its affine lays it out (-1350..150 HU); a frontal plane where z is what changed."""
    rows = -(-len(scans) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * TILE, rows * (TILE + 16)), 255)
    draw = ImageDraw.Draw(sheet)
    for index, (name, (volume, affine)) in enumerate(scans.items()):
        view, spacing = canonical(volume, affine)
        if re.search(r"slices|wrongly, head|flipped, head|about left|about front|lobe", name):
            plane, mm = view[:, round(0.5 * view.shape[1])].T[::-1], (spacing[2], spacing[0])
        else:
            plane, mm = view[:, :, view.shape[2] // 2].T, (spacing[1], spacing[0])
        grey = Image.fromarray((np.clip((plane + 1350.0) / 1500, 0, 1) * 255).astype(np.uint8))
        size = np.array([plane.shape[1] * mm[1], plane.shape[0] * mm[0]])
        size = np.maximum(1, (size * (TILE - 4) / size.max()).astype(int))
        left, top = (index % COLUMNS) * TILE, (index // COLUMNS) * (TILE + 16)
        sheet.paste(grey.resize((int(size[0]), int(size[1])), Image.Resampling.NEAREST), (left + 2, top + 16))
        draw.text((left + 3, top + 2), name, fill=0)
    sheet.save(path)
