"""One run of a comparison, in a process of its own: train, evaluate, and note what it cost.

Training and evaluation are the bundle's own configs through ``monai.bundle.run``; nothing is trained in another way.
"""

from __future__ import annotations

import csv
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from pneumonai.pipeline.errors import our_error


def main(spec_path: str) -> None:
    """Do a run unless its record says that it is done.

    Args:
        spec_path: ``spec.json`` of :func:`pneumonai.pipeline.comparison.plan.plan_runs`, in the run's folder.
    """
    from filelock import FileLock

    folder = Path(spec_path).parent
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    # A process that a killed comparison left behind may still be at work here.
    with FileLock(folder / ".lock"):
        if not (folder / "record.json").exists():
            _run(spec, folder)


def _run(spec: dict[str, Any], folder: Path) -> None:
    import torch
    from monai.bundle import run

    from pneumonai.pipeline.outputs.files import write_bytes
    from pneumonai.pipeline.training.checkpoint import HISTORY

    outputs = {
        "train": {"output_dir": str(folder)},
        "evaluate": {"output_dir": str(folder / "scores"), "ckpt_path": str(folder / "model.pt")},
    }
    for step in ("train", "evaluate"):
        start = time.perf_counter()
        run(**_arguments(spec, step, folder), **spec[step]["overrides"], **outputs[step])
    with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
        epochs = [float(row["seconds"]) for row in csv.DictReader(file)]
    record = {
        "epochs": len(epochs),
        # From the history, so that the time before an interruption counts.
        "seconds": {
            "train": round(sum(epochs), 1),
            # The first epoch prepares the images, unless an earlier run has.
            "epoch": round(statistics.median(epochs), 2),
            "evaluate": round(time.perf_counter() - start, 1),
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": _peak_memory(),
        "images": _image_counts(spec),
    } | _network_cost(spec, folder, outputs["evaluate"])
    write_bytes(folder / "record.json", (json.dumps(record, indent=2) + "\n").encode())


def _arguments(spec: dict[str, Any], step: str, folder: Path) -> dict[str, Any]:
    from pneumonai.pipeline.outputs.files import write_bytes

    configs = Path(spec["configs"])
    overlay = folder / f"{step}_overlay.json"
    write_bytes(overlay, json.dumps(spec[step]["overlay"], indent=2).encode())
    return {
        "config_file": [str(configs / f"{step}.json"), str(overlay)],
        "meta_file": str(configs / "metadata.json"),
        "logging_file": str(configs / "logging.conf"),
    }


def _peak_memory() -> int:
    """Of this process and its largest worker, and of the GPU, in bytes."""
    import torch

    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    used = sum(resource.getrusage(who).ru_maxrss * unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return used + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def _image_counts(spec: dict[str, Any]) -> dict[str, int]:
    from pneumonai.data_manifests.datalist import load_datalist

    train, evaluate = spec["train"]["overrides"], spec["evaluate"]["overrides"]
    return {
        name: len(load_datalist(o["datalist"], part, o["dataset_dir"], fold=o["fold"], keys=("image",)))
        for name, o, part in (("training", train, "training"), ("test", evaluate, evaluate["datalist_part"]))
    }


def _network_cost(spec: dict[str, Any], folder: Path, outputs: dict[str, str]) -> dict[str, float]:
    """Parameters, and multiply-adds for one input as the evaluation's dataset gives it."""
    import torch
    from monai.bundle import ConfigParser
    from torch.utils.flop_counter import FlopCounterMode

    arguments = _arguments(spec, "evaluate", folder)
    parser = ConfigParser()
    parser.read_config(arguments["config_file"])
    parser.read_meta(arguments["meta_file"])
    parser.update(spec["evaluate"]["overrides"] | outputs)
    image = parser.get_parsed_content("dataset")[0]["image"]
    sides = parser.get("_meta_::network_data_format::inputs::image::spatial_shape")
    # A 2D network over the slices of a volume: one slice.
    shape = (image.shape[0], *image.shape[-len(sides) :])
    network = parser.get_parsed_content("network_def").eval()
    device = next(network.parameters()).device
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros((1, *shape), device=device))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        ours = our_error(error)
        if ours is None:
            raise
        sys.exit(f"error: {ours.line()}")
