"""The whole job on one study against the straightforward composition, in turn, as whole processes.

    python benchmarks/study.py STUDY [--repeats 5] [--shipped]

Both sides run the network at width 64 with the same random weights; ours writes the same maps, and the report and
pictures besides. ``--shipped`` adds the job as it ships (width 16). Prints medians, ratios and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine, refuse_when_busy

HERE = Path(__file__).parent


def run(command: list[str]) -> dict[str, float | str]:
    """Wall and CPU seconds, peak memory in GB, and stdout of one process."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        if status:
            raise SystemExit(f"error: {' '.join(command[:4])} ended with {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        text = out.read()
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu, "peak_gb": usage.ru_maxrss * 1024 / 1e9, "stdout": text}


def wide_bundle(folder: Path) -> Path:
    """The NL-RAN bundle at width 64 with random weights."""
    import torch

    from pneumonai.pipeline.bundle import find_bundle, inference_config

    root = folder / "nl_ran_width_64"
    shutil.copytree(find_bundle("nl_ran_ct_classification").root, root, ignore=shutil.ignore_patterns("*.pt"))
    path = root / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_channels": 64}))
    torch.manual_seed(0)
    (root / "models").mkdir(exist_ok=True)
    torch.save(inference_config(root).get_parsed_content("network_def").state_dict(), root / "models" / "model.pt")
    return root


def main() -> None:
    """Run the sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a DICOM folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shipped", action="store_true", help="also the job as it ships")
    parser.add_argument("--force", action="store_true", help="run on a busy machine")
    arguments = parser.parse_args()
    print(describe_machine())
    refuse_when_busy(force=arguments.force)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = wide_bundle(folder)
        python = sys.executable
        pneumonai = str(Path(python).with_name("pneumonai"))
        common = [pneumonai, "predict", arguments.study, "--quiet"]
        sides = {
            "imports": [python, "-c", "import torch, monai.transforms, monai.bundle, monai.networks"],
            "plain": [
                *(python, str(HERE / "plain_composition.py"), arguments.study),
                *(str(folder / "plain"), str(bundle / "models" / "model.pt")),
            ],
            "ours": [*common, "--bundle", str(bundle), "--output", str(folder / "ours")],
            "ours, no report": [*common, "--bundle", str(bundle), "--no-report", "--output", str(folder / "bare")],
        }
        if arguments.shipped:
            sides["shipped"] = [*common, "--output", str(folder / "shipped")]
        runs: dict[str, list[dict[str, float | str]]] = {side: [] for side in sides}
        for repeat in range(arguments.repeats + 1):
            for side, command in sides.items():
                done = run(command)
                if repeat:  # the first round warms the file cache and the precision check's cache
                    runs[side].append(done)
        report(runs)
        print("plain, steps:", str(runs["plain"][-1]["stdout"]).strip().splitlines()[-1])
        for side in ("ours", "shipped"):
            for path in sorted((folder / side).glob("*/result.json")):
                print(
                    f"{side}, steps (they overlap the imports):", json.dumps(json.loads(path.read_text())["timing_s"])
                )


def report(runs: dict[str, list[dict[str, float | str]]]) -> None:
    """Medians a side, and the ratios to the plain composition pair by pair."""
    imports = statistics.median(float(one["wall"]) for one in runs["imports"])
    print(f"\n{'':18}{'wall s':>24}{'past imports':>14}{'cpu s':>8}{'peak GB':>9}{'ratio':>8}{'past imports':>14}")
    for side, done in runs.items():
        walls = [float(one["wall"]) for one in done]
        pairs = list(zip(runs["plain"], done, strict=True))
        whole = statistics.median(float(plain["wall"]) / float(one["wall"]) for plain, one in pairs)
        past = statistics.median(
            (float(plain["wall"]) - imports) / max(float(one["wall"]) - imports, 1e-9) for plain, one in pairs
        )
        middle = statistics.median(walls)
        cpu = statistics.median(float(one["cpu"]) for one in done)
        peak = max(float(one["peak_gb"]) for one in done)
        spread = f"{middle:.2f} ({min(walls):.2f}..{max(walls):.2f})"
        ratios = "" if side == "imports" else f"{whole:>8.2f}{past:>14.2f}"
        print(f"{side:18}{spread:>24}{middle - imports:>14.2f}{cpu:>8.2f}{peak:>9.2f}{ratios}")


if __name__ == "__main__":
    main()
