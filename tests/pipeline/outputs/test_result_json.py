from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.result_json import describe_study, read_json, result_schema, write_json
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.study import InputKind, Modality, Study


def made_study() -> Study:
    affine = np.diag([-0.75, -0.75, 2.5, 1.0])
    identifiers = {"PatientName": "Muster^Max", "PatientID": "4711"}
    image = np.zeros((4, 5, 6), np.int16)
    return Study("s", "in/s", Modality.CT, InputKind.VOLUME, image, affine, "1.2.3", "1.2", identifiers=identifiers)


def full_result() -> Result:
    classes = [{"name": "normal", "probability": np.float32(0.25)}, {"name": "ncp", "probability": 0.75}]
    return Result(
        study=describe_study(made_study()),
        bundle={"name": "b", "version": "0.1.0", "weights_sha256": "a" * 64, "trained_on": "x", "options": {"n": 1}},
        classes=classes,
        verdict="ncp",
        confidence=0.75,
        confidence_raw=np.float64(0.8),
        refer=np.bool_(True),
        refer_reason="confidence below 0.8",
        lungs={"right_ml": 2500.0, "left_ml": 2000.0, "total_ml": 4500.0},
        infection={
            "total_ml": 4.5,
            "right_percent": 0.1,
            "left_percent": None,
            "total_percent": 0.1,
            "hu_histogram": {"edges": [-1000, 0, 100], "counts": np.array([3, 4])},
            "ground_glass_percent": 42.9,
            "consolidation_percent": 0.0,
        },
        slices=[{"index": 3, "position_mm": -12.5, "classes": classes}],
        severity={"score": 3, "maximum": 25, "method": "lobes", "parts": {"right": 3}},
        boxes=[{"x": 1, "y": 2, "width": 3.5, "height": 4, "score": 0.9}],
        hu_histogram={"edges": [-1000, 0, 100], "counts": np.array([3, 4])},
        truth={"dice": 0.9, "precision": None, "recall": 1.0},
        explanation={
            "method": "Grad-CAM",
            "files": ["heat_map.nii.gz"],
            "maps": [
                {"name": "gradcam", "method": "Grad-CAM", "shows": "A.", "file": "heat_map.nii.gz"},
                {"name": "cam", "method": "CAM", "shows": "B.", "file": None},
            ],
        },
        warnings=["lungs cut off"],
        files=["result.json", "pictures/axial.png"],
        timing_s={"read": 0.5},
        software={"torch": "2.13.0"},
        notice="trained on synthetic phantoms, not for clinical use",
    )


def segmented_result() -> Result:
    densities = {"hu_histogram": {"edges": [-1000, 0, 100], "counts": [3, 4]}, "ground_glass_percent": 60.0}
    return Result(
        study=describe_study(made_study()),
        bundle={"name": "b", "version": "0.1.0", "weights_sha256": "a" * 64, "trained_on": "x"},
        infection={"percent_of_picture": 1.5, **densities, "consolidation_percent": None},
        slices=[
            {"index": 0, "position_mm": -12.5, "classes": None, "infection_percent": 1.5},
            {"index": 1, "position_mm": None, "classes": None, "infection_percent": None},
        ],
        truth={"dice": 0.9, "precision": 1.0, "recall": 0.8},
    )


def document(result: Result, folder: Path) -> dict:
    write_json(result, folder / "result.json")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_the_schema_is_one_and_names_the_fields_of_result() -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    names = [field.name for field in fields(Result)]
    assert list(schema["properties"]) == names
    assert schema["required"] == names


def test_a_full_and_an_empty_result_are_valid_and_come_back(tmp_path: Path) -> None:
    empty = Result(study=describe_study(made_study()), bundle={**full_result().bundle, "weights_sha256": None})
    for result in (full_result(), segmented_result(), empty):
        jsonschema.validate(document(result, tmp_path), result_schema())
        assert read_json(tmp_path / "result.json").as_dict() == document(result, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence", 1.5),
        ("classes", [{"name": "normal", "probability": 1.0}]),
        ("lungs", {"right_ml": 1.0, "left_ml": 2.0}),
        ("lungs", {"right_ml": 1.0, "left_ml": 2.0, "total_pixels": 3}),
        ("infection", {"total_ml": 3.0}),
        ("infection", {"percent_of_picture": 1.0, "hu_histogram": {"edges": [0, 1]}}),
        ("infection", {"percent_of_picture": 1.0, "ground_glass_percent": 101.0}),
        ("slices", [{"index": 0, "infection_percent": 1.0}]),
        ("slices", [{"index": -1, "classes": None}]),
        ("boxes", [{"x": 1, "y": 2, "width": 3, "height": 4, "score": 0.9, "label": "x"}]),
        ("files", ["/root/heat_map.nii.gz"]),
        ("files", ["../other/heat_map.nii.gz"]),
        ("refer", "yes"),
        ("explanation", {"method": "CAM", "files": [], "maps": [{"name": "cam"}]}),
        ("study", {"id": "s"}),
    ],
)
def test_the_schema_is_strict(tmp_path: Path, field: str, value: object) -> None:
    made = document(full_result(), tmp_path)
    made[field] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, result_schema())
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        jsonschema.validate({**document(full_result(), tmp_path), "extra": 1}, result_schema())


def test_identifiers_are_copied_only_when_asked_for() -> None:
    study = made_study()
    assert "Muster" not in json.dumps(describe_study(study))
    described = describe_study(study, with_identifiers=True)
    assert described["identifiers"]["PatientID"] == "4711"
    assert described["spacing"] == [0.75, 0.75, 2.5]
    study.assumed_geometry = True
    assert describe_study(study)["spacing"] is None


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    result = full_result()
    result.confidence = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(result, tmp_path / "result.json")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_and_a_broken_result_are_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "study").write_text("a file")
    with pytest.raises(OutputError, match="a file stands where a folder is needed; choose another --output"):
        write_json(full_result(), tmp_path / "study" / "result.json")
    for text, words in (("{", "is no JSON"), ("[]", "is no result"), ('{"a": 1}', "is no result")):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(OutputError, match=words):
            read_json(tmp_path / "result.json")
    with pytest.raises(OutputError, match="cannot be read"):
        read_json(tmp_path / "none.json")
