"""What the report says: a result's numbers as words, bars and tables, without a thought about looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from pneumonai.pipeline.outputs.lung_measures import CONSOLIDATION_HU, GROUND_GLASS_HU
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

_INFECTION_BANDS = (
    (GROUND_GLASS_HU[0], "below -750 HU", "aerated lung within the marks"),
    (GROUND_GLASS_HU[1], "-750 to -300 HU", "ground glass"),
    (CONSOLIDATION_HU[1], "-300 to 50 HU", "consolidation"),
    (None, "above 50 HU", "denser than soft tissue"),
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
    return bars_of(result.classes, result.verdict)


def bars_of(classes: list[dict[str, Any]] | None, verdict: str | None) -> list[Bar]:
    """Classes with their probabilities, in the order given."""
    return [
        Bar(item["name"], class_words(item["name"]), 100.0 * float(item["probability"]), item["name"] == verdict)
        for item in classes or []
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


def infection_headline(result: Result) -> tuple[str, str] | None:
    """The answer of a model that marks regions: the infected share, and behind it the millilitres where known."""
    infection = result.infection
    if infection is None or result.verdict is not None:
        return None
    whole = "both lungs" if "total_percent" in infection else f"the {_whole(result)}"
    percent = infection.get("total_percent", infection.get("percent_of_picture"))
    if percent is None:
        return None
    amount = f"{_amount(infection['total_ml'], 1)} ml in all" if infection.get("total_ml") else ""
    if not percent:
        return f"Infection: none in {whole}", amount
    share = "less than 0.1\u00a0%" if percent < 0.05 else _percent(percent, 1)
    return f"Infection: {share} of {whole}", amount


def infection_sentence(result: Result) -> str:
    """What is known of the infection where no lungs are; else empty."""
    infection = result.infection or {}
    if "percent_of_picture" not in infection:
        return ""
    text = f"Infection takes {_percent(infection['percent_of_picture'], 1)} of the {_whole(result)}"
    return text + (f", {_amount(infection['total_ml'], 1)} ml." if "total_ml" in infection else ".")


def density_table(result: Result) -> list[dict[str, str]]:
    """Share of the lungs in bands of Hounsfield units; empty without a histogram."""
    return _band_rows(result.hu_histogram, _DENSITY_BANDS)


def infection_density_table(result: Result) -> list[dict[str, str]]:
    """Share of the infection in bands of Hounsfield units; empty without a histogram or without infection."""
    return _band_rows((result.infection or {}).get("hu_histogram"), _INFECTION_BANDS)


def infection_density_sentence(result: Result) -> str:
    """Ground glass against consolidation, in words; empty where not known."""
    infection = result.infection or {}
    shares = [infection.get(f"{name}_percent") for name in ("ground_glass", "consolidation")]
    if None in shares:
        return ""
    ground_glass, consolidation = (_percent(share, 1) for share in shares)
    return f"{ground_glass} of the infection is ground glass, {consolidation} consolidation."


def _band_rows(
    histogram: dict[str, Any] | None, bands: tuple[tuple[int | None, str, str], ...]
) -> list[dict[str, str]]:
    total = sum(histogram["counts"]) if histogram else 0
    if histogram is None or not total:
        return []
    rows: list[dict[str, str]] = []
    low = float("-inf")
    for high, name, meaning in bands:
        top = float("inf") if high is None else high
        bins = zip(histogram["edges"], histogram["counts"], strict=False)
        inside = sum(count for edge, count in bins if low <= edge < top)
        rows.append({"band": name.replace("-", "−"), "meaning": meaning, "share": _percent(100.0 * inside / total, 1)})
        low = top
    return rows


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
    return steps_of(result.timing_s)


def steps_of(timing_s: dict[str, float]) -> list[tuple[str, str]]:
    """Steps and their seconds, in words."""
    return [(step.replace("_", " "), f"{seconds:.2f} s") for step, seconds in timing_s.items()]


def study_rows(result: Result) -> list[tuple[str, str]]:
    """What was read, as names and values."""
    return rows_of_study(result.study)


def rows_of_study(study: dict[str, Any]) -> list[tuple[str, str]]:
    """The ``study`` of a result as names and values."""
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
    names = [item["name"] for item in next((one["classes"] for one in slices if one["classes"]), [])]
    measured = any(one.get("infection_percent") is not None for one in slices)
    if not names and not measured:
        return [], []
    header = ["Slice", *(class_words(name) for name in names)]
    header += [f"Infected share of the {slice_whole(result)}"] if measured else []
    rows: list[list[str]] = []
    for one in slices:
        shares = {item["name"]: 100.0 * item["probability"] for item in one["classes"] or []}
        row = [str(one["index"] + 1), *(_percent(shares.get(name), 1) for name in names)]
        rows.append(row + ([_percent(one.get("infection_percent"), 1)] if measured else []))
    return header, rows


def slice_whole(result: Result) -> str:
    """Of what ``infection_percent`` of a slice is a share: its lung, or the slice where no lungs are known."""
    return "lung" if result.lungs else "slice"


def slice_sentence(result: Result) -> str:
    """Which slice is infected most; empty for a classification and for one slice."""
    slices = [one for one in result.slices or [] if one.get("infection_percent") is not None]
    if len(slices) < 2:
        return ""
    most = max(slices, key=lambda one: one["infection_percent"])
    if not most["infection_percent"]:
        return f"Infection in none of {len(slices)} slices."
    height = most.get("position_mm")
    place = f" (z {height:.1f} mm)".replace("-", "−") if height is not None else ""
    infected = sum(one["infection_percent"] > 0 for one in slices)
    return (
        f"Infection in {infected} of {len(slices)} slices; most in slice {most['index'] + 1}{place}: "
        f"{_percent(most['infection_percent'], 1)} of the {slice_whole(result)} there."
    )


def box_rows(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the boxes; no rows where none is drawn."""
    rows = [
        [str(number), *(f"{box[key]:g}" for key in ("x", "y", "width", "height")), f"{box['score']:.2f}"]
        for number, box in enumerate(result.boxes or [], start=1)
    ]
    return ["Box", "x", "y", "Width", "Height", "Mean of the map"], rows


def box_sentence(result: Result) -> str:
    """How many boxes there are and what they are; empty for a model without boxes."""
    if result.boxes is None:
        return ""
    if not result.boxes:
        return "No box: the answer is that there is nothing to mark, or the heat map marks nothing."
    count = f"{len(result.boxes)} boxes" if len(result.boxes) > 1 else "One box"
    return f"{count} around what the heat map marks most, in pixels from the top left; no outline of a finding."


def truth_rows(result: Result) -> list[tuple[str, str]]:
    """Agreement with a truth that was given; a score that does not exist says why."""
    if result.truth is None:
        return []
    missing = {
        "dice": "not defined: neither the model nor the truth marks anything",
        "precision": "not defined: the model marks nothing",
        "recall": "not defined: the truth marks nothing",
        "iou": "not defined: neither the model nor the truth marks anything",
    }
    words = {"iou": "Intersection over union"}
    return [
        (words.get(name, name.capitalize()), missing.get(name, "–") if value is None else f"{value:.3f}")
        for name, value in result.truth.items()
    ]


def _whole(result: Result) -> str:
    """What ``percent_of_picture`` is a share of."""
    return "scan" if result.study.get("kind") == "volume" else "picture"


def _amount(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def _percent(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}\u00a0%"
