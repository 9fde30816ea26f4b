from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pneumonai.pipeline.outputs.lung_measures import (
    hu_histogram,
    infection_densities,
    infection_measures,
    infection_profile,
    lung_measures,
)
from pneumonai.pipeline.outputs.report import write_report
from pneumonai.pipeline.outputs.result_json import describe_study
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import InputKind, Modality, Study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium found on PATH: the report is not tested in a browser"
)

# Of a canvas: the mean red of its quarters, upper left, upper right, lower left, lower right; and one pixel of it, at
# shares of its width and height.
COPY = """
  const [w, h] = [canvas.width, canvas.height], copy = document.createElement("canvas");
  [copy.width, copy.height] = [w, h];
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
"""
QUARTERS = (
    "canvas => {"
    + COPY
    + """
  return [[0, 0], [1, 0], [0, 1], [1, 1]].map(([x, y]) => {
    const p = pen.getImageData(x * w / 2, y * h / 2, w / 2, h / 2).data;
    let sum = 0;
    for (let i = 0; i < p.length; i += 4) sum += p[i];
    return sum * 4 / p.length;
  });
}"""
)
PIXEL = "(canvas, [x, y]) => {" + COPY + "return [...pen.getImageData(x * w, y * h, 1, 1).data]; }"


def made_study(codes: str) -> tuple[Study, Maps]:
    """48 x 60 x 24 voxels of 1 x 1 x 2 mm, black; a white block at the patient's right, in front, at the head."""
    orientations = nib.orientations
    image = np.full((48, 60, 24), -1350, np.int16)  # indexed to left, to posterior, to head
    image[6:20, 8:24, 14:20] = 150
    lungs, heat, infection = (np.zeros(image.shape, np.uint8) for _ in range(3))
    lungs[4:22, 6:50, 2:22], lungs[26:44, 6:50, 2:22] = 1, 2
    heat[10:16, 12:20, 15:19] = 255
    infection[30:34, 30:34, 16:18] = 1
    turn = orientations.ornt_transform(orientations.axcodes2ornt("LPS"), orientations.axcodes2ornt(codes))
    affine = np.diag([-1.0, -1.0, 2.0, 1.0]) @ orientations.inv_ornt_aff(turn, image.shape)
    image, lungs, heat, infection = (orientations.apply_orientation(a, turn) for a in (image, lungs, heat, infection))
    study = Study("made", "in/made", Modality.CT, InputKind.VOLUME, image, affine)
    return study, Maps(lungs=lungs, heat_map=heat, infection=infection)


def made_result(study: Study, maps: Maps) -> Result:
    assert maps.lungs is not None
    assert maps.infection is not None
    return Result(
        study=describe_study(study),
        bundle={"name": "a_bundle_with_a_rather_long_name", "version": "0.1.0", "weights_sha256": "a" * 64},
        classes=[{"name": "normal", "probability": 0.2}, {"name": "ncp", "probability": 0.8}],
        verdict="ncp",
        confidence=0.8,
        refer=False,
        lungs=lung_measures(maps.lungs, study.voxel_ml),
        infection=infection_measures(maps.infection, maps.lungs, study.voxel_ml),
        hu_histogram=hu_histogram(study.image, maps.lungs),
        warnings=["a_long_word_" * 12],
        files=["result.json", "heat_map.nii.gz"],
        notice="trained on synthetic phantoms, not for clinical use",
    )


@dataclass
class Visit:
    """An opened report, and what the browser had to say."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def canvas(self, plane: str) -> Any:
        return self.page.locator(f"#view-{plane} canvas")

    def pixels(self, plane: str) -> str:
        self.settle()
        return str(self.canvas(plane).evaluate("canvas => canvas.toDataURL()"))

    def where(self, plane: str) -> str:
        self.settle()
        return str(self.page.locator(f"#view-{plane} .where").inner_text())

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def set_range(self, selector: str, value: int) -> None:
        move = "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"
        self.page.locator(selector).evaluate(move, value)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    paths = {}
    for codes in ("LPS", "RAS", "LAI"):
        study, maps = made_study(codes)
        paths[codes] = folder / codes / "report.html"
        write_report(study, made_result(study, maps), maps, paths[codes])
    return paths


def visit(browser: Any, path: Path, **context: Any) -> Visit:
    page = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **context}).new_page()
    made = Visit(page)
    page.on("console", lambda message: made.complaints.append(message.text))
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("request", lambda request: made.requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-viewer=ready]", timeout=20_000)
    return made


@pytest.fixture
def opened(browser: Any, reports: dict[str, Path]) -> Iterator[Visit]:
    made = visit(browser, reports["LPS"])
    yield made
    made.page.context.close()
    assert made.complaints == []
    assert [url for url in made.requests if not url.startswith("data:")] == [reports["LPS"].as_uri()]


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAI"])
def test_the_patient_s_right_is_at_the_left_in_front_up_and_head_up(
    browser: Any, reports: dict[str, Path], codes: str
) -> None:
    made = visit(browser, reports[codes])
    made.page.locator("#show-cross").uncheck()
    made.page.locator("#show-infection").uncheck()
    made.set_range("#heat-opacity", 0)
    made.settle()
    for plane, index in (("axial", 16), ("coronal", 16), ("sagittal", 12)):
        made.set_range(f"#view-{plane} input", index)
        made.settle()
        upper_left, *others = made.canvas(plane).evaluate(QUARTERS)
        assert upper_left > 60
        assert max(others) < 5
    for plane, marks in (("axial", "RLAP"), ("coronal", "RLHF"), ("sagittal", "APHF")):
        stage = made.page.locator(f"#view-{plane} .stage").bounding_box()
        boxes = {edge: made.page.locator(f"#view-{plane} .mark.{edge}") for edge in ("left", "right", "top", "bottom")}
        assert "".join(box.inner_text() for box in boxes.values()) == marks
        assert boxes["left"].bounding_box()["x"] < stage["x"] + 0.1 * stage["width"]
        assert boxes["right"].bounding_box()["x"] > stage["x"] + 0.9 * stage["width"]
        assert boxes["top"].bounding_box()["y"] < stage["y"] + 0.1 * stage["height"]
        assert boxes["bottom"].bounding_box()["y"] > stage["y"] + 0.85 * stage["height"]
    made.page.context.close()
    assert made.complaints == []


def test_pictures_have_the_scan_s_aspect(opened: Visit) -> None:
    for plane, aspect in (("axial", 48 / 60), ("coronal", 48 / 48), ("sagittal", 60 / 48)):
        box = opened.canvas(plane).bounding_box()
        assert box["width"] / box["height"] == pytest.approx(aspect, rel=0.01)


def test_wheel_keys_and_slider_scroll(opened: Visit) -> None:
    for plane, count in (("axial", 24), ("coronal", 60), ("sagittal", 48)):
        opened.set_range(f"#view-{plane} input", 17)
        before = opened.pixels(plane)
        assert " 18 of" in opened.where(plane)
        opened.canvas(plane).hover()
        opened.page.mouse.wheel(0, 120)
        opened.page.wait_for_selector(f"#view-{plane} .where:has-text(' 17 of')")
        opened.page.mouse.wheel(0, -120)
        opened.page.wait_for_selector(f"#view-{plane} .where:has-text(' 18 of')")
        assert opened.pixels(plane) == before
        opened.canvas(plane).focus()
        keys = {"ArrowUp": 19, "ArrowLeft": 18, "PageDown": 8, "PageUp": 18, "End": count, "Home": 1}
        for key, number in keys.items():
            opened.page.keyboard.press(key)
            assert f" {number} of {count}" in opened.where(plane)
        assert opened.pixels(plane) != before
    opened.page.wait_for_selector("#live:has-text('sagittal')", state="attached")


def test_the_slider_moves_the_heat_map(opened: Visit) -> None:
    opened.page.locator("#show-cross").uncheck()
    opened.set_range("#view-axial input", 16)
    blues = []
    for opacity in (0, 50, 100):
        opened.set_range("#heat-opacity", opacity)
        opened.settle()
        blues.append(opened.canvas("axial").evaluate(PIXEL, [13 / 48, 16 / 60])[2])
    # The block is white (255), the strongest heat pale yellow (252, 255, 164).
    assert blues[0] >= 250
    assert blues[1] == pytest.approx(210, abs=8)
    assert blues[2] == pytest.approx(164, abs=8)
    assert opened.page.locator("#heat-opacity-text").inner_text() == "100\u00a0%"


def test_boxes_show_and_hide(opened: Visit) -> None:
    opened.set_range("#view-axial input", 16)
    before = opened.pixels("axial")
    for box in ("#show-lungs", "#show-infection", "#show-cross"):
        opened.page.locator(box).click()
        assert opened.pixels("axial") != before
        opened.page.locator(box).click()
        assert opened.pixels("axial") == before


def test_a_click_sets_the_other_views(opened: Visit) -> None:
    box = opened.canvas("axial").bounding_box()
    opened.canvas("axial").click(position={"x": box["width"] * 36.5 / 48, "y": box["height"] * 15.5 / 60})
    assert "Plane 16 of 60" in opened.where("coronal")
    assert "Plane 37 of 48" in opened.where("sagittal")


def test_every_control_has_a_name_and_headings_are_in_order(opened: Visit) -> None:
    names = opened.page.evaluate(
        """() => [...document.querySelectorAll("input, canvas, img, svg[role=img]")].map(e =>
          e.getAttribute("aria-label") || e.alt || (e.labels && e.labels[0] && e.labels[0].innerText) || "")"""
    )
    assert len(names) > 8
    assert all(name.strip() for name in names)
    levels = opened.page.evaluate("() => [...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert opened.page.locator("table").count() == opened.page.locator("table caption").count()


def relative_luminance(colour: list[float]) -> float:
    """WCAG 2.2's relative luminance of red, green, blue 0..255."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser: Any, reports: dict[str, Path], scheme: str) -> None:
    made = visit(browser, reports["LPS"], color_scheme=scheme)
    found = made.page.evaluate(
        """() => [...document.querySelectorAll("p, th, td, dt, dd, li, h1, h2, h3, a, aside, figcaption span")]
          .filter(e => e.offsetParent && e.innerText.trim() && !e.matches(".hidden, .hidden *, .skip")).map(e => {
            let ground = e;
            while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
            const numbers = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
            return [numbers(getComputedStyle(e).color), numbers(getComputedStyle(ground).backgroundColor), e.innerText];
          })"""
    )
    made.page.context.close()
    assert len(found) > 30
    grounds = []
    for colour, ground, text in found:
        light, dark = sorted((relative_luminance(colour), relative_luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, text
        grounds.append(relative_luminance(ground))
    assert (np.median(grounds) < 0.05) == (scheme == "dark")
    assert made.complaints == []


def test_a_phone_scrolls_only_down(browser: Any, reports: dict[str, Path]) -> None:
    made = visit(
        browser,
        reports["LPS"],
        viewport={"width": 360, "height": 740},
        is_mobile=True,
        has_touch=True,
        device_scale_factor=2,
    )
    assert made.page.evaluate("() => document.documentElement.scrollWidth") == 360
    for plane in ("axial", "coronal", "sagittal"):
        assert made.canvas(plane).bounding_box()["width"] > 280
    made.page.context.close()


def test_paper_and_readers_without_script_get_still_pictures(browser: Any, reports: dict[str, Path]) -> None:
    made = visit(browser, reports["LPS"])
    assert not made.page.locator(".stills img").first.is_visible()
    made.page.emulate_media(media="print")
    assert made.page.locator(".stills img").first.is_visible()
    assert not made.canvas("axial").is_visible()
    made.page.context.close()
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(reports["LPS"].as_uri())
    assert page.locator(".stills img").first.is_visible()
    assert not page.locator("#view-axial canvas").is_visible()
    page.context.close()


def test_explanations_stand_in_a_row_and_below_each_other_on_a_phone(browser: Any, tmp_path: Path) -> None:
    study, maps = made_study("LPS")
    assert maps.heat_map is not None
    maps.more_heat_maps = {"cam": maps.heat_map, "gradcam": maps.heat_map, "gradcam++": maps.heat_map}
    write_report(study, made_result(study, maps), maps, tmp_path / "report.html")
    for width, in_a_row in ((1200, 4), (360, 1)):
        made = visit(browser, tmp_path / "report.html", viewport={"width": width, "height": 740})
        boxes = [figure.bounding_box() for figure in made.page.locator(".methods figure").all()]
        assert len(boxes) == 4
        assert len({round(box["x"]) for box in boxes}) == in_a_row
        assert len({round(box["y"]) for box in boxes}) == 4 // in_a_row
        assert made.page.evaluate("() => document.documentElement.scrollWidth") == width
        assert made.page.evaluate("() => [...document.querySelectorAll('.methods img')].every(i => i.naturalWidth > 0)")
        made.page.context.close()
        assert made.complaints == []


def segmented_report(path: Path) -> Path:
    """The report of a segmentation with a truth: at the patient's right marked, missed, and both, in slice 12."""
    study, maps = made_study("LPS")
    assert maps.infection is not None
    truth = np.zeros_like(maps.infection)
    maps.heat_map, maps.truth = None, truth
    maps.infection[4:20, 36:44, 10:14], truth[12:20, 36:50, 10:14] = 1, 1
    result = made_result(study, maps)
    result.classes = result.verdict = result.confidence = None
    assert result.infection is not None
    result.infection |= infection_densities(study.image, maps.infection)
    result.slices = infection_profile(maps.infection, maps.lungs, study.affine)
    result.truth = {"dice": 0.5, "precision": 0.5, "recall": 0.5}
    write_report(study, result, maps, path)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_segmentation_is_shown_against_its_truth(browser: Any, tmp_path: Path, scheme: str) -> None:
    made = visit(browser, segmented_report(tmp_path / "report.html"), color_scheme=scheme)
    made.page.locator("#show-cross").uncheck()
    made.set_range("#view-axial input", 12)
    made.settle()
    # Half of blue, green and red over black; the last lies beside all of them.
    places = {(16, 40): (28, 68, 128), (8, 40): (0, 107, 48), (16, 47): (128, 28, 24), (8, 47): (0, 0, 0)}
    for (column, row), colour in places.items():
        pixel = made.canvas("axial").evaluate(PIXEL, [column / 48, row / 60])
        assert pixel[:3] == pytest.approx(colour, abs=3)
    made.page.locator("label", has_text="Infection against the truth").locator("input").uncheck()
    made.settle()
    for column, row in places:
        assert max(made.canvas("axial").evaluate(PIXEL, [column / 48, row / 60])[:3]) <= 3
    key = made.page.locator(".key").first
    assert [name.lower() for name in key.locator("b").all_inner_texts()] == ["blue", "green", "red"]
    assert key.is_visible()
    names = [svg.get_attribute("aria-label") for svg in made.page.locator("svg.chart[role=img]").all()]
    assert len(names) == 3
    assert "from the feet to the head" in names[2]
    for chart in made.page.locator("svg.chart[role=img]").all():
        assert chart.bounding_box()["width"] > 300
        assert chart.locator("path.area").first.bounding_box()["height"] > 20
    made.page.emulate_media(media="print")
    assert key.is_visible()
    made.page.context.close()
    assert made.complaints == []


def test_a_segmentation_on_a_phone_scrolls_only_down(browser: Any, tmp_path: Path) -> None:
    made = visit(browser, segmented_report(tmp_path / "report.html"), viewport={"width": 360, "height": 740})
    assert made.page.evaluate("() => document.documentElement.scrollWidth") == 360
    made.page.context.close()
