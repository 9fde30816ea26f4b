from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs import report_content, sprites
from pneumonai.pipeline.outputs.lung_measures import hu_histogram, lung_measures
from pneumonai.pipeline.outputs.report import write_report
from pneumonai.pipeline.outputs.result_json import describe_study
from pneumonai.pipeline.outputs.views import display_of
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import InputKind, Modality, Study

BUNDLE = {"name": "b", "version": "0.1.0", "weights_sha256": "a" * 64, "trained_on": "phantoms"}


def ct_study() -> Study:
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 100, size=(32, 40, 16), dtype=np.int16)
    identifiers = {"PatientName": "Muster^Max"}
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    return Study("s", "in/s", Modality.CT, InputKind.VOLUME, image, affine, identifiers=identifiers)


def ct_maps(study: Study) -> Maps:
    lungs = np.zeros(study.image.shape, np.uint8)
    lungs[4:14, 8:30, 2:14], lungs[18:28, 8:30, 2:14] = 1, 2
    heat = np.zeros(study.image.shape, np.uint8)
    heat[6:10, 10:20, 4:8] = 200
    return Maps(lungs=lungs, heat_map=heat)


def full_result(study: Study, maps: Maps) -> Result:
    assert maps.lungs is not None
    return Result(
        study=describe_study(study),
        bundle=BUNDLE,
        classes=[{"name": "normal", "probability": 0.2}, {"name": "ncp", "probability": 0.8}],
        verdict="ncp",
        confidence=0.8,
        confidence_raw=0.8,
        refer=True,
        refer_reason="confidence below 0.9",
        lungs=lung_measures(maps.lungs, study.voxel_ml),
        hu_histogram=hu_histogram(study.image, maps.lungs),
        explanation={"method": "Grad-CAM", "files": ["heat_map.nii.gz"]},
        files=["result.json", "a folder/heat #1.nii.gz", "report.html"],
        timing_s={"read": 0.5},
        software={"torch": "2.13.0"},
        notice="trained on synthetic phantoms, not for clinical use",
    )


def written(folder: Path, study: Study, result: Result, maps: Maps) -> str:
    write_report(study, result, maps, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_holds_the_answer_and_no_identifier(tmp_path: Path) -> None:
    study = ct_study()
    maps = ct_maps(study)
    page = written(tmp_path, study, full_result(study, maps), maps)
    for words in (
        "Trained on synthetic phantoms, not for clinical use",
        "COVID-19 pneumonia (NCP)",
        "confidence 80\u00a0%",
        "Refer to a reader.</b> confidence below 0.9",
        "80.0&nbsp;%",
        'href="a%20folder/heat%20%231.nii.gz"',
        "Nothing to warn of.",
        "Grad-CAM",
    ):
        assert words in page
    assert "Muster" not in page
    assert 'href="report.html"' not in page


def test_nothing_points_outside_and_the_policy_forbids_it(tmp_path: Path) -> None:
    study = ct_study()
    maps = ct_maps(study)
    page = written(tmp_path, study, full_result(study, maps), maps)
    assert re.search(r"(?i)(src|href|action)\s*=\s*[\"']?(https?:|//|file:)|@import|url\((?!#)", page) is None
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    study = ct_study()
    study.path = "<script>alert(1)</script>"
    result = full_result(study, ct_maps(study))
    result.warnings = ['"><img src=x onerror=alert(1)>']
    result.files = ["</script><script>.csv"]
    page = written(tmp_path, study, result, ct_maps(study))
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count("</script>") == 2


def test_several_heat_maps_stand_side_by_side_with_what_they_show(tmp_path: Path) -> None:
    study = ct_study()
    maps = ct_maps(study)
    result = full_result(study, maps)
    assert "side by side" not in written(tmp_path, study, result, maps)
    maps.more_heat_maps = {"cam": maps.lungs, "<b>": maps.lungs}
    result.files = ["heat_map.nii.gz", "heat_map_cam.nii.gz"]
    result.explanation = {
        "method": "attention map",
        "files": result.files,
        "maps": [
            {"name": "attention", "method": "attention map", "shows": "Where it looks.", "file": "heat_map.nii.gz"},
            {"name": "cam", "method": "CAM", "shows": "What <speaks> for it.", "file": "heat_map_cam.nii.gz"},
        ],
    }
    page = written(tmp_path, study, result, maps)
    assert "Heat map: Attention map. Where it looks. It is coarse" in page
    section = page.split("Explanations side by side", 1)[1].split("</section>", 1)[0]
    assert [words for words in re.findall(r'alt="([^"]+)"', section) if "CAM" in words] == [
        "CAM over axial plane 5 of 16",
        "CAM over coronal plane 11 of 40",
    ]
    assert section.count("<figure>") == 3
    assert "<b>CAM</b>" in section
    assert "What &lt;speaks&gt; for it." in section
    assert "<b>&lt;b&gt;</b>" in section
    assert 'heat_map_cam.nii.gz</a> <span class="soft">CAM on the scan&#39;s grid</span>' in page


@pytest.mark.parametrize("given", ["nothing", "lungs", "heat_map", "infection"])
def test_what_is_not_there_is_left_out(tmp_path: Path, given: str) -> None:
    study = ct_study()
    maps = ct_maps(study)
    maps.infection = maps.lungs
    maps = Maps(**{given: getattr(maps, given)}) if given != "nothing" else Maps()
    page = written(tmp_path, study, Result(study=describe_study(study), bundle=BUNDLE), maps)
    assert ('id="heat-opacity"' in page) == (given == "heat_map")
    assert ('id="show-lungs"' in page) == (given == "lungs")
    assert ('id="show-infection"' in page) == (given == "infection")
    assert "names no class" in page
    assert "Refer to a reader" not in page
    assert "None" not in re.sub(r"(?s)<script.*?</script>", "", page)


def test_a_picture_is_shown_without_sides_or_millilitres(tmp_path: Path) -> None:
    picture = Study("p", "p.png", Modality.CXR, InputKind.PICTURE, np.full((60, 40), 90, np.uint8), np.eye(4))
    lungs = np.zeros((60, 40), np.uint8)
    lungs[10:40, 4:16], lungs[10:40, 24:36] = 1, 2
    result = Result(
        study=describe_study(picture),
        bundle=BUNDLE,
        classes=[{"name": "strange class", "probability": 0.9}, {"name": "cap", "probability": 0.1}],
        verdict="strange class",
        confidence=0.9,
        refer=False,
        lungs=lung_measures(lungs, None),
        infection={"right_percent": 2.0, "left_percent": None, "total_percent": 1.0},
        severity={"score": 3, "maximum": 8, "method": "shares of zones"},
        boxes=[{"x": 1, "y": 2, "width": 3, "height": 4, "score": 0.9}],
        truth={"dice": 0.91234, "precision": None, "recall": 1.0},
    )
    page = written(tmp_path, picture, result, Maps(lungs=lungs))
    assert "Chest X-ray" in page
    assert "the sides are not known" in page
    assert "Lung (pixels)" in page
    assert "<strong>strange class</strong>" in page
    assert "Community-acquired pneumonia (CAP)" in page
    assert "3 of 8" in page
    assert "0.912" in page
    assert 'class="mark' not in page
    assert page.count("<canvas") == 1


def test_slices_are_listed_and_numbered_from_one() -> None:
    classes = [{"name": "noncovid", "probability": 0.25}, {"name": "covid", "probability": 0.75}]
    header, rows = report_content.slice_rows(Result({}, {}, slices=[{"index": 4, "classes": classes}]))
    assert header == ["Slice", "No COVID-19", "COVID-19"]
    assert rows == [["5", "25.0\u00a0%", "75.0\u00a0%"]]


def test_density_bands_add_up_to_all_of_the_lung() -> None:
    # -2000 and -960 below -950; -950 aerated; -600 faint; -300 ground glass; -100 and 900 dense.
    image = np.array([[[-2000, -960, -950, -600, -300, -100, 900, 0]]], np.int16)
    lungs = np.array([[[1, 1, 1, 2, 2, 2, 2, 0]]], np.uint8)
    rows = report_content.density_table(Result({}, {}, hu_histogram=hu_histogram(image, lungs)))
    shares = [row["share"] for row in rows]
    assert shares == ["28.6\u00a0%", "14.3\u00a0%", "14.3\u00a0%", "14.3\u00a0%", "28.6\u00a0%"]


def decoded(stack: dict, slices: int) -> np.ndarray:
    tiles = []
    for strip in stack["strips"]:
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.split(",")[1]))))
        tiles += [
            sheet[top : top + stack["rows"], : stack["columns"]] for top in range(0, len(sheet), stack["tile_rows"])
        ]
    return np.stack(tiles[:slices])


@pytest.mark.parametrize("with_truth", [False, True])
def test_labels_come_back_from_their_strips_without_loss(with_truth: bool) -> None:
    study = ct_study()
    maps = ct_maps(study)
    maps.infection, truth = (np.random.default_rng(1).random((2, *study.image.shape)) < 0.2).astype(np.uint8)
    maps.truth = truth if with_truth else None
    display = display_of(study, maps)
    with ThreadPoolExecutor(1) as threads:
        stack = sprites.encode_labels(display, (40, 32), threads)
        assert stack is not None
        labels = decoded(stack.as_dict(), 16)
    assert display.lungs is not None
    assert display.infection is not None
    expected = display.lungs + 4 * display.infection
    if with_truth:
        assert display.truth is not None
        expected = expected + 8 * display.truth
        assert set(np.unique(expected)) == {lung + region for lung in (0, 1, 2) for region in (0, 4, 8, 12)}
    np.testing.assert_array_equal(labels, expected)


def test_noise_lowers_the_size_until_the_budget_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(2).integers(-1350, 150, size=(256, 256, 20), dtype=np.int16)
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, noise, np.diag([-1.0, -1.0, 1.0, 1.0]))
    monkeypatch.setattr(sprites, "IMAGE_BUDGET", 20 * 30_000)
    with ThreadPoolExecutor(1) as threads:
        stack = sprites.encode_image(display_of(study, Maps()), threads)
        strips = stack.as_dict()["strips"]
    assert stack.rows == 192
    assert sum(len(strip) for strip in strips) * 3 / 4 <= 1.1 * sprites.IMAGE_BUDGET


def test_many_slices_are_thinned() -> None:
    study = Study("s", "s", Modality.CT, InputKind.VOLUME, np.zeros((8, 8, 700), np.int16), np.eye(4))
    shown = sprites.shown_slices(display_of(study, Maps()))
    assert shown.step == 3
    assert len(shown) == 234


def test_a_full_disk_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    study = ct_study()
    with pytest.raises(OutputError, match="the disk is full"):
        write_report(study, full_result(study, ct_maps(study)), ct_maps(study), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
