"""How training runs its network."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer


class AutocastInferer(SimpleInferer):
    """The network under ``torch.autocast``, its output in float32.

    MONAI's ``amp`` is for GPUs; this also serves a CPU with bfloat16 units, on which a FUSA-ResUNet trains in half of
    the time. bfloat16 has float32's range, so nothing is scaled.

    Args:
        device: what the network runs on.
        dtype: ``bfloat16``, or None for plain float32.

    Raises:
        ValueError: another data type.
    """

    def __init__(self, device: torch.device | str, dtype: str | None = None) -> None:
        super().__init__()
        if dtype not in (None, "bfloat16"):
            raise ValueError(f"AutocastInferer needs the data type bfloat16 or None, got {dtype!r}.")
        self.device_type = torch.device(device).type
        self.enabled = dtype is not None

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Output of the network for the inputs."""
        if not self.enabled:
            output: torch.Tensor = super().__call__(inputs, network, *args, **kwargs)
            return output
        with torch.autocast(self.device_type, torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs).float()
