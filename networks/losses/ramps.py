"""Ramps of the attention-transfer paper: how the weight of the JS loss and the learning rate change with time."""

from __future__ import annotations

import math


def ramp_up(epoch: float, length: float = 50) -> float:
    """Weight of the JS loss, ``exp(-5 (1 - t / length)^2)`` for t below ``length``, then 1.

    "COVID-19 Automatic Diagnosis With Radiographic Imaging: Explainable Attention Transfer Deep Neural Networks",
    https://doi.org/10.1109/JBHI.2021.3074893, Section IV, w(t) of eq. 8. To the letter w falls in the second half of
    training as the learning rate does; here it stays at 1.

    Args:
        epoch: t, epochs that are done; at least 0.
        length: of the ramp; half of the epochs in the paper. 0 is no ramp.

    Raises:
        ValueError: when an argument is none of these.

    Examples:
        >>> [round(ramp_up(epoch), 4) for epoch in (0, 25, 50, 80)]
        [0.0067, 0.2865, 1.0, 1.0]
    """
    _check(epoch, length)
    return 1.0 if epoch >= length else math.exp(-5.0 * (1.0 - epoch / length) ** 2)


def ramp_down(epoch: float, length: float = 50, last: float = 100) -> float:
    """``exp(-12.5 (1 - (last - t) / length)^2)`` in the last ``length`` epochs, 1 before; the paper's Section IV.

    Args:
        epoch: t, epochs that are done; at least 0. After ``last`` the value stays.
        length: of the ramp. 0 is no ramp.
        last: epoch at which it ends.

    Raises:
        ValueError: when an argument is none of these.

    Examples:
        >>> [round(ramp_down(epoch), 4) for epoch in (0, 50, 75, 100)]
        [1.0, 1.0, 0.0439, 0.0]
    """
    _check(epoch, length)
    left = last - min(epoch, last)
    return 1.0 if left >= length else math.exp(-12.5 * (1.0 - left / length) ** 2)


def learning_rate_ramp(epoch: float, max_epochs: float = 100) -> float:
    """Factor of the learning rate: up in the first half of the epochs, down in the second; the paper's Section IV.

    For ``torch.optim.lr_scheduler.LambdaLR``, which counts epochs as this does: from 0.

    Args:
        epoch: epochs that are done; at least 0.
        max_epochs: of the training.

    Examples:
        >>> [round(learning_rate_ramp(epoch), 4) for epoch in (0, 25, 50, 75, 99)]
        [0.0067, 0.2865, 1.0, 0.0439, 0.0]
    """
    return ramp_up(epoch, max_epochs / 2) * ramp_down(epoch, max_epochs / 2, max_epochs)


def _check(epoch: float, length: float) -> None:
    if epoch < 0 or length < 0:
        raise ValueError(f"epoch and length must be at least 0, got {epoch} and {length}.")
