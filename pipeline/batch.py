"""Many studies: one network load, the next study read while the network works, failures recorded, resume.

At most two studies are in memory: the one that is answered and written, and the one that is read and prepared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonai.pipeline.bundle import Bundle, weights_sha256
from pneumonai.pipeline.errors import OutputConflictError, OutputError, PneumonaiError, StudyError
from pneumonai.pipeline.outputs.result_json import read_json
from pneumonai.pipeline.outputs.summary import Summary
from pneumonai.pipeline.predict import Opened, Options, Prepared, answer, open_for, prepare
from pneumonai.pipeline.result import Result
from pneumonai.pipeline.sources import StudySource, source_fingerprint
from pneumonai.pipeline.study_folder import RESULT, refuse_other_layout, write

if TYPE_CHECKING:
    from pneumonai.pipeline.model import Model


@dataclass
class Outcome:
    """What became of one study of a run.

    Attributes:
        source: the study.
        result: its result, where it was answered now or by an earlier run.
        error: why it was not.
        skipped: answered by an earlier run.
    """

    source: StudySource
    result: Result | None = None
    error: PneumonaiError | None = None
    skipped: bool = False


def run_batch(
    sources: Sequence[StudySource],
    bundle: Bundle,
    output: Path,
    options: Options,
    load_model: Callable[[], Model],
    *,
    resume: bool = False,
) -> Iterator[Outcome]:
    """Answer studies one after the other, writing ``OUTPUT/STUDY/`` and ``OUTPUT/summary.csv``.

    Args:
        sources: the studies.
        bundle: which bundle answers.
        output: folder of the results.
        options: how studies are read and written.
        load_model: loads the bundle; called once, while the first study is read, and only where one is to answer.
        resume: skip studies that an earlier run answered: same source, weights and options.

    Yields:
        One outcome a study, in order.

    Raises:
        BundleError: the bundle does not work.
        OutputError: the output folder cannot be written at all.
        OutputConflictError: a study has answers of other bundles there.
    """
    refuse_other_layout(output, (source.id for source in sources), several=False)
    make_folder(output)
    summary = Summary(output / "summary.csv", bundle.answers, keep=resume)
    answered = Answered(bundle, options) if resume else None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        try:
            yield from _run(list(sources), bundle, output, options, load_model, summary, answered, reader)
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def _run(
    sources: list[StudySource],
    bundle: Bundle,
    output: Path,
    options: Options,
    load_model: Callable[[], Model],
    summary: Summary,
    answered: Answered | None,
    reader: ThreadPoolExecutor,
) -> Iterator[Outcome]:
    """Generator behind :func:`run_batch`."""
    waiting: list[StudySource] = []
    for source in sources:
        earlier = answered.result(source, output / source.id) if answered is not None else None
        if earlier is None:
            waiting.append(source)
        else:
            summary.add_done(earlier)
            yield Outcome(source, earlier, skipped=True)
    if not waiting:
        return
    # The first study is read while the main thread imports torch and MONAI and loads the network.
    opening = reader.submit(open_for, bundle, waiting[0], options)
    model = load_model()
    ahead: Future[Prepared] = reader.submit(_prepare_opened, opening, model)
    for source, following in zip(waiting, [*waiting[1:], None], strict=True):
        start = time.perf_counter()
        ready, failure = _await(ahead, source)
        if following is not None:
            ahead = reader.submit(_open_and_prepare, bundle, following, options, model)
        outcome = Outcome(source, error=failure)
        if ready is not None:
            outcome = _answer_and_write(source, ready, model, output, options)
            ready = None  # let go of the study before the next one is taken
        seconds = time.perf_counter() - start
        if outcome.result is not None:
            summary.add_done(outcome.result, sum(outcome.result.timing_s.values()))
        elif outcome.error is not None:
            summary.add_failed(source.id, source.path, outcome.error.line(), seconds)
        yield outcome


def _prepare_opened(opening: Future[Opened], model: Model) -> Prepared:
    return prepare(opening.result(), model)


def _open_and_prepare(bundle: Bundle, source: StudySource, options: Options, model: Model) -> Prepared:
    return prepare(open_for(bundle, source, options), model)


def _await(ahead: Future[Prepared], source: StudySource) -> tuple[Prepared | None, PneumonaiError | None]:
    from pneumonai.pipeline.model import study_error

    try:
        return ahead.result(), None
    except PneumonaiError as error:
        return None, error
    except Exception as error:
        return None, chained(study_error(source.id, error), error)


def _answer_and_write(source: StudySource, ready: Prepared, model: Model, output: Path, options: Options) -> Outcome:
    from pneumonai.pipeline.model import study_error

    try:
        result, maps = answer(ready, model, options)
        return Outcome(source, write(ready.study, result, maps, output / source.id, report=options.report))
    except PneumonaiError as error:
        return Outcome(source, error=error)
    except Exception as error:
        return Outcome(source, error=chained(study_error(source.id, error), error))


def chained(named: PneumonaiError, cause: BaseException) -> PneumonaiError:
    """The error with its cause, for ``--debug``."""
    named.__cause__ = cause
    return named


def make_folder(output: Path) -> None:
    """Make the folder of a run's results, or say why it cannot be made."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(output, f"the folder cannot be made ({error.strerror})", "choose another --output") from None


class Answered:
    """What an earlier run answered with the same bundle, weights and options.

    Args:
        bundle: which bundle.
        options: how studies are read and written.
    """

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self.bundle = bundle
        self.options = options.as_recorded()
        self.modality = options.modality or bundle.modality
        self.sha256 = weights_sha256(bundle.weights) if bundle.weights.is_file() else ""

    def result(self, source: StudySource, folder: Path, *, fingerprint: str | None = None) -> Result | None:
        """The earlier result of a study, or None where it must be answered (again).

        Args:
            source: the study.
            folder: where its ``result.json`` lies.
            fingerprint: of the source as it is now, where that is known.

        Raises:
            OutputConflictError: the answer there is another bundle's.
        """
        if not (folder / RESULT).is_file():
            return None
        try:
            result = read_json(folder / RESULT)
        except (OSError, ValueError, TypeError):
            return None
        if result.bundle.get("name") != self.bundle.name:
            raise OutputConflictError(
                folder,
                f"holds answers of another bundle ({result.bundle.get('name')})",
                "choose another --output, or leave --resume away",
            )
        recorded = {key: result.bundle.get("options", {}).get(key) for key in self.options}
        if result.bundle.get("weights_sha256") != self.sha256 or recorded != self.options:
            return None
        try:
            now = fingerprint or source_fingerprint(source, series=self.options["series"], modality=self.modality)
        except StudyError:
            return None
        return result if result.study.get("fingerprint") == now else None
