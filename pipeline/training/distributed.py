"""One process a GPU under ``torchrun``; on machines without GPUs the processes share the CPU through gloo."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from pneumonai.pipeline.errors import BundleError


def local_device() -> torch.device:
    """The device of this process: its own GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def start_process_group() -> None:
    """Join the processes that ``torchrun`` started: nccl with GPUs, gloo without.

    Raises:
        BundleError: not started by ``torchrun``.
    """
    if "RANK" not in os.environ:
        raise BundleError(
            "multi_gpu_train.json",
            "this is one process alone",
            "start it with torchrun --nproc_per_node=N -m monai.bundle",
        )
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend="nccl" if device.type == "cuda" else "gloo")


def end_process_group() -> None:
    """Leave the processes that :func:`start_process_group` joined, once all are done.

    Each waits for the others: one that leaves while another still talks to it aborts, on a busy machine now and then.
    """
    dist.barrier()
    dist.destroy_process_group()
