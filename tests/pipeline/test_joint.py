"""One study, several bundles: each answers as it does alone, what they share is made once, failures stay with one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from pneumonai.pipeline import cli
from pneumonai.pipeline.agreement import answered
from pneumonai.pipeline.bundle import Bundle, find_bundle
from pneumonai.pipeline.errors import BundleError, OutputConflictError, StudyError
from pneumonai.pipeline.joint import Models, check_options, load_models
from pneumonai.pipeline.joint_batch import JointOutcome, run_joint_batch
from pneumonai.pipeline.lineup import Lineup, find_lineup
from pneumonai.pipeline.outputs.joint_json import joint_schema, read_joint_json
from pneumonai.pipeline.outputs.result_json import result_schema
from pneumonai.pipeline.phantom.projections import axial_picture, project_xray, slice_positions
from pneumonai.pipeline.predict import Options, predict_study, predict_together
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.sources import find_studies
from pneumonai.pipeline.study import Modality, open_study

VOLUMES, NAMES, MARKS = "small_bundle", "fusa_resnet_ct_classification", "fusa_resunet_ct_segmentation"
QUIET = Options(report=False)
XRAY_PREPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": {
                "_target_": "pneumonai.pipeline.study.StudyReader",
                "modality": "@_meta_::pneumonai::modality",
                "input_kind": "@_meta_::pneumonai::input_kind",
            },
            "dtype": None,
        },
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Resized", "keys": "image", "spatial_size": [64, 64]},
        {"_target_": "ScaleIntensityd", "keys": "image"},
    ],
}
LUNGS = {
    "_target_": "pneumonai.transforms.PictureLungSegmentd",
    "keys": "image",
    "network": {"_target_": "dark_lungs_network.DarkLungsNetwork"},
}


@pytest.fixture(scope="module")
def xray_bundle(small_copy: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    """Makes bundles that name X-rays; some find their lungs."""
    shipped = find_bundle(NAMES)
    unexplained = json.loads((shipped.root / "configs" / "inference.json").read_text())["postprocessing"]
    unexplained["transforms"] = unexplained["transforms"][:2]

    def make(name: str, *, lungs: bool) -> Bundle:
        steps = XRAY_PREPROCESSING["transforms"]
        root = small_copy(
            NAMES,
            network_def={"_target_": "threshold_network.ThresholdNetwork", "threshold": 0.55, "pooled": True},
            preprocessing={"_target_": "Compose", "transforms": [*steps[:2], *([LUNGS] if lungs else []), *steps[2:]]},
            inferer={"_target_": "SimpleInferer"},
            explainer=None,
            comparison_explainers={},
            postprocessing=unexplained,
        )
        metadata = json.loads((root / "configs" / "metadata.json").read_text())
        metadata["pneumonai"] |= {"modality": "CXR", "input_kind": "picture"}
        (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
        return find_bundle(root.rename(tmp_path_factory.mktemp("xray") / name))

    return make


@pytest.fixture(scope="module")
def bundles(small_bundle: Path, small_copy: Any, xray_bundle: Callable[..., Bundle]) -> dict[str, Bundle]:
    """One for volumes, two for slices, one for X-rays."""
    marking = {"_target_": "threshold_network.ThresholdNetwork", "threshold": 0.55}
    roots = [
        small_bundle,
        small_copy(NAMES, base_channels=4, slice_size=[64, 64]),
        small_copy(MARKS, network_def=marking, slice_size=[64, 64]),
    ]
    made = [find_bundle(root) for root in roots]
    return {bundle.name: bundle for bundle in [*made, xray_bundle("xray", lungs=True)]}


@pytest.fixture(scope="module")
def models(bundles: dict[str, Bundle]) -> Models:
    """All of them, as ``all`` gives them."""
    return load_models(Lineup(tuple(bundles.values())), QUIET, device="cpu", precision="fp32")


def among(models: Models, *names: str, named: bool = False) -> Models:
    """Some of the bundles, loaded already."""
    chosen = tuple(bundle for bundle in models.lineup.bundles if bundle.name in names)
    return Models(Lineup(chosen, frozenset(names if named else ())), models)


def without_time(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.as_dict().items() if name not in ("timing_s", "files")}


def save(image: np.ndarray, affine: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, affine), path)
    return path


def flipped_and_oblique(phantom: Any, path: Path) -> Path:
    """The same patient turned and nodding, stored from the other side and from the head down."""
    a = np.deg2rad(8.0)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    nod = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = phantom.affine.copy()
    affine[:3] = turn @ nod @ phantom.affine[:3]
    for axis in (0, 2):
        affine[:3, 3] += affine[:3, axis] * (phantom.image.shape[axis] - 1)
        affine[:3, axis] *= -1
    return save(np.ascontiguousarray(np.flip(phantom.image, (0, 2))), affine, path)


def test_each_answers_as_it_does_alone_and_what_they_share_is_made_once(
    models: Models, small_phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumonai.pipeline import find_lungs, joint

    path = flipped_and_oblique(small_phantom, tmp_path / "study.nii.gz")
    alone = {
        bundle.name: predict_study(path, model=models(bundle), options=QUIET) for bundle in models.lineup.bundles[:3]
    }
    counts = {"open": 0, "lungs": 0}
    images = []

    def count(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            counts[name] += 1
            found = call(*arguments, **named)
            if name == "open":
                images.append((found.image, found.image.copy()))
            return found

        return counted

    monkeypatch.setattr(joint, "open_study", count("open", joint.open_study))
    monkeypatch.setattr(find_lungs, "_lungs_of_ct", count("lungs", find_lungs._lungs_of_ct))
    together = predict_together(path, models=models, options=QUIET)
    assert counts == {"open": 1, "lungs": 1}
    assert {name: without_time(result) for name, result in together.results.items()} == {
        name: without_time(result) for name, result in alone.items()
    }
    assert [row.bundle for row in together.rows] == [VOLUMES, NAMES, MARKS]  # that for X-rays is left out
    assert set(together.timing_s) == {"read", "lungs"}
    ((image, before),) = images
    np.testing.assert_array_equal(image, before)


def test_files_of_several_bundles(models: Models, small_study: Path, tmp_path: Path) -> None:
    joint = predict_together(small_study, models=models, options=Options(explain=("cam",)), output=tmp_path / "all")
    folder = tmp_path / "all" / "chest"
    assert sorted(path.name for path in folder.iterdir()) == sorted(["joint.json", "report.html", *joint.results])
    document = json.loads((folder / "joint.json").read_text())
    jsonschema.validate(document, joint_schema())
    assert read_joint_json(folder / "joint.json") == joint
    page = (folder / "report.html").read_text()
    for row in joint.rows:
        written = json.loads((folder / str(row.result)).read_text())
        jsonschema.validate(written, result_schema())
        assert written["bundle"]["options"]["explain"] == "cam"
        assert row.bundle in page and str(row.report) in page
        own = folder / row.bundle
        files = [path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()]
        assert sorted(written["files"]) == sorted(files)
    assert (folder / VOLUMES / "heat_map_cam.nii.gz").is_file()
    # A segmentation has nothing to explain, and answers nevertheless.
    assert not list((folder / MARKS).glob("heat_map*"))
    predict_study(small_study, model=models(models.lineup.bundles[0]), options=QUIET, output=tmp_path / "alone")
    for name in ("lungs.nii.gz", "heat_map.nii.gz"):
        one, other = (nib.load(place / name) for place in (folder / VOLUMES, tmp_path / "alone" / "chest"))
        np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
        np.testing.assert_array_equal(one.affine, other.affine)


def test_weights_that_saw_phantoms_alone_count_where_the_file_says_that_it_is_one(
    models: Models, small_phantom: Any, tmp_path: Path
) -> None:
    from pneumonai.pipeline.phantom.write import write_dicom, write_nifti, write_slices, write_xray

    write_dicom(small_phantom, tmp_path / "scan")
    forms = [tmp_path / "scan", *write_nifti(small_phantom, tmp_path, masks=False)]
    forms += [write_xray(small_phantom, tmp_path, dicom=dicom)[0] for dicom in (False, True)]
    forms += write_slices(small_phantom, tmp_path, count=1)
    assert len(forms) == 5 and all(open_study(path).synthetic for path in forms)
    patient = open_study(save(small_phantom.image, small_phantom.affine, tmp_path / "patient.nii.gz"))
    assert not patient.synthetic
    volumes, names = models.lineup.bundles[:2]
    result = Result(study={}, bundle={}, verdict="ncp")
    assert [answered(volumes, result, synthetic=synthetic).counted for synthetic in (True, False)] == [True, False]
    assert answered(names, result, synthetic=False).counted


@pytest.fixture(scope="module")
def pictures(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT slice, an X-ray and noise, as files that say nothing of it."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(axial_picture(small_phantom, slice_positions(small_phantom, 3)[1])).save(folder / "slice.png")
    Image.fromarray(project_xray(small_phantom)).save(folder / "xray.png")
    noise = np.random.default_rng(0).integers(0, 255, (200, 240)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def test_a_picture_goes_where_its_looks_or_the_user_send_it(models: Models, pictures: Path) -> None:
    def asked(name: str, **options: Any) -> list[str]:
        joint = predict_together(pictures / name, models=models, options=replace(QUIET, **options))
        return [row.bundle for row in joint.rows]

    assert asked("slice.png") == [NAMES, MARKS]
    assert asked("xray.png") == ["xray"]
    doubt = "looks neither plainly like a CT slice nor like a chest X-ray; say --modality CT or CXR"
    with pytest.raises(StudyError, match=doubt) as told:
        asked("noise.png")
    assert "\n" not in told.value.line()
    assert asked("noise.png", modality=Modality.CXR) == ["xray"]
    assert asked("noise.png", modality=Modality.CT) == [NAMES, MARKS]


def test_one_bundle_alone_takes_a_picture_for_what_it_reads_unless_the_user_says(
    models: Models, pictures: Path
) -> None:
    xray = models(models.lineup.bundles[-1])
    assert predict_study(pictures / "noise.png", model=xray, options=QUIET).study["modality"] == "CXR"
    with pytest.raises(StudyError, match="is a CT, where a chest X-ray is wanted"):
        predict_study(pictures / "noise.png", model=xray, options=replace(QUIET, modality=Modality.CT))


def test_the_lungs_of_an_xray_are_those_that_each_finds_alone(
    xray_bundle: Callable[..., Bundle], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pneumonai.transforms.picture_lungs import PictureLungSegment

    members = (xray_bundle("a", lungs=True), xray_bundle("b", lungs=False), xray_bundle("c", lungs=True))
    team = load_models(Lineup(members), QUIET, device="cpu", precision="fp32")
    alone = [predict_study(pictures / "xray.png", model=team(bundle), options=QUIET) for bundle in members]
    found = PictureLungSegment.with_warnings
    calls: list[int] = []
    monkeypatch.setattr(PictureLungSegment, "with_warnings", lambda self, img: (calls.append(1), found(self, img))[1])
    joint = predict_together(pictures / "xray.png", models=team, options=QUIET)
    assert len(calls) == 1
    assert [without_time(result) for result in joint.results.values()] == [without_time(one) for one in alone]
    assert alone[0].lungs is not None and alone[1].lungs is None


def test_given_lungs_are_for_xrays_and_for_every_bundle_that_reads_them(
    xray_bundle: Callable[..., Bundle], models: Models, small_phantom: Any, pictures: Path, tmp_path: Path
) -> None:
    from pneumonai.pipeline.phantom.write import write_xray

    image, *masks = write_xray(small_phantom, tmp_path)
    lungs = np.asarray(Image.open(next(path for path in masks if "lungs" in path.name)))
    options = replace(QUIET, lungs=str(next(path for path in masks if "lungs" in path.name)))
    members = (models.lineup.bundles[1], xray_bundle("without", lungs=False), xray_bundle("with", lungs=True))
    team = load_models(Lineup(members), options, device="cpu", precision="fp32")
    joint = predict_together(image, models=team, options=options)
    assert list(joint.results) == ["without", "with"]
    for result in joint.results.values():
        assert result.lungs == {
            "right_pixels": (lungs == 1).sum(), "left_pixels": (lungs == 2).sum(), "total_pixels": (lungs > 0).sum()
        }  # fmt: skip
    assert list(predict_together(pictures / "slice.png", models=team, options=options).results) == [NAMES]
    Image.fromarray(lungs[1:]).save(tmp_path / "cut.png")
    with pytest.raises(StudyError, match=r"cut.png: is \d+ x \d+ pixels, the study \d+ x \d+"):
        predict_together(image, models=team, options=replace(options, lungs=str(tmp_path / "cut.png")))


def test_what_a_named_bundle_cannot_read_is_a_failed_row(models: Models, pictures: Path, small_study: Path) -> None:
    joint = predict_together(pictures / "slice.png", models=among(models, VOLUMES, NAMES, named=True), options=QUIET)
    assert [(row.bundle, row.status) for row in joint.rows] == [(VOLUMES, "failed"), (NAMES, "done")]
    assert "is a picture, where a CT volume is wanted" in str(joint.rows[0].error)
    with pytest.raises(StudyError, match="is a CT volume, which none of 1 bundles reads"):
        predict_together(small_study, models=among(models, "xray"), options=QUIET)


def test_options_that_no_bundle_has_a_use_for_are_refused(models: Models, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("study,x,y,width,height\n")
    with pytest.raises(BundleError, match="none marks infection that --truth could be compared with"):
        check_options(among(models, VOLUMES, NAMES).lineup, Options(truth=str(tmp_path)))
    with pytest.raises(BundleError, match="none marks boxes"):
        check_options(models.lineup, Options(truth=str(tmp_path / "boxes.csv")))
    with pytest.raises(BundleError, match="reads CT, whose lungs are found without help"):
        check_options(among(models, VOLUMES, NAMES).lineup, Options(lungs=str(tmp_path)))
    check_options(models.lineup, Options(truth=str(tmp_path), lungs=str(tmp_path)))
    with pytest.raises(BundleError, match="got 'lime'; choose another --explain"):
        models(models.lineup.bundles[0]).allowed_explanations(("cam", "lime"))
    with pytest.raises(BundleError, match="cannot run on device 'nowhere'"):
        load_models(models.lineup, QUIET, device="nowhere")


def test_a_truth_is_for_those_that_mark(models: Models, small_phantom: Any, tmp_path: Path) -> None:
    from pneumonai.pipeline.phantom.write import write_nifti

    image, *masks = write_nifti(small_phantom, tmp_path)
    truth = next(str(path) for path in masks if "infection" in path.name)
    joint = predict_together(image, models=among(models, NAMES, MARKS), options=replace(QUIET, truth=truth))
    assert joint.results[NAMES].truth is None
    assert joint.results[MARKS].truth is not None and set(joint.results[MARKS].truth) == {"dice", "precision", "recall"}


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(folder: Path, models: Models, output: Path, *, resume: bool = False) -> list[JointOutcome]:
    return list(run_joint_batch(find_studies([folder]), models, output, QUIET, resume=resume))


def test_a_folder_of_studies_loads_each_bundle_once(
    bundles: dict[str, Bundle], models: Models, pictures: Path, small_study: Path, tmp_path: Path
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    for source in [*pictures.iterdir(), small_study]:
        (studies / source.name).write_bytes(source.read_bytes())
    for copy in range(3):
        (studies / f"slice{copy}.png").write_bytes((pictures / "slice.png").read_bytes())
    loaded: list[str] = []

    def load(bundle: Bundle) -> Any:
        loaded.append(bundle.name)
        return models(bundle)

    outcomes = run(studies, Models(Lineup(tuple(bundles.values())), load), tmp_path / "out")
    assert sorted(loaded) == sorted(bundles)
    assert [outcome.source.id for outcome in outcomes] == [
        "chest", "noise", "slice", "slice0", "slice1", "slice2", "xray",
    ]  # fmt: skip
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == [
        "study", "path", "bundle", "status", "verdict", "confidence", "refer", "refer_reason", "p_normal", "p_ncp",
        "p_cp", "p_noncovid", "p_covid", "infection_ml", "infection_percent", "error", "seconds",
    ]  # fmt: skip
    assert [(row["study"], row["bundle"]) for row in rows[:6]] == [
        ("chest", VOLUMES), ("chest", NAMES), ("chest", MARKS), ("noise", ""), ("slice", NAMES), ("slice", MARKS),
    ]  # fmt: skip
    assert rows[3]["status"] == "failed" and "say --modality" in rows[3]["error"]
    assert not (tmp_path / "out" / "noise").exists()
    joint = read_joint_json(tmp_path / "out" / "chest" / "joint.json")
    assert {(row["refer"], row["refer_reason"]) for row in rows[:3]} == {
        (str(joint.refer).lower(), joint.refer_reason or "")
    }


def test_one_failing_bundle_leaves_the_others(
    models: Models, bundles: dict[str, Bundle], pictures: Path, tmp_path: Path
) -> None:
    def load(bundle: Bundle) -> Any:
        if bundle.name == MARKS:
            raise BundleError(MARKS, "there is no weights file", "take a whole copy")
        return models(bundle)

    broken = Models(Lineup((bundles[NAMES], bundles[MARKS])), load)
    studies = tmp_path / "studies"
    studies.mkdir()
    (studies / "slice.png").write_bytes((pictures / "slice.png").read_bytes())
    options = Options()
    (outcome,) = run_joint_batch(find_studies([studies]), broken, tmp_path / "out", options)
    ((name, error),) = outcome.errors
    assert (name, error.line()) == (MARKS, f"{MARKS}: there is no weights file; take a whole copy")
    folder = tmp_path / "out" / "slice"
    assert (folder / NAMES / "result.json").is_file() and not (folder / MARKS).exists()
    document = json.loads((folder / "joint.json").read_text())
    jsonschema.validate(document, joint_schema())
    assert [row["status"] for row in document["rows"]] == ["done", "failed"]
    assert "there is no weights file" in (folder / "report.html").read_text()
    assert [row["status"] for row in rows_of(tmp_path / "out")] == ["done", "failed"]


def test_resume_judges_each_bundle_alone_and_bundles_may_be_added(
    models: Models, pictures: Path, tmp_path: Path
) -> None:
    studies, output = tmp_path / "studies", tmp_path / "out"
    studies.mkdir()
    for name in ("slice.png", "xray.png"):
        (studies / name).write_bytes((pictures / name).read_bytes())
    run(studies, among(models, NAMES, "xray"), output)
    first = (output / "slice" / NAMES / "result.json").stat().st_mtime_ns
    joint_before = (output / "xray" / "joint.json").stat().st_mtime_ns
    outcomes = {one.source.id: one for one in run(studies, among(models, NAMES, MARKS, "xray"), output, resume=True)}
    assert outcomes["slice"].skipped == {NAMES} and outcomes["xray"].skipped == {"xray"}
    assert (output / "slice" / NAMES / "result.json").stat().st_mtime_ns == first
    # Written again where a row came, and nowhere else.
    assert (output / "xray" / "joint.json").stat().st_mtime_ns == joint_before
    assert [row.bundle for row in read_joint_json(output / "slice" / "joint.json").rows] == [NAMES, MARKS]
    assert sorted((row["study"], row["bundle"]) for row in rows_of(output)) == [
        ("slice", NAMES), ("slice", MARKS), ("xray", "xray"),
    ]  # fmt: skip
    # A run that was interrupted before the joint answer was written.
    (output / "xray" / "joint.json").unlink()
    assert all(one.skipped for one in run(studies, among(models, NAMES, MARKS, "xray"), output, resume=True))
    assert (output / "xray" / "joint.json").is_file()
    # One bundle's weights changed, say: it alone is asked again; those that are not asked stay in the joint answer.
    (output / "slice" / MARKS / "result.json").unlink()
    (outcome,) = [one for one in run(studies, among(models, MARKS), output, resume=True) if one.source.id == "slice"]
    assert outcome.skipped == set()
    assert [row.bundle for row in read_joint_json(output / "slice" / "joint.json").rows] == [MARKS, NAMES]
    # Another picture under the same name: nothing of it is answered.
    Image.open(pictures / "slice.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(studies / "slice.png")
    outcomes = {one.source.id: one for one in run(studies, among(models, NAMES, "xray"), output, resume=True)}
    assert outcomes["slice"].skipped == set() and outcomes["xray"].skipped == {"xray"}
    assert [row.bundle for row in read_joint_json(output / "slice" / "joint.json").rows] == [NAMES]
    # Without --resume what is not asked again goes.
    run(studies, among(models, MARKS, "xray"), output)
    assert not (output / "slice" / NAMES).exists()


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["pneumonai", "predict", *arguments])
    try:
        cli.main()
        code = 0
    except SystemExit as done:
        code = int(done.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command(
    bundles: dict[str, Bundle],
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pneumonai.pipeline.lineup.shipped_bundles", lambda: list(bundles.values()))
    asked = [str(pictures / "slice.png"), "--no-report", "--device", "cpu", "--precision", "fp32"]
    output = str(tmp_path / "out")
    code, out, err = call(capsys, monkeypatch, *asked, "--bundle", "all", "-o", output)
    assert (code, err) == (0, "")
    assert out.startswith(f"slice: {NAMES} ") and f"{MARKS} infection in " in out and "joint.json" in out
    code, out, _ = call(capsys, monkeypatch, *asked, "--bundle", "all", "-o", output, "--resume")
    assert code == 0 and out.count("answered earlier") == 2
    named = [part for name in (NAMES, VOLUMES) for part in ("--bundle", str(bundles[name].root))]
    code, _, err = call(capsys, monkeypatch, *asked, *named, "-o", str(tmp_path / "named"))
    assert code == 1
    assert (
        err == f"error: slice: {VOLUMES}: is a picture, where a CT volume is wanted; send the DICOM series or NIfTI\n"
    )
    # The two layouts are never mixed.
    alone = ["--bundle", str(bundles[NAMES].root)]
    code, _, err = call(capsys, monkeypatch, *asked, *alone, "-o", output)
    assert code == 2 and "holds answers of several bundles" in err
    assert call(capsys, monkeypatch, *asked, *alone, "-o", str(tmp_path / "one"))[0] == 0
    code, _, err = call(capsys, monkeypatch, *asked, "--bundle", "all", "-o", str(tmp_path / "one"), "--resume")
    assert code == 2 and err.count("\n") == 1 and "holds the answer of one bundle alone" in err
    with pytest.raises(OutputConflictError):
        predict_together(pictures / "slice.png", bundles=[NAMES, MARKS], output=tmp_path / "one")


def test_a_line_up_of_shipped_bundles_is_found_by_name() -> None:
    assert [bundle.name for bundle in find_lineup([NAMES, MARKS]).bundles] == [NAMES, MARKS]
