"""Heat maps: scaling, resizing, no second pass for the attention map, and a network that is left as it was."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from monai.visualize import GradCAM as MonaiGradCAM
from random_networks import randomise
from torch import nn

from pneumonai.networks.nets import NLRAN, VGG, DSPPCIDNet, MANet, MobileNetV2, ResNet
from pneumonai.pipeline.explain import (
    EXPLAINERS,
    AttentionMap,
    BackboneGradCAM,
    CIDMap,
    ClassActivationMap,
    GradCAM,
    GradCAMPlusPlus,
    LocalisationMap,
    make_explainers,
    resize_map,
    scale_to_unit,
)

CLASS_MAPS = (ClassActivationMap, GradCAM, GradCAMPlusPlus)


class Counting(nn.Module):
    """A network of one attention module, which is the identity; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first_attention = nn.Identity()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.first_attention(x).flatten(1).mean(1)


class Pooled(nn.Module):
    """Two channels are the features; average pooling and given weights follow."""

    def __init__(self, weight: list[list[float]], bias: list[float] | None = None) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.classifier = nn.Linear(len(weight[0]), len(weight))
        self.classifier.weight.data = torch.tensor(weight)
        self.classifier.bias.data = torch.tensor(bias or [0.0] * len(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def small_nl_ran() -> NLRAN:
    torch.manual_seed(0)
    network = NLRAN(base_channels=4).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network


def test_scale_to_unit_by_hand() -> None:
    maps = torch.tensor([[[2.0, 4.0, 3.0]], [[5.0, 5.0, 5.0]]])
    assert torch.equal(scale_to_unit(maps), torch.tensor([[[0.0, 1.0, 0.5]], [[0.0, 0.0, 0.0]]]))


def test_the_map_of_the_last_pass_is_used_and_only_for_its_own_input() -> None:
    network = Counting()
    explainer = AttentionMap(network)
    x, y = torch.rand(2, 3, 4, 6, 5), torch.rand(2, 3, 4, 6, 5)
    network(x)
    assert torch.allclose(explainer(x), scale_to_unit(x.mean(1, keepdim=True)))
    assert network.passes == 1
    network(x)
    assert torch.allclose(explainer(y), scale_to_unit(y.mean(1, keepdim=True)))
    assert network.passes == 3


def test_nl_ran_s_map_equals_its_attention_maps() -> None:
    network = small_nl_ran()
    explainer = AttentionMap(network)
    x = torch.rand(1, 1, 32, 64, 64)
    with torch.no_grad():
        mask = network.attention_maps(x)[0].mean(1, keepdim=True)
        heat_map = explainer(x)
    resized = nn.functional.interpolate(mask, size=x.shape[2:], mode="trilinear", align_corners=False)
    assert heat_map.shape == (1, 1, 32, 64, 64)
    assert heat_map.min() == 0
    assert heat_map.max() == 1
    assert torch.allclose(heat_map, scale_to_unit(resized), atol=1e-6)


def test_another_explainer_s_pass_is_not_taken_for_the_network_s_own() -> None:
    network = small_nl_ran()
    attention, cam = AttentionMap(network), ClassActivationMap(network)
    x, y = torch.rand(2, 1, 1, 32, 32, 32)
    with torch.no_grad():
        expected = attention(x)
        network(x)
        cam(y)
        assert torch.equal(attention(x), expected)
        cam(y)
    assert attention._mask is None
    assert attention._seen is None


def test_class_maps_by_hand() -> None:
    """Class 1 has the weights 1 and -2: CAM is a - 2 b, Grad-CAM its positive part, Grad-CAM++ looks at a alone."""
    network = Pooled([[-1.0, 0.0], [1.0, -2.0]], [0.0, 7.0])
    a, b = torch.tensor([[4.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    images = torch.stack([a, b])[None]  # a - 2 b = [[2, 2], [-3, 0]]
    cam = ClassActivationMap(network)(images)
    assert torch.allclose(cam, torch.tensor([[[[1.0, 1.0], [0.0, 0.6]]]]))
    assert torch.allclose(GradCAM(network)(images), torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]))
    assert torch.allclose(GradCAMPlusPlus(network)(images), a[None, None] / 4.0)
    # The other class weighs a with -1: nothing speaks for it.
    assert torch.allclose(ClassActivationMap(network)(images, 0), (1 - a / 4.0)[None, None])
    assert GradCAM(network)(images, 0).count_nonzero() == 0
    assert torch.equal(ClassActivationMap(network)(images, torch.tensor([1])), cam)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e-4])
def test_grad_cam_plus_plus_is_chattopadhyay_s_at_any_size_of_features_and_gradients(size: float) -> None:
    """Equations 10, 18 and 19 of the paper: alpha = g^2 / (2 g^2 + sum(A) g^3), w = sum(alpha relu(g)), relu(w A)."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    maps = torch.rand(1, 5, 9, 7, generator=generator, dtype=torch.float64)
    network = Pooled((weight / size).tolist())
    gradient = weight[2] / maps[0, 0].numel()
    alpha = 1 / (2 + maps[0].sum((1, 2)) * gradient)
    expected = ((alpha * gradient.relu())[None, :, None, None] * maps).sum(1, keepdim=True).relu()
    made = GradCAMPlusPlus(network)((maps * size).float(), 2)
    assert torch.allclose(made, scale_to_unit(expected).float(), atol=1e-3)


@pytest.mark.parametrize("explainer", CLASS_MAPS)
def test_each_scan_of_a_batch_is_explained_as_if_alone(explainer: type[GradCAM]) -> None:
    network = small_nl_ran()
    images = torch.rand(3, 1, 64, 64, 64)
    classes = torch.tensor([2, 0, 1])
    explain = explainer(network)
    together = explain(images, classes)
    alone = torch.cat([explain(images[i : i + 1], int(classes[i])) for i in range(3)])
    assert together.shape == images.shape
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.equal(explain(images), explain(images, network(images).argmax(1)))


def test_grad_cam_equals_monai_s_on_a_whole_network() -> None:
    images = torch.rand(1, 1, 64, 64, 64)
    made = GradCAM(small_nl_ran())(images)
    theirs = MonaiGradCAM(small_nl_ran(), "features").compute_map(images).detach()
    assert torch.allclose(made, scale_to_unit(resize_map(theirs, images.shape[2:])), atol=1e-5)


@pytest.mark.parametrize("explainer", CLASS_MAPS)
def test_an_earlier_layer_a_layout_and_a_mode_of_the_caller_s(explainer: type[GradCAM]) -> None:
    network = small_nl_ran().double()  # or rounding, enlarged by the scaling to 0..1, would need a wide tolerance
    images = torch.rand(2, 1, 32, 32, 48, dtype=torch.float64)
    features = "features" if explainer is ClassActivationMap else "stages.1"
    explain = explainer(network, features=features)
    expected = explain(images)
    with torch.inference_mode():
        network.to(memory_format=torch.channels_last_3d)  # makes inference tensors of the convolutions' weights
        last = images.contiguous(memory_format=torch.channels_last_3d)
        assert torch.allclose(explain(last), expected, atol=1e-6)
        network.float()
        exact = explainer(network)(last.float(), 1)
        with torch.autocast("cpu", torch.bfloat16):
            rough = explainer(network)(last.float(), 1)
    assert rough.dtype == torch.float32
    assert nn.functional.cosine_similarity(rough.flatten(1), exact.flatten(1)).min() > 0.95


@pytest.mark.parametrize("explainer", CLASS_MAPS)
def test_nothing_is_left_behind(explainer: type[GradCAM]) -> None:
    network = small_nl_ran().train()
    network.stem.eval()
    modes = [layer.training for layer in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    heat_map = explainer(network)(torch.rand(1, 1, 32, 32, 32))
    assert not heat_map.requires_grad
    assert [layer.training for layer in network.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    hooks = (chain(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in network.modules())
    assert not list(chain.from_iterable(hooks))
    assert all(layer.inplace for layer in network.modules() if isinstance(layer, nn.ReLU))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("explainer", CLASS_MAPS)
def test_a_failing_pass_leaves_nothing_behind_either(explainer: type[GradCAM]) -> None:
    network = small_nl_ran().train()
    with pytest.raises(RuntimeError):
        explainer(network)(torch.rand(1, 3, 32, 32, 32))
    assert network.training
    assert not network.features._forward_hooks
    assert torch.is_grad_enabled()


def test_what_a_network_does_not_allow_is_said() -> None:
    plain = Pooled([[1.0, 2.0], [2.0, 1.0]])
    assert list(make_explainers(plain, ["all"])) == ["cam", "gradcam", "gradcam++", "saliency"]
    assert list(make_explainers(small_nl_ran(), ["gradcam", "attention"])) == ["attention", "gradcam"]
    with pytest.raises(ValueError, match=r"`first_attention`, got Pooled"):
        make_explainers(plain, ["attention", "cam"])
    with pytest.raises(ValueError, match=f"one of {', '.join(EXPLAINERS)} or all, got 'lime'".replace("+", "\\+")):
        make_explainers(plain, ["lime"])
    with pytest.raises(ValueError, match="Counting has no layers named features and classifier or layer4 and fc"):
        make_explainers(Counting(), ["cam"])
    assert list(make_explainers(Counting(), ["all"])) == ["attention", "saliency"]
    with pytest.raises(ValueError, match="Conv3d has no layers"):
        make_explainers(nn.Conv3d(2, 2, 1), ["all"])
    with pytest.raises(ValueError, match="no layer named 'tail'"):
        GradCAM(plain, features="tail")
    slices = nn.Sequential(nn.Flatten(0, 1), plain)
    with pytest.raises(ValueError, match=r"must give 1 maps of 3 spatial axes, got shape \(4, 2, 5, 5\)"):
        GradCAM(slices, features="1.features")(torch.rand(1, 4, 2, 5, 5))


def test_every_explainer_says_what_it_shows() -> None:
    network = small_nl_ran()
    for name, explainer in make_explainers(network, ["all"]).items():
        assert explainer.name == name
        assert explainer.method
        assert explainer.shows.endswith(".")
    before = ["attention", "cam", "gradcam", "gradcam++", "gradcam-backbone", "cid", "localisation"]
    assert list(EXPLAINERS) == [*before, "teacher-attention", "offsets", "lrp", "saliency"]


def test_a_map_with_nothing_in_it_is_zero() -> None:
    heat_map = GradCAMPlusPlus(Pooled([[-1.0, -1.0], [-1.0, -2.0]]))(torch.rand(1, 2, 4, 4))
    assert heat_map.count_nonzero() == 0
    assert not math.isnan(heat_map.sum().item())


def small_dspp_cid(**options: object) -> DSPPCIDNet:
    """A small network with every weight drawn at random; a named backbone is whole."""
    backbone = options.pop("backbone", None) or ResNet(2, 1, 0, depth=18, base_channels=4)
    return randomise(DSPPCIDNet(2, 1, 2, backbone=backbone, width=8, **options))


def test_gradcam_of_dspp_and_cid_lies_after_the_modules_and_the_other_before_them() -> None:
    network = small_dspp_cid()
    images = torch.randn(3, 1, 160, 192)
    with torch.no_grad():
        features = network.forward_features(images)
        classes = network(images).argmax(dim=1)
        weights = network.classifier.weight[classes][:, :, None, None]
    after = scale_to_unit(resize_map((weights * features).sum(1, keepdim=True).relu(), images.shape[2:]))
    assert torch.allclose(GradCAM(network)(images), after, atol=1e-5)

    stage_6 = network.backbone.forward_features(images)[2].detach().requires_grad_()
    stages = list(network.backbone.forward_features(images)[:2])
    pooled = network.cid(network.dspp([*stages, stage_6])).mean(dim=(2, 3))
    logits = network.classifier(pooled)
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), stage_6)
    before = (gradient.mean(dim=(2, 3), keepdim=True) * stage_6.detach()).sum(1, keepdim=True).relu()
    before = scale_to_unit(resize_map(before, images.shape[2:]))
    assert torch.allclose(BackboneGradCAM(network)(images), before, atol=1e-5)
    assert not torch.allclose(before, after, atol=0.1)


def test_cid_s_map_equals_the_network_s_attention_map() -> None:
    network = small_dspp_cid()
    images = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        expected = scale_to_unit(resize_map(network.attention_maps(images)[0], images.shape[2:]))
        explainer = CIDMap(network)
        assert torch.allclose(explainer(images), expected, atol=1e-6)
        network(images)
        assert torch.allclose(explainer(images), expected, atol=1e-6)
    assert expected.std() > 0.05


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["cam", "gradcam", "gradcam++", "gradcam-backbone", "cid", "saliency"]),
        ({"stages": ()}, ["cam", "gradcam", "gradcam++", "gradcam-backbone", "cid", "saliency"]),
        ({"cid": False}, ["cam", "gradcam", "gradcam++", "gradcam-backbone", "saliency"]),
        ({"cid": False, "stages": ()}, ["cam", "gradcam", "gradcam++", "saliency"]),
        ({"cid": False, "stages": (), "backbone": "mobilenet_v2"}, ["cam", "gradcam", "gradcam++", "saliency"]),
        ({"cid": False, "stages": (), "backbone": "resnet18"}, ["cam", "gradcam", "gradcam++", "saliency"]),
    ],
)
def test_an_ablation_is_explained_as_far_as_its_modules_go(options: dict[str, object], names: list[str]) -> None:
    network = small_dspp_cid(**options)
    images = torch.randn(1, 1, 64, 64)
    explainers = make_explainers(network, ["all"])
    assert list(explainers) == names
    for explainer in explainers.values():
        heat_map = explainer(images)
        assert heat_map.shape == (1, 1, 64, 64)
        assert (heat_map.amin(), heat_map.amax()) == (0, 1)


def test_cam_reads_the_one_linear_layer_of_a_classifier_and_refuses_several() -> None:
    network = randomise(MobileNetV2(2, 1, 3, width_mult=0.1))
    images = torch.randn(2, 1, 64, 64)
    heat_map = ClassActivationMap(network)(images, 1)
    with torch.no_grad():
        weight = network.classifier[1].weight[1][:, None, None]
        expected = scale_to_unit(resize_map((weight * network.features(images)).sum(1, keepdim=True), images.shape[2:]))
    assert torch.allclose(heat_map, expected, atol=1e-5)
    vgg = VGG(2, 1, 2, depth=16, base_channels=1)
    with pytest.raises(ValueError, match="needs one linear layer after the pooling, VGG's 'classifier' has 3"):
        ClassActivationMap(vgg)
    assert list(make_explainers(vgg, ["all"])) == ["gradcam", "gradcam++", "saliency"]


def test_a_network_without_the_modules_has_no_maps_of_them() -> None:
    plain = Pooled([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(ValueError, match="the map 'gradcam-backbone' needs a network with D-SPP or CID, got Pooled"):
        make_explainers(plain, ["gradcam-backbone"])
    with pytest.raises(ValueError, match=r"the map 'cid' needs a network with `cid.weigh`, got Pooled"):
        make_explainers(plain, ["cid"])
    with pytest.raises(ValueError, match="which this DSPPCIDNet is without"):
        BackboneGradCAM(small_dspp_cid(stages=(), cid=False))


@pytest.mark.parametrize(("backbone", "last"), [("mobilenet_v2", "features.18"), ("resnet18", "layer4")])
def test_networks_with_attention_pooling_have_maps_whatever_their_backbone(backbone: str, last: str) -> None:
    """The layers of MobileNetV2 are walked through one by one: only the last of them is seen as a whole."""
    network = randomise(MANet(2, 1, 3, backbone=backbone)).eval()
    images = torch.randn(2, 1, 64, 64)
    localisation = LocalisationMap(network)(images)
    mean = network.attention_maps(images)[0].mean(dim=1, keepdim=True)
    torch.testing.assert_close(localisation, scale_to_unit(resize_map(mean, (64, 64))))
    for explainer in (GradCAM, GradCAMPlusPlus):
        map_ = explainer(network)(images, 1)
        assert map_.amax(dim=(1, 2, 3)).tolist() == [1, 1]
        torch.testing.assert_close(map_, explainer(network, features=f"backbone.{last}")(images, 1))
