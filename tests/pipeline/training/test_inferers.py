"""Training under autocast."""

from __future__ import annotations

import pytest
import torch

from pneumonai.pipeline.training.inferers import AutocastInferer


def test_bfloat16_is_used_and_comes_out_as_float32() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(64, 8)
    seen: list[torch.dtype] = []
    network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    images = torch.randn(5, 64)
    plain = AutocastInferer("cpu")(images, network)
    rounded = AutocastInferer("cpu", "bfloat16")(images, network)
    assert seen == [torch.float32, torch.bfloat16]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(plain, network(images))
    torch.testing.assert_close(rounded, plain, atol=0.05, rtol=0.05)
    rounded.sum().backward()
    assert network.weight.grad is not None and network.weight.grad.dtype == torch.float32


def test_other_data_types_are_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        AutocastInferer("cpu", "float16")
