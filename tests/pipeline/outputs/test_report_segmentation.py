from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pneumonai.pipeline.outputs import report_content
from pneumonai.pipeline.outputs.lung_measures import (
    infection_densities,
    infection_measures,
    infection_profile,
    lung_measures,
)
from pneumonai.pipeline.outputs.report import write_report
from pneumonai.pipeline.outputs.result_json import describe_study
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import InputKind, Modality, Study

BUNDLE = {"name": "b", "version": "0.1.0", "weights_sha256": "a" * 64, "trained_on": "phantoms"}
SCORES = {"dice": 0.5, "precision": 0.75, "recall": 0.375}


def ct() -> tuple[Study, Maps]:
    """32 x 40 x 16 voxels of 1 x 1 x 2 mm: lungs in slices 2 to 13, infection in 6 and 7, half of it ground glass."""
    image = np.full((32, 40, 16), -850, np.int16)
    lungs, infection, truth = (np.zeros(image.shape, np.uint8) for _ in range(3))
    lungs[4:14, 8:30, 2:14], lungs[18:28, 8:30, 2:14] = 1, 2
    infection[4:14, 8:19, 6:8], truth[4:14, 8:19, 7:9] = 1, 1  # a quarter of the lung there
    image[4:14, 8:19, 6], image[4:14, 8:19, 7] = -500, 0
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    study = Study("s", "in/s", Modality.CT, InputKind.VOLUME, image, affine)
    return study, Maps(lungs=lungs, infection=infection, truth=truth)


def segmented(study: Study, maps: Maps, **fields: Any) -> Result:
    assert maps.infection is not None
    measures = infection_measures(maps.infection, maps.lungs, study.voxel_ml)
    values: dict[str, Any] = {
        "lungs": None if maps.lungs is None else lung_measures(maps.lungs, study.voxel_ml),
        "infection": measures,
        "truth": SCORES if maps.truth is not None else None,
    }
    if study.image.ndim == 3:
        values["infection"] = measures | infection_densities(study.image, maps.infection)
        values["slices"] = infection_profile(maps.infection, maps.lungs, study.affine)
    return Result(study=describe_study(study), bundle=BUNDLE, **(values | fields))


def page_of(folder: Path, study: Study, result: Result, maps: Maps) -> str:
    write_report(study, result, maps, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def viewer_data(page: str) -> dict[str, Any]:
    found = re.search(r'id="viewer-data">(.*?)</script>', page)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_segmentation_with_a_truth_names_the_colours_and_the_numbers(tmp_path: Path) -> None:
    study, maps = ct()
    page = page_of(tmp_path, study, segmented(study, maps, refer=False), maps)
    for words in (
        "Infection against the truth",
        "<b>Blue</b> marked, and in the truth (true positive)",
        "<b>Green</b> marked, but not in the truth (false positive)",
        "<b>Red</b> in the truth, but not marked (false negative)",
        "<dt>Precision</dt><dd>0.750</dd>",
        "<strong>Infection: 4.2\u00a0% of both lungs</strong>",
        "0.4 ml in all",
        "names no class",
        "50.0\u00a0% of the infection is ground glass, 50.0\u00a0% consolidation.",
        "Infection in 2 of 12 slices; most in slice 7 (z 12.0 mm): 25.0\u00a0% of the lung there.",
        "Slice, from the feet to the head",
        "Infected share of the lung (%)",
        "12 slices with lung",
        "Not flagged for referral.</p>",
    ):
        assert words in page
    assert "threshold" not in page
    assert "Heat map" not in page
    assert viewer_data(page)["regions"] == [None, [0, 214, 96], [255, 56, 48], [56, 136, 255]]


def test_without_a_truth_there_is_the_infection_s_colour_alone(tmp_path: Path) -> None:
    study, maps = ct()
    maps.truth = None
    page = page_of(tmp_path, study, segmented(study, maps, refer=True, refer_reason="lungs cut off"), maps)
    assert "truth" not in re.sub(r"(?s)<script.*?</script>|<style.*?</style>", "", page)
    assert "Refer to a reader.</b> lungs cut off" in page
    assert viewer_data(page)["regions"] == [None, [64, 224, 208], None, None]


@pytest.mark.parametrize("with_truth", [False, True])
def test_a_picture_with_an_infection_mask(tmp_path: Path, with_truth: bool) -> None:
    picture = Study("p", "p.png", Modality.CT, InputKind.PICTURE, np.full((60, 40), 90, np.uint8), np.eye(4))
    infection = np.zeros((60, 40), np.uint8)
    infection[10:20, 10:22] = 1  # 120 of 2400 pixels
    maps = Maps(infection=infection, truth=np.roll(infection, 3, 0) if with_truth else None)
    page = page_of(tmp_path, picture, segmented(picture, maps), maps)
    assert "Infection takes 5.0\u00a0% of the picture." in page
    assert "<strong>Infection: 5.0\u00a0% of the picture</strong>" in page
    assert "the sides are not known" in page
    assert ("Infection against the truth" in page) == with_truth
    assert "Slice by slice" not in page
    assert "Density inside" not in page
    assert "None" not in re.sub(r"(?s)<script.*?</script>", "", page)


def test_nothing_found_is_said(tmp_path: Path) -> None:
    study, maps = ct()
    assert maps.infection is not None
    maps.infection[:] = 0
    nothing = {"dice": 0.0, "precision": None, "recall": 0.0}
    page = page_of(tmp_path, study, segmented(study, maps, truth=nothing), maps)
    assert "<strong>Infection: none in both lungs</strong>" in page
    assert "<dt>Precision</dt><dd>not defined: the model marks nothing</dd>" in page
    assert "Infection in none of 12 slices." in page
    assert "Density inside the infection" not in page


def test_the_share_s_whole_is_named() -> None:
    infection = {"percent_of_picture": 0.03, "total_ml": 2.0}
    volume = Result({"kind": "volume"}, {}, infection=infection)
    assert report_content.infection_headline(volume) == (
        "Infection: less than 0.1\u00a0% of the scan",
        "2.0 ml in all",
    )
    assert report_content.infection_sentence(volume) == "Infection takes 0.0\u00a0% of the scan, 2.0 ml."
    one_lung = Result({}, {}, infection={"right_percent": None, "left_percent": None, "total_percent": None})
    assert report_content.infection_headline(one_lung) is None
    assert report_content.infection_headline(Result({}, {}, verdict="ncp", infection=infection)) is None


def test_the_table_of_slices_shows_what_is_given() -> None:
    slices = [
        {"index": 4, "position_mm": None, "classes": None, "infection_percent": 12.3456},
        {"index": 5, "position_mm": None, "classes": None, "infection_percent": None},
    ]
    result = Result({}, {}, slices=slices, lungs={"total_pixels": 5})
    assert report_content.slice_rows(result) == (
        ["Slice", "Infected share of the lung"],
        [["5", "12.3\u00a0%"], ["6", "–"]],
    )
    result = Result({}, {}, slices=slices[1:])
    assert report_content.slice_rows(result) == ([], [])


def test_bands_inside_the_infection_add_up_to_all_of_it() -> None:
    image = np.array([[[-800, -751, -750, -301, -300, 49, 50, 900]]], np.int16)
    result = Result({}, {}, infection=infection_densities(image, np.ones_like(image, dtype=np.uint8)))
    assert [row["share"] for row in report_content.infection_density_table(result)] == ["25.0\u00a0%"] * 4
    assert report_content.infection_density_table(Result({}, {})) == []
    assert report_content.infection_density_sentence(Result({}, {})) == ""


def test_further_heat_maps_stand_side_by_side_without_one_of_the_bundle_s_own(tmp_path: Path) -> None:
    study, maps = ct()
    assert maps.lungs is not None
    maps.more_heat_maps = {"cam": maps.lungs}
    described = [{"name": "cam", "method": "CAM", "shows": "What speaks for it.", "file": None}]
    for explanation in ({"method": "CAM", "files": [], "maps": described}, {"files": [], "maps": []}, None):
        page = page_of(tmp_path, study, segmented(study, maps, explanation=explanation), maps)
        section = page.split("Explanations side by side", 1)[1].split("</section>", 1)[0]
        assert section.count("<figure>") == 1
