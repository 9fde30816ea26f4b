"""The main job on small studies: both entrances agree, maps lie on the study's grid, failures are recorded."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pneumonai.pipeline.batch import run_batch
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.cli import app
from pneumonai.pipeline.errors import BundleError, OutputError, StudyError
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.outputs.result_json import result_schema
from pneumonai.pipeline.predict import Options, answer, open_for, predict_study, prepare
from pneumonai.pipeline.sources import find_studies


@pytest.fixture(scope="module")
def model(small_bundle: Path) -> Model:
    return Model(find_bundle(small_bundle), device="cpu", precision="fp32")


def save(image: np.ndarray, affine: np.ndarray, path: Path) -> None:
    """A NIfTI volume at a path whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, affine), path)


def flip(image: np.ndarray, affine: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same study stored in the other direction along some axes."""
    changed = affine.copy()
    for axis in axes:
        changed[:3, 3] += changed[:3, axis] * (image.shape[axis] - 1)
        changed[:3, axis] *= -1
    return np.ascontiguousarray(np.flip(image, axes)), changed


def tilt(affine: np.ndarray, degrees: float) -> np.ndarray:
    """The same voxels with the patient turned about the head-foot axis and nodding: an oblique grid."""
    a = np.deg2rad(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    turned = affine.copy()
    turned[:3] = about_z @ about_x @ affine[:3]
    return turned


@pytest.fixture(scope="module")
def variants(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one patient stored four ways."""
    folder = tmp_path_factory.mktemp("variants")
    image, affine = small_phantom.image, small_phantom.affine
    save(image, affine, folder / "a_plain.nii.gz")
    save(*flip(image, affine, (0, 1)), folder / "b_flipped.nii.gz")
    save(*flip(image, affine, (0, 2)), folder / "c_feet_first.nii.gz")
    save(image, tilt(affine, 8.0), folder / "d_oblique.nii.gz")
    return folder


def test_predict_and_monai_bundle_run_agree(variants: Path, small_bundle: Path, model: Model, tmp_path: Path) -> None:
    config = inference_config(
        small_bundle, dataset_dir=str(variants), output_dir=str(tmp_path), device="$torch.device('cpu')"
    )
    dataset = config.get_parsed_content("dataset")
    config.get_parsed_content("evaluator").run()
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    sources = find_studies([variants])
    assert [Path(row["image"]).name for row in rows] == [Path(s.path).name for s in sources]
    for source, item, row in zip(sources, dataset, rows, strict=True):
        prepared = prepare(open_for(model.bundle, source, Options()), model)
        assert torch.equal(prepared.item["image"].as_tensor(), item["image"].as_tensor())
        result, _ = answer(prepared, model, Options())
        assert result.classes is not None
        for one in result.classes:
            assert float(row[f"p_{one['name']}"]) == pytest.approx(one["probability"], abs=1e-5)


def test_how_a_study_is_stored_does_not_change_its_answer(variants: Path, model: Model) -> None:
    results = [
        predict_study(variants / f"{name}.nii.gz", model=model) for name in ("a_plain", "b_flipped", "c_feet_first")
    ]
    for other in results[1:]:
        assert other.classes == results[0].classes
        assert other.lungs == results[0].lungs


def test_files_lie_on_the_study_s_own_grid(variants: Path, model: Model, tmp_path: Path) -> None:
    source = nib.load(variants / "c_feet_first.nii.gz")
    predict_study(variants / "c_feet_first.nii.gz", model=model, output=tmp_path)
    folder = tmp_path / "c_feet_first"
    for name in ("lungs.nii.gz", "heat_map.nii.gz"):
        written = nib.load(folder / name)
        assert written.shape == source.shape
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
    lungs, heat_map = (np.asarray(nib.load(folder / n).dataobj) for n in ("lungs.nii.gz", "heat_map.nii.gz"))
    assert set(np.unique(lungs)) == {0, 1, 2}
    # Its maximum is 1 on the network's grid, which reaches beyond the lungs' slices.
    assert 0.3 < heat_map.max() <= 1.0
    assert not heat_map[:, :, ~lungs.any(axis=(0, 1))].any()
    result = json.loads((folder / "result.json").read_text())
    assert sorted(result["files"]) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert result["notice"] == "trained on synthetic phantoms, not for clinical use"
    assert "not for clinical use" in (folder / "report.html").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["c_feet_first"]


def batch(folder: Path, bundle: Path, output: Path, model: Model, *, resume: bool = False) -> list[Any]:
    return list(
        run_batch(
            find_studies([folder]),
            find_bundle(bundle),
            output,
            Options(report=False),
            lambda: model,
            resume=resume,
        )
    )


def test_a_failure_is_recorded_and_the_rest_goes_on(
    small_phantom: Any, small_bundle: Path, model: Model, tmp_path: Path
) -> None:
    studies, output = tmp_path / "studies", tmp_path / "output"
    save(small_phantom.image, small_phantom.affine, studies / "good.nii.gz")
    water = np.random.default_rng(0).normal(0, 20, (64, 64, 40)).astype(np.int16)
    water[:8], water[-8:] = -1000, -1000  # a block of water with air on both sides
    save(water, np.diag([3.0, 3, 5, 1]), studies / "a_water.nii.gz")
    save(small_phantom.image, small_phantom.affine, studies / "zzz.nii.gz")
    outcomes = batch(studies, small_bundle, output, model)
    assert [outcome.source.id for outcome in outcomes] == ["a_water", "good", "zzz"]
    assert isinstance(outcomes[0].error, StudyError)
    assert outcomes[0].error.line().startswith("a_water: ")
    with (output / "summary.csv").open(newline="") as file:
        rows = {row["study"]: row for row in csv.DictReader(file)}
    assert [rows[name]["status"] for name in ("a_water", "good", "zzz")] == ["failed", "done", "done"]
    assert "lung" in rows["a_water"]["error"]
    assert float(rows["good"]["p_normal"]) + float(rows["good"]["p_ncp"]) + float(
        rows["good"]["p_cp"]
    ) == pytest.approx(1, abs=1e-3)
    assert not (output / "a_water").exists()


def test_resume_skips_what_is_answered_and_only_that(
    small_phantom: Any, small_bundle: Path, model: Model, tmp_path: Path
) -> None:
    studies, output = tmp_path / "studies", tmp_path / "output"
    save(small_phantom.image, small_phantom.affine, studies / "one.nii.gz")
    save(small_phantom.image, small_phantom.affine, studies / "two.nii.gz")
    batch(studies, small_bundle, output, model)
    assert [o.skipped for o in batch(studies, small_bundle, output, model, resume=True)] == [True, True]
    save(small_phantom.image - np.int16(3), small_phantom.affine, studies / "two.nii.gz")
    outcomes = {o.source.id: o for o in batch(studies, small_bundle, output, model, resume=True)}
    assert {name: o.skipped for name, o in outcomes.items()} == {"one": True, "two": False}
    path = output / "one" / "result.json"
    path.write_text(path.read_text().replace('"small_bundle"', '"another"'))
    with pytest.raises(OutputError, match="another bundle"):
        batch(studies, small_bundle, output, model, resume=True)


def test_other_explanations_lie_beside_the_bundle_s_own(small_study: Path, model: Model, tmp_path: Path) -> None:
    passes: list[int] = []
    handle = model.network.classifier.register_forward_hook(lambda *_: passes.append(1))
    plain = predict_study(small_study, model=model, output=tmp_path / "plain")
    assert len(passes) == 1  # the default explanation costs no second pass
    explained = predict_study(
        small_study, model=model, output=tmp_path / "all", options=Options(explain=("gradcam++", "all"))
    )
    handle.remove()
    assert explained.classes == plain.classes
    for result, folder in ((plain, "plain"), (explained, "all")):
        jsonschema.validate(json.loads((tmp_path / folder / "chest" / "result.json").read_text()), result_schema())
        assert result.explanation is not None
        assert result.explanation["files"] == [one["file"] for one in result.explanation["maps"]]
        assert result.explanation["method"] == result.explanation["maps"][0]["method"]
    assert plain.explanation is not None
    assert explained.explanation is not None
    assert plain.explanation["files"] == ["heat_map.nii.gz"]
    files = ["heat_map", "heat_map_cam", "heat_map_gradcam", "heat_map_gradcam++"]
    assert explained.explanation["files"] == [f"{name}.nii.gz" for name in files]
    maps = [np.asarray(nib.load(tmp_path / "all" / "chest" / f"{name}.nii.gz").dataobj) for name in files]
    own = np.asarray(nib.load(tmp_path / "plain" / "chest" / "heat_map.nii.gz").dataobj)
    np.testing.assert_array_equal(maps[0], own)
    lungs = np.asarray(nib.load(tmp_path / "all" / "chest" / "lungs.nii.gz").dataobj)
    for made in maps[1:]:
        assert made.shape == own.shape
        assert not made[:, :, ~lungs.any(axis=(0, 1))].any()
        assert not np.array_equal(made, own)
    assert "Explanations side by side" in (tmp_path / "all" / "chest" / "report.html").read_text()
    assert not any(layer._forward_hooks for layer in model.network.features.modules())


def test_an_explanation_that_the_network_does_not_allow_is_refused(
    small_study: Path, small_bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "plain"
    shutil.copytree(small_bundle, copy)
    path = copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["explainer"]["_target_"] = "pneumonai.pipeline.explain.ClassActivationMap"
    path.write_text(json.dumps(config))
    model = Model(find_bundle(copy), device="cpu", precision="fp32")
    assert list(model.more_explainers(["all"])) == ["attention", "gradcam", "gradcam++"]
    assert model.more_explainers(["all"]) is model.more_explainers(["all"])  # and hooks are put once
    assert list(model.more_explainers(["cam"])) == []
    with pytest.raises(BundleError, match="plain: an explanation must be one of attention, cam"):
        predict_study(small_study, model=model, options=Options(explain=("lime",)))


def test_resume_knows_which_explanations_there_are(
    small_phantom: Any, small_bundle: Path, model: Model, tmp_path: Path
) -> None:
    save(small_phantom.image, small_phantom.affine, tmp_path / "studies" / "one.nii.gz")

    def skipped(*explain: str) -> bool:
        options = Options(report=False, explain=explain)
        sources, bundle = find_studies([tmp_path / "studies"]), find_bundle(small_bundle)
        (outcome,) = run_batch(sources, bundle, tmp_path / "out", options, lambda: model, resume=True)
        assert outcome.error is None
        return outcome.skipped

    assert [skipped(), skipped("cam"), skipped("cam")] == [False, False, True]


def test_identifiers_are_written_only_when_asked_for(
    small_phantom: Any, model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pneumonai.pipeline.phantom.write import write_dicom

    write_dicom(small_phantom, tmp_path / "scan")
    opened = open_for(model.bundle, tmp_path / "scan", Options())
    name = opened.study.identifiers["PatientName"]
    assert name
    predict_study(tmp_path / "scan", model=model, output=tmp_path / "out")
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert name.encode() not in written
    assert name not in caplog.text
    result = predict_study(tmp_path / "scan", model=model, options=Options(with_identifiers=True, report=False))
    assert result.study["identifiers"]["PatientName"] == name


def test_an_output_that_cannot_be_written_leaves_nothing(small_study: Path, model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        predict_study(small_study, model=model, output=tmp_path / "file" / "out", options=Options(report=False))
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_bundle_without_usable_weights_is_refused(small_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "broken"
    shutil.copytree(small_bundle, copy)
    weights = copy / "models" / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"broken: the weights file model\.pt is corrupt"):
        Model(find_bundle(copy), device="cpu", precision="fp32")
    weights.unlink()
    with pytest.raises(BundleError, match="broken: there is no weights file"):
        Model(find_bundle(copy), device="cpu", precision="fp32")


# From outside the signal may come after the last study, however many there are; and where the tests run in a shell's
# background, it is ignored.
INTERRUPTED = """
import os, signal, typer
signal.signal(signal.SIGINT, signal.default_int_handler)
echo = typer.echo
def interrupting(message=None, **options):
    echo(message, **options)
    if str(message).startswith("a: "):
        os.kill(os.getpid(), signal.SIGINT)
typer.echo = interrupting
from pneumonai.pipeline.cli import main
main()
"""


def test_an_interrupted_run_leaves_finished_studies_whole_and_resumes(
    small_phantom: Any, small_bundle: Path, tmp_path: Path
) -> None:
    studies, output = tmp_path / "studies", tmp_path / "output"
    for name in "abcd":
        save(small_phantom.image, small_phantom.affine, studies / f"{name}.nii.gz")
    arguments = ["predict", str(studies), "--bundle", str(small_bundle), "--no-report", "--output", str(output)]
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert process.returncode == 130
    assert process.stderr.strip().splitlines()[-1] == "interrupted: finished studies are whole; --resume goes on"
    done = [folder for folder in output.iterdir() if folder.is_dir()]
    assert 1 <= len(done) < 4
    for folder in done:
        named = json.loads((folder / "result.json").read_text())["files"]
        assert sorted(named) == sorted(path.name for path in folder.iterdir())
    # One that is not answered yet will do for the rest.
    left = [path for path in sorted(studies.iterdir()) if output / path.name.split(".")[0] not in done]
    for path in left[1:]:
        path.unlink()
    resumed = CliRunner().invoke(app, [*arguments, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert resumed.output.count("(answered earlier)") == len(done)
    with (output / "summary.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done"] * (len(done) + 1)
