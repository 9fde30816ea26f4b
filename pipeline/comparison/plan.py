"""What a comparison is to run: its config read and checked, and the list of runs that follows from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumonai.data_manifests.datalist import read_datalist
from pneumonai.data_manifests.errors import ManifestError
from pneumonai.data_manifests.subset import subset_datalists
from pneumonai.pipeline.bundle import Bundle, find_bundle
from pneumonai.pipeline.errors import BundleError
from pneumonai.pipeline.outputs.files import write_bytes

ROW_KEYS = {"name", "bundle", "overlays", "settings", "published"}
OVERLAY_KEYS = {"title", "part", "seeds", "percents", "of", "folds", "metrics", "settings"}
KEYS = OVERLAY_KEYS | {"datalist", "dataset_dir", "rows"}


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Attributes:
        name: as the table calls it.
        bundle: whose train and evaluate configs run.
        overlays: config files on top of train.json, absolute.
        settings: ids of the configs and their values, on top of the overlays.
        published: metric -> value printed beside, in per cent; or such a mapping for each training size.
    """

    name: str
    bundle: Bundle
    overlays: tuple[Path, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[Any, Any] = field(default_factory=dict)

    def published_at(self, percent: float) -> Mapping[str, float]:
        """Published figures at a training size, in per cent; those without a size count for the largest alone."""
        if all(isinstance(figures, Mapping) for figures in self.published.values()):
            found: Mapping[str, float] = next((f for p, f in self.published.items() if float(p) == percent), {})
            return found
        return self.published if percent == 100 else {}


@dataclass(frozen=True)
class Comparison:
    """A checked comparison config.

    Attributes:
        title: of the table.
        datalist: absolute path.
        dataset_dir: absolute path that the datalist's files start from.
        part: which part (or with folds, always ``test``) gives the scores.
        seeds: one run a seed.
        percents: sizes of the training part, in per cent.
        of_all: sizes are of all items, not of the training part's.
        folds: folds to hold out in turn; (None,) without folds.
        metrics: columns of the table; the first is what the figures and tests show.
        settings: of every row.
        rows: the models; the others are tested against the first.
    """

    title: str
    datalist: Path
    dataset_dir: Path
    part: str
    seeds: tuple[int, ...]
    percents: tuple[float, ...]
    of_all: bool
    folds: tuple[int | None, ...]
    metrics: tuple[str, ...]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One training with its evaluation.

    Attributes:
        row, percent, seed, fold: which one.
        folder: of its files; the name holds a digest of all that the run depends on.
        spec: what :mod:`pneumonai.pipeline.comparison.run` reads.
    """

    row: Row
    percent: float
    seed: int
    fold: int | None
    folder: Path
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """The run in words."""
        parts = [self.row.name, f"{self.percent:g} %" if self.percent != 100 else "", f"seed {self.seed}"]
        return ", ".join(filter(None, [*parts, "" if self.fold is None else f"fold {self.fold}"]))

    @property
    def record(self) -> Path:
        """The file that a finished run leaves."""
        return self.folder / "record.json"


def read_comparison(
    path: str | Path,
    *,
    datalist: str | Path | None = None,
    dataset_dir: str | Path | None = None,
    overlays: Sequence[str | Path] = (),
) -> Comparison:
    """Read a comparison config, JSON or YAML; relative paths in it start from its folder.

    Args:
        path: the config.
        datalist, dataset_dir: instead of the config's.
        overlays: files of the same form without rows, whose keys count instead of the config's; their settings are
            added to the config's one by one, and a row's own stay above all.

    Raises:
        ManifestError: what is missing or unknown in it, or in the datalist.
        BundleError: an unknown bundle or overlay.
    """
    path = Path(path)
    content = _read(path)
    _refuse_unknown(path, content, KEYS)
    for overlay in overlays:
        changes = _read(Path(overlay))
        _refuse_unknown(overlay, changes, OVERLAY_KEYS)
        settings = content.get("settings", {}) | changes.get("settings", {})
        content |= changes | {"settings": settings}
    home = path.resolve().parent
    if not content.get("rows"):
        raise ManifestError(path, "lacks 'rows'", "see the documentation of pneumonai compare")
    if datalist is None and not content.get("datalist"):
        raise ManifestError(path, "lacks 'datalist'", "add it, or give --datalist")
    datalist = Path(home / content["datalist"] if datalist is None else datalist).resolve()
    if dataset_dir is not None:
        folder = Path(dataset_dir).resolve()
    else:
        folder = (home / content["dataset_dir"]).resolve() if content.get("dataset_dir") else datalist.parent
    folds = content.get("folds")
    if folds == "all":
        listed = read_datalist(datalist).get("training") or []
        folds = sorted({item["fold"] for item in listed if isinstance(item.get("fold"), int)})
        if len(folds) < 2:
            raise ManifestError(datalist, "has no folds", "build it with --split folds=K")
    rows = tuple(_read_row(path, row, home) for row in content["rows"])
    names = [row.name for row in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ManifestError(path, f"two rows are called {twice!r}", "give each its own name")
    return Comparison(
        title=str(content.get("title", path.stem)),
        datalist=datalist,
        dataset_dir=folder,
        part=content.get("part", "test"),
        seeds=tuple(content.get("seeds", (0,))),
        percents=tuple(float(percent) for percent in content.get("percents", (100,))),
        of_all=content.get("of", "training") == "all",
        folds=tuple(folds) if folds else (None,),
        metrics=tuple(content.get("metrics", ("accuracy", "precision", "recall", "f1", "auc"))),
        settings=content.get("settings", {}),
        rows=rows,
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        # YAML reads JSON too.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(path, "no such comparison config", "give a YAML or JSON file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ManifestError(path, f"is no readable YAML or JSON ({error})", "correct it") from None
    if not isinstance(content, dict):
        raise ManifestError(path, "is no comparison config", "it needs the keys datalist and rows")
    return content


def _refuse_unknown(where: object, content: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(set(content) - known)
    if unknown:
        raise ManifestError(where, f"unknown key {unknown[0]!r}", f"use {', '.join(sorted(known))}")


def _read_row(path: Path, row: Any, home: Path) -> Row:
    if not isinstance(row, dict) or "name" not in row or "bundle" not in row:
        raise ManifestError(path, "a row needs 'name' and 'bundle'", "add them")
    _refuse_unknown(f"{path}, row {row['name']!r}", row, ROW_KEYS)
    shipped = home / row["bundle"]
    bundle = find_bundle(shipped if shipped.is_dir() else row["bundle"])
    overlays = []
    for name in row.get("overlays", ()):
        places = [home / name, bundle.root / name, bundle.root / "configs" / name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise BundleError(bundle.name, f"there is no overlay {name}", "give a file beside the config or its own")
        overlays.append(found)
    return Row(str(row["name"]), bundle, tuple(overlays), row.get("settings", {}), row.get("published", {}))


def plan_runs(comparison: Comparison, output: Path) -> list[Run]:
    """All runs of a comparison; writes the thinned datalists that they read.

    Args:
        comparison: the comparison.
        output: folder of everything.
    """
    datalists = _thinned_datalists(comparison, output)
    return [
        _plan_run(comparison, row, percent, seed, fold, datalists[percent], output)
        for row in comparison.rows
        for percent in comparison.percents
        for fold in comparison.folds
        for seed in comparison.seeds
    ]


def _thinned_datalists(comparison: Comparison, output: Path) -> dict[float, Path]:
    if comparison.percents == (100.0,) and not comparison.of_all:
        return {100.0: comparison.datalist}
    thinned = subset_datalists(read_datalist(comparison.datalist), comparison.percents, of_all=comparison.of_all)
    paths = {}
    for percent, content in thinned.items():
        paths[percent] = output / "datalists" / f"{percent:g}_percent.json"
        write_bytes(paths[percent], (json.dumps(content, indent=1) + "\n").encode())
    return paths


def _plan_run(
    comparison: Comparison,
    row: Row,
    percent: float,
    seed: int,
    fold: int | None,
    datalist: Path,
    output: Path,
) -> Run:
    configs = row.bundle.root / "configs"
    overlay: dict[str, Any] = {}
    for path in row.overlays:
        overlay |= json.loads(path.read_text(encoding="utf-8"))
    overlay |= {**comparison.settings, **row.settings}
    common = {
        "bundle_root": str(row.bundle.root),
        "datalist": str(datalist),
        "dataset_dir": str(comparison.dataset_dir),
        "fold": fold,
        "cache": "disk",
        "cache_root": str(output / "cache"),
    }
    evaluated = json.loads((configs / "evaluate.json").read_text(encoding="utf-8"))
    # An evaluation takes those of the row's settings that its config knows.
    for_evaluation = {id: value for id, value in overlay.items() if re.split("::|#", id)[0] in evaluated}
    part = "test" if fold is not None else comparison.part
    spec: dict[str, Any] = {
        "configs": str(configs),
        "train": {"overlay": overlay, "overrides": common | {"seed": seed, "resume": True}},
        "evaluate": {"overlay": for_evaluation, "overrides": common | {"datalist_part": part}},
    }
    # Where things lie does not make another run, what stands in the datalist and the configs does.
    digest = hashlib.sha256(_content_of_run(spec, datalist, configs, row.bundle.metadata["version"])).hexdigest()[:8]
    words = [row.name, f"{percent:g}", f"seed{seed}", *([] if fold is None else [f"fold{fold}"]), digest]
    folder = output / "runs" / re.sub(r"[^\w.+-]+", "_", "-".join(words))
    spec["folder"] = str(folder)
    return Run(row, percent, seed, fold, folder, spec)


def _content_of_run(spec: Mapping[str, Any], datalist: Path, configs: Path, version: str) -> bytes:
    texts = [
        path.read_text(encoding="utf-8") for path in (datalist, configs / "train.json", configs / "inference.json")
    ]
    parts = {name: spec[name]["overlay"] for name in ("train", "evaluate")}
    chosen = {key: spec["train"]["overrides"][key] for key in ("seed", "fold")}
    part = spec["evaluate"]["overrides"]["datalist_part"]
    return json.dumps([parts, chosen, part, version, *texts], sort_keys=True).encode()


def runs_of(runs: Sequence[Run], **chosen: Any) -> Iterator[Run]:
    """The runs whose attributes have the given values."""
    return (run for run in runs if all(getattr(run, key) == value for key, value in chosen.items()))
