"""Which bundles answer a study together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pneumonai.pipeline.bundle import Bundle, find_bundle, shipped_bundles
from pneumonai.pipeline.errors import BundleError

ALL = "all"


@dataclass(frozen=True)
class Lineup:
    """The bundles of one call, in the order in which they answer.

    Attributes:
        bundles: each under a name of its own.
        named: names of those that the user named: a study that such a bundle cannot answer is a failure of it, where
            one that came by ``all`` is left out.
    """

    bundles: tuple[Bundle, ...]
    named: frozenset[str] = frozenset()

    @property
    def class_names(self) -> list[str]:
        """Every class that one of them gives a probability for."""
        return list(dict.fromkeys(name for bundle in self.bundles for name in bundle.answers))


def is_several(names: Sequence[str | Path]) -> bool:
    """Whether these bundles are to answer together, into the layout of several; one alone is not."""
    return len(names) > 1 or ALL in [str(name) for name in names]


def find_lineup(names: Sequence[str | Path]) -> Lineup:
    """The bundles of some names or folders; ``all`` is every shipped one that does not mark lungs.

    Raises:
        BundleError: there is no such bundle, or two have the same name.
    """
    named = [find_bundle(name) for name in names if str(name) != ALL]
    taken: dict[str, Bundle] = {}
    for bundle in named:
        if bundle.name in taken:
            raise BundleError(bundle.name, "is named twice", "name each bundle once; give a copy another folder name")
        taken[bundle.name] = bundle
    bundles = list(named)
    if len(named) < len(names):
        for bundle in shipped_bundles():
            known = taken.get(bundle.name)
            if known is not None and known.root != bundle.root:
                raise BundleError(bundle.name, "is also a shipped bundle's name", "give the folder another name")
            if known is None and not bundle.marks_lungs:
                bundles.append(bundle)
    return Lineup(tuple(bundles), frozenset(taken))
