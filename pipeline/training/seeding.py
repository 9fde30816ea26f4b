"""Randomness of training from the seed and the epoch alone, so that a resumed run repeats an unbroken one."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader


class EpochSeed:
    """Seeds every source of randomness anew as each epoch starts, from (seed, epoch, process).

    PyTorch's generator also gives the seeds of the data loader's workers, and MONAI's workers seed their transforms
    with those; without workers the transforms of the training data are seeded here. So a checkpoint needs no random
    state, and what validation draws between two epochs changes nothing.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Seed before the epoch's data loader starts."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts."""
        rank = dist.get_rank() if dist.is_initialized() else 0
        seed = int(np.random.SeedSequence([self.seed, engine.state.epoch, rank]).generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (transforms of other packages draw from it)
        random.seed(seed)
        loader = engine.state.dataloader
        if isinstance(loader, DataLoader) and loader.num_workers == 0:
            set_rnd(loader.dataset, seed)
