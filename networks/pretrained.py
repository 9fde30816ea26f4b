"""Weights in torchvision's format for the networks of this package; torchvision itself is not needed.

torchvision's files are state dicts under its own parameter names, which are the names of this package's ResNet, VGG and
MobileNetV2, so that a file saved there loads here whatever the number of input channels or classes.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import nn

#: Names of torchvision's classifiers: what a file may hold beyond a network without one.
CLASSIFIERS = ("fc.", "classifier.")

#: Most names that an error lists.
LISTED = 8


class PretrainedWeightsError(ValueError):
    """A weights file does not belong to the network.

    Args:
        subject: the file.
        reason: what is wrong, with the names of the parameters.
        remedy: what to do.
    """

    def __init__(self, subject: str, reason: str, remedy: str) -> None:
        super().__init__(f"{subject}: {reason}; {remedy}")
        self.subject = subject
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        """Errors cross process borders with their parts."""
        return type(self), (self.subject, self.reason, self.remedy)


def load_torchvision_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Load a weights file with torchvision's names into a 2D network of this package, in place.

    A network with a ``backbone`` (D-SPP + CID) loads into that. The last linear layer is left as it is where the file
    has another number of classes, as are modules that torchvision's networks lack (FUSA, D-SPP, CID). For a network
    with one input channel the first convolution's input planes are summed, so that a grey picture gives what it
    would give as three equal planes. Files without BN's ``num_batches_tracked``, as old ones are, load too.

    Args:
        network: ResNet, VGG, MobileNetV2, FUSA-ResNet, or a network that has one of them as ``backbone``.
        path: a file of ``torch.save`` with a state dict; read with ``weights_only=True``, so that it runs no code.

    Returns:
        Names of the network's parameters that stay as they were, in order.

    Raises:
        PretrainedWeightsError: the file is missing or no state dict, or its parameters are not the network's; the
            network is then unchanged.
    """
    backbone = getattr(network, "backbone", network)
    loaded = _read(Path(path))
    wanted = {name: tensor for name, tensor in backbone.state_dict().items() if ".attention." not in name}
    classifier = _classifier(backbone)
    first = next(iter(wanted))
    if classifier is None:
        loaded = {name: tensor for name, tensor in loaded.items() if not name.startswith(CLASSIFIERS)}
    for name in (f"{classifier}.weight", f"{classifier}.bias"):
        if name in wanted and name in loaded and wanted[name].shape != loaded[name].shape:
            del wanted[name], loaded[name]
    if first in loaded and loaded[first].dim() == 4 and wanted[first].shape[1] == 1:
        loaded[first] = loaded[first].sum(dim=1, keepdim=True)
    _compare(wanted, loaded, str(path), type(backbone).__name__)
    with torch.no_grad():
        for name, tensor in loaded.items():
            wanted[name].copy_(tensor)
    prefix = "" if backbone is network else "backbone."
    taken = {prefix + name for name in loaded}
    return [name for name, _ in network.named_parameters() if name not in taken]


def _read(path: Path) -> dict[str, torch.Tensor]:
    remedy = "give a state dict in torchvision's format, saved by torch.save"
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PretrainedWeightsError(
            str(path), f"the weights file cannot be read ({error.strerror})", remedy
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise PretrainedWeightsError(str(path), "it is no file of tensors alone", remedy) from error
    if (
        not isinstance(loaded, dict)
        or not loaded
        or not all(isinstance(part, torch.Tensor) for part in loaded.values())
    ):
        raise PretrainedWeightsError(str(path), "it holds no state dict of tensors by name", remedy)
    return dict(loaded)


def _classifier(backbone: nn.Module) -> str | None:
    """Name of the last linear layer outside attention modules, or None."""
    names = [
        name for name, module in backbone.named_modules() if isinstance(module, nn.Linear) and ".attention." not in name
    ]
    return names[-1] if names else None


def _compare(wanted: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor], subject: str, network: str) -> None:
    """Refuse a file that lacks a parameter, has one of another shape, or one that the network has not."""
    missing = [name for name in wanted if name not in loaded and not name.endswith("num_batches_tracked")]
    unknown = [name for name in loaded if name not in wanted]
    different = [
        f"{name} ({_shape(loaded[name])} in the file, {_shape(wanted[name])} in the network)"
        for name in wanted
        if name in loaded and wanted[name].shape != loaded[name].shape
    ]
    parts = [
        f"{len(names)} {what}: {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"
        for what, names in (
            ("missing in the file", missing),
            ("of another shape", different),
            ("unknown to the network", unknown),
        )
        if names
    ]
    if parts:
        raise PretrainedWeightsError(
            subject,
            f"its parameters are not those of {network}, {'; '.join(parts)}",
            "give the file of the same depth and width (2D, three input channels or the network's own number)",
        )


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"
