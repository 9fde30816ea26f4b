"""Which bundles a call means: names, folders, all, and what is no line-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pneumonai.pipeline.bundle import Bundle, shipped_bundles
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.lineup import find_lineup, is_several

NL_RAN, SEGMENTATION = "nl_ran_ct_classification", "fusa_resunet_ct_segmentation"


def made(name: str, classes: list[str], format_: str) -> Bundle:
    pred: dict[str, Any] = {"format": format_, "channel_def": {str(i): c for i, c in enumerate(classes)}}
    return Bundle(name, Path("shipped") / name, {"network_data_format": {"outputs": {"pred": pred}}})


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    bundles = [
        made("a_classification", ["normal", "covid", "cap"], "classes"),
        made("b_lungs", ["background", "right lung", "left lung"], "segmentation"),
        made("c_segmentation", ["background", "infection"], "segmentation"),
    ]
    monkeypatch.setattr("pneumonai.pipeline.lineup.shipped_bundles", lambda: bundles)
    return bundles


def test_one_alone_is_not_several() -> None:
    assert not is_several([NL_RAN])
    assert is_several(["all"])
    assert is_several([NL_RAN, SEGMENTATION])


def test_all_leaves_out_what_marks_lungs(shipped: list[Bundle]) -> None:
    lineup = find_lineup(["all"])
    assert [bundle.name for bundle in lineup.bundles] == ["a_classification", "c_segmentation"]
    assert lineup.named == frozenset()
    assert lineup.class_names == ["normal", "covid", "cap"]


def test_named_ones_come_first_and_are_known_as_named(shipped: list[Bundle]) -> None:
    lineup = find_lineup(["all", SEGMENTATION])
    assert [bundle.name for bundle in lineup.bundles] == [SEGMENTATION, "a_classification", "c_segmentation"]
    assert lineup.named == {SEGMENTATION}


def test_a_name_is_taken_once(tmp_path: Path, small_bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"{NL_RAN}: is named twice"):
        find_lineup([NL_RAN, NL_RAN])
    with pytest.raises(BundleError, match="nothing: no such bundle"):
        find_lineup([NL_RAN, "nothing"])
    copy = tmp_path / NL_RAN
    (copy / "configs").mkdir(parents=True)
    (copy / "configs" / "metadata.json").write_text((small_bundle / "configs" / "metadata.json").read_text())
    with pytest.raises(BundleError, match=f"{NL_RAN}: is also a shipped bundle's name"):
        find_lineup(["all", copy])


def test_the_shipped_ones_say_what_their_weights_have_seen() -> None:
    alone = {bundle.name: bundle.trained_on_phantoms_alone for bundle in shipped_bundles()}
    assert alone[NL_RAN] and not alone[SEGMENTATION] and not alone["fusa_resnet_ct_classification"]
    limits = {bundle.name: bundle.infected_from_percent for bundle in shipped_bundles()}
    assert limits[NL_RAN] is None and 0 < (limits[SEGMENTATION] or 0) < 100
