"""Finding bundles and reading what they say of themselves; imports neither torch nor MONAI until a config is parsed."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.study import InputKind, Modality

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

# Below this confidence a reader should decide, where the bundle's metadata sets none (spec: attention transfer).
REFER_BELOW = {2: 0.75, 3: 0.5}


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, as its ``metadata.json`` describes it.

    Attributes:
        name: name of its folder.
        root: absolute path of its folder.
        metadata: content of ``configs/metadata.json``.
    """

    name: str
    root: Path
    metadata: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """The block ``pneumonai`` of the metadata: modality, input_kind, refer_below, temperature, ..."""
        return self.metadata.get("pneumonai", {})

    @property
    def class_names(self) -> list[str]:
        """Names of the network's outputs, in their order."""
        channels = self.metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        return [channels[key] for key in sorted(channels, key=int)]

    @property
    def is_segmentation(self) -> bool:
        """Whether it marks regions; otherwise it names a class."""
        return bool(self.metadata["network_data_format"]["outputs"]["pred"].get("format") == "segmentation")

    @property
    def marks_lungs(self) -> bool:
        """Whether the regions that it marks are the lungs: labels 0 background, 1 right lung, 2 left lung."""
        return self.is_segmentation and self.class_names == ["background", "right lung", "left lung"]

    @property
    def answers(self) -> list[str]:
        """Names of the classes that it gives probabilities for; none for a segmentation."""
        return [] if self.is_segmentation else self.class_names

    @property
    def modality(self) -> Modality:
        """What kind of image it reads."""
        return Modality(self.settings["modality"])

    @property
    def input_kind(self) -> InputKind:
        """A CT volume, CT slices or a picture."""
        return InputKind(self.settings["input_kind"])

    @property
    def refer_below(self) -> float:
        """Confidence under which the result says "refer to a reader"."""
        return float(self.settings.get("refer_below") or REFER_BELOW.get(len(self.class_names), 0.5))

    @property
    def box_threshold(self) -> float | None:
        """Share of its heat map's range above which places are marked by boxes; None for a bundle without boxes."""
        boxes = self.settings.get("boxes")
        return None if boxes is None else float(boxes["threshold"])

    @property
    def classes_without_boxes(self) -> list[str]:
        """Classes whose answer is that there is nothing to mark."""
        return list((self.settings.get("boxes") or {}).get("not_for", ()))

    @property
    def trained_on_phantoms_alone(self) -> bool:
        """Whether its weights have seen no patient: beside others, its verdict on a patient's study does not count."""
        return bool(self.settings.get("trained_on_phantoms_alone", False))

    @property
    def infected_from_percent(self) -> float | None:
        """Share of the lungs, in percent, from which its mask of infection speaks against ``normal``, and below which
        against pneumonia; None where it says nothing of that."""
        share = self.settings.get("infected_from_percent")
        return None if share is None else float(share)

    @property
    def weights(self) -> Path:
        """Path of the weights that ship with it."""
        return self.root / "models" / "model.pt"


def shipped_bundles() -> list[Bundle]:
    """All bundles that came with the package, by name."""
    folder = Path(str(importlib.resources.files("pneumonai.bundles")))
    return [_read(path.parent.parent) for path in sorted(folder.glob("*/configs/metadata.json"))]


def find_bundle(name_or_path: str | Path) -> Bundle:
    """A shipped bundle by its name, or any bundle by the path of its folder.

    Raises:
        BundleError: where there is none, or its metadata cannot be read.
    """
    shipped = Path(str(importlib.resources.files("pneumonai.bundles"))) / str(name_or_path)
    for root in (shipped, Path(name_or_path)):
        if (root / "configs" / "metadata.json").is_file():
            return _read(root)
    names = ", ".join(bundle.name for bundle in shipped_bundles())
    raise BundleError(name_or_path, "no such bundle", f"shipped are {names}; or give a bundle's folder")


def _read(root: Path) -> Bundle:
    path = root / "configs" / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(root.name, f"its metadata.json cannot be read ({error})", "take a whole copy") from error
    return Bundle(name=root.resolve().name, root=root.resolve(), metadata=metadata)


def weights_sha256(path: Path) -> str:
    """SHA-256 of a weights file, as ``result.json`` names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inference_config(bundle_root: str | Path, **changes: Any) -> ConfigParser:
    """The parsed ``configs/inference.json`` of a bundle, the one place where its preprocessing and network stand.

    Training and evaluation configs take their parts from here, so that nothing is written twice::

        "inference": "$pneumonai.pipeline.bundle.inference_config(@bundle_root, crop_mode=@crop_mode)",
        "network_def": "$@inference.get_parsed_content('network_def')",

    Args:
        bundle_root: folder of the bundle.
        changes: ids to change; None leaves what the file says.

    Raises:
        BundleError: where the file is missing or no JSON.
    """
    from monai.bundle import ConfigParser

    path = Path(bundle_root) / "configs" / "inference.json"
    parser = ConfigParser()
    try:
        parser.read_config(path)
        parser.read_meta(path.with_name("metadata.json"))
    except (OSError, ValueError) as error:
        raise BundleError(bundle_root, f"its inference.json cannot be read ({error})", "check bundle_root") from error
    parser.update({"bundle_root": str(bundle_root)} | {id: value for id, value in changes.items() if value is not None})
    return parser


def config_digest(parser: ConfigParser, part: str = "preprocessing") -> str:
    """Twelve characters that change with a part of a config: names the folder of what was prepared by it.

    Args:
        parser: the config.
        part: id; what it refers to counts too, with the content of the files that its ``weights`` name, and nothing
            else.
    """
    content: dict[str, Any] = {}
    wanted = [part]
    while wanted:
        id = wanted.pop()
        if id not in content:
            content[id] = parser.get(id)
            wanted += re.findall(r"@([\w:#]+)", json.dumps(content[id]))
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for id in sorted(content):
        for weights in _weights_ids(id, content[id]):
            path = Path(str(parser.get_parsed_content(weights)))
            digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:12]


def _weights_ids(id: str, value: Any) -> Iterator[str]:
    """The ids below ``id`` that are called ``weights`` and have a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        below = f"{id}::{key}"
        if key == "weights" and inner is not None:
            yield below
        yield from _weights_ids(below, inner)
