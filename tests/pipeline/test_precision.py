import json

import pytest
import torch
from monai.networks.nets import UNet
from random_networks import randomise
from torch import nn

from pneumonai.networks.nets import NLRAN, InceptionV3
from pneumonai.pipeline import precision
from pneumonai.pipeline.precision import Precision, choose_precision, find_bf16_fault, run_network

SHAPE = (1, 1, 32, 48, 48)

pytestmark = pytest.mark.usefixtures("one_thread")


def small_network(width=4, **options):
    """A network in eval mode, every parameter and buffer drawn at random so that the logits stay near 1."""
    return randomise(NLRAN(base_channels=width, **options), gain=0.7, seed=3)


class WrongInBf16(nn.Conv3d):
    """A convolution with the fault that the check is there for: wrong where strided and one voxel wide."""

    def forward(self, x):
        result = super().forward(x)
        if result.dtype == torch.bfloat16 and self.stride[-1] > 1 and result.shape[-1] == 1:
            return -result
        return result


@pytest.fixture
def with_bf16(monkeypatch):
    monkeypatch.setattr(precision, "has_hardware_bf16", lambda device: True)


@pytest.fixture
def checks(monkeypatch):
    """How often the self-check ran."""
    calls = []
    real = precision.find_bf16_fault
    monkeypatch.setattr(precision, "find_bf16_fault", lambda *args: (calls.append(args), real(*args))[1])
    return calls


@pytest.mark.parametrize("attention", ["mixed", "channel", "spatial"])
def test_bf16_gives_the_same_class_and_probabilities_within_0_02(attention):
    network = small_network(8, attention=attention)
    images = torch.rand(4, 1, 32, 48, 40)
    exact = run_network(network, images, "fp32").softmax(1)
    close = run_network(network, images, Precision("bf16", "")).softmax(1)
    assert close.dtype == torch.float32
    first, second = exact.topk(2, dim=1).values.unbind(1)
    assert (first - second).min() > 0.1  # neither tied nor saturated, or the test would say nothing
    assert first.max() < 0.95
    assert (exact - close).abs().max() < 0.02
    assert torch.equal(exact.argmax(1), close.argmax(1))


def test_running_changes_neither_weights_nor_answer_and_asks_for_no_gradients():
    network = small_network(spatial_dims=2)
    images = torch.rand(2, 1, 40, 56)
    expected = network(images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = run_network(network, images, "fp32")
    torch.testing.assert_close(result, expected.detach(), rtol=1e-4, atol=1e-5)
    assert not result.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_hook_on_the_first_attention_sees_the_map_in_either_precision():
    network = small_network()
    seen = []
    network.first_attention.register_forward_hook(lambda _module, _inputs, output: seen.append(output.float()))
    images = torch.rand(SHAPE)
    run_network(network, images, "fp32")
    run_network(network, images, "bf16")
    assert seen[0].shape == (1, 16, 8, 12, 12)
    assert (seen[0] - seen[1]).abs().max() < 0.05


def test_auto_takes_bf16_where_hardware_and_check_agree(with_bf16):
    chosen = choose_precision(small_network(), SHAPE, "cpu")
    assert chosen.name == "bf16"
    assert "layers agree with fp32" in chosen.reason


def test_auto_stays_with_fp32_without_hardware(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    chosen = choose_precision(small_network(), SHAPE, "cpu")
    assert chosen.name == "fp32"
    assert "no bf16 arithmetic in hardware" in chosen.reason


def test_auto_stays_with_fp32_where_pytorch_does_not_say(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert choose_precision(small_network(), SHAPE, "cpu").name == "fp32"
    assert choose_precision(small_network(), SHAPE, "meta").name == "fp32"


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_precision_that_was_asked_for_is_taken(name, checks):
    assert choose_precision(small_network(), SHAPE, "cpu", requested=name) == Precision(name, "asked for")
    assert not checks


def test_auto_stays_with_fp32_where_a_layer_is_wrong(with_bf16):
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), WrongInBf16(8, 8, 3, stride=(1, 1, 2), padding=1))
    assert find_bf16_fault(network, (1, 1, 16, 16, 16), "cpu") == ""
    chosen = choose_precision(network, (1, 1, 16, 16, 2), "cpu")
    assert chosen.name == "fp32"
    assert "layer 1 at input [1, 8, 16, 16, 2] differs from fp32" in chosen.reason


def test_pictures_are_not_reduced_below_what_a_network_takes():
    network = InceptionV3(2, 1, 2, base_channels=2, auxiliary=False).eval()
    assert find_bf16_fault(network, (1, 1, 224, 80), "cpu") == ""


def test_pictures_are_reduced_to_what_a_unet_halves_five_times() -> None:
    network = UNet(2, 1, 3, channels=(2, 2, 2, 2, 2, 2), strides=(2, 2, 2, 2, 2)).eval()
    for side in (224, 256, 416):
        assert find_bf16_fault(network, (1, 1, side, 64), "cpu") == ""


def test_the_check_notices_one_wrong_channel_among_large_ones_and_nan():
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 8, 1)
    nn.init.normal_(layer.weight[:4], 0, 1000.0)
    expected = layer(torch.randn(1, 4, 5, 5, 5))
    assert precision._agree(expected, expected, layer)
    for wrong in (2.0, float("nan")):
        answer = expected.clone()
        answer[:, 6] *= wrong
        assert not precision._agree(answer, expected, layer)


def test_the_check_leaves_no_hooks():
    network = small_network()
    find_bf16_fault(network, SHAPE, "cpu")
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_answer_is_cached_once_a_weights_file(with_bf16, checks, tmp_path):
    network = small_network()
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"first")
    cache = tmp_path / "cache"
    answers = [choose_precision(network, SHAPE, "cpu", weights, cache_dir=cache) for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(checks) == 1
    (entry,) = cache.iterdir()
    assert json.loads(entry.read_text()) == {"bf16_fault": ""}

    entry.write_text(json.dumps({"bf16_fault": "layer stem.0 differs"}))
    chosen = choose_precision(network, SHAPE, "cpu", weights, cache_dir=cache)
    assert chosen.name == "fp32"
    assert "layer stem.0 differs" in chosen.reason

    entry.write_text("{broken")
    assert choose_precision(network, SHAPE, "cpu", weights, cache_dir=cache).name == "bf16"
    assert len(checks) == 2

    weights.write_bytes(b"another")
    choose_precision(network, SHAPE, "cpu", weights, cache_dir=cache)
    assert len(checks) == 3


def test_the_default_cache_is_the_users(with_bf16, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    weights = tmp_path / "model.pt"
    weights.touch()
    choose_precision(small_network(), SHAPE, "cpu", weights)
    assert len(list((tmp_path / "home-cache" / "pneumonai").iterdir())) == 1


def test_an_unwritable_cache_is_no_error(with_bf16, tmp_path):
    weights = tmp_path / "model.pt"
    weights.touch()
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert choose_precision(small_network(), SHAPE, "cpu", weights, cache_dir=in_the_way / "cache").name == "bf16"
    assert choose_precision(small_network(), SHAPE, "cpu", tmp_path / "none.pt", cache_dir=tmp_path).name == "bf16"


def test_bad_arguments_are_refused_in_words():
    with pytest.raises(ValueError, match="auto, fp32, bf16, got 'fp16'"):
        choose_precision(nn.Identity(), SHAPE, "cpu", requested="fp16")
    with pytest.raises(ValueError, match="two or three axes"):
        choose_precision(nn.Identity(), (1, 1, 9), "cpu")
    with pytest.raises(ValueError, match="two or three axes"):
        run_network(nn.Identity(), torch.zeros(1, 1, 9), "fp32")
