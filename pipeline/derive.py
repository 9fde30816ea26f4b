"""A user's own training run becomes a bundle of its own, and a bundle's confidence is set on validation data."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.datalist import read_datalist
from pneumonai.pipeline.bundle import REFER_BELOW, Bundle, find_bundle, inference_config
from pneumonai.pipeline.bundle_files import bundle_files
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.metrics.calibration import fit_temperature, referral_threshold
from pneumonai.pipeline.outputs.files import output_error, write_bytes
from pneumonai.pipeline.training.predictions import read_predictions
from pneumonai.pipeline.training.start import RECORD
from pneumonai.pipeline.weights import load_weights

CARD = """# {name}

{bundle}, trained anew on the user's own data with `configs/train.json`. {notice}

- Classes: {classes}.
- Data: {trained_on}.
- Training started from {start}; seed {seed}.

Score it on data that it has not seen, with `configs/evaluate.json`, before believing it; then set its confidence on
validation data with `pneumonai bundle calibrate`.
"""


def derive_bundle(
    run_dir: str | Path, output: str | Path, *, trained_on: str | None = None, overlays: Sequence[str | Path] = ()
) -> Bundle:
    """Make a bundle from the best weights of a training run: its classes, its preprocessing, nothing of the old claims.

    Args:
        run_dir: ``output_dir`` of a training by a bundle's train.json: ``model.pt`` and ``training.json``.
        output: folder of the new bundle; must not be there yet. Its last part is the bundle's name.
        trained_on: what the data is, in words; the datalist's name and size when None.
        overlays: the config files that lay over train.json; a network of theirs becomes the bundle's.

    Raises:
        BundleError: the run has no weights or record, or its weights do not fit its configs; the output is there.
        OutputError: the folder cannot be written.
    """
    run_dir, output = Path(run_dir), Path(output)
    record = _read_record(run_dir)
    if output.exists():
        raise BundleError(output, "is there already", "give another folder")
    source = find_bundle(record["bundle_root"])
    class_names = record["inference_changes"].get("class_names") or source.class_names
    trained_on = trained_on or _data_in_words(record)
    temporary = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        for path in bundle_files(source.root):
            target = temporary / path.relative_to(source.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        shutil.copyfile(run_dir / "model.pt", temporary / "models" / "model.pt")
        changes = _network_of(overlays) | record["inference_changes"]
        _write_configs(temporary, source, class_names, changes, trained_on)
        _write_card(temporary, output.name, source, class_names, trained_on, record)
        load_weights(
            inference_config(temporary).get_parsed_content("network_def"),
            temporary / "models" / "model.pt",
            subject=str(run_dir),
        )
        temporary.rename(output)
    except OSError as error:
        raise output_error(output, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return find_bundle(output)


def _read_record(run_dir: Path) -> dict[str, Any]:
    missing = [name for name in (RECORD, "model.pt") if not (run_dir / name).is_file()]
    if missing:
        raise BundleError(
            run_dir, f"is no finished training: it has no {missing[0]}", "give the output_dir of a bundle's train.json"
        )
    try:
        record: dict[str, Any] = json.loads((run_dir / RECORD).read_text(encoding="utf-8"))
        # A segmentation has no classes to choose.
        if not isinstance(record["inference_changes"].get("class_names") or [], list):
            raise TypeError("class_names is no list")
        _ = record["bundle_root"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(run_dir, f"its {RECORD} cannot be read ({error})", "train again") from None
    return record


def _network_of(overlays: Sequence[str | Path]) -> dict[str, Any]:
    """What overlays say of the network and its explainers; other settings are in the run's record."""
    found: dict[str, Any] = {}
    for path in overlays:
        try:
            overlay = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(path, f"is no readable JSON overlay ({error})", "give the file of the training") from None
        found |= {key: overlay[key] for key in ("network_def", "explainer", "comparison_explainers") if key in overlay}
    return found


def _data_in_words(record: dict[str, Any]) -> str:
    datalist = Path(str(record.get("datalist", "")))
    if not datalist.is_file():
        return "the user's own data"
    content = read_datalist(datalist)
    items = content["training"]
    patients = {item["patient_id"] for item in items if item.get("patient_id")}
    name = content.get("name") or datalist.stem
    return f"{name}, {len(items)} images" + (f" of {len(patients)} patients" if patients else "") + " for training"


def _write_configs(
    root: Path, source: Bundle, class_names: list[str], changes: dict[str, Any], trained_on: str
) -> None:
    names = ", ".join(class_names)
    metadata: dict[str, Any] = json.loads(json.dumps(source.metadata))
    image = metadata["network_data_format"]["inputs"]["image"]
    image["spatial_shape"] = _spatial_shape(image["spatial_shape"], changes)
    pred = metadata["network_data_format"]["outputs"]["pred"]
    pred["spatial_shape"] = image["spatial_shape"] if source.is_segmentation else []
    pred["channel_def"] = {str(index): name for index, name in enumerate(class_names)}
    pred["num_channels"] = len(class_names)
    notice = f"trained on {trained_on}, not for clinical use"
    metadata |= {
        "name": f"{metadata.get('name', source.name)}, retrained",
        "description": f"{source.name} retrained for {names}. {notice[0].upper()}{notice[1:]}.",
        "task": f"{'Segmentation' if source.is_segmentation else 'Classification'}: {names}",
        "data_source": trained_on,
        "label_classes": ", ".join(f"{index} {name}" for index, name in enumerate(class_names)),
        "pred_classes": f"{'mask' if source.is_segmentation else 'probabilities'} of {names}",
        "changelog": metadata["changelog"] | {metadata["version"]: f"derived from {source.name}: {trained_on}"},
    }
    metadata["pneumonai"] |= {"trained_on": trained_on, "notice": notice}
    # Of the user's data nothing is known, and what was set on validation data belongs to the old weights.
    for key in ("trained_on_phantoms_alone", "infected_from_percent"):
        metadata["pneumonai"].pop(key, None)
    if not source.is_segmentation:
        metadata["pneumonai"] |= {"temperature": 1.0, "refer_below": None}
    _write_json(root / "configs" / "metadata.json", metadata)
    kept = {key: value for key, value in changes.items() if value is not None and key != "class_names"}
    own = {} if source.is_segmentation else {"class_names": class_names}
    for name, new in (("inference", kept), ("train", own)):
        path = root / "configs" / f"{name}.json"
        _write_json(path, json.loads(path.read_text(encoding="utf-8")) | new)


def _spatial_shape(shape: list[int], changes: dict[str, Any]) -> list[int]:
    """The network's input where the run changed it: slices and their rows and columns, or rows and columns alone."""
    sizes = (changes.get(name) for name in ("slice_size", "crop_size", "picture_size"))
    rows_columns = next((size for size in sizes if size), shape[-2:])
    slices = [changes.get("num_slices") or shape[0]] if len(shape) == 3 else []
    return [*slices, *rows_columns]


def _write_card(
    root: Path, name: str, source: Bundle, class_names: list[str], trained_on: str, record: dict[str, Any]
) -> None:
    card = CARD.format(
        name=name,
        bundle=source.name,
        notice="Not for clinical use.",
        classes=", ".join(class_names),
        trained_on=trained_on,
        start="given weights" if record.get("pretrained") else "random weights",
        seed=record.get("seed"),
    )
    write_bytes(root / "docs" / "README.md", card.encode())
    licence = f"The weights were trained on {trained_on}. Whoever passes them on must know that data's licence.\n"
    write_bytes(root / "docs" / "data_license.txt", licence.encode())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented as configs are written by hand: numbers of a list on one line."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    text = re.sub(r"\[\n([-+.\deE,\s]+)\n\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    write_bytes(path, (text + "\n").encode())


def calibrate_bundle(bundle: Bundle, predictions: str | Path, *, target_accuracy: float = 0.95) -> dict[str, Any]:
    """Set a bundle's ``temperature`` and ``refer_below`` on the answers of its own evaluation of validation data.

    Args:
        bundle: the bundle; its ``metadata.json`` is rewritten.
        predictions: ``predictions.csv`` of its ``evaluate.json`` with ``--datalist_part validation``.
        target_accuracy: what the answers above ``refer_below`` should reach.

    Returns:
        ``temperature, refer_below, n, kept`` (share of the answers at or above the threshold) and ``reached``: False
        where no threshold reaches the target; ``refer_below`` is then None, which stands for the usual one.

    Raises:
        BundleError: the predictions have no labels or other classes.
        ManifestError: the file cannot be read.
    """
    answers = read_predictions(predictions)
    if answers.labels is None or answers.class_names != bundle.class_names:
        what = "no labels" if answers.labels is None else f"classes {', '.join(answers.class_names)}"
        raise BundleError(
            bundle.name,
            f"{predictions} has {what}",
            f"evaluate this bundle ({', '.join(bundle.class_names)}) on validation data",
        )
    scale, calibrated = fit_temperature(answers.labels, answers.probabilities)
    least = REFER_BELOW.get(len(bundle.class_names), 0.5)
    threshold = referral_threshold(answers.labels, calibrated, target=target_accuracy, least=least)
    metadata: dict[str, Any] = json.loads(json.dumps(bundle.metadata))
    # The predictions went through the temperature that the bundle had.
    temperature = round(float(bundle.settings.get("temperature") or 1.0) * scale, 4)
    refer_below = None if threshold is None else round(threshold, 4)
    metadata["pneumonai"] |= {"temperature": temperature, "refer_below": refer_below}
    _write_json(bundle.root / "configs" / "metadata.json", metadata)
    kept = float((calibrated.max(axis=1) >= (least if threshold is None else threshold)).mean())
    return {
        "temperature": temperature,
        "refer_below": refer_below,
        "n": len(answers.labels),
        "kept": kept,
        "reached": threshold is not None,
    }
