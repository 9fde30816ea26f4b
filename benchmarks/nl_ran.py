"""Seconds a scan that NL-RAN takes, by width, precision and memory layout.

Beside each stands a bare fp32 (or bf16) matrix product with the same number of multiply-adds on the same cores: what
the machine gives to arithmetic alone, and so the time that no layout can beat by much. Run it on an idle machine::

    python benchmarks/nl_ran.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from machine import describe_machine, measure, refuse_when_busy
from torch.utils.flop_counter import FlopCounterMode

from pneumonai.networks.nets import NLRAN
from pneumonai.pipeline.precision import choose_precision, run_network

Maker = Callable[[], object]
SHAPE = (1, 1, 64, 160, 160)
ROWS = 2048


def multiply_adds(width: int) -> float:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        NLRAN(base_channels=width).eval()(torch.empty(SHAPE))
    return counter.get_total_flops() / 2


def matrix_product(count: float, dtype: torch.dtype) -> Callable[[], object]:
    """A product of two matrices, ``[ROWS, ROWS] x [ROWS, n]``, that takes ``count`` multiply-adds."""
    left = torch.rand(ROWS, ROWS, dtype=dtype)
    right = torch.rand(ROWS, max(1, round(count / ROWS**2)), dtype=dtype)
    return lambda: left @ right


def contiguous(network: torch.nn.Module, images: torch.Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """The network as PyTorch runs it by default, without channels-last memory."""

    def run() -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return network(images)

    return run


def cases(width: int) -> dict[str, Callable[[], object]]:
    """Each way of running by name; two networks, because channels-last changes the weights' memory in place."""
    torch.manual_seed(0)
    plain, last = NLRAN(base_channels=width).eval(), NLRAN(base_channels=width).eval()
    images = torch.rand(SHAPE)
    count = multiply_adds(width)
    return {
        "matrix product fp32": matrix_product(count, torch.float32),
        "matrix product bf16": matrix_product(count, torch.bfloat16),
        "fp32, contiguous": contiguous(plain, images, torch.float32),
        "fp32, channels-last": lambda: run_network(last, images, "fp32"),
        "bf16, contiguous": contiguous(plain, images, torch.bfloat16),
        "bf16, channels-last": lambda: run_network(last, images, "bf16"),
    }


def compiled(network: torch.nn.Module, images: torch.Tensor, folder: Path) -> dict[str, Callable[[], Maker]]:
    """By name, what prepares a way of running: called, it gives the function to time."""

    def inductor(dtype: torch.dtype) -> Maker:
        last = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        function = torch.compile(last)
        given = images.contiguous(memory_format=torch.channels_last_3d)
        return contiguous(function, given, dtype)

    def onnx_runtime() -> Maker:
        import onnxruntime

        path = folder / "network.onnx"
        torch.onnx.export(network, (images,), path, dynamo=True, verbose=False, input_names=["image"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])

    def open_vino(precision: str) -> Maker:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = core.compile_model(openvino.convert_model(network, example_input=images), "CPU", settings)
        return lambda: torch.from_numpy(model(images.numpy())[0])

    return {
        "torch.compile fp32": lambda: inductor(torch.float32),
        "torch.compile bf16": lambda: inductor(torch.bfloat16),
        "ONNX Runtime fp32": onnx_runtime,
        "OpenVINO fp32": lambda: open_vino("f32"),
        "OpenVINO bf16": lambda: open_vino("bf16"),
    }


def time_compiled(width: int, repeats: int) -> None:
    """Print a line a compiler: seconds to prepare (first scan included), seconds a scan, difference from fp32."""
    torch.manual_seed(0)
    network, images = NLRAN(base_channels=width).eval(), torch.rand(SHAPE)
    with torch.no_grad(), TemporaryDirectory() as folder:
        expected = network(images)
        for name, prepare in compiled(network, images, Path(folder)).items():
            start = time.perf_counter()
            try:
                function = prepare()
                answer = function()
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                print(f"  {name:<20} not possible here: {reason[:120]}")
                continue
            ready = time.perf_counter() - start
            times = measure(function, repeats)
            spread = expected.std().item()
            difference = (torch.as_tensor(answer).float() - expected).abs().max().item() / spread
            print(
                f"  {name:<20} {times['median']:.3f} s ({times['min']:.3f} to {times['max']:.3f})  ready after "
                f"{ready:.1f} s, logits differ by at most {difference:.1e} of their standard deviation"
            )


def self_check_seconds(width: int) -> tuple[str, float, float]:
    """Decision of ``auto``, seconds of its first time with the self-check and of the cached second time."""
    network = NLRAN(base_channels=width).eval()
    with TemporaryDirectory() as folder:
        weights = Path(folder) / "model.pt"
        weights.touch()
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            chosen = choose_precision(network, SHAPE, "cpu", weights, cache_dir=folder)
            seconds.append(time.perf_counter() - start)
    return f"{chosen.name} ({chosen.reason})", seconds[0], seconds[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compilers", action="store_true", help="torch.compile, ONNX Runtime, OpenVINO too")
    parser.add_argument("--force", action="store_true", help="run on a busy machine too")
    options = parser.parse_args()
    print(describe_machine())
    print(f"{torch.get_num_threads()} threads, input {SHAPE}")
    refuse_when_busy(force=options.force)
    for width in options.widths:
        decision, first, cached = self_check_seconds(width)
        print(f"\nwidth {width}: {multiply_adds(width) / 1e9:.1f} G multiply-adds")
        print(f"  auto takes {decision}: {first:.3f} s the first time, {cached:.4f} s cached")
        reference = 0.0
        for name, function in cases(width).items():
            times = measure(function, options.repeats)
            reference = times["median"] if name == "fp32, contiguous" else reference
            ratio = f"  {reference / times['median']:.1f}x" if reference else ""
            print(f"  {name:<20} {times['median']:.3f} s ({times['min']:.3f} to {times['max']:.3f}){ratio}")
        if options.compilers:
            time_compiled(width, options.repeats)


if __name__ == "__main__":
    main()
