"""MAG-SD's training step beside the plain backbone's, and what its three augmentations take of it.

One step of MAG-SD passes a batch and then three times as many images, which is 4 times the plain backbone's work; the
parts beside it say where the rest goes. As in training the process keeps the memory that a step frees
(``--give-back`` shows what that saves). Times are of all parts in turn in one process; memory is the peak of a process
of its own for each step. On a GPU the augmentations also run while PyTorch refuses to wait for it. Run it on an idle
machine::

    python benchmarks/mag_sd.py --backbone resnet18 --base-channels 48
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine, peak_memory_of, refuse_when_busy
from torch.nn import functional as F

from pneumonai.networks.losses import SoftDistanceLoss
from pneumonai.networks.nets import MANet
from pneumonai.networks.nets.backbones import BACKBONES, build_backbone
from pneumonai.pipeline.training.mag_sd import GuidedPasses
from pneumonai.pipeline.training.memory import keep_freed_memory
from pneumonai.transforms.attention_augmentation import GUIDED_AUGMENTATIONS

CLASSES = 3

#: The steps whose peak memory is measured.
STEPS = ("plain backbone", "MAG-SD")


def sgd(module: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-6)


def parts(options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each call is one step of training, or a part of one."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    generator = torch.Generator(device)
    images = torch.randn(options.batch, 1, options.size, options.size, device=device)
    tripled = images.repeat(3, 1, 1, 1)
    labels = torch.randint(CLASSES, (options.batch,), device=device)
    width = {"base_channels": options.base_channels} if options.base_channels else {}
    plain = build_backbone(options.backbone, 2, 1, CLASSES, **width).to(device).train()
    network = MANet(2, 1, CLASSES, backbone=options.backbone, **width).to(device).train()
    passes = GuidedPasses(network).train()
    criterion = SoftDistanceLoss()
    plain_optimizer, optimizer = sgd(plain), sgd(network)
    with torch.no_grad():
        maps = network.forward_all(images)[1]
        features = [network.backbone.forward_features(batch) for batch in (images, tripled)]
    stages = [[stage.requires_grad_() for stage in batch[1:]] for batch in features]
    logits = torch.randn(4, options.batch, CLASSES, device=device, requires_grad=True)

    def plain_step() -> None:
        plain_optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        plain_optimizer.step()

    def both_passes() -> None:
        plain_optimizer.zero_grad()
        (F.cross_entropy(plain(images), labels) + F.cross_entropy(plain(tripled), labels.repeat(3))).backward()
        plain_optimizer.step()

    def mag_sd_step() -> None:
        optimizer.zero_grad()
        criterion(*passes(images, generator), labels).backward()
        optimizer.step()

    def augment() -> None:
        with torch.no_grad():
            torch.cat([augmentation(images, maps, generator) for augmentation in GUIDED_AUGMENTATIONS.values()])

    def attention() -> None:
        for batch in stages:
            network.classifier(network.pool(batch[-1], network.generator(batch))).square().sum().backward()

    def loss() -> None:
        criterion(logits[0], logits[1:], labels).backward()

    return {
        STEPS[0]: plain_step,
        STEPS[1]: mag_sd_step,
        f"plain, passes of {options.batch} and {3 * options.batch}": both_passes,
        "the three augmentations": augment,
        "attention maps, pooling, classifier": attention,
        "loss": loss,
    }


def wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_in_turn(timed: dict[str, Callable[[], object]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each part, the parts in turn, after one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(options.repeats + 1):
        for name, part in timed.items():
            wait(options.device)
            start = time.perf_counter()
            part()
            wait(options.device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", choices=BACKBONES, default="resnet50")
    parser.add_argument("--base-channels", type=int, default=0, help="width of a ResNet, VGG or FUSA-ResNet")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--give-back", action="store_true", help="give freed memory back to the system")
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    parser.add_argument("--one", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.give_back:
        keep_freed_memory()
    if options.one:
        parts(options)[options.one]()
        return
    print(describe_machine())
    print(
        f"{torch.get_num_threads()} threads, {options.backbone}, {options.batch} x 1 x {options.size} x {options.size},"
        f" fp32, {options.device}"
    )
    refuse_when_busy(force=options.force)
    if options.device == "cpu":
        # Before this process holds memory of its own.
        for name in STEPS:
            print(f"  {name:<36} peak {peak_memory_of([sys.executable, *own_command(options), '--one', name]):6.2f} GB")
    timed = parts(options)
    seconds = seconds_in_turn(timed, options)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    reference, whole = (medians[name] for name in STEPS)
    for name, values in seconds.items():
        print(
            f"  {name:<36} {medians[name]:8.4f} s ({min(values):.4f} to {max(values):.4f})"
            f"  {medians[name] / reference:6.3f}x plain  {medians[name] / whole:7.2%} of MAG-SD's step"
        )
    if torch.device(options.device).type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        timed["the three augmentations"]()
        torch.cuda.set_sync_debug_mode("default")
        print("  the augmentations never waited for the GPU")


def own_command(options: argparse.Namespace) -> list[str]:
    command = [str(Path(__file__)), "--backbone", options.backbone, "--base-channels", str(options.base_channels)]
    command += ["--give-back"] if options.give_back else []
    return [*command, "--batch", str(options.batch), "--size", str(options.size)]


if __name__ == "__main__":
    main()
