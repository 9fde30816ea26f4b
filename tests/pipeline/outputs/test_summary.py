from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pneumonai.pipeline.agreement import Row
from pneumonai.pipeline.errors import OutputError
from pneumonai.pipeline.outputs.joint_json import Joint
from pneumonai.pipeline.outputs.summary import JointSummary, Summary
from pneumonai.pipeline.result import Result

CLASSES = ("normal", "ncp")


def result(name: str, **fields: object) -> Result:
    values = {"verdict": "ncp", "confidence": 0.9, "refer": False, **fields}
    classes = [{"name": "normal", "probability": 0.1}, {"name": "ncp", "probability": 0.9}]
    return Result(study={"id": name, "path": f"in/{name}"}, bundle={}, classes=classes, **values)  # type: ignore[arg-type]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "out" / "summary.csv"
    summary = Summary(path, CLASSES)
    summary.add_done(result("a", infection={"total_ml": 12.34, "total_percent": 1.5}), seconds=3.14159)
    summary.add_failed("b, c", "in/b, c", 'has "gaps"\nbetween slices', seconds=0.5)
    assert path.read_text().splitlines() == [
        "study,path,status,verdict,confidence,refer,p_normal,p_ncp,infection_ml,infection_percent,error,seconds",
        "a,in/a,done,ncp,0.9000,false,0.1000,0.9000,12.3,1.50,,3.14",
        '"b, c","in/b, c",failed,,,,,,,,"has ""gaps"" between slices",0.50',
    ]


def test_a_second_row_of_a_study_replaces_the_first(tmp_path: Path) -> None:
    summary = Summary(tmp_path / "summary.csv", CLASSES)
    summary.add_failed("a", "in/a", "wrong")
    summary.add_done(result("b"))
    summary.add_done(result("a"))
    assert [(row["study"], row["status"]) for row in rows(tmp_path / "summary.csv")] == [("a", "done"), ("b", "done")]


def test_resume_keeps_earlier_rows_of_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    Summary(path, CLASSES).add_done(result("a"))
    Summary(path, CLASSES, keep=True).add_done(result("b"))
    assert [row["study"] for row in rows(path)] == ["a", "b"]
    Summary(path, CLASSES).add_done(result("c"))
    assert [row["study"] for row in rows(path)] == ["c"]
    Summary(path, ("noncovid", "covid"), keep=True).add_failed("d", "in/d", "wrong")
    assert [row["study"] for row in rows(path)] == ["d"]


def test_a_segmentation_has_no_class_columns(tmp_path: Path) -> None:
    summary = Summary(tmp_path / "summary.csv")
    made = Result(study={"id": "a", "path": "a"}, bundle={}, infection={"percent_of_picture": 2.0})
    summary.add_done(made)
    assert rows(tmp_path / "summary.csv")[0]["infection_percent"] == "2.00"
    assert not [name for name in summary.columns if name.startswith("p_")]


def test_a_class_of_another_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column p_ncp, p_normal"):
        Summary(tmp_path / "summary.csv", ("noncovid", "covid")).add_done(result("a"))


def test_a_folder_in_the_way_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").mkdir()
    with pytest.raises(OutputError, match=r"summary\.csv: cannot be written"):
        Summary(tmp_path / "summary.csv").add_failed("a", "a", "wrong")
    assert [item.name for item in tmp_path.iterdir()] == ["summary.csv"]


def joint_of(*rows: Row) -> Joint:
    return Joint({}, list(rows), refer=True, refer_reason="they differ; ask")


def test_several_bundles_have_a_row_each_with_the_joint_referral(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    summary = JointSummary(path, ("normal", "covid"))
    one = Row("b1", verdict="covid", confidence=0.9, classes=[{"name": "covid", "probability": 0.9}], seconds=1.5)
    two = Row("b2", infection_ml=12.34, infection_percent=1.5)
    summary.set_study("s", "in/s", [one, two], joint_of(one, two))
    summary.set_study("t", "in/t", [Row("", status="failed", error="is\nbroken")], None)
    assert path.read_text().splitlines() == [
        "study,path,bundle,status,verdict,confidence,refer,refer_reason,p_normal,p_covid,infection_ml,"
        "infection_percent,error,seconds",
        "s,in/s,b1,done,covid,0.9000,true,they differ; ask,,0.9000,,,,1.50",
        "s,in/s,b2,done,,,true,they differ; ask,,,12.3,1.50,,",
        "t,in/t,,failed,,,,,,,,,is broken,",
    ]
    summary.set_study("s", "in/s", [two], joint_of(two))
    assert [(row["study"], row["bundle"]) for row in rows(path)] == [("s", "b2"), ("t", "")]


def test_resume_keeps_other_studies_and_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    done = Row("b1", verdict="cap", classes=[{"name": "cap", "probability": 0.7}])
    JointSummary(path, ("cap",)).set_study("s", "in/s", [done], None)
    again = JointSummary(path, ("normal",), keep=True)
    again.set_study("t", "in/t", [Row("b2", classes=[{"name": "normal", "probability": 0.6}])], None)
    assert [(row["study"], row["p_normal"], row["p_cap"]) for row in rows(path)] == [
        ("s", "", "0.7000"),
        ("t", "0.6000", ""),
    ]
    Summary(path, CLASSES).add_done(result("a"))
    JointSummary(path, ("normal",), keep=True).set_study("t", "in/t", [Row("b3")], None)
    assert [row["study"] for row in rows(path)] == ["t"]
