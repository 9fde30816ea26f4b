"""How exactly a network computes on this machine: fp32, or bf16 where that is safe and faster.

``auto`` takes bf16 where the processor multiplies bf16 in hardware (AVX512_BF16 or AMX on x86, an NVIDIA GPU since
Ampere) and the network's own layers, each at the shapes it meets, agree with fp32 there. The check exists because of a
fault in PyTorch's CPU build: on processors with AMX a strided bf16 ``conv3d`` whose output is one voxel wide gives
values that have nothing to do with the right ones (https://github.com/pytorch/pytorch/issues/169688). Its answer is
kept in the user's cache folder, one small file a machine and weights file, so that a one-shot command pays once.

Speed is not measured at run time: with channels-last memory, bf16 was 3 to 5 times as fast as fp32 at width 16 and
twice as fast at width 64 on AVX512_BF16, and 2.4 times on AMX (``benchmarks/nl_ran.py``). Without such instructions
bf16 is emulated and slower, so ``auto`` stays with fp32. Channels-last never lost, so both use it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

PrecisionName = Literal["fp32", "bf16"]
PrecisionRequest = Literal["auto", "fp32", "bf16"]

#: Largest difference of a bf16 layer from fp32, in root mean squares of the fp32 output (both per unit of weight of
#: their channel). Rounding gives 0.01 to 0.03, the known fault more than 1.
TOLERANCE = 0.1

#: No side is reduced below it for that comparison.
LEAST_SIDE = 16

#: The same of pictures: InceptionV3 takes none below 75, and U-Nets that halve five times want multiples of 32.
LEAST_PICTURE_SIDE = 96
PICTURE_SIDE_MULTIPLE = 32

_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Precision:
    """What a network computes in, and why.

    Attributes:
        name: ``fp32`` or ``bf16``.
        reason: in words, for logs and ``result.json``.
    """

    name: PrecisionName
    reason: str


def choose_precision(
    network: nn.Module,
    input_shape: Sequence[int],
    device: torch.device | str,
    weights_path: Path | str | None = None,
    requested: PrecisionRequest = "auto",
    cache_dir: Path | str | None = None,
) -> Precision:
    """Decide between fp32 and bf16 for one network on one device.

    Args:
        network: in eval mode, on ``device``.
        input_shape: of one batch, ``[B, C, *spatial]``.
        device: where the network runs.
        weights_path: file of the network's weights; the check's answer is cached for it. Without one nothing is cached.
        requested: ``auto``, or a precision that is then taken as it is.
        cache_dir: folder of the cached answers; the user's cache folder by default. One that cannot be read or written
            is no error: the check then runs each time.

    Raises:
        ValueError: ``requested`` is none of the three, or ``input_shape`` has not two or three spatial axes.
    """
    if requested not in get_args(PrecisionRequest):
        raise ValueError(f"precision must be one of {', '.join(get_args(PrecisionRequest))}, got {requested!r}.")
    _memory_format(len(input_shape))
    if requested != "auto":
        return Precision(requested, "asked for")
    device = torch.device(device)
    if not has_hardware_bf16(device):
        return Precision("fp32", f"no bf16 arithmetic in hardware on {_processor(device)}")
    entry = _cache_entry(network, input_shape, device, weights_path, cache_dir)
    fault = _read_fault(entry)
    if fault is None:
        fault = find_bf16_fault(network, input_shape, device)
        _write_fault(entry, fault)
    if fault:
        return Precision("fp32", f"bf16 is wrong on {_processor(device)}: {fault}")
    return Precision("bf16", f"bf16 arithmetic in hardware on {_processor(device)}, layers agree with fp32")


def run_network(network: nn.Module, images: torch.Tensor, precision: Precision | PrecisionName) -> torch.Tensor:
    """Run a network on ``[B, C, *spatial]`` in channels-last memory and the given precision.

    The network's weights are put into channels-last memory in place; their values do not change.

    Args:
        network: in eval mode, on the images' device.
        images: float32, two or three spatial axes.
        precision: what :func:`choose_precision` gave, or its name.

    Returns:
        The network's output as float32.

    Raises:
        ValueError: ``images`` has not two or three spatial axes.
    """
    name = precision.name if isinstance(precision, Precision) else precision
    memory_format = _memory_format(images.dim())
    network.to(memory_format=memory_format)  # type: ignore[call-overload]  # PyTorch's stubs lack this form
    # MetaTensor subclasses slow every operation down, and the network needs no metadata.
    images = images.as_subclass(torch.Tensor).contiguous(memory_format=memory_format)
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=name == "bf16"):
        return network(images).float()


def _memory_format(dimensions: int) -> torch.memory_format:
    if dimensions not in (4, 5):
        raise ValueError(f"the network's input must be [batch, channels, two or three axes], got {dimensions} axes.")
    return torch.channels_last_3d if dimensions == 5 else torch.channels_last


def has_hardware_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware; False where PyTorch does not say."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Every processor with AMX has AVX512_BF16 too. PyTorch has no public query of it that is older than 2.13.
    query = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return query is not None and bool(query())


def _reduced(size: int, *, of_picture: bool) -> int:
    """A side of the comparison's input, from one of the network's."""
    if not of_picture:
        return min(size, max(LEAST_SIDE, size // 4))
    quarter = PICTURE_SIDE_MULTIPLE * (size // 4 // PICTURE_SIDE_MULTIPLE)
    return min(size, max(LEAST_PICTURE_SIDE, quarter))


def find_bf16_fault(network: nn.Module, input_shape: Sequence[int], device: torch.device | str) -> str:
    """Compare each convolution and linear layer in bf16 with fp32, on random input of the shapes that it meets.

    The shapes are recorded in one pass at a reduced size: one sample, all spatial axes but the last at a quarter (or
    16; of pictures 96, or another multiple of 32). The last keeps its length, because the width of the outputs is what
    the known fault turns on.

    Args:
        network: in eval mode, on ``device``.
        input_shape: of one batch, ``[B, C, *spatial]``.
        device: where the network runs.

    Returns:
        The first fault in words; empty when every layer agrees.
    """
    channels, *spatial = input_shape[1:]
    reduced = (1, channels, *(_reduced(size, of_picture=len(spatial) == 2) for size in spatial[:-1]), spatial[-1])
    layers: dict[tuple[Any, ...], tuple[str, nn.Module]] = {}
    hooks = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            hooks.append(module.register_forward_pre_hook(_recorder(layers, name)))
    generator = torch.Generator().manual_seed(0)
    try:
        run_network(network, torch.randn(reduced, generator=generator).to(device), "bf16")
    finally:
        for hook in hooks:
            hook.remove()
    for key, (name, module) in layers.items():
        shape = key[-1]
        images = torch.randn(shape, generator=generator).to(device)
        if len(shape) > 2:
            images = images.contiguous(memory_format=_memory_format(len(shape)))
        # module.forward leaves out the hooks that others have put on the network.
        with torch.no_grad():
            expected = module.forward(images)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                answer = module.forward(images).float()
            if not _agree(answer, expected, module):
                return f"layer {name} at input {list(shape)} differs from fp32"
    return ""


def _agree(answer: torch.Tensor, expected: torch.Tensor, layer: nn.Module) -> bool:
    """Whether no difference exceeds the tolerance; NaN never agrees.

    Trained channels differ in size by orders, so each is divided by the norm of its weights first.
    """
    scale = layer.get_parameter("weight").flatten(1).norm(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    scale = scale.reshape(1, -1, *[1] * (expected.dim() - 2))
    limit = TOLERANCE * (expected / scale).square().mean().sqrt()
    return bool(((answer - expected).abs() / scale <= limit).all())


def _recorder(layers: dict[tuple[Any, ...], tuple[str, nn.Module]], name: str) -> Any:
    """A forward pre-hook that keeps the first layer of each kind and input shape."""

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        weight = module.get_parameter("weight")
        config = tuple(str(getattr(module, key, "")) for key in ("stride", "padding", "dilation", "groups"))
        key = (type(module), tuple(weight.shape), config, tuple(inputs[0].shape))
        layers.setdefault(key, (name, module))

    return record


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "an unknown processor"


def _cache_entry(
    network: nn.Module,
    input_shape: Sequence[int],
    device: torch.device,
    weights_path: Path | str | None,
    cache_dir: Path | str | None,
) -> Path | None:
    """Where the answer for this machine, PyTorch, network and weights file lies; None where nothing is cached."""
    if weights_path is None:
        return None
    weights = Path(weights_path)
    try:
        status = weights.stat()
        if cache_dir is None:
            base = os.environ.get("XDG_CACHE_HOME")
            cache_dir = (Path(base) if base else Path.home() / ".cache") / "pneumonai"
    except (OSError, RuntimeError):  # no such weights file, or no home folder
        return None
    parts = [
        _CACHE_FORMAT,
        _processor(device),
        device.type,
        torch.__version__,
        torch.get_num_threads(),
        type(network).__qualname__,
        list(input_shape),
        str(weights.resolve()),
        status.st_size,
        status.st_mtime_ns,
    ]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return Path(cache_dir) / f"precision-{digest}.json"


def _read_fault(entry: Path | None) -> str | None:
    """The cached fault, empty for none; None where nothing (or nothing sensible) is cached."""
    if entry is None:
        return None
    try:
        fault = json.loads(entry.read_text(encoding="utf-8"))["bf16_fault"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return fault if isinstance(fault, str) else None


def _write_fault(entry: Path | None, fault: str) -> None:
    if entry is None:
        return
    partial = entry.with_name(f"{entry.name}.{os.getpid()}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"bf16_fault": fault}), encoding="utf-8")
        partial.replace(entry)
    except OSError:
        return  # the answer stands without being kept
