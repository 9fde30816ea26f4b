"""What ``pneumonai predict`` does once its options are read: one bundle or several, a line a study, an exit code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from pneumonai.pipeline.errors import BundleError, PneumonaiError, StudyError
from pneumonai.pipeline.progress import step_progress

if TYPE_CHECKING:
    from pneumonai.pipeline.agreement import Row
    from pneumonai.pipeline.batch import Outcome
    from pneumonai.pipeline.bundle import Bundle
    from pneumonai.pipeline.joint_batch import JointOutcome
    from pneumonai.pipeline.lineup import Lineup
    from pneumonai.pipeline.model import Model
    from pneumonai.pipeline.precision import PrecisionRequest
    from pneumonai.pipeline.predict import Options
    from pneumonai.pipeline.result import Result
    from pneumonai.pipeline.sources import StudySource

Done = TypeVar("Done")


@dataclass(frozen=True)
class Call:
    """What a run is told beside how studies are read.

    Attributes:
        output: folder of the answers.
        device: cpu, cuda, ...; None for a GPU where there is one.
        precision: auto, fp32 or bf16.
        resume: skip what is answered already.
        quiet: no progress bar, no line a study.
    """

    output: Path
    device: str | None
    precision: PrecisionRequest
    resume: bool
    quiet: bool


def predict_many(inputs: Sequence[Path], bundles: Sequence[str], options: Options, call: Call) -> None:
    """Answer every study under some inputs.

    Raises:
        PneumonaiError: the call is wrong, or its output cannot be written.
        typer.Exit: 1 where a study failed, 130 where the run was interrupted.
    """
    from pneumonai.pipeline.lineup import find_lineup, is_several
    from pneumonai.pipeline.mask_in import is_box_table
    from pneumonai.pipeline.sources import find_studies

    lineup = find_lineup(bundles)
    inside = call.output.resolve()
    found = find_studies(list(inputs), series=options.series)
    sources = [source for source in found if inside not in Path(source.path).resolve().parents]
    for where in (options.truth, options.lungs):
        if where is not None and len(sources) > 1 and Path(where).is_file() and not is_box_table(where):
            raise StudyError(where, f"is one mask for {len(sources)} studies", "give a folder of masks named as them")
    answer = _by_several if is_several(bundles) else _by_one
    if answer(sources, lineup, options, call):
        raise typer.Exit(1)


def _by_one(sources: list[StudySource], lineup: Lineup, options: Options, call: Call) -> int:
    """One bundle alone; returns how many studies failed."""
    from pneumonai.pipeline.batch import run_batch
    from pneumonai.pipeline.lungs_in import lungs_bundle

    (chosen,) = lineup.bundles
    _check_truth(chosen, options.truth)
    finds_lungs = None if options.lungs is None else lungs_bundle(options.lungs, chosen)

    def load_model() -> Model:
        from pneumonai.pipeline.model import Model

        model = Model(chosen, device=call.device, precision=call.precision, lungs=finds_lungs)
        model.more_explainers(options.explain)  # one that the network does not allow ends the call here
        return model

    failed = 0

    def tell(outcome: Outcome) -> None:
        nonlocal failed
        failed += outcome.error is not None
        _tell(outcome, call)

    _each(run_batch(sources, chosen, call.output, options, load_model, resume=call.resume), sources, call, tell)
    if not call.quiet:
        notice = chosen.settings.get("notice", "not for clinical use")
        summary = call.output / "summary.csv"
        typer.echo(f"{len(sources) - failed} of {len(sources)} answered, {summary}. Note: {notice}.")
    return failed


def _check_truth(bundle: Bundle, truth: str | None) -> None:
    from pneumonai.pipeline.mask_in import is_box_table

    if truth is None:
        return
    if not bundle.is_segmentation and bundle.box_threshold is None:
        what = "marks no infection that --truth could be compared with"
        raise BundleError(bundle.name, what, "choose a segmentation")
    if is_box_table(truth) and bundle.box_threshold is None:
        raise BundleError(bundle.name, f"marks no boxes that {truth} could be compared with", "give masks")


def _by_several(sources: list[StudySource], lineup: Lineup, options: Options, call: Call) -> int:
    """Several bundles together; returns how many studies failed, or a bundle on them."""
    from pneumonai.pipeline.joint import load_models
    from pneumonai.pipeline.joint_batch import run_joint_batch

    models = load_models(lineup, options, device=call.device, precision=call.precision)
    failed = answered = 0

    def tell(outcome: JointOutcome) -> None:
        nonlocal failed, answered
        failed += bool(outcome.errors)
        answered += outcome.joint is not None
        _tell_joint(outcome, call)

    _each(run_joint_batch(sources, models, call.output, options, resume=call.resume), sources, call, tell)
    if not call.quiet:
        summary = call.output / "summary.csv"
        typer.echo(f"{answered} of {len(sources)} answered, {summary}. Note: not for clinical use.")
    return failed


def _each(outcomes: Iterable[Done], sources: Sequence[StudySource], call: Call, do: Callable[[Done], None]) -> None:
    """Tell each outcome as it comes, with a progress bar; an interrupt ends the run in words."""
    with step_progress(hidden=call.quiet or len(sources) < 2) as tell:
        try:
            for done, outcome in enumerate(outcomes, start=1):
                do(outcome)
                tell("studies", done, len(sources))
        except KeyboardInterrupt:
            typer.echo("interrupted: finished studies are whole; --resume goes on", err=True)
            raise typer.Exit(130) from None


def _tell_error(error: PneumonaiError, line: str) -> None:
    if os.environ.get("PNEUMONAI_DEBUG"):
        traceback.print_exception(error)
    typer.echo(f"error: {line}", err=True)


def _tell(outcome: Outcome, call: Call) -> None:
    if outcome.error is not None:
        _tell_error(outcome.error, outcome.error.line())
    elif outcome.result is not None and not call.quiet:
        result = outcome.result
        report = "report.html" if "report.html" in result.files else "result.json"
        refer = f", refer to a reader: {result.refer_reason}" if result.refer else ""
        skipped = " (answered earlier)" if outcome.skipped else ""
        verdict = f"{result.verdict} {result.confidence:.2f}" if result.confidence is not None else _marked(result)
        if result.truth is not None and result.truth.get("iou") is not None:
            verdict += f", IoU {result.truth['iou']:.3f}"
        where = call.output / outcome.source.id / report
        typer.echo(f"{outcome.source.id}: {verdict}{refer}{skipped} -> {where}")


def _marked(result: Result) -> str:
    """The answer of a segmentation in a few words."""
    if result.infection is None and result.lungs is not None:
        return f"lungs of {result.lungs['right_pixels']} and {result.lungs['left_pixels']} pixels (right, left)"
    infection = result.infection or {}
    if infection.get("total_percent") is not None:
        size = f", {infection['total_ml']:.0f} ml" if infection.get("total_ml") is not None else ""
        words = f"infection in {infection['total_percent']:.1f} % of the lungs{size}"
    else:
        words = f"infection in {infection.get('percent_of_picture') or 0:.1f} % of the picture"
    return words + (f", Dice {result.truth['dice']:.3f}" if result.truth else "")


def _tell_joint(outcome: JointOutcome, call: Call) -> None:
    for bundle, error in outcome.errors:
        named = PneumonaiError(f"{outcome.source.id}: {bundle}", error.reason, error.remedy) if bundle else error
        _tell_error(error, named.line())
    joint = outcome.joint
    if joint is None or call.quiet:
        return
    said = ", ".join(_said(row, earlier=row.bundle in outcome.skipped) for row in joint.rows)
    agree = {True: "; they agree", False: "; they differ", None: ""}[joint.agreement.agree]
    refer = f"; refer to a reader: {joint.refer_reason}" if joint.refer else ""
    where = call.output / outcome.source.id / joint.files[-1]
    typer.echo(f"{outcome.source.id}: {said}{agree}{refer} -> {where}")


def _said(row: Row, *, earlier: bool) -> str:
    """One bundle's answer in a few words."""
    if row.error is not None:
        return f"{row.bundle} failed"
    if row.verdict is not None:
        words = row.verdict + (f" {row.confidence:.2f}" if row.confidence is not None else "")
    elif row.infection_percent is not None:
        words = f"infection in {row.infection_percent:.1f} % of the lungs"
    elif row.infection_percent_of_picture is not None:
        words = f"infection in {row.infection_percent_of_picture:.1f} % of the picture"
    else:
        words = "lungs"
    notes = ["not counted"] * (not row.counted) + ["answered earlier"] * earlier
    return f"{row.bundle} {words}" + (f" ({', '.join(notes)})" if notes else "")
