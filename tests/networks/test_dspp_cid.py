import importlib.util
import inspect
import itertools
import re
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from random_networks import randomise
from torch import nn

from pneumonai.networks.nets import VGG, DSPPCIDNet, MobileNetV2, ResNet

README = Path(__file__).resolve().parents[2] / "README.md"
ABLATION = list(itertools.product([(), (6,), (5, 6), (4, 5, 6)], [False, True]))
SMALL = {
    "resnet18": partial(ResNet, 2, 1, 0, depth=18, base_channels=2),
    "vgg19": partial(VGG, 2, 1, 0, depth=19, base_channels=2),
}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The README's example as a module: ``Small``, ``network``, ``logits``; TorchScript wants its source in a file."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (code,) = [block for block in blocks if "DSPPCIDNet" in block]
    path = tmp_path_factory.mktemp("readme") / "readme_example.py"
    path.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_s_backbone_runs_and_is_the_docstring_s(example):
    assert example.logits.shape == (4, 2)
    assert example.network.dspp.out_channels == 256 + 64
    (documented,) = re.findall(
        r"::\n\n(    class Small.*)\n\n\n    +network = ", inspect.cleandoc(DSPPCIDNet.__doc__), flags=re.DOTALL
    )
    assert textwrap.dedent(documented) in README.read_text(encoding="utf-8")


def test_a_bundle_s_config_takes_the_readme_s_backbone_as_a_target(example, monkeypatch):
    monkeypatch.setitem(sys.modules, "readme_example", example)
    backbone = {"_target_": "readme_example.Small", "in_channels": 1}
    config = {"_target_": "pneumonai.networks.nets.DSPPCIDNet", "spatial_dims": 2, "in_channels": 1, "num_classes": 3}
    network = ConfigParser({"network_def": config | {"backbone": backbone}}).get_parsed_content("network_def")
    assert type(network.backbone) is example.Small
    assert network(torch.rand(1, 1, 64, 64)).shape == (1, 3)


def counted(**options):
    with torch.device("meta"):
        network = DSPPCIDNet(2, 3, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def test_shipped_default_has_the_published_count():
    assert counted(num_classes=2, backbone="mobilenet_v2") / 1e6 == pytest.approx(6.26, abs=0.005)


@pytest.mark.parametrize(
    ("backbone", "plain", "channels"),
    [
        ("mobilenet_v2", 3_504_872, 1536),
        ("resnet18", 11_689_512, 768),
        ("resnet34", 21_797_672, 768),
        ("resnet50", 25_557_032, 2304),
        ("vgg19", 143_667_240, 768),
    ],
)
def test_five_backbones(backbone, plain, channels):
    assert counted(num_classes=1000, backbone=backbone, stages=(), cid=False) == plain
    with torch.device("meta"):
        network = DSPPCIDNet(2, 1, 2, backbone=backbone)
    assert network.dspp.out_channels == network.classifier.in_features == channels


def test_modules_add_what_their_wiring_says():
    """MobileNetV2: branches of 9 * C_i * 256 with BN, fusion of 768 * 256 with BN, CID, a linear layer of two."""
    branches = {4: 9 * 32 * 256 + 512, 5: 9 * 96 * 256 + 512, 6: 9 * 1280 * 256 + 512}
    for stages, cid in ABLATION:
        if not stages and not cid:
            continue
        channels = 1280 + 256 if stages else 1280
        expected = 2_223_872 + sum(branches[stage] for stage in stages) + 2 * channels + 2
        expected += len(stages) * 256 * 256 + 512 if stages else 0
        expected += channels * (channels // 4) + channels // 4 + channels // 4 + 1 if cid else 0
        assert counted(num_classes=2, backbone="mobilenet_v2", stages=stages, cid=cid) == expected


@pytest.mark.parametrize(("stages", "cid"), ABLATION)
def test_eight_ablations_run_and_their_pooled_map_gives_the_logits(stages, cid):
    network = randomise(DSPPCIDNet(2, 1, 3, backbone=SMALL["resnet18"](), stages=stages, width=4, cid=cid))
    x = torch.randn(2, 1, 64, 96)
    features = network.forward_features(x)
    assert features.shape == (2, 16 + (4 if stages else 0), 2, 3)
    torch.testing.assert_close(network.classifier(features.mean(dim=(2, 3))), network(x))
    maps = network.attention_maps(x)
    assert [part.shape for part in maps] == ([(2, 1, 2, 3)] if cid else [])


def test_a_named_backbone_without_modules_keeps_its_own_classifier():
    torch.manual_seed(0)
    network = DSPPCIDNet(2, 1, 3, backbone="mobilenet_v2", stages=(), cid=False).eval()
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(network(x), network.backbone(x))
    assert set(network.state_dict()) == {f"backbone.{name}" for name in MobileNetV2(2, 1, 3).state_dict()}


@pytest.mark.parametrize("backbone", ["resnet18", "vgg19"])
def test_scripted_and_exported_agree_with_eager(backbone):
    network = randomise(DSPPCIDNet(2, 1, 3, backbone=SMALL[backbone](), width=4))
    x = torch.randn(2, 1, 72, 90)
    expected = network(x)
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5)


def test_parts_that_are_left_out_are_scripted_too(example):
    for stages, cid in [((), False), ((), True), ((6,), False)]:
        network = randomise(DSPPCIDNet(2, 1, 3, backbone=example.Small(1), stages=stages, cid=cid, width=4))
        x = torch.randn(1, 1, 64, 64)
        torch.testing.assert_close(torch.jit.script(network)(x), network(x), rtol=1e-5, atol=1e-5)


def test_a_backbone_of_ones_own_plugs_in(example):
    network = randomise(DSPPCIDNet(2, 1, 2, backbone=example.Small(1), width=8))
    x = torch.randn(2, 1, 64, 64)
    assert network(x).shape == (2, 2)
    assert network.dspp.out_channels == 72
    torch.testing.assert_close(torch.jit.script(network)(x), network(x), rtol=1e-5, atol=1e-5)
    network(x).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_volumes_work():
    backbone = ResNet(3, 1, 0, depth=18, base_channels=2)
    network = randomise(DSPPCIDNet(3, 1, 2, backbone=backbone, width=4))
    assert network(torch.randn(1, 1, 32, 40, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "alexnet"}, "backbone must be one of mobilenet_v2, .*got 'alexnet'"),
        ({"backbone": nn.Linear(1, 1)}, "must publish out_channels.*Linear does not"),
        ({"stages": (4, 5)}, "ending with 6, or empty, got \\(4, 5\\)"),
        ({"stages": (6, 5)}, "stages must be some of 4, 5, 6 in order"),
        ({"stages": (5, 5, 6)}, "stages must be some of 4, 5, 6 in order"),
        ({"stages": (3, 6)}, "stages must be some of 4, 5, 6 in order"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message, example):
    with pytest.raises(ValueError, match=message):
        DSPPCIDNet(**{"spatial_dims": 2, "in_channels": 1, "num_classes": 2, "backbone": example.Small(1), **options})
