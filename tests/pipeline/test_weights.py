"""Weights files: compact on disk, whole in the network, refused in words when wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.weights import load_weights, save_compact


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def test_round_trip_keeps_normalisation_whole_and_rounds_weights_to_half(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = network()
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    save_compact(source.state_dict(), tmp_path / "model.pt")
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert stored["0.weight"].dtype == stored["3.weight"].dtype == torch.float16
    assert stored["1.running_var"].dtype == stored["1.weight"].dtype == torch.float32
    loaded = load_weights(network(), tmp_path / "model.pt").state_dict()
    for name, tensor in source.state_dict().items():
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], expected)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_compact(network(8).state_dict(), tmp_path / "model.pt")
    with pytest.raises(BundleError, match=r"belongs to another network .* the first is 0\.bias"):
        load_weights(network(4), tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_a_corrupt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(BundleError, match="corrupt or no PyTorch state dict"):
        load_weights(network(), tmp_path / "model.pt")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_compact(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(BundleError, match="corrupt"):
        load_weights(network(), path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(Path("x"), tmp_path / "model.pt")
    with pytest.raises(BundleError, match="corrupt or no PyTorch state dict"):
        load_weights(network(), tmp_path / "model.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="my_bundle: there is no weights file"):
        load_weights(network(), tmp_path / "none.pt", subject="my_bundle")


def test_weights_for_other_classes_leave_the_last_layer_alone(tmp_path: Path) -> None:
    source, target = network(), network()
    target[3] = nn.Linear(4, 5)
    save_compact(source.state_dict(), tmp_path / "model.pt")
    kept = target[3].weight.detach().clone()
    load_weights(target, tmp_path / "model.pt", other_classes=True)
    assert torch.equal(target[3].weight, kept)
    assert torch.equal(target[0].weight, source[0].weight.half().float())
    with pytest.raises(BundleError, match="belongs to another network"):
        load_weights(network(8), tmp_path / "model.pt", other_classes=True)
