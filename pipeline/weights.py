"""Weights files: state dicts, convolution and linear weights as float16, normalisation as float32."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import torch

from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.outputs.files import whole_file

logger = logging.getLogger(__name__)


def save_compact(state_dict: dict[str, torch.Tensor], path: str | Path) -> None:
    """Write a state dict with weights of two dimensions and more as float16, the rest (normalisation) as it is.

    Args:
        state_dict: names to tensors.
        path: the file; written under a temporary name first.
    """
    compact = {
        name: tensor.half().contiguous() if tensor.ndim > 1 and tensor.is_floating_point() else tensor
        for name, tensor in state_dict.items()
    }
    with whole_file(path) as temporary:
        torch.save(compact, temporary)


def load_weights(
    network: torch.nn.Module, path: str | Path, *, subject: str | None = None, other_classes: bool = False
) -> torch.nn.Module:
    """Load a state dict into a network, casting to the network's own types; returns the network.

    Args:
        network: the network; every parameter and buffer must be in the file, and nothing else.
        path: weights file, read with ``weights_only=True``, so that no code of it runs.
        subject: what errors name first (a bundle); the path when None.
        other_classes: accept a file for another number of classes: the one layer whose entries differ in their first
            dimension alone keeps its own weights, and the log says so.

    Raises:
        BundleError: for a missing or corrupt file, or the weights of another network.
    """
    path = Path(path)
    subject = subject or str(path)
    if not path.is_file():
        raise BundleError(subject, f"there is no weights file {path}", "train the bundle, or take a whole copy of it")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, UnicodeError):
        raise BundleError(
            subject, f"the weights file {path.name} is corrupt or no PyTorch state dict", "take a whole copy of it"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(subject, f"the weights file {path.name} is no state dict", "save network.state_dict()")
    expected = network.state_dict()
    wrong = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    missing, extra = expected.keys() - state.keys(), state.keys() - expected.keys()
    if other_classes and wrong and _is_one_output_layer(wrong, expected, state):
        layer = wrong[0].rpartition(".")[0]
        logger.info("%s was trained for other classes: its layer '%s' is left out and starts anew", path, layer)
        state |= {name: expected[name] for name in wrong}
        wrong = []
    if missing or extra or wrong:
        named = sorted(missing or extra or wrong)[0]
        raise BundleError(
            subject,
            f"the weights file {path.name} belongs to another network ({len(missing)} entries are missing, "
            f"{len(extra)} are unknown, {len(wrong)} have another shape; the first is {named})",
            "use the weights that were trained with this configuration",
        )
    network.load_state_dict(state)
    return network


def _is_one_output_layer(names: list[str], expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    one_layer = len({name.rpartition(".")[0] for name in names}) == 1
    return one_layer and all(state[name].shape[1:] == expected[name].shape[1:] for name in names)
