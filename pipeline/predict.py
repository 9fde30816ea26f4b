"""One study from path to answer: open, check, prepare, infer, explain, measure, write.

Each step is a plain function from one dataclass to the next; :func:`predict_study` strings them together for
programs, :mod:`pneumonai.pipeline.batch` for many studies; :func:`predict_together` and
:mod:`pneumonai.pipeline.joint_batch` do the same for several bundles.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumonai.pipeline.bundle import Bundle, find_bundle
from pneumonai.pipeline.checks import check
from pneumonai.pipeline.lungs_in import lungs_bundle, lungs_of
from pneumonai.pipeline.mask_in import is_box_table
from pneumonai.pipeline.result import Maps, Result, in_order_of
from pneumonai.pipeline.study import InputKind, Modality, Study, open_study
from pneumonai.pipeline.study_folder import refuse_other_layout, write
from pneumonai.pipeline.timing import timed

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from pneumonai.pipeline.joint import Models
    from pneumonai.pipeline.model import Answer, Model
    from pneumonai.pipeline.outputs.joint_json import Joint
    from pneumonai.pipeline.precision import PrecisionRequest
    from pneumonai.pipeline.sources import StudySource


@dataclass(frozen=True)
class Options:
    """How studies are read and written.

    Attributes:
        series: SeriesInstanceUID to answer, instead of the one that would be chosen.
        report: write ``report.html``.
        with_identifiers: copy patient identifiers from headers into ``result.json``.
        explain: explainers beside the bundle's own, of :data:`pneumonai.pipeline.explain.EXPLAINERS`; ``all`` for
            those that the network allows.
        truth: a mask, or a folder of masks named as the studies, that a segmentation is compared with; for a bundle
            with boxes also a CSV file of boxes.
        lungs: lungs of X-rays: a mask, a folder of masks named as the studies, or a bundle that finds them.
        refer_below: confidence below which a reader should decide, instead of the bundle's own.
        modality: what picture files (PNG, JPEG) show; when None what the bundle reads, with several bundles what the
            picture looks like.
    """

    series: str | None = None
    report: bool = True
    with_identifiers: bool = False
    explain: tuple[str, ...] = ()
    truth: str | None = None
    lungs: str | None = None
    refer_below: float | None = None
    modality: Modality | None = None

    def as_recorded(self) -> dict[str, Any]:
        """What ``result.json`` keeps of them, for ``--resume``."""
        return {
            "series": self.series,
            "report": self.report,
            "with_identifiers": self.with_identifiers,
            "explain": ", ".join(sorted(set(self.explain))) or None,
            "truth": self.truth,
            "lungs": self.lungs,
            "refer_below": self.refer_below,
            "modality": None if self.modality is None else str(self.modality),
        }


@dataclass
class Opened:
    """A study that was read and checked for a bundle, with the masks that the user gave of it."""

    study: Study
    truth: np.ndarray | None
    seconds: dict[str, float]
    lung_mask: Path | None = None
    truth_is_boxes: bool = False


@dataclass
class Prepared:
    """A study with its lungs and the network's input."""

    study: Study
    item: dict[str, Any]
    lungs: np.ndarray | None
    truth: np.ndarray | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    truth_is_boxes: bool = False


def open_for(bundle: Bundle, source: str | Path | StudySource, options: Options) -> Opened:
    """Read and check one study for a bundle; needs neither torch nor MONAI.

    Raises:
        StudyError: the study cannot be read or must not be answered.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        study = open_study(source, series=options.series, modality=options.modality or bundle.modality)
        study.warnings += check(study, modality=bundle.modality, input_kind=bundle.input_kind)
        truth = None if options.truth is None else find_truth(study, options.truth)
        lung_mask = None
        if options.lungs is not None and lungs_bundle(options.lungs, bundle) is None:
            lung_mask = lungs_of(study.id, options.lungs)
    truth_is_boxes = options.truth is not None and is_box_table(options.truth)
    return Opened(study, truth, seconds, lung_mask, truth_is_boxes)


def find_truth(study: Study, where: str) -> np.ndarray | None:
    """The mask, or the filled boxes, that a reader drew of a study; one without any is answered, with a warning."""
    from pneumonai.pipeline.mask_in import find_mask, open_boxes, open_mask

    if is_box_table(where):
        filled = open_boxes(where, study.id, study.image.shape)
        if filled is None:
            study.warnings.append(f"no row of {where} names this study: nothing to compare with")
        return None if filled is None else in_order_of(study.image, filled)
    path = find_mask(where, study.id)
    if path is None:
        study.warnings.append(f"no mask is named as this study in {where}: nothing to compare with")
        return None
    return in_order_of(study.image, open_mask(path, study.image.shape, study.affine))


def prepare(opened: Opened, model: Model) -> Prepared:
    """Find the lungs of a CT in Hounsfield units or of an X-ray, and run the bundle's preprocessing.

    Raises:
        StudyError: there are no lungs, their mask cannot be used, or a transform refused the study.
    """
    from pneumonai.pipeline.find_lungs import find_lungs

    study, seconds = opened.study, dict(opened.seconds)
    lungs = None
    if study.modality is Modality.CXR or study.kind is not InputKind.PICTURE:
        with timed(seconds, "lungs"):
            lungs = find_lungs(study, opened.lung_mask, model)
    with timed(seconds, "prepare"):
        item = model.prepare(study, lungs)
    return Prepared(study, item, lungs, opened.truth, seconds, opened.truth_is_boxes)


def answer(prepared: Prepared, model: Model, options: Options) -> tuple[Result, Maps]:
    """Network, explanation and measures of a prepared study."""
    from pneumonai.pipeline.outputs.result_json import describe_study
    from pneumonai.pipeline.referral import refer_reason
    from pneumonai.pipeline.severity import add_severity
    from pneumonai.transforms.picture_lungs import lungs_not_found

    study, bundle, seconds = prepared.study, model.bundle, dict(prepared.seconds)
    with timed(seconds, "network"):
        answered = model.answer(prepared.item, _maps_wanted(model, options))
    result = Result(
        study=describe_study(study, with_identifiers=options.with_identifiers),
        bundle={
            "name": bundle.name,
            "version": bundle.metadata["version"],
            "weights_sha256": model.weights_sha256,
            "trained_on": bundle.settings.get("trained_on", ""),
            "options": options.as_recorded() | {"precision": model.precision.name},
        },
        explanation=_explanation(model, options),
        warnings=list(dict.fromkeys([*study.warnings, *prepared.item["image"].meta.get("warnings", [])])),
        software=software_versions() | {"device": str(model.device), "precision": model.precision.name},
        notice=bundle.settings.get("notice", "not for clinical use"),
    )
    if answered.lungs is not None:
        result.warnings += lungs_not_found(answered.lungs)
    if answered.probabilities:
        names, best = bundle.class_names, int(np.argmax(answered.probabilities))
        result.classes = _classes(names, answered.probabilities)
        result.verdict = names[best]
        result.confidence = answered.probabilities[best]
        result.confidence_raw = max(answered.raw_probabilities)
    if answered.slice_probabilities is not None and study.kind is InputKind.VOLUME:
        places = slice_places(study, prepared.item["image"])
        result.slices = [
            {"index": index, "position_mm": mm, "classes": _classes(bundle.class_names, one), "infection_percent": None}
            for (index, mm), one in zip(places, answered.slice_probabilities.tolist(), strict=True)
        ]
    result.refer_reason = refer_reason(result, bundle, options.refer_below)
    # A segmentation has no confidence to say that a reader is not needed.
    result.refer = True if result.refer_reason else None if bundle.is_segmentation else False
    maps = _maps(study, prepared, answered)
    with timed(seconds, "measure"):
        _measure(result, study, maps)
        _localise(result, bundle, maps, truth_is_boxes=prepared.truth_is_boxes)
        add_severity(result, study, bundle, maps)
    result.timing_s = seconds
    return result, maps


def _classes(names: Sequence[str], probabilities: Sequence[float]) -> list[dict[str, Any]]:
    return [{"name": name, "probability": p} for name, p in zip(names, probabilities, strict=True)]


def _maps(study: Study, prepared: Prepared, answered: Answer) -> Maps:
    """Everything that lies on the study's grid, laid in memory as the image is."""

    def laid(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else in_order_of(study.image, array)

    return Maps(
        lungs=prepared.lungs if answered.lungs is None else laid(answered.lungs),
        heat_map=laid(answered.heat_map),
        infection=laid(answered.infection),
        truth=prepared.truth,
        more_heat_maps={name: in_order_of(study.image, map_) for name, map_ in answered.more_heat_maps.items()},
    )


def _measure(result: Result, study: Study, maps: Maps) -> None:
    """Fill in what is measured on the maps: lungs, infection, agreement with the truth."""
    from pneumonai.pipeline.metrics.segmentation import score_case
    from pneumonai.pipeline.outputs import lung_measures as measures

    in_hounsfield = study.modality is Modality.CT and study.kind is not InputKind.PICTURE
    if maps.lungs is not None:
        result.lungs = measures.lung_measures(maps.lungs, study.voxel_ml)
        if in_hounsfield:
            result.hu_histogram = measures.hu_histogram(study.image, maps.lungs)
    if maps.infection is None:
        return
    result.infection = dict(measures.infection_measures(maps.infection, maps.lungs, study.voxel_ml))
    if in_hounsfield:
        result.infection |= measures.infection_densities(study.image, maps.infection)
    if study.kind is InputKind.VOLUME:
        result.slices = measures.infection_profile(
            maps.infection, maps.lungs, study.affine, assumed_geometry=study.assumed_geometry
        )
    if maps.truth is not None:
        case = score_case(maps.infection, maps.truth)
        result.truth = {"dice": case.dice, "precision": case.precision, "recall": case.recall}


def _localise(result: Result, bundle: Bundle, maps: Maps, *, truth_is_boxes: bool) -> None:
    """Boxes around what a picture's heat map marks, and their agreement with the truth."""
    from pneumonai.pipeline.localisation import agreement, boxes_around, marked_region

    if bundle.box_threshold is None or maps.heat_map is None or maps.heat_map.ndim != 2:
        return
    nothing = result.verdict in bundle.classes_without_boxes
    heat_map = np.zeros_like(maps.heat_map) if nothing else maps.heat_map
    result.boxes = maps.boxes = boxes_around(marked_region(heat_map, bundle.box_threshold), heat_map)
    if maps.truth is not None:
        score = agreement(heat_map, bundle.box_threshold, maps.truth, of_boxes=truth_is_boxes)
        result.truth = {"iou": score}


def slice_places(study: Study, image: MetaTensor) -> list[tuple[int, float | None]]:
    """Index of each slice of the network's input in its volume, counted from the feet, and its height in mm.

    Args:
        study: a CT volume.
        image: the network's input ``[C, S, H, W]``, slices from the feet to the head, with its affine.
    """
    from pneumonai.pipeline.outputs.views import display_turn

    _, upright = display_turn(study.affine, study.image.shape)
    inputs = image.affine.numpy()
    # Seen from the image's middle: a resized picture's first pixel lies elsewhere than the source's.
    middle = [(n - 1) / 2 for n in image.shape[2:]]
    points = np.array([[index, *middle, 1.0] for index in range(image.shape[1])]).T
    places = inputs @ points
    indices = np.rint((np.linalg.inv(upright) @ places)[0]).astype(int)
    heights = [None] * len(indices) if study.assumed_geometry else [round(float(mm), 3) for mm in places[2]]
    return list(zip(indices.tolist(), heights, strict=True))


def _explanation(model: Model, options: Options) -> dict[str, Any] | None:
    """What the result says about the maps; their files are known when they are written."""
    chosen = [] if model.explainer is None else [model.explainer]
    chosen += model.more_explainers(_maps_wanted(model, options)).values()
    maps = [
        {"name": getattr(one, "name", "own"), "method": one.method, "shows": getattr(one, "shows", ""), "file": None}
        for one in chosen
    ]
    return {"method": chosen[0].method, "files": [], "maps": maps} if chosen else None


def _maps_wanted(model: Model, options: Options) -> tuple[str, ...]:
    """Which maps beside the bundle's own: those asked for, and in a report those that the bundle sets beside it."""
    return (*options.explain, *(model.comparison_explainers if options.report else ()))


def software_versions() -> dict[str, str]:
    """Versions that stand behind an answer."""
    names = ("pneumonai", "monai", "torch", "numpy", "pydicom", "SimpleITK", "nibabel")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def predict_study(
    path: str | Path,
    *,
    bundle: str | Path = "nl_ran_ct_classification",
    output: str | Path | None = None,
    options: Options | None = None,
    device: str | None = None,
    precision: PrecisionRequest = "auto",
    model: Model | None = None,
) -> Result:
    """Answer one study: the call for programs.

    Args:
        path: DICOM folder, zip, NIfTI or picture.
        bundle: name of a shipped bundle, or the folder of one. Only trusted bundles: their configs can run code.
        output: folder under which ``STUDY/`` is written; nothing is written when None.
        options: see :class:`Options`.
        device: ``cpu``, ``cuda``, ...; None takes a GPU where there is one.
        precision: ``auto``, ``fp32`` or ``bf16``.
        model: a loaded bundle, to answer many studies with one load; ``bundle``, ``device`` and ``precision`` do
            not count then.

    Returns:
        The result; the fields of ``result.json``.

    Raises:
        StudyError: the study cannot be read or must not be answered.
        BundleError: the bundle does not work.
        OutputError: the result cannot be written.
        OutputConflictError: the study has answers of several bundles there.
    """
    from pneumonai.pipeline.model import Model

    options = options or Options()
    if model is None:
        chosen = find_bundle(bundle)
        lungs = None if options.lungs is None else lungs_bundle(options.lungs, chosen)
        model = Model(chosen, device=device, precision=precision, lungs=lungs)
    prepared = prepare(open_for(model.bundle, path, options), model)
    result, maps = answer(prepared, model, options)
    if output is not None:
        refuse_other_layout(Path(output), [prepared.study.id], several=False)
        write(prepared.study, result, maps, Path(output) / prepared.study.id, report=options.report)
    return result


def predict_together(
    path: str | Path,
    *,
    bundles: str | Path | Sequence[str | Path] = "all",
    output: str | Path | None = None,
    options: Options | None = None,
    device: str | None = None,
    precision: PrecisionRequest = "auto",
    models: Models | None = None,
) -> Joint:
    """Answer one study by several bundles, and hold their answers against each other: the call for programs.

    The study is opened, checked, and its lungs found once; each bundle's answer is what it is alone.

    Args:
        path: as for :func:`predict_study`.
        bundles: names or folders; ``all`` for every shipped bundle that does not mark lungs.
        output: folder under which ``STUDY/BUNDLE/`` and ``STUDY/joint.json`` are written; nothing when None.
        options: see :class:`Options`.
        device: as for :func:`predict_study`.
        precision: likewise.
        models: of :func:`pneumonai.pipeline.joint.load_models`, to answer many studies with one load; ``bundles``,
            ``device`` and ``precision`` do not count then.

    Returns:
        The fields of ``joint.json``, and ``results``: the bundles' own, by name. A bundle that failed is a row.

    Raises:
        StudyError: the study cannot be read, its lungs are not found, or it fits none of the bundles.
        BundleError: there is no such bundle.
        OutputError: the answers cannot be written.
        OutputConflictError: the study has the answer of one bundle alone there.

    Example:
        >>> joint = predict_together("path/to/study", bundles="all", output="answers")  # doctest: +SKIP
        >>> joint.agreement.agree, joint.refer, joint.results["nl_ran_ct_classification"].verdict  # doctest: +SKIP
        (True, False, 'ncp')
    """
    from pneumonai.pipeline.joint import answer_together, load_models
    from pneumonai.pipeline.lineup import find_lineup

    options = options or Options()
    if models is None:
        names = [bundles] if isinstance(bundles, str | Path) else list(bundles)
        models = load_models(find_lineup(names), options, device=device, precision=precision)
    return answer_together(path, models, options, None if output is None else Path(output))
