"""ImageNet weights made elsewhere for the networks of this package; what made them is not needed.

torchvision's files are state dicts under its own parameter names, which are the names of this package's ResNet, VGG,
MobileNetV2 and InceptionV3; those of efficientnet-lite-pytorch have other names for EfficientNet-Lite's parameters.
Both load whatever the number of input channels or classes.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import nn

#: Names of classifiers: what a file may hold beyond a network without one.
CLASSIFIERS = ("fc.", "classifier.")

#: InceptionV3's second classifier, which a network may lack.
AUXILIARY_CLASSIFIER = "AuxLogits."

#: Layers of efficientnet-lite-pytorch outside its blocks, and their places here; ``{head}`` is that of the last layer.
LITE_LAYERS = {
    "_conv_stem": "features.0.0",
    "_bn0": "features.0.1",
    "_conv_head": "features.{head}.0",
    "_bn1": "features.{head}.1",
    "_fc": "classifier",
}

#: Layers of its blocks; the first block has no expansion, so that its other layers stand one place earlier.
LITE_BLOCK = {
    "_expand_conv": (0, ".0"),
    "_bn0": (0, ".1"),
    "_depthwise_conv": (1, ".0"),
    "_bn1": (1, ".1"),
    "_project_conv": (2, ""),
    "_bn2": (3, ""),
}

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

    A network with a ``backbone`` loads into that. The last linear layer is left as it is where the file
    has another number of classes, as are modules that torchvision's networks lack (FUSA, D-SPP, CID). For a network
    with one input channel the first convolution's input planes are summed, so that a grey picture gives what it
    would give as three equal planes. Files without BN's ``num_batches_tracked``, as old ones are, load too.

    Args:
        network: ResNet, VGG, MobileNetV2, InceptionV3, FUSA-ResNet, or a network that has one of them as ``backbone``,
            as D-SPP + CID, the U-Nets and MA-Net do.
        path: a file of ``torch.save`` with a state dict; read with ``weights_only=True``, so that it runs no code.

    Returns:
        Names of the network's parameters that stay as they were, in order.

    Raises:
        PretrainedWeightsError: the file is missing or no state dict, or its parameters are not the network's; the
            network is then unchanged.
    """
    return _load(network, _read(Path(path), "torchvision"), str(path))


def load_efficientnet_lite_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Load weights of the package ``efficientnet-lite-pytorch`` into a 2D EfficientNet-Lite, in place.

    The package's files are TensorFlow's published weights, converted (Apache-2.0). All else is as with
    :func:`load_torchvision_weights`.

    Args:
        network: EfficientNetLite, or a network that has one as ``backbone``.
        path: a file of ``torch.save`` with a state dict; read with ``weights_only=True``, so that it runs no code.

    Returns:
        Names of the network's parameters that stay as they were, in order.

    Raises:
        PretrainedWeightsError: the file is missing or no state dict, or its parameters are not the network's, whose
            names the message then uses; the network is then unchanged.
    """
    return _load(network, _renamed_lite(_read(Path(path), "efficientnet-lite-pytorch")), str(path))


def load_imagenet_weights(network: nn.Module, path: str | Path) -> list[str]:
    """Load either kind of file, told by its names: :func:`load_torchvision_weights`, or that of EfficientNet-Lite.

    Raises:
        PretrainedWeightsError: as they do.
    """
    loaded = _read(Path(path), "torchvision or efficientnet-lite-pytorch")
    return _load(network, _renamed_lite(loaded) if "_conv_stem.weight" in loaded else loaded, str(path))


def _renamed_lite(loaded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parameters of efficientnet-lite-pytorch under their names here."""
    blocks = [int(name.split(".")[1]) for name in loaded if re.match(r"_blocks\.\d+\.", name)]
    head = max(blocks, default=0) + 2
    return {_renamed(name, head): tensor for name, tensor in loaded.items()}


def _renamed(name: str, head: int) -> str:
    """The name here of a parameter of efficientnet-lite-pytorch; an unknown one stays."""
    layer, _, part = name.rpartition(".")
    if layer in LITE_LAYERS:
        return f"{LITE_LAYERS[layer].format(head=head)}.{part}"
    match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
    if match is None or match[2] not in LITE_BLOCK:
        return name
    place, rest = LITE_BLOCK[match[2]]
    block = int(match[1])
    return f"features.{block + 1}.conv.{place - (block == 0)}{rest}.{part}"


def _load(network: nn.Module, loaded: dict[str, torch.Tensor], subject: str) -> list[str]:
    """Copy tensors under this package's names into the network or its backbone; returns the names of what stays."""
    backbone = getattr(network, "backbone", network)
    wanted = {name: tensor for name, tensor in backbone.state_dict().items() if ".attention." not in name}
    classifier = _classifier(backbone)
    first = next(iter(wanted))
    if classifier is None:
        loaded = {name: tensor for name, tensor in loaded.items() if not name.startswith(CLASSIFIERS)}
    if not any(name.startswith(AUXILIARY_CLASSIFIER) for name in wanted):
        loaded = {name: tensor for name, tensor in loaded.items() if not name.startswith(AUXILIARY_CLASSIFIER)}
    heads = (f"{classifier}.", f"{AUXILIARY_CLASSIFIER}fc.")
    for name in (head + part for head in heads for part in ("weight", "bias")):
        if name in wanted and name in loaded and wanted[name].shape != loaded[name].shape:
            del wanted[name], loaded[name]
    if first in loaded and loaded[first].dim() == 4 and wanted[first].shape[1] == 1:
        loaded[first] = loaded[first].sum(dim=1, keepdim=True)
    _compare(wanted, loaded, subject, type(backbone).__name__)
    with torch.no_grad():
        for name, tensor in loaded.items():
            wanted[name].copy_(tensor)
    prefix = "" if backbone is network else "backbone."
    taken = {prefix + name for name in loaded}
    return [name for name, _ in network.named_parameters() if name not in taken]


def _read(path: Path, source: str) -> dict[str, torch.Tensor]:
    remedy = f"give a state dict in {source}'s format, saved by torch.save"
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
        or not all(isinstance(name, str) and isinstance(part, torch.Tensor) for name, part in loaded.items())
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
