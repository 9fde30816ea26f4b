"""The NL-RAN bundle's overlays: the paper's networks and recipe, and its tables as comparison configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Randomizable

from pneumonai.networks.nets import NLRAN, CovNet, ResidualNetwork
from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.comparison.plan import plan_runs, read_comparison

CONFIGS = find_bundle("nl_ran_ct_classification").root / "configs"
TABLES = Path(__file__).resolve().parents[2] / "docs" / "comparisons"
NETWORKS: dict[str, tuple[type[torch.nn.Module], dict[str, Any]]] = {
    "resnet": (ResidualNetwork, {}),
    "senet": (ResidualNetwork, {"unit_attention": "channel"}),
    "cbam": (ResidualNetwork, {"unit_attention": "cbam"}),
    "ran": (NLRAN, {"non_local": False}),
    "covnet": (CovNet, {}),
    "res_ca": (ResidualNetwork, {"unit_attention": "channel"}),
    "res_csa": (ResidualNetwork, {"unit_attention": "channel_spatial"}),
    "ca": (ResidualNetwork, {"stage_attention": "channel"}),
    "sa": (ResidualNetwork, {"stage_attention": "spatial"}),
    "csa": (ResidualNetwork, {"stage_attention": "channel_spatial"}),
    "aspp": (ResidualNetwork, {"stage_attention": "aspp"}),
    "res_mix3": (NLRAN, {"non_local": False}),
    "res_mix6": (NLRAN, {"non_local": False, "attention_modules": (1, 2, 3)}),
    "nl_res_mix3": (NLRAN, {}),
    "nl_res_mix6": (NLRAN, {"attention_modules": (1, 2, 3)}),
}


def parse(root: Path, config: str, *overlays: str, **changes: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([root / "configs" / f"{name}.json" for name in (config, *overlays)])
    parser.read_meta(root / "configs" / "metadata.json")
    parser.update({"bundle_root": str(root), **changes})
    return parser


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_overlay_s_network_is_the_same_in_all_three_configs(small_bundle: Path, name: str) -> None:
    cls, options = NETWORKS[name]
    with torch.device("meta"):
        expected = shapes(cls(base_channels=4, **options))
        for config in ("train", "evaluate", "inference"):
            network = parse(small_bundle, config, name).get_parsed_content("network_def")
            assert type(network) is cls, config
            assert shapes(network) == expected, config


@pytest.mark.parametrize("name", ["covnet", "res_mix6"])
def test_width_and_classes_of_an_overlay_follow_the_config(small_bundle: Path, name: str) -> None:
    cls, options = NETWORKS[name]
    names = ["healthy", "ill"]
    with torch.device("meta"):
        expected = shapes(cls(base_channels=8, num_classes=2, **options))
        for config in ("train", "evaluate", "inference"):
            parser = parse(small_bundle, config, name, base_channels=8, class_names=names)
            assert shapes(parser.get_parsed_content("network_def")) == expected, config
        paper = parse(small_bundle, "train", "paper", name).get_parsed_content("network_def")
    assert shapes(paper)["classifier.weight"] == (3, 2048)


def test_rows_that_the_paper_names_twice_are_one_network() -> None:
    read = {name: json.loads((CONFIGS / f"{name}.json").read_text()) for name in NETWORKS}
    assert read["senet"] == read["res_ca"]
    assert read["ran"] == read["res_mix3"]


@pytest.mark.parametrize("name", ["csa", "covnet", "res_mix3"])
def test_inference_with_an_overlay_explains(small_bundle: Path, name: str) -> None:
    explainer = parse(small_bundle, "inference", name, device="cpu").get_parsed_content("explainer")
    explainer.network.eval()
    map_ = explainer(torch.randn(2, 1, 16, 40, 40))
    assert map_.shape == (2, 1, 16, 40, 40)
    assert (map_.amin(), map_.amax()) == (0, 1)


def test_paper_json_is_the_paper_s_recipe(small_bundle: Path, tmp_path: Path) -> None:
    """Sections III D and IV A: SGD at a constant 1e-3, six scans a batch, stop after 50 epochs without a better one."""
    (tmp_path / "scan.nii.gz").touch()
    items = [{"image": "scan.nii.gz", "label": "ncp"}] * 13
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    paths = {"dataset_dir": str(tmp_path), "datalist": str(tmp_path / "datalist.json"), "output_dir": str(tmp_path)}
    parser = parse(small_bundle, "train", "paper", base_channels=4, cache="none", **paths)

    assert parse(small_bundle, "train", "paper").get_parsed_content("base_channels") == 64
    optimizer = parser.get_parsed_content("optimizer")
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (1e-3, 0.9, 0, False)
    assert len(group["params"]) == len(list(parser.get_parsed_content("network").parameters()))
    scheduler = parser.get_parsed_content("lr_scheduler")
    rates = []
    for _ in range(60):
        optimizer.step()
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert rates == [1e-3] * 60
    loss = parser.get_parsed_content("loss")
    assert type(loss) is torch.nn.CrossEntropyLoss
    assert (loss.weight, loss.label_smoothing) == (None, 0)

    assert [len(batch) for batch in parser.get_parsed_content("train::dataloader").batch_sampler] == [6, 6, 1]
    assert parser.get_parsed_content("patience") == 50
    assert parser.get_parsed_content("max_epochs") == 1000
    assert parser.get_parsed_content("val_interval") == 1
    assert list(parser.get_parsed_content("validate::key_metric")) == ["val_accuracy"]

    transforms = parser.get_parsed_content("train::preprocessing").transforms
    assert not [transform for transform in transforms if isinstance(transform, Randomizable)]
    names = [type(transform).__name__ for transform in transforms]
    assert "CLAHEd" not in names
    assert parser.get_parsed_content("inference")["crop_mode"] == "center"
    scaled = [transform.scaler for transform in transforms if type(transform).__name__ == "ScaleIntensityRanged"]
    assert scaled[-1].b_max == 255
    assert parser.get_parsed_content("train_size") == [64, 160, 160]


@pytest.mark.parametrize(
    ("table", "accuracies", "runs"),
    [
        (
            "nl_ran_table2",
            {"NL-RAN": 94.26, "RAN": 93.43, "SENet": 92.74, "ResNet": 92.7, "CBAM": 92.5, "CovNet": 92.11},
            6 * 5,
        ),
        (
            "nl_ran_table3",
            {"NL-RAN": 94.85, "RAN": 93.87, "SENet": 93.38, "ResNet": 92.65, "CBAM": 92.65, "CovNet": 92.4},
            6 * 5,
        ),
        (
            "nl_ran_table4",
            {
                "NL-ResMix6": 93.87,
                "NL-ResMix3": 92.94,
                "ResMix3": 92.06,
                "ResMix6": 91.96,
                "ResCA": 91.57,
                "ASPP": 91.55,
                "CA": 91.5,
                "CSA": 91.37,
                "SA": 90.79,
                "ResCSA": 90.15,
            },
            10 * 5,
        ),
    ],
)
def test_the_paper_s_tables_are_ready_comparisons(
    tmp_path: Path, table: str, accuracies: dict[str, float], runs: int
) -> None:
    items = [{"image": f"{n}.nii.gz", "label": n % 3, "patient_id": str(n)} for n in range(300)]
    parts = {"training": items[:240], "validation": items[240:270], "test": items[270:]}
    (tmp_path / "mine.json").write_text(json.dumps(parts))
    comparison = read_comparison(TABLES / f"{table}.yaml", datalist=tmp_path / "mine.json")
    first = comparison.percents[0]
    assert {row.name: round(row.published_at(first)["accuracy"], 2) for row in comparison.rows} == accuracies
    for published in (row.published_at(percent) for row in comparison.rows for percent in comparison.percents):
        assert set(published) == set(comparison.metrics)
        # Recall weighted by support is accuracy (eqs. 9 and 10), in print too.
        assert published["recall"] == published["accuracy"]
    planned = plan_runs(comparison, tmp_path / "out")
    assert len(planned) == runs
    for run in planned:
        assert run.row.overlays[0].name == "paper.json"
        overlay = run.spec["train"]["overlay"]
        assert (overlay["base_channels"], overlay["batch_size"], overlay["crop_mode"]) == (64, 6, "center")
        for key in ("network_def", "attention_modules"):
            assert run.spec["evaluate"]["overlay"].get(key) == overlay.get(key)
