"""What a checkpoint holds beside networks: the gradient scaler of mixed precision."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, State

from pneumonai.pipeline.training.checkpoint import Checkpoint


def engine(scale: float) -> Engine:
    """An engine that makes its scaler as MONAI's trainer does: before it starts."""
    trainer = Engine(lambda engine, batch: None)
    trainer.state = State(max_epochs=3, epoch_length=1, epoch=1, best_metric=0.5, best_metric_epoch=1, metrics={})
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # type: ignore[attr-defined]
    return trainer


def test_the_gradient_scaler_goes_on_where_it_was(tmp_path: Path) -> None:
    Checkpoint(tmp_path, engine(8.0), engine(1.0), {}).save()
    resumed = engine(2.0)
    Checkpoint(tmp_path, resumed, engine(1.0), {}).load()
    resumed.run([0], max_epochs=3)
    assert resumed.scaler.get_scale() == 8.0  # type: ignore[attr-defined]
