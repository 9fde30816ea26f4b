"""``convert``: a dataset of picture stacks (CC-CCII) into one NIfTI or DICOM volume a scan, marked as assumed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pneumonai.data_manifests.assemble import SplitChoice, make_datalist
from pneumonai.data_manifests.assumed_volume import Assumed, write_dicom, write_json, write_nifti
from pneumonai.data_manifests.description import Description, load_description
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.rules import LeftOutError, Source, evaluate
from pneumonai.data_manifests.slice_stack import (
    ORIENTATION,
    BrokenScanError,
    grey_to_hounsfield,
    ordered_slices,
    read_stack,
    stack_fingerprint,
)
from pneumonai.data_manifests.tree import FileTree
from pneumonai.data_manifests.whole_files import whole_file
from pneumonai.data_manifests.workers import work_through

Form = Literal["nifti", "dicom"]
Progress = Callable[[int, int], None]
MIN_SLICES = 10


@dataclass(frozen=True)
class Scan:
    """One scan of a dataset: its folder below the dataset's, and what the folder's name says."""

    folder: str
    label: str | None
    patient_id: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of a scan: the volume's path below the output folder, or the reason why there is none."""

    scan: Scan
    image: str | None = None
    reason: str | None = None
    resumed: bool = False


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: outcomes in the order of the folders, and the files written beside the volumes."""

    outcomes: Sequence[Outcome]
    table: Path
    skipped_table: Path
    datalist: Path | None

    @property
    def skipped(self) -> list[Outcome]:
        """The broken scans."""
        return [outcome for outcome in self.outcomes if outcome.reason is not None]


def convert_scans(
    source: str | Path,
    output: str | Path,
    *,
    dataset: str = "cc_ccii",
    form: Form = "nifti",
    workers: int | None = None,
    min_slices: int = MIN_SLICES,
    progress: Progress | None = None,
) -> Conversion:
    """Convert every scan; broken ones are skipped and listed, finished ones of an earlier run are kept.

    Written are ``CLASS/PATIENT/SCAN.nii.gz`` with ``SCAN.json`` beside it (or the folder ``CLASS/PATIENT/SCAN/`` with
    ``assumed.json`` in it), ``scans.csv`` (image, label, patient_id, assumed), ``skipped.csv`` (scan, reason), and
    ``datalist.json`` (8:1:1 by patient).

    Args:
        source: the dataset's folder, as its description says.
        output: where; made if missing.
        dataset: name of a description with a block ``assumed``.
        form: ``nifti`` or ``dicom``.
        workers: processes; one a core that may be used when None.
        min_slices: a scan with fewer is broken.
        progress: called with the number of scans done and their total.

    Raises:
        ManifestError: no such folder or description, no scans there, a dataset that is no picture stacks.
        OSError: a file cannot be written.
    """
    described = load_description(dataset)
    assumed = _assumed(described)
    scans = find_scans(described, source)
    convert = partial(
        _convert_one, source=Path(source), output=Path(output), assumed=assumed, form=form, min_slices=min_slices
    )
    found: dict[int, Outcome] = {}
    for number, outcome in work_through(convert, scans, workers=workers, at_once=1, worth=4):
        found[number] = outcome
        if progress is not None:
            progress(len(found), len(scans))
    return _write_tables([found[number] for number in range(len(scans))], Path(output), described, assumed)


def _assumed(described: Description) -> Assumed:
    block = described.assumed
    if block is None:
        reason = "its description has no block 'assumed': its images are no stacks of pictures"
        raise ManifestError(described.name, reason, "convert cc_ccii, or a dataset laid out like it")
    grey, (columns, rows, slices) = block["hounsfield"]["value"], block["spacing_mm"]["value"]
    spacing = (float(columns), float(rows), float(slices))
    return Assumed(described.name, float(grey["at_0"]), float(grey["at_255"]), spacing)


def find_scans(described: Description, source: str | Path) -> list[Scan]:
    """The scans of a dataset's folder, by the folder rules of its description.

    Raises:
        ManifestError: no such folder, or no scan in it.
    """
    tree = FileTree(source)
    read = Source(tree, described.build.get("tables", {}))
    scans = []
    for rule in described.build["items"]:
        if "folders" not in rule["image"]:
            continue
        for folder in tree.folders_matching(rule["image"]["folders"], rule["image"]["holds"]):
            try:
                label = evaluate(rule["label"], folder, read)[0] if "label" in rule else None
                patient = evaluate(rule["patient_id"], folder, read)[0] if "patient_id" in rule else None
            except LeftOutError:
                continue
            scans.append(Scan(folder, label, patient))
    if not scans:
        layout = "; ".join(described.layout.value)
        reason = f"no scans of {described.name} there (found: {tree.summary()})"
        raise ManifestError(source, reason, f"expected is {layout}")
    return scans


def _convert_one(scan: Scan, *, source: Path, output: Path, assumed: Assumed, form: Form, min_slices: int) -> Outcome:
    """Convert one scan unless a former run did; runs in a worker."""
    folder = source / scan.folder
    image = f"{scan.folder}.nii.gz" if form == "nifti" else scan.folder
    record = output / (f"{scan.folder}.json" if form == "nifti" else f"{scan.folder}/assumed.json")
    recipe = {
        "assumed": ["hounsfield", "spacing"],
        "hounsfield": assumed.rule,
        "spacing_mm": list(assumed.spacing_mm),
        "orientation": ORIENTATION,
        "dataset": assumed.dataset,
        "source": scan.folder,
        "source_sha256": stack_fingerprint(folder),
    }
    earlier = _read_record(record)
    same = (output / image).exists() and recipe == {key: earlier.get(key) for key in recipe}
    if same and earlier["slices"] >= min_slices:
        return Outcome(scan, image, resumed=True)
    record.unlink(missing_ok=True)
    try:
        files = ordered_slices(folder, min_slices=min_slices)
        volume = read_stack(files)
    except BrokenScanError as error:
        return Outcome(scan, reason=str(error))
    hounsfield = grey_to_hounsfield(assumed.at_0, assumed.at_255)[volume]
    if form == "nifti":
        write_nifti(hounsfield, assumed, output / image)
    else:
        write_dicom(hounsfield, assumed, output / image, name=scan.folder, patient_id=scan.patient_id or scan.folder)
    # The record comes last: where it is, the volume is whole.
    write_json(record, {**recipe, "label": scan.label, "patient_id": scan.patient_id, "slices": len(files)})
    return Outcome(scan, image)


def _read_record(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_tables(outcomes: Sequence[Outcome], output: Path, described: Description, assumed: Assumed) -> Conversion:
    good = [outcome for outcome in outcomes if outcome.image is not None]
    said = f"{assumed.rule}; spacing {' x '.join(f'{mm:g}' for mm in assumed.spacing_mm)} mm"
    rows = [(o.image, o.scan.label, o.scan.patient_id, said) for o in good]
    table, skipped, datalist = output / "scans.csv", output / "skipped.csv", output / "datalist.json"
    _write_csv(table, ("image", "label", "patient_id", "assumed"), rows)
    broken = [(o.scan.folder, o.reason) for o in outcomes if o.reason is not None]
    _write_csv(skipped, ("scan", "reason"), broken)
    if not good:
        return Conversion(outcomes, table, skipped, None)
    items = [{"image": o.image, "label": o.scan.label, "patient_id": o.scan.patient_id} for o in good]
    content = make_datalist(
        items,
        SplitChoice("ratio", (8.0, 1.0, 1.0)),
        name=described.name,
        description=f"{described.title.value}, converted from pictures; Hounsfield units and spacing are assumed",
        modality=described.modality,
        dataset=described.name,
        class_names=described.classes,
        assumed=assumed.as_block(),
        warnings=[f"{len(broken)} broken scans were skipped, see skipped.csv"] if broken else [],
    )
    write_json(datalist, content)
    return Conversion(outcomes, table, skipped, datalist)


def _write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with whole_file(path) as part:
        part.write_text(text.getvalue(), encoding="utf-8")
