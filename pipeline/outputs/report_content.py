"""What the report says: a result's numbers as words, bars and tables, without a thought about looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pneumonai.pipeline.result import Result

CLASS_WORDS = {
    "normal": "Normal",
    "ncp": "COVID-19 pneumonia",
    "cp": "Common pneumonia",
    "covid": "COVID-19",
    "noncovid": "No COVID-19",
    "cap": "Community-acquired pneumonia",
}
"""The project's class names in words; any other name is shown as it is."""

MODALITY_WORDS = {"CT": "Chest CT", "CXR": "Chest X-ray"}

_FILE_WORDS = {
    "result.json": "the whole answer as data",
    "lungs.nii.gz": "lung mask on the scan's grid: 1 right, 2 left",
    "heat_map.nii.gz": "heat map on the scan's grid, 0 to 1",
    "infection.nii.gz": "infection mask on the scan's grid",
    "lungs.png": "lung mask: 1 right, 2 left",
    "heat_map.png": "heat map, 0 to 255",
    "infection.png": "infection mask, 0 or 255",
    "slices.csv": "answers slice by slice",
    "pictures/axial.png": "most telling axial slices",
    "pictures/coronal.png": "most telling coronal slices",
    "pictures/overlay.png": "picture with what is laid over",
}

_DENSITY_BANDS = (
    (-950, "below -950 HU", "air-like, as in emphysema"),
    (-700, "-950 to -700 HU", "aerated lung"),
    (-500, "-700 to -500 HU", "poorly aerated, faint ground glass"),
    (-100, "-500 to -100 HU", "ground glass, small vessels"),
    (None, "above -100 HU", "vessels, consolidation"),
)


@dataclass(frozen=True)
class Bar:
    """One class's probability."""

    name: str
    words: str
    percent: float
    is_verdict: bool


def class_words(name: str) -> str:
    """A class name as a reader would say it, the name itself behind it where it is an abbreviation."""
    words = CLASS_WORDS.get(name)
    if words is None:
        return name
    return words if name in {"normal", "covid", "noncovid"} else f"{words} ({name.upper()})"


def class_bars(result: Result) -> list[Bar]:
    """The classes in the network's order."""
    return [
        Bar(item["name"], class_words(item["name"]), 100.0 * float(item["probability"]), item["name"] == result.verdict)
        for item in result.classes or []
    ]


def lung_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows (right, left, both) of the table of lungs and infection; no rows where neither is known."""
    lungs, infection = result.lungs or {}, result.infection or {}
    unit = "ml" if "total_ml" in lungs else "pixels"
    header: list[str] = []
    columns: list[list[str]] = []
    if lungs:
        header.append(f"Lung ({unit})")
        columns.append([_amount(lungs.get(f"{side}_{unit}")) for side in ("right", "left", "total")])
        total = lungs.get(f"total_{unit}") or 0
        if total:
            header.append("Share of both lungs")
            columns.append([_percent(100.0 * lungs[f"{s}_{unit}"] / total, 0) for s in ("right", "left", "total")])
    if "total_percent" in infection:
        if "total_ml" in infection:
            header.append("Infection (ml)")
            columns.append([_amount(infection.get(f"{side}_ml"), 1) for side in ("right", "left", "total")])
        header.append("Infected share")
        columns.append([_percent(infection.get(f"{side}_percent"), 1) for side in ("right", "left", "total")])
    if not columns:
        return [], []
    names = ("Right", "Left", "Both")
    return header, [[name, *(column[row] for column in columns)] for row, name in enumerate(names)]


def infection_sentence(result: Result) -> str:
    """What is known of the infection where no lungs are; else empty."""
    infection = result.infection or {}
    if "percent_of_picture" not in infection:
        return ""
    text = f"Infection takes {_percent(infection['percent_of_picture'], 1)} of the picture"
    return text + (f", {_amount(infection['total_ml'], 1)} ml." if "total_ml" in infection else ".")


def density_table(result: Result) -> list[dict[str, str]]:
    """Share of the lungs in bands of Hounsfield units; empty without a histogram."""
    histogram = result.hu_histogram
    total = sum(histogram["counts"]) if histogram else 0
    if histogram is None or not total:
        return []
    rows: list[dict[str, str]] = []
    low = float("-inf")
    for high, name, meaning in _DENSITY_BANDS:
        top = float("inf") if high is None else high
        bins = zip(histogram["edges"], histogram["counts"], strict=False)
        inside = sum(count for edge, count in bins if low <= edge < top)
        rows.append({"band": name.replace("-", "−"), "meaning": meaning, "share": _percent(100.0 * inside / total, 1)})
        low = top
    return rows


def density_chart(result: Result, width: float = 600.0, height: float = 140.0) -> dict[str, Any] | None:
    """The histogram as an SVG path of steps, with ticks every 200 HU; None without a histogram."""
    histogram = result.hu_histogram
    if histogram is None or not sum(histogram["counts"]):
        return None
    edges, counts = histogram["edges"], histogram["counts"]
    first, last, most = edges[0], edges[-1], max(counts)

    def x(value: float) -> float:
        return round((value - first) / (last - first) * width, 1)

    steps = [f"M0 {height}"]
    for edge, following, count in zip(edges, edges[1:], counts, strict=False):
        y = round(height - count / most * (height - 8.0), 1)
        steps.append(f"L{x(edge)} {y}L{x(following)} {y}")
    steps.append(f"L{width} {height}Z")
    shown = (value for value in range(-1000, 201, 200) if first <= value <= last)
    ticks = [{"x": x(value), "text": str(value).replace("-", "−")} for value in shown]
    peak = edges[counts.index(most)]
    return {
        "path": "".join(steps),
        "width": width,
        "height": height,
        "ticks": ticks,
        "words": f"Histogram of Hounsfield units inside the lungs from {first} to {last}, highest near {peak}",
    }


def file_links(result: Result) -> list[dict[str, str]]:
    """The files beside the report: relative address, name, what is in it."""
    names = [name for name in result.files if name != "report.html"]
    grid = "the scan's grid" if result.study.get("kind", "volume") == "volume" else "the picture's grid"
    maps = (result.explanation or {}).get("maps", [])
    words = {one["file"]: f"{one['method']} on {grid}" for one in maps} | _FILE_WORDS
    return [{"href": quote(name), "name": name, "words": words.get(name, "")} for name in names]


def main_explanation(result: Result) -> str:
    """What the heat map in the viewer shows, in words; its method alone where no more is known."""
    explanation = result.explanation or {}
    method = str(explanation.get("method", ""))
    shows = str((explanation.get("maps") or [{}])[0].get("shows") or "")
    return " ".join(text for text in (f"{method[:1].upper()}{method[1:]}.", shows) if text != ".")


def timing_rows(result: Result) -> list[tuple[str, str]]:
    """Steps and their seconds."""
    return [(step.replace("_", " "), f"{seconds:.2f} s") for step, seconds in result.timing_s.items()]


def study_rows(result: Result) -> list[tuple[str, str]]:
    """What was read, as names and values."""
    study = result.study
    shape, spacing = study.get("shape"), study.get("spacing")
    rows = [
        ("Study", study.get("id")),
        ("Read from", study.get("path")),
        ("Modality", study.get("modality")),
        ("Size", " × ".join(str(n) for n in shape) + (" voxels" if len(shape) == 3 else " pixels") if shape else None),
        ("Spacing", " × ".join(f"{mm:.3g}" for mm in spacing) + " mm" if spacing else "not known"),
        ("Series UID", study.get("series_uid")),
        ("Study UID", study.get("study_uid")),
        *(study.get("identifiers") or {}).items(),
    ]
    return [(str(name), str(value)) for name, value in rows if value]


def slice_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the answers slice by slice; nothing where slices are not answered."""
    slices = result.slices or []
    if not slices:
        return [], []
    header = ["Slice", *(class_words(item["name"]) for item in slices[0]["classes"])]
    rows = [
        [str(item["index"] + 1), *(_percent(100.0 * c["probability"], 1) for c in item["classes"])] for item in slices
    ]
    return header, rows


def truth_rows(result: Result) -> list[tuple[str, str]]:
    """Agreement with a truth that was given."""
    return [(name.capitalize(), f"{value:.3f}") for name, value in (result.truth or {}).items() if value is not None]


def _amount(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def _percent(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}\u00a0%"
