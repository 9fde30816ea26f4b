"""Do heat maps explain? All explainers of a bundle, measured where infection and lungs are known, and two baselines.

Everything is measured on the network's input grid: masks go through the bundle's own preprocessing with the image. The
lungs that the image is cut by are those that ``pneumonai predict`` would find; the datalist's ``lungs`` are the truth
that the maps are held against. Pictures (X-rays, slices) are cut by the datalist's ``lungs`` where it has them, as with
``pneumonai predict --lungs``, since their preprocessing looks at the lungs alone::

    python benchmarks/explanations.py --datalist phantoms/datalist.json --bundle nl_ran_ct_classification \
        --part test --output OUT

With ``--randomise N`` the weights are randomised layer by layer on the first N images (Adebayo's test), and the rank
correlation of each map with its own at every layer stands in the report.

``OUT/cases.jsonl`` keeps the scores study by study, and the same command goes on from there; ``explanations.json``,
``explanations.md`` and ``curves.png`` are written at the end.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from machine import describe_machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd
from PIL import Image

from pneumonai.data_manifests.datalist import load_datalist
from pneumonai.pipeline.bundle import find_bundle
from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.explain import make_explainers
from pneumonai.pipeline.metrics.explanation import (
    EXPLANATION_SCORES,
    ExplainedCase,
    compare_maps,
    explanation_report,
    lung_mask_map,
    perturbation_curves,
    random_map,
    replacement,
    score_map,
    verdict,
)
from pneumonai.pipeline.metrics.figures import COLOURS, save_figure
from pneumonai.pipeline.metrics.map_randomisation import randomisation_correlations
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.precision import run_network
from pneumonai.pipeline.progress import step_progress
from pneumonai.pipeline.slice_inferers import SliceClassifier
from pneumonai.pipeline.study import InputKind, open_checked

MASKS = ("infection", "true_lungs")
BASELINES = ("lung mask", "random in lungs")


def carrying_masks(preprocessing: Compose) -> Compose:
    """The preprocessing with :data:`MASKS` taken through every step that moves voxels, by nearest neighbour."""
    steps = []
    for step in preprocessing.transforms:
        moves = hasattr(step, "interp_mode") and hasattr(step, "source_key")
        if moves or isinstance(step, Orientationd):
            step = copy.copy(step)
            step.keys, step.allow_missing_keys = (*step.keys, *MASKS), True
        if moves:
            step.interp_mode = (*step.interp_mode, *["nearest"] * len(MASKS))
        if moves and hasattr(step, "padding"):
            step.padding = (*step.padding, *[0] * len(MASKS))
        steps.append(step)
    return Compose(steps)


def with_masks(item: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Image path and masks ``[1, *spatial]`` of an item, before the preprocessing."""
    image = nib.load(item["image"])
    loaded: dict[str, Any] = {"image": item["image"]}
    for key, entry in (("infection", "mask"), ("true_lungs", "lungs")):
        if entry in item:
            mask = nib.load(folder / item[entry])
            if mask.shape != image.shape or not np.allclose(mask.affine, image.affine, atol=1e-3):
                raise StudyError(item["image"], f"its {entry} lies on another grid", "resample it to the image's")
            voxels = torch.from_numpy(np.asarray(mask.dataobj).astype(np.uint8))[None]
            loaded[key] = MetaTensor(voxels, affine=torch.from_numpy(image.affine))
    return loaded


class Measurement:
    """One bundle's maps on one study after the other."""

    def __init__(self, model: Model, *, steps: int, batch_size: int, fill: str) -> None:
        self.model = model
        self.of_pictures = model.bundle.input_kind is not InputKind.VOLUME
        self.preprocessing = None if self.of_pictures else carrying_masks(model.preprocessing)
        # The bundle's own comes first; of slices it is the explainer inside SliceBySlice.
        own = getattr(model.explainer, "name", "")
        given = {} if isinstance(model.inferer, SliceClassifier) else {own: model.explainer}
        made = make_explainers(model.network, ["all"], given=given)
        self.explainers = {name: made[name] for name in sorted(made, key=lambda name: name != own)}
        self.temperature = float(model.bundle.settings.get("temperature") or 1.0)
        self.steps, self.batch_size, self.fill = steps, batch_size, fill

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Of all classes, after temperature scaling: ``[B, C, *spatial]`` -> ``[B, num_classes]``."""
        logits = run_network(self.model.network, images, self.model.precision)
        return (logits / self.temperature).softmax(dim=1)

    def prepared(self, item: dict[str, Any], folder: Path) -> tuple[torch.Tensor, np.ndarray, np.ndarray | None]:
        """The network's input ``[C, *spatial]``, and the lungs and infection on its grid."""
        if self.preprocessing is not None:
            done = self.preprocessing(with_masks(item, folder))
            infection = np.asarray(done["infection"])[0] if "infection" in done else None
            lungs = np.asarray(done.get("true_lungs", done["lungs"]))[0]
            return done["image"].as_tensor().to(self.model.device), lungs, infection
        bundle = self.model.bundle
        study = open_checked(item["image"], modality=bundle.modality, input_kind=bundle.input_kind)
        given = np.asarray(Image.open(folder / item["lungs"]).convert("L")) if "lungs" in item else None
        if given is not None and given.shape != study.image.shape:
            raise StudyError(item["image"], "its lungs are of another size", "give a mask of the picture's size")
        done = self.model.prepare(study, None if given is None else (given > 0).astype(np.uint8))
        image, lungs = done["image"].as_tensor().to(self.model.device), np.asarray(done["lungs"])[0]
        return (
            (image[:, 0], lungs[0], None) if isinstance(self.model.inferer, SliceClassifier) else (image, lungs, None)
        )

    def randomised(self, image: torch.Tensor) -> dict[str, dict[str, float]]:
        """Map -> layer -> rank correlation with the map of a network that is random from the output to that layer."""
        with torch.inference_mode():
            predicted = int(self.probabilities(image[None])[0].argmax())
        made = {}
        for name in self.explainers:

            def explain(network: torch.nn.Module, images: torch.Tensor, name: str = name) -> np.ndarray:
                return make_explainers(network, [name])[name](images, predicted)[:, 0].cpu().numpy()

            found = randomisation_correlations(self.model.network, explain, image[None])
            made[name] = {layer: values[0] for layer, values in found.items()}
        return made

    @torch.inference_mode()
    def measure(self, item: dict[str, Any], folder: Path, seed: int = 0) -> dict[str, Any]:
        """Scores, curves and seconds of every map of one study, ready for JSON; ``seed`` of noise and of ties."""
        image, lungs, infection = self.prepared(item, folder)
        found = self.probabilities(image[None])[0]
        predicted = int(found.argmax())
        maps, seconds = {}, {}
        for name, explainer in self.explainers.items():
            start = time.perf_counter()
            with torch.autocast(image.device.type, torch.bfloat16, enabled=self.model.precision.name == "bf16"):
                maps[name] = explainer(image[None], predicted)[0, 0].cpu().numpy()
            seconds[name] = time.perf_counter() - start
        maps |= dict(zip(BASELINES, (lung_mask_map(lungs), random_map(lungs, seed=seed)), strict=True))
        filled = replacement(image, lungs, self.fill)  # type: ignore[arg-type]
        scores, curves = {}, {}
        for name, heat_map in maps.items():
            made = perturbation_curves(
                lambda batch: self.probabilities(batch)[:, predicted],
                image,
                heat_map,
                lungs,
                filled=filled,
                steps=self.steps,
                batch_size=self.batch_size,
                seed=seed,
            )
            areas = {"deletion": made.deletion_area, "insertion": made.insertion_area}
            every = score_map(heat_map, lungs, infection) | areas
            scores[name] = {key: value for key, value in every.items() if math.isfinite(value)}
            curves[name] = {"deletion": made.deletion.tolist(), "insertion": made.insertion.tolist()}
        return {
            "image": Path(item["image"]).name,
            "patient_id": str(item.get("patient_id") or ""),
            "predicted": self.model.bundle.class_names[predicted],
            "probability": float(found[predicted]),
            "infection_share": None if infection is None else float((infection > 0).sum() / max(1, (lungs > 0).sum())),
            "lungs_share_of_grid": float((lungs > 0).mean()),
            "scores": scores,
            "curves": curves,
            "seconds": seconds,
        }


def run(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure every study that ``cases.jsonl`` does not hold yet; the cases and what was asked for."""
    keys = ("image", "mask", "lungs", "patient_id")
    items = load_datalist(options.datalist, options.part, options.data, fold=options.fold, keys=keys)
    items = items[: options.limit]
    model = Model(find_bundle(options.bundle), device=options.device)
    settings = {
        "datalist": str(options.datalist),
        "bundle": model.bundle.name,
        "weights_sha256": model.weights_sha256,
        "precision": model.precision.name,
        "part": options.part if options.fold is None else f"{options.part}, fold {options.fold}",
        "steps": options.steps,
        "fill": options.fill,
        "randomise": options.randomise,
    }
    kept = options.output / "cases.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    if not lines or json.loads(lines[0]) != settings:
        lines = [json.dumps(settings)]
        kept.write_text(lines[0] + "\n")
    cases = {case["image"]: case for case in map(json.loads, lines[1:])}
    measurement = Measurement(model, steps=options.steps, batch_size=options.batch_size, fill=options.fill)
    with step_progress(hidden=False) as tell, kept.open("a") as file:
        for done, item in enumerate(items):
            tell("studies", done, len(items))
            if Path(item["image"]).name in cases:
                continue
            start = time.perf_counter()
            case = measurement.measure(item, Path(options.datalist).parent, seed=done)
            if done < options.randomise:
                case["randomised"] = measurement.randomised(
                    measurement.prepared(item, Path(options.datalist).parent)[0]
                )
            case["total_seconds"] = time.perf_counter() - start
            cases[case["image"]] = case
            file.write(json.dumps(case) + "\n")
            file.flush()
    return [cases[Path(item["image"]).name] for item in items], settings


def report(cases: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """Means with intervals, and the paired comparisons that decide what may be said."""
    explained = [ExplainedCase(case["image"], case["patient_id"], case["scores"]) for case in cases]
    names = list(cases[0]["scores"])
    methods = [name for name in names if name not in BASELINES]
    pairs = [(other, methods[0]) for other in methods[1:]] + [(b, m) for m in methods for b in BASELINES]
    tests = []
    for first, second in pairs:
        for metric in EXPLANATION_SCORES:
            test = compare_maps(explained, first, second, metric)
            tests.append({"map": second, "against": first} | test.as_dict() | {"verdict": verdict(test)})
    seconds = {name: float(np.mean([case["seconds"][name] for case in cases])) for name in methods}
    total = float(sum(case["total_seconds"] for case in cases))
    settings = settings | {"machine": describe_machine().splitlines(), "threads": torch.get_num_threads()}
    grid = float(np.mean([case["lungs_share_of_grid"] for case in cases]))
    return (
        {"settings": settings, "lungs_share_of_grid": grid, "seconds_a_map": seconds, "seconds": total}
        | explanation_report(explained)
        | {"comparisons": tests, "randomisation": randomisation([c["randomised"] for c in cases if "randomised" in c])}
    )


def randomisation(found: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Mean rank correlation over the images, map -> layer; None where every map was constant."""
    made: dict[str, dict[str, float | None]] = {}
    for name in found[0] if found else ():
        made[name] = {}
        for layer in found[0][name]:
            values = [one[name][layer] for one in found if math.isfinite(one[name][layer])]
            made[name][layer] = float(np.mean(values)) if values else None
    return made


def markdown(found: dict[str, Any]) -> str:
    """The report as tables, a row a score, and each comparison of the bundle's own map in one sentence."""
    way = {True: "higher is better", False: "lower is better"}
    heads = {
        key: f"{meaning.words} ({way[meaning.higher_is_better]}, n = {found['counts'][key]})"
        for key, meaning in EXPLANATION_SCORES.items()
    }
    rows = {head: [in_words(**scores[key]) for scores in found["maps"].values()] for key, head in heads.items()}
    parts = [table("score", list(found["maps"]), rows)]
    own = next(iter(found["maps"]))
    for tests in ([t for t in found["comparisons"] if (t["map"] == own) == of_own] for of_own in (True, False)):
        columns = list(dict.fromkeys(f"{test['map']} minus {test['against']}" for test in tests))
        cells = {
            head: [f"{in_words(t['difference'], t['interval'])}, {t['verdict']}" for t in tests if t["metric"] == key]
            for key, head in heads.items()
        }
        parts.append(table("difference", columns, cells))
    parts.append("\n".join(sentences(found, own)))
    if found["randomisation"]:
        columns = list(found["randomisation"])
        layers = list(found["randomisation"][columns[0]])
        cells = {layer: [in_words(found["randomisation"][name][layer], None) for name in columns] for layer in layers}
        parts.append("Rank correlation with the own map, random from the output to this layer:")
        parts.append(table("layer", columns, cells))
    return "\n\n".join(parts) + "\n"


def sentences(found: dict[str, Any], own: str) -> list[str]:
    """What may be said of the bundle's own map against each other one."""
    made = []
    for other in [name for name in found["maps"] if name != own]:
        tests = [test for test in found["comparisons"] if (test["map"], test["against"]) == (own, other)]
        said = {
            words: ", ".join(EXPLANATION_SCORES[t["metric"]].words for t in tests if t["verdict"] == words)
            for words in ("better", "worse", "no difference shown", "not judged")
        }
        told = "; ".join(f"{words}: {scores}" for words, scores in said.items() if scores)
        made.append(f"- {own} against {other}: {told}.")
    return made


def table(corner: str, columns: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table."""
    lines = [[corner, *columns], ["---"] * (1 + len(columns)), *([head, *cells] for head, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_words(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def draw(cases: list[dict[str, Any]], path: Path) -> None:
    """Mean deletion and insertion curves, a line a map."""
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(panels, ("deletion", "insertion"), strict=True):
        for n, name in enumerate(cases[0]["curves"]):
            mean = np.mean([case["curves"][name][kind] for case in cases], axis=0)
            shares, dash = np.linspace(0, 100, len(mean)), ":" if name in BASELINES else "-"
            axes.plot(shares, mean, color=COLOURS[n % len(COLOURS)], linestyle=dash, linewidth=1.6, label=name)
        way = "replaced, most important first" if kind == "deletion" else "put back, most important first"
        axes.set(xlabel=f"% of the lungs {way}", title=f"{kind}, n = {len(cases)}", ylim=(-0.02, 1.02))
        axes.grid(color="#DDDDDD", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("probability of the predicted class")
    panels[1].legend(fontsize=9, frameon=False, loc="lower right")
    save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--datalist", type=Path, required=True, help="items with image, mask (infection) and lungs")
    parser.add_argument("--bundle", required=True, help="name of a bundle or path of its folder")
    parser.add_argument("--part", default="test")
    parser.add_argument("--data", type=Path, help="folder that the datalist's paths start from; its own by default")
    parser.add_argument("--fold", type=int, help="of a datalist made of folds")
    parser.add_argument("--limit", type=int, help="only the first so many studies")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20, help="of the deletion and insertion curves")
    parser.add_argument("--fill", choices=("mean", "blur"), default="mean", help="what replaces deleted voxels")
    parser.add_argument("--randomise", type=int, default=0, metavar="N", help="randomise the weights on N images")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", help="cpu, cuda; by default a GPU where there is one")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    cases, settings = run(options)
    found = report(cases, settings)
    (options.output / "explanations.json").write_text(json.dumps(found, indent=2) + "\n")
    text = markdown(found)
    (options.output / "explanations.md").write_text(text)
    draw(cases, options.output / "curves.png")
    print(f"{describe_machine()}\n{len(cases)} studies in {found['seconds']:.0f} s\n")
    print(f"The lungs take {found['lungs_share_of_grid']:.3f} of the grid: the share of a map of one value.\n\n{text}")


if __name__ == "__main__":
    main()
