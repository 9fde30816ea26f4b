"""Attention transfer's costs: the deformable convolution beside an ordinary one, and attention over N x N positions.

The deformable convolution predicts its offsets itself, and so is timed with the convolution that does. Beside it
stands the order of its definition, which samples all C channels at every tap, where each tap's projection to C / 4
first leaves a quarter of the samples. Forward plus backward; times are of all forms in turn in one process; memory is
the peak of a process of its own, over what inputs, parameters and the output's gradient take. As in training the
process keeps the memory that a step frees. Run it on an idle machine::

    python benchmarks/attention_transfer.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from machine import describe_machine, peak_memory_of, refuse_when_busy
from torch import nn
from torch.nn import functional as F

from pneumonai.networks.blocks import DeformableAttention, DeformableConvolution
from pneumonai.pipeline.training.memory import keep_freed_memory

#: Where the paper's network has its modules, and where one of growth 16 has the first.
CONVOLUTIONS = ((8, 256, 32, 32), (8, 512, 16, 16), (8, 128, 32, 32))
ATTENTIONS = ((4, 256, 32, 32), (4, 256, 64, 64))

Step = Callable[[], None]


class SampledFirst(DeformableConvolution):
    """Every tap samples all C channels, as eq. 1 is written."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to ``[B, out_channels, H, W]``."""
        taps = range(9)
        offsets = self.offset(x)
        columns = torch.cat([sample(x, offsets[:, tap], tap, self.vertical) for tap in taps], dim=1)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)[:, :, None, None]
        return F.conv2d(columns, weight, self.bias)


def sample(x: torch.Tensor, offsets: torch.Tensor, tap: int, vertical: bool) -> torch.Tensor:
    """One tap of ``[B, C, H, W]`` with offsets ``[B, H, W]``, by ``grid_sample``."""
    height, width = x.shape[2:]
    rows = (torch.arange(height) + tap // 3 - 1.0)[:, None].expand(height, width)
    columns = (torch.arange(width) + tap % 3 - 1.0).expand(height, width)
    rows = rows + offsets if vertical else rows.expand_as(offsets)
    columns = columns.expand_as(offsets) if vertical else columns + offsets
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=3)
    return F.grid_sample(x, grid, align_corners=False)


def ordinary(channels: int, vertical: bool) -> nn.Module:
    return nn.Conv2d(channels, channels // 4, kernel_size=3, padding=1)


FORMS: dict[str, Callable[[int, bool], nn.Module]] = {
    "ordinary": ordinary,
    "sampled, then projected": lambda channels, vertical: SampledFirst(channels, channels // 4, vertical=vertical),
    "as built": lambda channels, vertical: DeformableConvolution(channels, channels // 4, vertical=vertical),
}


def convolution(name: str, shape: Sequence[int], vertical: bool) -> Step:
    """Forward plus backward of one form, its offsets drawn at random by its own convolution."""
    torch.manual_seed(0)
    module = FORMS[name](shape[1], vertical)
    if isinstance(module, DeformableConvolution):
        nn.init.normal_(module.offset.weight, std=2.0 / (3 * shape[1] ** 0.5))
    return module_step(module, shape, shape[1] // 4)


def module_step(module: nn.Module, shape: Sequence[int], out_channels: int) -> Step:
    x = torch.randn(tuple(shape), requires_grad=True)
    gradient = torch.randn(shape[0], out_channels, *shape[2:])

    def run() -> None:
        x.grad = None
        module.zero_grad()
        module(x).backward(gradient)

    return run


def attention(name: str, shape: Sequence[int]) -> Step:
    """Forward plus backward of the whole module, or of its softmax over N x N positions and the weighted sum alone."""
    torch.manual_seed(0)
    if name == "module":
        return module_step(DeformableAttention(2, shape[1]), shape, shape[1])
    samples, channels, positions = shape[0], shape[1], shape[2] * shape[3]
    u, v = (torch.randn(samples, positions, channels // 4, requires_grad=True) for _ in range(2))
    w, gradient = (
        torch.randn(samples, positions, channels, requires_grad=True),
        torch.randn(samples, positions, channels),
    )

    def run() -> None:
        u.grad = v.grad = w.grad = None
        F.scaled_dot_product_attention(u, v, w, scale=10.0 / u.shape[2]).backward(gradient)

    return run


def seconds_in_turn(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, the steps in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def one_process(name: str, shape: Sequence[int], idle: bool) -> None:
    """What a process of its own does: a small step that loads all code, then the step, or its tensors alone."""
    prepare = attention if name in ("module", "positions") else lambda form, size: convolution(form, size, False)
    prepare(name, (1, 8, 4, 4))()
    step = prepare(name, shape)
    if not idle:
        step()


def peak(name: str, shape: Sequence[int]) -> float:
    """Peak memory of one step over what its tensors take, in MB."""
    command = [sys.executable, str(Path(__file__)), "--shape", *map(str, shape), "--one", name]
    return (peak_memory_of(command) - peak_memory_of([*command, "--idle"])) * 1000


def report(name: str, values: list[float], reference: list[float], megabytes: float) -> None:
    median = statistics.median(values)
    ratio = median / statistics.median(reference)
    print(
        f"  {name:<26} {median * 1e3:7.1f} ms ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})  {ratio:5.2f}x"
        f"  peak {megabytes:6.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    parser.add_argument("--divide", type=int, default=1, help="divide batch and sides, to try the script itself")
    parser.add_argument("--one", choices=[*FORMS, "module", "positions"], help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    if options.one:
        one_process(options.one, options.shape, options.idle)
        return
    print(describe_machine())
    print(f"{torch.get_num_threads()} threads, forward plus backward, fp32")
    refuse_when_busy(force=options.force)

    def sized(shape: Sequence[int]) -> tuple[int, ...]:
        batch, channels, height, width = shape
        return max(1, batch // options.divide), channels, height // options.divide, width // options.divide

    for shape in map(sized, CONVOLUTIONS):
        print(f"\n3x3 convolution of {list(shape)} to {shape[1] // 4} channels")
        memory = {name: peak(name, shape) for name in FORMS}
        for vertical in (False, True):
            seconds = seconds_in_turn({name: convolution(name, shape, vertical) for name in FORMS}, options.repeats)
            print(" vertical offsets" if vertical else " horizontal offsets")
            for name, values in seconds.items():
                report(name, values, seconds["ordinary"], memory[name])
    for shape in map(sized, ATTENTIONS):
        positions = shape[2] * shape[3]
        print(f"\nattention on {list(shape)}, N = {positions}; one N x N map {positions**2 * shape[0] * 4e-6:.0f} MB")
        seconds = seconds_in_turn({name: attention(name, shape) for name in ("module", "positions")}, options.repeats)
        for name, words in (("module", "the whole module"), ("positions", "softmax and weighted sum")):
            report(words, seconds[name], seconds["module"], peak(name, shape))


if __name__ == "__main__":
    main()
