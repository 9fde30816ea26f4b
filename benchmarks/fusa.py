"""FUSA's speed and peak memory, forward plus backward: as built, by autograd alone, and in the literal form.

Beside them stands what no form can leave out: the two reductions, over the positions and over the channels, and a
sigmoid times the map, as PyTorch's own functions with its own backward pass. Times are of all forms in turn in one
process; memory is the peak of a process of its own for each form, over what input, output's gradient and parameters
take. Run it on an idle machine::

    python benchmarks/fusa.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from machine import describe_machine, peak_memory_of, refuse_when_busy
from torch import nn

from pneumonai.networks.blocks import FUSA

SHAPES = ((4, 256, 64, 64), (4, 512, 32, 32))


def reductions(x: torch.Tensor) -> list[torch.Tensor]:
    """Mean and maximum over the positions, and over the channels."""
    flat = x.flatten(2)
    return [flat.mean(2), flat.amax(2), flat.mean(1), flat.amax(1)]


class Literal(FUSA):
    """The module as the paper words it, with both maps spread to 2 C channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        mean_c, max_c, _, _ = reductions(x)
        c = self.channel(torch.cat([mean_c, max_c], 1))[:, :, None, None]
        s = self.spatial(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return x * torch.sigmoid(self.fuse(torch.cat([c.expand_as(x), s.expand_as(x)], 1)))


class ByAutograd(FUSA):
    """The factorised form without a backward pass of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        return x * self.attention(x)


class Limit(FUSA):
    """The reductions and ``x * sigmoid(x)``: no attention, the work around it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        self.reduced = reductions(x)
        return x * torch.sigmoid(x)


FORMS: dict[str, type[nn.Module]] = {
    "literal": Literal,
    "factorised, autograd": ByAutograd,
    "factorised, as built": FUSA,
    "limit": Limit,
}


def step(name: str, shape: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return FORMS[name](2, shape[1]), torch.randn(shape, requires_grad=True), torch.randn(shape)


def run(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> None:
    """Forward and backward; the gradient enters through the reductions too where they are all that there is."""
    x.grad = None
    module.zero_grad()
    output = module(x)
    reduced = getattr(module, "reduced", [])
    torch.autograd.backward([output, *reduced], [gradient, *map(torch.ones_like, reduced)])


def seconds_in_turn(shape: tuple[int, ...], repeats: int) -> dict[str, list[float]]:
    """Seconds of forward plus backward of each form, the forms in turn, after one round to warm up."""
    steps = {name: step(name, shape) for name in FORMS}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, (module, x, gradient) in steps.items():
            start = time.perf_counter()
            run(module, x, gradient)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def one_process(name: str, shape: tuple[int, ...], idle: bool) -> None:
    """What a process of its own does: a small step that loads all code, then the step, or its tensors alone."""
    run(*step(name, (1, 8, 8, 8)))
    prepared = step(name, shape)
    if not idle:
        run(*prepared)


def peak(name: str, shape: tuple[int, ...]) -> float:
    """Peak memory of one step over what its input, the output's gradient and the parameters take, in MB."""
    command = [sys.executable, str(Path(__file__)), "--shape", *map(str, shape), "--one", name]
    return (peak_memory_of(command) - peak_memory_of([*command, "--idle"])) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    parser.add_argument("--one", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one_process(options.one, tuple(options.shape), options.idle)
        return
    print(describe_machine())
    print(f"{torch.get_num_threads()} threads, forward plus backward, fp32")
    refuse_when_busy(force=options.force)
    for shape in SHAPES:
        seconds = seconds_in_turn(shape, options.repeats)
        memory = {name: peak(name, shape) for name in FORMS}
        reference = statistics.median(seconds["literal"])
        megabytes = torch.Size(shape).numel() * 4 / 1e6
        print(f"\n{list(shape)}, {megabytes:.1f} MB")
        for name, values in seconds.items():
            median = statistics.median(values)
            print(
                f"  {name:<22} {median * 1e3:7.1f} ms ({min(values) * 1e3:.1f} to {max(values) * 1e3:.1f})"
                f"  {reference / median:5.1f}x  peak {memory[name]:6.0f} MB"
            )


if __name__ == "__main__":
    main()
