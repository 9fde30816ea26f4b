"""One study, several bundles: opened, checked and its lungs found once, then answered by each, then compared.

A bundle's own answer is what it would be alone: what the bundles share (the study, the checks' warnings of a kind of
input, lungs by the same finder) is made once and handed to each; nothing that one bundle makes reaches another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pneumonai.pipeline.agreement import Row, answered, compare, failed, joint_refer
from pneumonai.pipeline.bundle import Bundle
from pneumonai.pipeline.checks import check, reads
from pneumonai.pipeline.errors import BundleError, PneumonaiError, StudyError
from pneumonai.pipeline.lineup import Lineup
from pneumonai.pipeline.lungs_in import lungs_bundle, lungs_of
from pneumonai.pipeline.mask_in import is_box_table
from pneumonai.pipeline.outputs.joint_json import Joint
from pneumonai.pipeline.picture_modality import modality_of
from pneumonai.pipeline.predict import Options, Prepared, answer, find_truth
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import InputKind, Modality, Study, open_study
from pneumonai.pipeline.timing import timed

_WORDS = {Modality.CT: "a CT", Modality.CXR: "an X-ray"}

if TYPE_CHECKING:
    from pneumonai.pipeline.model import Model
    from pneumonai.pipeline.precision import PrecisionRequest
    from pneumonai.pipeline.sources import StudySource


class Models:
    """The bundles of a run as models: each is loaded when it is first asked for, once, and kept.

    Args:
        lineup: the bundles.
        load: loads one.
    """

    def __init__(self, lineup: Lineup, load: Callable[[Bundle], Model]) -> None:
        self.lineup = lineup
        self._load = load
        self._lock = threading.Lock()
        self._loaded: dict[str, Model | BundleError] = {}

    def __call__(self, bundle: Bundle) -> Model:
        """The model of a bundle; any thread may ask.

        Raises:
            BundleError: the bundle does not work; the same one each time.
        """
        with self._lock:
            if bundle.name not in self._loaded:
                try:
                    self._loaded[bundle.name] = self._load(bundle)
                except BundleError as error:
                    self._loaded[bundle.name] = error
            found = self._loaded[bundle.name]
        if isinstance(found, BundleError):
            raise found
        return found


def load_models(
    lineup: Lineup, options: Options, *, device: str | None = None, precision: PrecisionRequest = "auto"
) -> Models:
    """Models for a line-up, none loaded yet.

    Args:
        lineup: the bundles.
        options: ``lungs`` may name a bundle that finds the lungs of X-rays.
        device: as for :class:`~pneumonai.pipeline.model.Model`.
        precision: likewise.

    Raises:
        BundleError: ``options`` ask for what none of the bundles gives.
        StudyError: ``options.lungs`` names nothing that is there.
    """
    check_options(lineup, options)
    if device not in (None, "cpu"):
        from pneumonai.pipeline.model import usable_device

        usable_device("the bundles", device)

    def load(bundle: Bundle) -> Model:
        from pneumonai.pipeline.model import Model

        lungs = lungs_bundle(options.lungs, bundle) if options.lungs and _takes_lungs(bundle) else None
        return Model(bundle, device=device, precision=precision, lungs=lungs)

    return Models(lineup, load)


def check_options(lineup: Lineup, options: Options) -> None:
    """Refuse options that no bundle of a line-up has a use for.

    Raises:
        BundleError: there is such an option.
        StudyError: ``options.lungs`` names nothing that is there.
    """
    if options.truth is not None and not any(_compares(bundle, options.truth) for bundle in lineup.bundles):
        what = "boxes" if is_box_table(options.truth) else "infection"
        raise BundleError("the bundles", f"none marks {what} that --truth could be compared with", "leave it out")
    if options.lungs is not None:
        takers = [bundle for bundle in lineup.bundles if _takes_lungs(bundle)]
        # The first bundle says what is wrong where none takes them.
        lungs_bundle(options.lungs, (takers or lineup.bundles)[0])


def _takes_lungs(bundle: Bundle) -> bool:
    return bundle.modality is Modality.CXR and not bundle.marks_lungs


def _compares(bundle: Bundle, truth: str) -> bool:
    """Whether a bundle's answer can be held against a truth: a mask of infection, or one with boxes."""
    return bundle.box_threshold is not None or (bundle.is_segmentation and not is_box_table(truth))


@dataclass
class Shared:
    """A study that was opened once, and what each bundle is to be told of it.

    Attributes:
        study: its own warnings are those of reading it.
        asked: the bundles that may answer it, with the warnings of the checks for what they read.
        misfits: named bundles that cannot, and why.
        refusal: why none may, where none was named that may not.
        truth: what a reader drew, for the bundles that are compared with it; ``truth_warnings`` beside it.
        truth_is_boxes: it was a table of boxes.
        lung_mask: lungs of an X-ray as the user gave them.
        seconds: of the steps that are done once.
        lungs: as found, with warnings, by what found them.
    """

    study: Study
    asked: list[tuple[Bundle, list[str]]]
    misfits: list[tuple[Bundle, StudyError]]
    refusal: StudyError | None = None
    truth: np.ndarray | None = None
    truth_warnings: list[str] = field(default_factory=list)
    truth_is_boxes: bool = False
    lung_mask: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    lungs: dict[str, tuple[np.ndarray | None, list[str]]] = field(default_factory=dict)


def open_shared(lineup: Lineup, source: str | Path | StudySource, options: Options) -> Shared:
    """Read one study and check it for every bundle; needs neither torch nor MONAI.

    Raises:
        StudyError: the study cannot be read, or it is a picture of which nobody said, and nothing tells, whether it is
            a CT slice or an X-ray.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "read"):
        study = open_study(source, series=options.series, modality=options.modality)
        if study.assumed_modality and options.modality is None:
            study.modality = _told_by_looks(study)
        shared = _fitting(lineup, study)
        shared.seconds = seconds
        if options.truth is not None and any(_compares(bundle, options.truth) for bundle, _ in shared.asked):
            drawn = replace(study, warnings=[])
            shared.truth = find_truth(drawn, options.truth)
            shared.truth_warnings, shared.truth_is_boxes = drawn.warnings, is_box_table(options.truth)
        taker = next((bundle for bundle, _ in shared.asked if _takes_lungs(bundle)), None)
        if options.lungs is not None and taker is not None and lungs_bundle(options.lungs, taker) is None:
            shared.lung_mask = lungs_of(study.id, options.lungs)
    return shared


def _told_by_looks(study: Study) -> Modality:
    told = modality_of(study.image)
    if told is None:
        raise StudyError(
            study.path, "looks neither plainly like a CT slice nor like a chest X-ray", "say --modality CT or CXR"
        )
    return told


def _fitting(lineup: Lineup, study: Study) -> Shared:
    """The bundles that may answer a study, and the named ones that may not."""
    verdicts: dict[tuple[Modality, InputKind], list[str] | StudyError] = {}
    asked: list[tuple[Bundle, list[str]]] = []
    misfits: list[tuple[Bundle, StudyError]] = []
    refusal: StudyError | None = None
    for bundle in lineup.bundles:
        kind = bundle.modality, bundle.input_kind
        if kind not in verdicts:
            verdicts[kind] = _checked(study, *kind)
        verdict = verdicts[kind]
        if not isinstance(verdict, StudyError):
            asked.append((bundle, verdict))
            continue
        if bundle.name in lineup.named:
            misfits.append((bundle, verdict))
        if refusal is None and reads(*kind, study.modality, study.kind):
            refusal = verdict
    if not asked and refusal is None:
        what = f"is {_WORDS[study.modality]} {study.kind}, which none of {len(lineup.bundles)} bundles reads"
        refusal = StudyError(study.path, what, "name another")
    return Shared(study, asked, misfits, None if asked or misfits else refusal)


def _checked(study: Study, modality: Modality, input_kind: InputKind) -> list[str] | StudyError:
    try:
        return check(study, modality=modality, input_kind=input_kind)
    except StudyError as error:
        return error


def find_shared_lungs(shared: Shared) -> None:
    """Find the lungs that are the same for every bundle: of a CT in Hounsfield units, of an X-ray those given.

    Raises:
        StudyError: there are none, or their mask cannot be used.
    """
    in_hounsfield = shared.study.modality is Modality.CT and shared.study.kind is not InputKind.PICTURE
    if shared.asked and (in_hounsfield or shared.lung_mask is not None):
        _lungs_for(shared, None)


def _lungs_for(shared: Shared, model: Model | None) -> tuple[np.ndarray | None, list[str]]:
    """The lungs that a model is handed, with warnings; found once by each way of finding them."""
    from pneumonai.pipeline.find_lungs import find_lungs

    study = shared.study
    if study.modality is Modality.CT:
        if study.kind is InputKind.PICTURE:
            return None, []
        finder: str | None = "CT"
    else:
        finder = str(shared.lung_mask) if shared.lung_mask is not None else model.finds_lungs_by if model else None
    if finder is None:
        return None, []
    if finder not in shared.lungs:
        with timed(shared.seconds, "lungs"):
            asking = replace(study, warnings=[])
            shared.lungs[finder] = find_lungs(asking, shared.lung_mask, model), asking.warnings
    return shared.lungs[finder]


def prepare_for(shared: Shared, bundle: Bundle, model: Model, options: Options) -> Prepared:
    """The study as one of the asked bundles reads it.

    Raises:
        StudyError: there are no lungs, their mask cannot be used, or a transform refused the study.
    """
    checked = next(warnings for one, warnings in shared.asked if one.name == bundle.name)
    lungs, lung_warnings = _lungs_for(shared, model)
    compares = options.truth is not None and _compares(bundle, options.truth)
    told = [*shared.study.warnings, *checked, *(shared.truth_warnings if compares else []), *lung_warnings]
    study = replace(shared.study, warnings=told)
    seconds: dict[str, float] = {}
    with timed(seconds, "prepare"):
        item = model.prepare(study, lungs)
    truth = shared.truth if compares else None
    return Prepared(study, item, lungs, truth, seconds, shared.truth_is_boxes)


def answer_one(prepared: Prepared, model: Model, options: Options) -> tuple[Result, Maps]:
    """The answer of one of several bundles; of the explainers asked for, those that its network allows."""
    allowed = replace(options, explain=model.allowed_explanations(options.explain) if options.explain else ())
    result, maps = answer(prepared, model, allowed)
    # What was asked for, as --resume compares it.
    result.bundle["options"] |= options.as_recorded()
    return result, maps


def join(
    study: dict[str, Any], rows: Sequence[Row], results: dict[str, Result], seconds: dict[str, float], *, report: bool
) -> Joint:
    """The joint answer of rows.

    Args:
        study: the ``study`` of a ``result.json``.
        rows: one a bundle, in their order.
        results: of the bundles that answered, by name.
        seconds: of the shared steps.
        report: whether a report is written.
    """
    agreement = compare(rows)
    refer, reason = joint_refer(rows, agreement)
    software = next((result.software for result in results.values()), {})
    return Joint(
        study={"synthetic": False} | study,
        rows=list(rows),
        agreement=agreement,
        refer=refer,
        refer_reason=reason,
        files=["joint.json", *(["report.html"] if report else [])],
        timing_s=dict(seconds),
        software={name: text for name, text in software.items() if name != "precision"},
        results=results,
    )


def answer_together(
    source: str | Path | StudySource, models: Models, options: Options, output: Path | None = None
) -> Joint:
    """Answer one study by every bundle of a line-up that it fits; with ``output``, into ``OUTPUT/STUDY/``.

    Returns:
        The joint answer; a bundle that failed is a row of it.

    Raises:
        StudyError: the study cannot be read, its lungs are not found, or it fits none of the bundles.
        OutputError: the answers cannot be written.
        OutputConflictError: the study has the answer of one bundle alone there.
    """
    from pneumonai.pipeline.joint_folder import write_joint
    from pneumonai.pipeline.model import study_error
    from pneumonai.pipeline.outputs.result_json import describe_study
    from pneumonai.pipeline.study_folder import refuse_other_layout, write

    shared = open_shared(models.lineup, source, options)
    if shared.refusal is not None:
        raise shared.refusal
    if output is not None:
        refuse_other_layout(output, [shared.study.id], several=True)
    find_shared_lungs(shared)
    rows = [failed(bundle, error) for bundle, error in shared.misfits]
    results: dict[str, Result] = {}
    for bundle, _ in shared.asked:
        try:
            model = models(bundle)
            prepared = prepare_for(shared, bundle, model, options)
            result, maps = answer_one(prepared, model, options)
        except PneumonaiError as error:
            rows.append(failed(bundle, error))
            continue
        except Exception as error:
            rows.append(failed(bundle, study_error(shared.study.id, error)))
            continue
        if output is not None:
            write(prepared.study, result, maps, output / shared.study.id / bundle.name, report=options.report)
        results[bundle.name] = result
        rows.append(answered(bundle, result, synthetic=shared.study.synthetic))
    order = [bundle.name for bundle in models.lineup.bundles]
    rows.sort(key=lambda row: order.index(row.bundle))
    report = options.report and output is not None
    study = describe_study(shared.study, with_identifiers=options.with_identifiers)
    joint = join(study, rows, results, shared.seconds, report=report)
    if output is not None and results:
        write_joint(joint, output / shared.study.id)
    return joint
