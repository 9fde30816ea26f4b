"""Many studies, several bundles: each bundle loaded once, the next input prepared while a network works, resume.

At most two prepared inputs are in memory, and the studies that they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pneumonai.pipeline.agreement import DONE, Row, answered, failed
from pneumonai.pipeline.batch import Answered, chained, make_folder
from pneumonai.pipeline.bundle import Bundle
from pneumonai.pipeline.checks import reads
from pneumonai.pipeline.errors import PneumonaiError, StudyError
from pneumonai.pipeline.joint import Models, Shared, answer_one, find_shared_lungs, join, open_shared, prepare_for
from pneumonai.pipeline.joint_folder import read_earlier, remove_answers, rows_of_others, write_joint
from pneumonai.pipeline.lineup import Lineup
from pneumonai.pipeline.outputs.joint_json import Joint
from pneumonai.pipeline.outputs.summary import JointSummary
from pneumonai.pipeline.predict import Options, Prepared
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.sources import StudySource, source_fingerprint
from pneumonai.pipeline.study_folder import refuse_other_layout, write

Step = TypeVar("Step")


@dataclass
class JointOutcome:
    """What became of one study of a run.

    Attributes:
        source: the study.
        joint: the joint answer, where any bundle answered, now or earlier.
        errors: why a bundle failed on it, by the bundle's name, or the study as a whole, under an empty name.
        skipped: names of the bundles that had answered it earlier.
    """

    source: StudySource
    joint: Joint | None = None
    errors: list[tuple[str, PneumonaiError]] = field(default_factory=list)
    skipped: set[str] = field(default_factory=set)


@dataclass
class _Plan:
    """What is to be done of a study, and what stands already.

    Attributes:
        source: the study.
        lineup: the bundles of the run.
        left: those that are to be asked.
        earlier: answers of an earlier run.
        others: rows of bundles that are not of this run.
    """

    source: StudySource
    lineup: Lineup
    left: Lineup
    earlier: dict[str, Result] = field(default_factory=dict)
    others: list[Row] = field(default_factory=list)


@dataclass
class _Opened:
    """A study was opened: its bundles may be loaded while its lungs are found."""

    shared: Shared


@dataclass
class _Ready:
    """A study as one bundle reads it, or why it cannot be read so."""

    shared: Shared
    bundle: Bundle
    prepared: Prepared | PneumonaiError


@dataclass
class _Closed:
    """All was prepared of a study that was to be, or it failed as a whole."""

    plan: _Plan
    shared: Shared | None
    error: PneumonaiError | None = None


def run_joint_batch(
    sources: Sequence[StudySource], models: Models, output: Path, options: Options, *, resume: bool = False
) -> Iterator[JointOutcome]:
    """Answer studies one after the other by every bundle that they fit.

    Writes ``OUTPUT/STUDY/BUNDLE/``, ``OUTPUT/STUDY/joint.json`` and its report, and ``OUTPUT/summary.csv``.

    Args:
        sources: the studies.
        models: the bundles that answer; each is loaded when the first study that it fits is there.
        output: folder of the results.
        options: how studies are read and written.
        resume: skip what an earlier run answered: same source, weights and options, each bundle for itself; answers of
            bundles that are not asked now stay in the joint answer.

    Yields:
        One outcome a study; those that have nothing to be done first.

    Raises:
        OutputError: the output folder cannot be written at all.
        OutputConflictError: a study has the answer of one bundle alone there.
    """
    refuse_other_layout(output, (source.id for source in sources), several=True)
    make_folder(output)
    lineup = models.lineup
    summary = JointSummary(output / "summary.csv", lineup.class_names, keep=resume)
    run = _Run(output, options, models, summary, resume=resume)
    plans = [_Plan(source, lineup, lineup) for source in sources]
    if resume:
        known = {bundle.name: Answered(bundle, options) for bundle in lineup.bundles}
        plans = [_plan(source, lineup, known, output / source.id, options) for source in sources]
    for plan in plans:
        if not plan.left.bundles:
            yield run.close(_Closed(plan, None))
    waiting = [plan for plan in plans if plan.left.bundles]
    if not waiting:
        return
    steps = run.steps(waiting)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        try:
            for step in _one_ahead(steps, reader):
                if isinstance(step, _Closed):
                    yield run.close(step)
                elif isinstance(step, _Ready):
                    run.answer(step)
                else:
                    run.load(step)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def _plan(source: StudySource, lineup: Lineup, known: dict[str, Answered], folder: Path, options: Options) -> _Plan:
    """What is left to be done of a study after an earlier run."""
    if not folder.is_dir():
        return _Plan(source, lineup, lineup)
    try:
        now = source_fingerprint(source, series=options.series, modality=options.modality)
    except StudyError:
        return _Plan(source, lineup, lineup)
    earlier = {
        name: result
        for name, answers in known.items()
        if (result := answers.result(source, folder / name, fingerprint=now)) is not None
    }
    left = [bundle for bundle in lineup.bundles if bundle.name not in earlier]
    if earlier:
        study = next(iter(earlier.values())).study
        # What cannot read its kind and was not named needs no second look.
        left = [
            bundle
            for bundle in left
            if bundle.name in lineup.named
            or reads(bundle.modality, bundle.input_kind, study["modality"], study.get("kind", "volume"))
        ]
    others = rows_of_others(folder, now, set(known))
    return _Plan(source, lineup, Lineup(tuple(left), lineup.named), earlier, others)


def _one_ahead(steps: Iterator[Step], reader: Executor) -> Iterator[Step]:
    """The items of an iterator, the next one made by another thread while one is worked on."""
    ahead = reader.submit(next, steps, None)
    # While the first study is read; two threads that import MONAI at once would wait for each other for ever.
    import pneumonai.pipeline.find_lungs  # noqa: F401

    while (step := ahead.result()) is not None:
        ahead = reader.submit(next, steps, None)
        yield step


class _Run:
    """The state of a run: the rows of the study that is worked on, and the table of all."""

    def __init__(self, output: Path, options: Options, models: Models, summary: JointSummary, *, resume: bool) -> None:
        self.output = output
        self.options = options
        self.models = models
        self.summary = summary
        self.resume = resume
        self.rows: dict[str, Row] = {}
        self.results: dict[str, Result] = {}
        self.errors: list[tuple[str, PneumonaiError]] = []

    def steps(self, plans: Sequence[_Plan]) -> Iterator[_Opened | _Ready | _Closed]:
        """Everything up to the networks, one step at a time; runs in the thread that reads ahead."""
        for plan in plans:
            shared = None
            try:
                shared = open_shared(plan.left, plan.source, self.options)
                yield _Opened(shared)
                find_shared_lungs(shared)
            except Exception as error:
                yield _Closed(plan, shared, _named(plan.source.id, error))
                continue
            for bundle, _ in shared.asked:
                try:
                    ready: Prepared | PneumonaiError = prepare_for(shared, bundle, self.models(bundle), self.options)
                except Exception as error:
                    ready = _named(plan.source.id, error)
                yield _Ready(shared, bundle, ready)
            yield _Closed(plan, shared)

    def load(self, step: _Opened) -> None:
        """Load the bundles that are about to be asked, while the study's lungs are found."""
        for bundle, _ in step.shared.asked:
            try:
                self.models(bundle)
            except PneumonaiError:
                continue  # told when it is asked

    def answer(self, step: _Ready) -> None:
        """Network, explanation, measures and files of one bundle."""
        bundle, study = step.bundle, step.shared.study
        try:
            if isinstance(step.prepared, PneumonaiError):
                raise step.prepared
            result, maps = answer_one(step.prepared, self.models(bundle), self.options)
            folder = self.output / study.id / bundle.name
            write(step.prepared.study, result, maps, folder, report=self.options.report)
        except Exception as error:
            named = _named(study.id, error)
            self.errors.append((bundle.name, named))
            self.rows[bundle.name] = failed(bundle, named)
            return
        self.results[bundle.name] = result
        self.rows[bundle.name] = answered(bundle, result, synthetic=study.synthetic)

    def close(self, step: _Closed) -> JointOutcome:
        """The joint answer of a study, written last; its rows in the table."""
        plan, shared = step.plan, step.shared
        outcome = JointOutcome(plan.source, errors=self.errors, skipped=set(plan.earlier))
        rows, results = self.rows, plan.earlier | self.results
        self.rows, self.results, self.errors = {}, {}, []
        for bundle, misfit in shared.misfits if shared is not None else ():
            rows[bundle.name] = failed(bundle, misfit)
            outcome.errors.append((bundle.name, misfit))
        for bundle in plan.lineup.bundles:
            if bundle.name in plan.earlier:
                study = plan.earlier[bundle.name].study
                rows[bundle.name] = answered(bundle, plan.earlier[bundle.name], synthetic=bool(study.get("synthetic")))
        ordered = [rows[bundle.name] for bundle in plan.lineup.bundles if bundle.name in rows] + plan.others
        if any(row.status == DONE for row in ordered):
            try:
                outcome.joint = self._join(plan, ordered, results, shared)
            except PneumonaiError as error:
                outcome.errors.append(("", error))
        refusal = step.error or (shared.refusal if shared is not None and not ordered else None)
        if refusal is not None:
            outcome.errors.append(("", refusal))
            ordered = [*ordered, failed(None, refusal)]
        self.summary.set_study(plan.source.id, plan.source.token, ordered, outcome.joint)
        return outcome

    def _join(self, plan: _Plan, rows: list[Row], results: dict[str, Result], shared: Shared | None) -> Joint:
        folder = self.output / plan.source.id
        earlier = read_earlier(folder)
        if not self.resume and earlier is not None:
            remove_answers(folder, earlier, keep={bundle.name for bundle in plan.lineup.bundles})
        study = next((result.study for result in results.values()), None) or (earlier.study if earlier else {})
        seconds = shared.seconds if shared is not None else earlier.timing_s if earlier is not None else {}
        joint = join(study, rows, results, seconds, report=self.options.report)
        write_joint(joint, folder)
        return joint


def _named(study: str, error: Exception) -> PneumonaiError:
    """The error as one of ours that names the study, with its cause."""
    if isinstance(error, PneumonaiError):
        return error
    from pneumonai.pipeline.model import study_error

    return chained(study_error(study, error), error)
