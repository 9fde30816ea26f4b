"""What ``pneumonai bundle verify`` checks: everything that a model zoo, and this project, asks of a bundle.

Each check is a function from a bundle to None; it raises where the bundle fails, and the message is the finding.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumonai.pipeline.bundle import Bundle, inference_config
from pneumonai.pipeline.bundle_files import bundle_files
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.study import InputKind
from pneumonai.pipeline.weights import load_weights

CONFIGS = ("metadata.json", "inference.json", "train.json", "evaluate.json", "multi_gpu_train.json", "logging.conf")
OTHER_FILES = ("docs/README.md", "docs/data_license.txt", "LICENSE", "models/model.pt")
# A preprocessing that names the transform finds the lungs with weights of its own, so that the bundle runs alone.
LUNGS_BY_NETWORK, LUNG_WEIGHTS = "PictureLungSegmentd", "models/lungs.pt"
# What MONAI's schema of 20240725 requires, and the changelog that its text asks for.
METADATA_KEYS = (
    "schema",
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
    "changelog",
)
WEIGHTS_LIMIT_BYTES = 16_000_000
MACHINE_PATH = re.compile(r"(?<![\w.:])(?:/(?:home|root|Users|mnt|workspace|work|tmp|opt|data)/[\w.-]+|[A-Za-z]:\\\\)")


@dataclass(frozen=True)
class Check:
    """One check of a bundle and what it found.

    Attributes:
        name: what was checked.
        problem: what is wrong, or None.
    """

    name: str
    problem: str | None = None


def verify(bundle: Bundle, *, schema: Path | None = None, inference: bool = True) -> Iterator[Check]:
    """Check a bundle; yields the checks one by one as they finish.

    Args:
        bundle: the bundle.
        schema: MONAI's metadata schema; without it the metadata is checked against the schema's required keys.
        inference: also run its inference as processes of their own, which takes most of the time.
    """
    with tempfile.TemporaryDirectory(prefix="pneumonai-verify-") as name:
        scratch = Path(name)
        checks: list[tuple[str, Callable[[], None]]] = [
            ("files", lambda: check_files(bundle)),
            ("metadata", lambda: check_metadata(bundle, schema)),
            ("size and paths", lambda: check_size_and_paths(bundle)),
            ("network input and output", lambda: check_network(bundle)),
            ("TorchScript equals eager", lambda: check_torchscript(bundle)),
            ("MONAI's properties", lambda: check_properties(bundle, made_dataset(bundle, scratch))),
            ("overlays", lambda: check_overlays(bundle)),
        ]
        if inference:
            checks += [
                ("inference with --bundle_root", lambda: check_inference(bundle, scratch, inside=False)),
                ("inference inside a copy", lambda: check_inference(bundle, scratch, inside=True)),
            ]
        for what, check in checks:
            try:
                check()
                yield Check(what)
            except Exception as error:
                yield Check(what, " ".join(str(error).split()) or type(error).__name__)


def check_files(bundle: Bundle) -> None:
    """Configs, documents, licence and weights are there and not empty."""
    wanted = [f"configs/{name}" for name in CONFIGS] + list(OTHER_FILES)
    inference = bundle.root / "configs" / "inference.json"
    if inference.is_file() and LUNGS_BY_NETWORK in inference.read_text(encoding="utf-8"):
        wanted.append(LUNG_WEIGHTS)
    missing = [name for name in wanted if not (bundle.root / name).is_file() or not (bundle.root / name).stat().st_size]
    if missing:
        raise BundleError(bundle.name, f"lacks {', '.join(missing)}")


def check_metadata(bundle: Bundle, schema: Path | None) -> None:
    """The metadata says what MONAI's schema and the project ask for."""
    metadata, settings = bundle.metadata, bundle.settings
    missing = [key for key in METADATA_KEYS if not metadata.get(key)]
    missing += [
        f"pneumonai::{key}" for key in ("modality", "input_kind", "trained_on", "notice") if not settings.get(key)
    ]
    if missing:
        raise BundleError(bundle.name, f"its metadata lacks {', '.join(missing)}")
    if metadata["version"] not in metadata["changelog"]:
        raise BundleError(bundle.name, f"its changelog has no entry for version {metadata['version']}")
    if "pneumonai" not in metadata["required_packages_version"]:
        raise BundleError(bundle.name, "required_packages_version does not name pneumonai")
    if [name.lower() for name in bundle.class_names] != bundle.class_names:
        raise BundleError(bundle.name, f"class names must be in lower case, got {', '.join(bundle.class_names)}")
    if schema is not None:
        import jsonschema

        try:
            content = json.loads(schema.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(schema, f"is no readable JSON schema ({error})") from None
        try:
            jsonschema.validate(metadata, content)
        except jsonschema.ValidationError as error:
            where = "::".join(map(str, error.absolute_path)) or "metadata.json"
            raise BundleError(bundle.name, f"{where} does not fit MONAI's schema: {error.message}") from None


def check_size_and_paths(bundle: Bundle) -> None:
    """The weights are within the budget, and no text file names a folder of somebody's machine."""
    size = sum(path.stat().st_size for path in bundle_files(bundle.root) if path.suffix == ".pt")
    if size > WEIGHTS_LIMIT_BYTES:
        raise BundleError(bundle.name, f"its weights have {size / 1e6:.1f} MB, over {WEIGHTS_LIMIT_BYTES / 1e6:.0f} MB")
    for path in bundle_files(bundle.root):
        if path.suffix in {".json", ".md", ".txt", ".conf"}:
            found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
            if found:
                raise BundleError(bundle.name, f"{path.name} names a path of a machine, {found.group()}")


def check_network(bundle: Bundle) -> None:
    """MONAI's ``verify_net_in_out``."""
    from monai.bundle import verify_net_in_out

    configs = bundle.root / "configs"
    with _quiet():
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(configs / "inference.json"),
            device="cpu",
            p=1,
            n=1,
            bundle_root=str(bundle.root),
        )


def check_torchscript(bundle: Bundle) -> None:
    """The scripted network with the shipped weights equals the eager one to 1e-5."""
    import torch

    network = inference_config(bundle.root).get_parsed_content("network_def").eval()
    load_weights(network, bundle.weights, subject=bundle.name)
    image = bundle.metadata["network_data_format"]["inputs"]["image"]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, image["num_channels"], *image["spatial_shape"], generator=generator)
    with torch.inference_mode(), _quiet():
        difference = (torch.jit.script(network)(images) - network(images)).abs().max().item()
    if not difference <= 1e-5:
        raise BundleError(bundle.name, f"TorchScript differs from eager by {difference:.2g}, more than 1e-5")


def check_properties(bundle: Bundle, dataset: Path) -> None:
    """MONAI's ``check_properties`` returns no name, for training and for inference."""
    from monai.bundle import create_workflow

    for config, kind in (("train", "train"), ("inference", "infer"), ("evaluate", "infer")):
        with _quiet():
            workflow = create_workflow(
                workflow_type=kind,
                config_file=str(bundle.root / "configs" / f"{config}.json"),
                bundle_root=str(bundle.root),
                dataset_dir=str(dataset),
                output_dir=str(dataset.parent / "output"),
                device="$torch.device('cpu')",
            )
            wrong = workflow.check_properties()
        if wrong:
            raise BundleError(bundle.name, f"{config}.json lacks, or has under another id, {', '.join(wrong)}")


def check_overlays(bundle: Bundle) -> None:
    """Every other config of the bundle still builds a network, and an explainer that fits it, over inference.json.

    The explainers for comparison fit the bundle's own network; those that another does not allow are left out there.
    """
    import torch

    own = inference_config(bundle.root)
    if own.get("comparison_explainers"):
        own.update({"device": "$torch.device('meta')"})
        with torch.device("meta"):
            own.get_parsed_content("comparison_explainers")
    for path in sorted((bundle.root / "configs").glob("*.json")):
        if path.name in CONFIGS:
            continue
        overlay = json.loads(path.read_text(encoding="utf-8"))
        parser = inference_config(bundle.root, **{k: v for k, v in overlay.items() if not k.startswith("train")})
        parser.update({"device": "$torch.device('meta')"})
        try:
            with torch.device("meta"):
                parser.get_parsed_content("network_def" if bundle.is_segmentation else "explainer")
        except Exception as error:
            raise BundleError(bundle.name, f"its {path.name} does not work over inference.json ({error})") from error


def check_inference(bundle: Bundle, scratch: Path, *, inside: bool) -> None:
    """``python -m monai.bundle run`` answers a made study, in a copy outside the package.

    Args:
        bundle: the bundle.
        scratch: a folder for the copy and the study.
        inside: run inside the copy's folder, else from elsewhere with ``--bundle_root``.
    """
    copy = scratch / "copy" / bundle.name
    if not copy.exists():
        for path in bundle_files(bundle.root):
            target = copy / path.relative_to(bundle.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    output = scratch / ("inside" if inside else "elsewhere")
    root = Path() if inside else copy
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(root / "configs" / "inference.json")]
    command += ["--dataset_dir", str(made_dataset(bundle, scratch) / "studies"), "--output_dir", str(output)]
    command += [] if inside else ["--bundle_root", str(copy)]
    done = subprocess.run(command, cwd=copy if inside else scratch, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise BundleError(bundle.name, f"monai.bundle run ended with {done.returncode}: {' '.join(last)}")
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != 1:
        raise BundleError(bundle.name, f"predictions.csv has {len(rows)} rows for one study")
    if bundle.is_segmentation:
        size, masks = ("right_percent", "_lungs") if bundle.marks_lungs else ("infection_percent", "_infection")
        if not 0 <= float(rows[0][size]) <= 100 or len(list(output.glob(f"*{masks}.*"))) != 1:
            raise BundleError(bundle.name, "it wrote no mask, or one without a size in predictions.csv")
        return
    total = sum(float(rows[0][f"p_{name}"]) for name in bundle.class_names)
    if abs(total - 1) > 1e-3:
        raise BundleError(bundle.name, f"its probabilities add up to {total:.4f}")


def made_dataset(bundle: Bundle, scratch: Path) -> Path:
    """A folder with a datalist of one small phantom in each part, in the form that the bundle reads.

    ``studies/`` holds it alone; its masks lie beside.
    """
    from pneumonai.pipeline.phantom import make_phantom
    from pneumonai.pipeline.phantom.write import write_nifti, write_slices, write_xray

    folder = scratch / "dataset"
    if folder.exists():
        return folder
    phantom = make_phantom("ncp", 1, shape=(128, 128, 48))
    made = folder / "made"
    if bundle.input_kind is InputKind.VOLUME:
        image = write_nifti(phantom, made)[0]
        mask = made / image.name.replace(".nii.gz", "_infection.nii.gz")
    else:
        pictures = write_slices(phantom, made) if bundle.input_kind is InputKind.SLICE else write_xray(phantom, made)
        image = pictures[len(pictures) // 2] if bundle.input_kind is InputKind.SLICE else pictures[0]
        mask = made / f"{image.stem}_{'lungs' if bundle.marks_lungs else 'infection'}.png"
    (folder / "studies").mkdir()
    image = image.rename(folder / "studies" / image.name)
    item: dict[str, Any] = {"image": f"studies/{image.name}", "mask": f"made/{mask.name}", "patient_id": "made"}
    if not bundle.is_segmentation:
        item["label"] = min(phantom.label, len(bundle.class_names) - 1)
    parts: dict[str, Any] = {part: [item] for part in ("training", "validation", "test")}
    (folder / "datalist.json").write_text(json.dumps(parts), encoding="utf-8")
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MONAI reports what it was called with on stdout, as warnings and through logging; a check list is no place."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
