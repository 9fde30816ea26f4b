"""Datalists of the public CT slices that more than one recipe trains on."""

from __future__ import annotations

import json
from pathlib import Path

from bundle_runs import pneumonai
from PIL import Image

COLUMNS = ("--image-column", "file", "--modality", "CT")
SMALLEST_SIDE = 64
"""Pixels; the bundles refuse smaller pictures."""


def large_enough(image: Path) -> bool:
    """Whether a picture is large enough for the bundles."""
    with Image.open(image) as picture:
        return min(picture.size) >= SMALLEST_SIDE


def write_sars(packs: Path, path: Path) -> Path:
    """The SARS-CoV-2 slices, near duplicates on one side, a tenth as validation part; paths start from PACKS."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        index = packs / "sars_cov_2_ct" / "index.csv"
        split = ("--from-csv", index, "--group-column", "near_duplicate_group", "--split", "9:1:0")
        pneumonai("manifest", "build", index.parent, *split, *COLUMNS, "--output", path)
        content = json.loads(path.read_text())
        for part in ("training", "validation"):
            content[part] = [item | {"image": f"sars_cov_2_ct/{item['image']}"} for item in content[part]]
        path.write_text(json.dumps(content, indent=1))
    return path
