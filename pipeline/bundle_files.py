"""A bundle as one file: the zip that model zoos take, and its network as TorchScript."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from pneumonai.pipeline.bundle import Bundle, inference_config
from pneumonai.pipeline.outputs.files import whole_file
from pneumonai.pipeline.weights import load_weights

# What a bundle's folder may gather while it is used, and no zoo wants.
LEFT_OUT = {"__pycache__", "eval", "runs", ".ipynb_checkpoints"}


def bundle_files(root: Path) -> list[Path]:
    """The files of a bundle in a fixed order, without what runs have left in its folder."""
    found = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in found if not LEFT_OUT & set(path.relative_to(root).parts))


def package(bundle: Bundle, output: Path) -> Path:
    """Write a bundle as ``NAME_vVERSION.zip`` with the bundle's folder at its top; the same bytes each time.

    Args:
        bundle: the bundle.
        output: the zip's path, or the folder to put it in.

    Returns:
        Path of the zip.

    Raises:
        OutputError: the file cannot be written.
    """
    if output.suffix != ".zip":
        output = output / f"{bundle.name}_v{bundle.metadata['version']}.zip"
    with whole_file(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in bundle_files(bundle.root):
            entry = zipfile.ZipInfo(f"{bundle.name}/{path.relative_to(bundle.root).as_posix()}")
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return output


def export_torchscript(bundle: Bundle, output: Path) -> Path:
    """Write a bundle's network with its weights as TorchScript, its configs inside, as ``ckpt_export`` does.

    Args:
        bundle: the bundle.
        output: the file, as ``model.ts``.

    Returns:
        Path of the file.

    Raises:
        BundleError: the weights are missing or of another network.
        OutputError: the file cannot be written.
    """
    from monai.data import save_net_with_metadata
    from monai.networks.utils import convert_to_torchscript

    network = inference_config(bundle.root).get_parsed_content("network_def")
    load_weights(network, bundle.weights, subject=bundle.name)
    inference = json.loads((bundle.root / "configs" / "inference.json").read_text(encoding="utf-8"))
    with whole_file(output) as temporary:
        save_net_with_metadata(
            convert_to_torchscript(network),
            str(temporary),
            include_config_vals=False,
            append_timestamp=False,
            meta_values=bundle.metadata,
            more_extra_files={"inference.json": json.dumps(inference).encode()},
        )
    return output
