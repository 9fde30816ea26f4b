"""CAM, Grad-CAM and Grad-CAM++: MONAI's, from the features that enter the pooling."""

from __future__ import annotations

from functools import partial

import torch
from monai.visualize import CAM, GradCAMpp
from monai.visualize import GradCAM as MonaiGradCAM
from torch import nn
from torch.nn import functional

from pneumonai.pipeline.explain.one_pass import OnePass
from pneumonai.pipeline.explain.scaling import resize_map, scale_to_unit

LAYERS = (
    ("features", "classifier"),
    ("layer4", "fc"),
    ("cid", "classifier"),
    ("dspp", "classifier"),
    ("stage_6", "classifier"),
    ("student.relu", "student.classifier"),
    ("backbone.features", "backbone.classifier"),
    ("backbone.layer4", "backbone.fc"),
)
"""Names of the layer whose map enters the pooling, and of the classifier, in this project's networks.

The first pair that a network has counts; a classifier that is the identity is none.
"""

OTHER_POOLINGS = (("backbone.layer4", "classifier"), ("backbone.features", "classifier"))
"""The same in networks that pool otherwise than by a mean (MAG-SD, BCNN): gradients reach their features, but no
weight of the classifier belongs to a channel."""


class FeatureExplainer:
    """What the maps made from one layer's features share: the layers, one pass of their own, resizing and scaling.

    Args:
        network: a network that gives logits ``[B, num_classes]``.
        features: name of the layer whose output ``[B, C', *spatial']`` is weighted; by default the one that enters the
            pooling, the first pair of :data:`LAYERS` that the network has.
        classifier: name of the linear layer that follows the pooling; only the class activation map reads it.

    Raises:
        ValueError: the network has no layer of that name, or none of the usual names.
    """

    name: str
    method: str
    shows: str
    _needs_gradients = True

    def __init__(self, network: nn.Module, features: str | None = None, classifier: str | None = None) -> None:
        layers = dict(network.named_modules())
        pairs = (*LAYERS, *OTHER_POOLINGS) if self._needs_gradients else LAYERS
        usual = next((pair for pair in pairs if _has(layers, *pair)), (None, None))
        if usual in OTHER_POOLINGS and isinstance(layers[str(usual[0])], nn.Sequential):
            # Such a network walks through the layers one by one: their sequence as a whole is never called.
            usual = (f"{usual[0]}.{len(layers[str(usual[0])]) - 1}", usual[1])
        self.network = network
        self.features = _existing(features or usual[0], "features", network, layers)
        self.classifier = classifier or usual[1]
        if not self._needs_gradients:
            found = _existing(self.classifier, "classifier", network, layers)
            self.classifier = _linear(found, network, layers[found])

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        """Network input ``[B, C, *spatial]`` -> heat map ``[B, 1, *spatial]`` float32 in 0..1.

        Runs under ``torch.inference_mode`` and ``torch.autocast`` too. The network goes through one pass in eval mode
        and is left as it was: no hook, no gradient, no tensor is kept.

        Args:
            images: the batch.
            classes: index of the class to explain, one for all or ``[B]``; the predicted ones when None.

        Raises:
            ValueError: the layer's map has not the batch's number of samples, or no spatial axes.
        """
        images = images.as_subclass(torch.Tensor)
        with torch.inference_mode(False), torch.no_grad():
            seen = OnePass(self.network, self.features, images, classes, gradients=self._needs_gradients)
            # The sums over channels are small, so they are taken in full precision whatever the caller's autocast.
            with torch.autocast(images.device.type, enabled=False):
                map_ = self._weigh(seen, images)
            return scale_to_unit(resize_map(map_, images.shape[2:]))

    def _weigh(self, seen: OnePass, images: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 1, *spatial']`` of the features."""
        raise NotImplementedError


class ClassActivationMap(FeatureExplainer):
    """CAM: the classifier's weights of a class times the map that enters the pooling (MONAI's ``CAM``).

    Zhou et al., "Learning Deep Features for Discriminative Localization", https://arxiv.org/abs/1512.04150. For a
    network that ends in average pooling and one linear layer the map's mean is the class's score.
    """

    name = "cam"
    method = "class activation map (CAM)"
    shows = (
        "How much each place of the last, coarse feature map adds to the answered class's score, from what speaks most "
        "against it to what speaks most for it."
    )
    _needs_gradients = False

    def _weigh(self, seen: OnePass, images: torch.Tensor) -> torch.Tensor:
        linear = self.network.get_submodule(str(self.classifier))
        # Without the bias, a constant, and in the features' type: a network may be in bf16 altogether.
        weigh = partial(functional.linear, weight=linear.get_parameter("weight").float())
        return CAM(seen, self.features, fc_layers=lambda _: weigh).compute_map(images, class_idx=seen.class_idx)


class GradCAM(FeatureExplainer):
    """Grad-CAM: the feature map weighted by the mean gradient of the class's score (MONAI's ``GradCAM``).

    Selvaraju et al., https://arxiv.org/abs/1610.02391. Where the features enter average pooling and one linear layer,
    the gradient is the classifier's weight, and this is the positive part of the class activation map.
    """

    name = "gradcam"
    method = "Grad-CAM"
    shows = (
        "What in the last, coarse feature map raises the answered class's score, by its gradient, and nothing of what "
        "lowers it; in a network that ends in average pooling and one linear layer, CAM's positive part."
    )

    def _weigh(self, seen: OnePass, images: torch.Tensor) -> torch.Tensor:
        return MonaiGradCAM(seen, self.features).compute_map(images)


class BackboneGradCAM(GradCAM):
    """Grad-CAM of the backbone's last map, before D-SPP and CID: what the network would show without these modules.

    "Multi-scale alignment and Spatial ROI Module for COVID-19 Diagnosis", https://arxiv.org/abs/2207.01345, Figs. 4
    and 5, lays such maps beside each other.

    Args:
        network: a :class:`pneumonai.networks.nets.DSPPCIDNet` with D-SPP, CID or both.

    Raises:
        ValueError: the network has neither.
    """

    name = "gradcam-backbone"
    method = "Grad-CAM before D-SPP and CID"
    shows = (
        "As Grad-CAM, but in the backbone's last map, before the modules that gather scales and weigh positions: what "
        "these modules change shows beside it."
    )

    def __init__(self, network: nn.Module) -> None:
        layers = dict(network.named_modules())
        if not _has(layers, "stage_6", "classifier"):
            raise ValueError(f"the map {self.name!r} needs a network with D-SPP or CID, got {type(network).__name__}")
        super().__init__(network, features="stage_6")
        if "cid" not in layers and "dspp" not in layers:
            raise ValueError(
                f"the map {self.name!r} needs D-SPP or CID, which this {type(network).__name__} is without"
            )


class GradCAMPlusPlus(FeatureExplainer):
    """Grad-CAM++: as Grad-CAM, with positive gradients only, weighted by place (MONAI's ``GradCAMpp``).

    Chattopadhyay et al., https://arxiv.org/abs/1710.11063.
    """

    name = "gradcam++"
    method = "Grad-CAM++"
    shows = (
        "As Grad-CAM, but from those channels alone that raise the answered class's score, meant to cover several "
        "findings rather than the strongest; what those channels see elsewhere shows too."
    )

    def _weigh(self, seen: OnePass, images: torch.Tensor) -> torch.Tensor:
        return GradCAMpp(seen, self.features).compute_map(images)


def _existing(name: str | None, argument: str, network: nn.Module, layers: dict[str, nn.Module]) -> str:
    if name is None:
        usual = " or ".join(" and ".join(pair) for pair in LAYERS[:2])
        raise ValueError(f"{type(network).__name__} has no layers named {usual}; name its layer with {argument}=")
    if name not in layers:
        raise ValueError(f"{type(network).__name__} has no layer named {name!r}; give another {argument}=")
    return name


def _has(layers: dict[str, nn.Module], features: str, classifier: str) -> bool:
    return features in layers and not isinstance(layers.get(classifier, nn.Identity()), nn.Identity)


def _linear(name: str, network: nn.Module, classifier: nn.Module) -> str:
    """Name of the one layer of weights in a classifier, which a class activation map reads."""
    weighing = [
        place for place, layer in classifier.named_modules() if isinstance(getattr(layer, "weight", None), nn.Parameter)
    ]
    if len(weighing) != 1:
        raise ValueError(
            f"a class activation map needs one linear layer after the pooling, {type(network).__name__}'s {name!r} "
            f"has {len(weighing)}"
        )
    return ".".join(filter(None, [name, weighing[0]]))
