"""Does a bundle's heat map find the infection of an X-ray? Intersection over union, pointing game, and baselines.

Maps lie on the picture's own grid, as ``pneumonai predict`` writes them, whatever the answered class. The truth is each
item's ``mask``, or its ``boxes`` with ``--truth boxes`` (the map's own boxes are then compared with them); items in
which nothing is infected only tell the share of the map inside the lungs, where ``lungs`` are known::

    python benchmarks/localisation.py --datalist xrays/datalist.json --bundle mag_sd_cxr_classification --output OUT

``localisation.json`` has the means with their intervals and paired differences, ``localisation.md`` a table of them.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from explanations import BASELINES, in_words, table
from machine import describe_machine

from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.localisation import agreement, fill_boxes
from pneumonai.pipeline.lungs_in import open_lungs
from pneumonai.pipeline.mask_in import open_mask
from pneumonai.pipeline.metrics.explanation import (
    ExplainedCase,
    compare_maps,
    explanation_report,
    lung_mask_map,
    pointing_score,
    random_map,
    share_inside,
    verdict,
)
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.progress import step_progress
from pneumonai.pipeline.study import open_checked

SCORES = ("iou", "pointing", "share_in_lungs")


def truth_of(item: dict[str, Any], shape: tuple[int, ...], *, of_boxes: bool) -> np.ndarray | None:
    """The infection of a picture, uint8 of its shape; None where the item has no truth of that kind."""
    if of_boxes:
        return fill_boxes(item["boxes"], shape) if "boxes" in item else None
    return open_mask(item["mask"], shape, np.eye(4)) if "mask" in item else None


def scores_of(
    heat_map: np.ndarray, truth: np.ndarray | None, lungs: np.ndarray | None, *, threshold: float, of_boxes: bool
) -> dict[str, float]:
    """The scores of one map that are defined: those of the truth where something is infected."""
    made: dict[str, float] = {}
    if truth is not None and truth.any():
        iou = agreement(heat_map, threshold, truth, of_boxes=of_boxes)
        made = {"iou": math.nan if iou is None else iou, "pointing": pointing_score(heat_map, truth > 0)}
    if lungs is not None and lungs.any():
        made["share_in_lungs"] = share_inside(heat_map, lungs > 0)
    return {name: value for name, value in made.items() if math.isfinite(value)}


def measure(model: Model, item: dict[str, Any], options: argparse.Namespace, folder: Path, seed: int) -> dict[str, Any]:
    """Verdict, and scores of every map of one picture."""
    bundle = model.bundle
    study = open_checked(item["image"], modality=bundle.modality, input_kind=bundle.input_kind)
    answered = model.answer(model.prepare(study), options.explain)
    shape, of_boxes = study.image.shape, options.truth == "boxes"
    truth = truth_of(item, shape, of_boxes=of_boxes)
    lungs = open_lungs(str(folder / item["lungs"]), shape)[0] if "lungs" in item else None
    own = getattr(model.explainer, "name", "own")
    maps = {} if answered.heat_map is None else {own: answered.heat_map}
    maps |= answered.more_heat_maps
    if lungs is not None:
        floats = (lung_mask_map(lungs), random_map(lungs, sigma=shape[0] / 28, seed=seed))
        maps |= {name: np.rint(255 * made).astype(np.uint8) for name, made in zip(BASELINES, floats, strict=True)}
    threshold = options.threshold
    return {
        "image": Path(item["image"]).name,
        "patient_id": str(item.get("patient_id") or ""),
        "predicted": bundle.class_names[int(np.argmax(answered.probabilities))],
        "infected_share": None if truth is None else float((truth > 0).mean()),
        "scores": {
            name: scores_of(m, truth, lungs, threshold=threshold, of_boxes=of_boxes) for name, m in maps.items()
        },
    }


def report(cases: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Means with intervals, and the bundle's own map against each other one."""
    # The baselines exist only where lungs are known.
    names = list(max((case["scores"] for case in cases), key=len))
    explained = [
        ExplainedCase(c["image"], c["patient_id"], {name: c["scores"].get(name, {}) for name in names}) for c in cases
    ]
    tests = [(other, score, compare_maps(explained, other, names[0], score)) for other in names[1:] for score in SCORES]
    return (
        {"settings": settings | {"machine": describe_machine().splitlines()}}
        | explanation_report(explained)
        | {"comparisons": [{"map": names[0], "against": o, **t.as_dict(), "verdict": verdict(t)} for o, _, t in tests]}
        | {"cases": cases}
    )


def markdown(found: dict[str, Any]) -> str:
    """A row a score, a column a map; then what the bundle's own map gains over each other one."""
    words = {"iou": "intersection over union", "pointing": "pointing game", "share_in_lungs": "share inside the lungs"}
    rows = {
        f"{words[score]} (n = {found['counts'][score]})": [in_words(**one[score]) for one in found["maps"].values()]
        for score in SCORES
    }
    lines = [
        f"- {test['map']} minus {test['against']}, {words[test['metric']]}: "
        f"{in_words(test['difference'], test['interval'])}, {test['verdict']}"
        for test in found["comparisons"]
    ]
    return table("score", list(found["maps"]), rows) + "\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--datalist", type=Path, required=True, help="items with image, mask or boxes, and lungs")
    parser.add_argument("--bundle", required=True, help="name of a bundle or path of its folder")
    parser.add_argument("--part", default="test")
    parser.add_argument("--fold", type=int, help="of a datalist made of folds")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--truth", choices=("mask", "boxes"), default="mask")
    parser.add_argument("--threshold", type=float, default=0.5, help="of the map's range")
    parser.add_argument("--explain", nargs="*", default=[], help="further maps, as predict --explain has them")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", help="cpu, cuda; by default a GPU where there is one")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    keys = ("image", "mask", "boxes", "lungs", "patient_id")
    items = load_datalist(options.datalist, options.part, fold=options.fold, keys=keys)[: options.limit]
    model = Model(find_bundle(options.bundle), device=options.device)
    if model.explainer is None:
        raise BundleError(model.bundle.name, "has no heat map to score", "choose a classification")
    cases = []
    with step_progress(hidden=False) as tell:
        for done, item in enumerate(items):
            tell("pictures", done, len(items))
            cases.append(measure(model, item, options, options.datalist.parent, done))
    settings = {key: str(value) for key, value in vars(options).items() if key != "output"}
    found = report(cases, settings | {"weights_sha256": model.weights_sha256})
    (options.output / "localisation.json").write_text(json.dumps(found, indent=2) + "\n")
    text = markdown(found)
    (options.output / "localisation.md").write_text(text)
    print(f"{describe_machine()}\n{len(cases)} pictures\n\n{text}")


if __name__ == "__main__":
    main()
