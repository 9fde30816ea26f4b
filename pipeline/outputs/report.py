"""``report.html``: one self-contained page for the reader of one study.

The page asks for nothing: scan, maps, style and script are inside, and its Content-Security-Policy forbids every
network request and every script but its own (by hash). Text from files (paths, warnings) is escaped.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pneumonai.pipeline.outputs import report_charts as charts
from pneumonai.pipeline.outputs import report_content as content
from pneumonai.pipeline.outputs.files import write_bytes
from pneumonai.pipeline.outputs.page import environment, jpeg, part, policy
from pneumonai.pipeline.outputs.pictures import HEAT_OPACITY, draw_plane, montage
from pneumonai.pipeline.outputs.sprites import (
    encode_heat_map,
    encode_image,
    encode_labels,
    shown_slices,
)
from pneumonai.pipeline.outputs.views import (
    MASK_OPACITY,
    Display,
    display_of,
    heat_colours,
    telling_plane,
    telling_slices,
)
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import Study

_TILT_WORTH_TELLING = 5.0


def write_report(study: Study, result: Result, maps: Maps, path: str | Path) -> None:
    """Write the report of one study.

    Args:
        study: the study; its image is shown.
        result: the answer; what is None is left out. ``result.files`` are linked, relative to the report's folder.
        maps: what is laid over the image, each None or of the image's shape.
        path: the file, usually ``OUTPUT/STUDY/report.html``.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a map's shape is not the image's.
    """
    display = display_of(study, maps)
    style, script = part("report_style.html"), part("report_viewer.html")
    with ThreadPoolExecutor(2) as threads:
        stills = threads.submit(_stills, display)
        data = _viewer_data(display, result, threads)
    page = (
        environment()
        .get_template("report.html")
        .render(
            result=result,
            # Ours and safe as it is; nothing in it comes from a study.
            style=Markup(style),
            script=Markup(script),
            policy=policy(style, script),
            data=data,
            planes=display.planes,
            stills=stills.result(),
            explanation=content.main_explanation(result),
            side_by_side=_side_by_side(study, result, maps),
            tilt=display.tilt_degrees if display.tilt_degrees > _TILT_WORTH_TELLING else None,
            gradient=_gradient(),
            regions=[(_hex(region.rgb), region.colour, region.words) for region in display.regions],
            has_truth=display.truth is not None,
            modality=content.MODALITY_WORDS.get(str(study.modality), str(study.modality)),
            verdict=content.class_words(result.verdict) if result.verdict else None,
            bars=content.class_bars(result),
            lungs=content.lung_rows(result),
            headline=content.infection_headline(result),
            infection_sentence=content.infection_sentence(result),
            densities=_densities(result),
            slices=content.slice_rows(result),
            slice_charts=charts.slice_charts(result),
            slice_sentence=content.slice_sentence(result),
            truth=content.truth_rows(result),
            box_sentence=content.box_sentence(result),
            boxes=content.box_rows(result),
            study_rows=content.study_rows(result),
            timing=content.timing_rows(result),
            files=content.file_links(result),
            opacity=round(100 * HEAT_OPACITY),
        )
    )
    write_bytes(path, page.encode())


def _viewer_data(display: Display, result: Result, threads: Executor) -> dict[str, Any]:
    """What the script needs: stacks, geometry, colours, where to begin. Axes: slice, row, column as displayed."""
    image = encode_image(display, threads)
    heat_map = encode_heat_map(display, threads)
    labels = encode_labels(display, (image.rows, image.columns), threads)
    shown = shown_slices(display)
    size = (len(shown), image.rows, image.columns)
    full = display.image.shape
    start = [_centre(display, axis, full[axis]) / full[axis] for axis in range(3)]
    return {
        "size": size,
        "extent": [n * mm for n, mm in zip(full, display.spacing, strict=True)],
        "step": shown.step,
        "positions": [display.positions(axis) for axis in range(3)],
        "full": full,
        "reduced": (image.rows, image.columns) != full[1:],
        "start": [min(n - 1, int(n * share)) for n, share in zip(size, start, strict=True)],
        "planes": [vars(plane) for plane in display.planes],
        "image": image.as_dict(),
        "heat": heat_map.as_dict() if heat_map else None,
        "labels": labels.as_dict() if labels else None,
        "colours": heat_colours().ravel().tolist(),
        "regions": _by_code(display),
        "region_alpha": round(255 * MASK_OPACITY),
        "boxes": result.boxes or [],
        "has_lungs": display.lungs is not None,
        "has_infection": display.infection is not None,
        "is_hu": display.is_hu,
    }


def _densities(result: Result) -> list[dict[str, Any]]:
    """Histograms of Hounsfield units, each with its words and its table: inside the lungs, inside the infection."""
    infection = (result.infection or {}).get("hu_histogram")
    cards = [
        ("lungs", charts.density_chart(result.hu_histogram, "lungs"), content.density_table(result), ""),
        (
            "infection",
            charts.density_chart(infection, "infection", charts.INFECTION_BANDS),
            content.infection_density_table(result),
            content.infection_density_sentence(result),
        ),
    ]
    return [
        dict(zip(("where", "chart", "rows", "sentence"), card, strict=True)) for card in cards if card[1] is not None
    ]


def _by_code(display: Display) -> list[tuple[int, int, int] | None]:
    """Colour of each region, at the place of its code; None where nothing is coloured."""
    colours: list[tuple[int, int, int] | None] = [None] * 4
    for region in display.regions:
        colours[region.code] = region.rgb
    return colours


def _hex(rgb: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _centre(display: Display, axis: int, length: int) -> float:
    """Where a view begins: the most telling plane, the middle where no map says."""
    if all(array is None for array in (display.infection, display.heat_map, display.lungs)):
        return length / 2
    return telling_slices(display, axis, 1)[0] + 0.5


def _stills(display: Display) -> list[dict[str, str]]:
    """The most telling planes as pictures, for paper and for readers without a script."""
    stills: list[dict[str, str]] = []
    for plane in display.planes:
        if plane.name == "sagittal" and len(display.planes) == 3:
            continue
        sheet, indices = montage(display, plane)
        if plane.name == "picture":
            words = "The picture with what is laid over"
        else:
            numbers = ", ".join(str(index + 1) for index in indices)
            words = f"{plane.name.capitalize()} planes {numbers} of {display.image.shape[plane.axis]}"
        stills.append({"src": jpeg(sheet), "words": words})
    return stills


def _side_by_side(study: Study, result: Result, maps: Maps) -> list[dict[str, Any]]:
    """Every heat map over the same planes, each with its name and what it shows; nothing without further ones."""
    if not maps.more_heat_maps:
        return []
    described = {one["name"]: one for one in (result.explanation or {}).get("maps", [])}
    own = {} if maps.heat_map is None else {next(iter(described), "own"): maps.heat_map}
    heat_maps = own | maps.more_heat_maps
    displays = [display_of(study, Maps(lungs=maps.lungs, heat_map=heat_map)) for heat_map in heat_maps.values()]
    planes = [plane for plane in displays[0].planes if plane.name != "sagittal"] or displays[0].planes
    chosen = [(plane, telling_plane(displays, plane.axis)) for plane in planes]
    columns: list[dict[str, Any]] = []
    for display, name in zip(displays, heat_maps, strict=True):
        one = described.get(name, {"method": name, "shows": ""})
        stills = [
            {
                "src": jpeg(draw_plane(display, plane, index)),
                "words": f"{one['method']} over {plane.name} plane {index + 1} of {display.image.shape[plane.axis]}",
            }
            for plane, index in chosen
        ]
        columns.append({"method": one["method"], "shows": one["shows"], "stills": stills})
    return columns


def _gradient() -> list[dict[str, Any]]:
    """Stops of the heat map's legend."""
    colours = heat_colours()
    return [{"offset": f"{100 * v // 255}%", "colour": _hex(tuple(colours[v, :3].tolist()))} for v in range(0, 256, 15)]
