"""The folder of a study: everything of one answer, whole or not at all, in one of two layouts.

One bundle alone writes ``OUTPUT/STUDY/result.json`` and what belongs to it; several bundles write
``OUTPUT/STUDY/BUNDLE/result.json`` each, and ``OUTPUT/STUDY/joint.json`` above them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pneumonai.pipeline.errors import OutputConflictError
from pneumonai.pipeline.result import Maps, Result
from pneumonai.pipeline.study import Study
from pneumonai.pipeline.timing import timed

RESULT = "result.json"
JOINT = "joint.json"


def refuse_other_layout(output: Path, studies: Iterable[str], *, several: bool) -> None:
    """Refuse an output folder in which a study has answers of the other layout: they would be mixed, or lost.

    Args:
        output: folder of the results.
        studies: ids of the studies to be answered.
        several: whether several bundles are about to answer.

    Raises:
        OutputConflictError: there is such a study.
    """
    for study in studies:
        folder = output / study
        if several and (folder / RESULT).exists():
            raise OutputConflictError(
                folder, "holds the answer of one bundle alone", "choose another --output for several bundles"
            )
        if not several and ((folder / JOINT).exists() or next(folder.glob(f"*/{RESULT}"), None) is not None):
            raise OutputConflictError(
                folder, "holds answers of several bundles", "choose another --output, or name several bundles again"
            )


def write(study: Study, result: Result, maps: Maps, folder: Path, *, report: bool) -> Result:
    """Write everything of one study; the folder appears whole or not at all.

    Args:
        study: the opened study.
        result: its result; ``files``, the files of ``explanation`` and the time of writing are filled in.
        maps: maps on the study's grid.
        folder: ``OUTPUT/STUDY``, or ``OUTPUT/STUDY/BUNDLE`` of several bundles; what an earlier run left there is
            replaced.
        report: write ``report.html`` and the pictures.

    Raises:
        OutputError: full disk, read-only folder.
    """
    from pneumonai.pipeline.outputs.files import output_error
    from pneumonai.pipeline.outputs.nifti import write_maps
    from pneumonai.pipeline.outputs.pictures import write_pictures
    from pneumonai.pipeline.outputs.report import write_report
    from pneumonai.pipeline.outputs.result_json import write_json
    from pneumonai.pipeline.outputs.slices_csv import write_slices

    temporary = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with timed(result.timing_s, "write"):
            names = write_maps(study, maps, temporary)
            if result.explanation is not None:
                result.explanation = _with_files(result.explanation, names)
            if result.slices:
                write_slices(result, temporary / "slices.csv")
                names.append("slices.csv")
            if report:
                names += write_pictures(study, maps, temporary)
            result.files = ["result.json", *names, *(["report.html"] if report else [])]
            if report:
                write_report(study, result, maps, temporary / "report.html")
        write_json(result, temporary / "result.json")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _with_files(explanation: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An explanation that names the files of its maps, which are called after them; the bundle's own comes first."""
    files = {name.partition(".")[0]: name for name in names if name.startswith("heat_map")}
    stems = ["heat_map", *(f"heat_map_{map_['name']}" for map_ in explanation.get("maps", [])[1:])]
    maps = [map_ | {"file": files.get(stem)} for map_, stem in zip(explanation.get("maps", []), stems, strict=False)]
    return explanation | {"files": list(files.values()), "maps": maps}
