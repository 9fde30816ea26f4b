"""Explainers: from network inputs to a heat map in 0..1 on the network's input grid.

Each is called with a batch, as the bundles' ``explainer`` and as ``pneumonai predict --explain`` do, and ends with the
same two steps, linear resizing and min-max scaling a scan, so that maps of different methods can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from pneumonai.pipeline.explain.activation_maps import BackboneGradCAM, ClassActivationMap, GradCAM, GradCAMPlusPlus
from pneumonai.pipeline.explain.attention import AttentionMap, CIDMap, LocalisationMap
from pneumonai.pipeline.explain.attention_transfer import OffsetMap, TeacherAttention
from pneumonai.pipeline.explain.protocol import Explainer
from pneumonai.pipeline.explain.relevance import RelevanceMap
from pneumonai.pipeline.explain.saliency import Saliency
from pneumonai.pipeline.explain.scaling import resize_map, scale_to_unit
from pneumonai.pipeline.explain.slice_by_slice import SliceBySlice

__all__ = [
    "EXPLAINERS",
    "AttentionMap",
    "BackboneGradCAM",
    "CIDMap",
    "ClassActivationMap",
    "Explainer",
    "GradCAM",
    "GradCAMPlusPlus",
    "LocalisationMap",
    "OffsetMap",
    "RelevanceMap",
    "Saliency",
    "SliceBySlice",
    "TeacherAttention",
    "make_explainers",
    "resize_map",
    "scale_to_unit",
]


EXPLAINERS: dict[str, Callable[[nn.Module], Explainer]] = {
    explainer.name: explainer
    for explainer in (
        AttentionMap,
        ClassActivationMap,
        GradCAM,
        GradCAMPlusPlus,
        BackboneGradCAM,
        CIDMap,
        LocalisationMap,
        TeacherAttention,
        OffsetMap,
        RelevanceMap,
        Saliency,
    )
}
"""The explainers by name, in the order in which they are shown."""


def make_explainers(
    network: nn.Module, names: Sequence[str], *, given: Mapping[str, Explainer] | None = None
) -> dict[str, Explainer]:
    """Explainers of a network by name, in the order of :data:`EXPLAINERS`.

    Args:
        network: the network.
        names: of :data:`EXPLAINERS` or of ``given``; ``all`` stands for those that the network allows.
        given: explainers of this network by name, taken as they are instead of another of that name.

    Raises:
        ValueError: an unknown name, or one that the network does not allow (``all``: it allows none).
    """
    given = given or {}
    unknown = [name for name in names if name not in (*EXPLAINERS, *given, "all")]
    if unknown:
        raise ValueError(f"an explanation must be one of {', '.join(EXPLAINERS)} or all, got {unknown[0]!r}")
    made: dict[str, Explainer] = {}
    refusals: list[str] = []
    for name in dict.fromkeys([*EXPLAINERS, *given]):
        if name in names or "all" in names:
            try:
                made[name] = given[name] if name in given else EXPLAINERS[name](network)
            except ValueError as error:
                refusals.append(str(error))
                if name in names:
                    raise
    if "all" in names and not made:
        raise ValueError("; ".join(dict.fromkeys(refusals)))
    return made
