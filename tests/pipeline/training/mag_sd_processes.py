"""What each process of ``test_two_processes_train_as_one`` does; run as ``python FILE RANK FOLDER``."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

from pneumonai.networks.losses import SoftDistanceLoss
from pneumonai.networks.nets import MANet, ResNet
from pneumonai.pipeline.training.distributed import end_process_group
from pneumonai.pipeline.training.mag_sd import GuidedPasses


def steps(*, frozen: bool, rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
    """Two steps on this process's share of four pictures; the network's state.

    One attention map and no patching: the generators of two processes would draw other numbers than that of one.
    """
    torch.manual_seed(0)
    network = MANet(2, 1, 3, backbone=ResNet(2, 1, 0, depth=18, base_channels=2), num_attention_maps=1)
    passes: nn.Module = GuidedPasses(network, augmentations=["mix_up", "dimming"])
    if world > 1:
        passes = nn.parallel.DistributedDataParallel(passes)
    passes.train()
    for module in network.modules():
        if frozen and isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 1])
    for _ in range(2):
        optimizer.zero_grad()
        logits, auxiliary = passes(images[rank::world], torch.Generator())
        SoftDistanceLoss()(logits, auxiliary, labels[rank::world]).backward()
        optimizer.step()
    return network.state_dict()


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name in ("frozen", "batchwise"):
        state = steps(frozen=name == "frozen", rank=rank, world=2)
        if rank == 0:
            torch.save(state, f"{folder}/{name}.pt")
    end_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
