"""Saliency, the teacher's attention, offsets and LRP against known truths; slices of which few are explained."""

from __future__ import annotations

import math

import pytest
import torch
from monai.visualize import VanillaGrad
from random_networks import randomise
from torch import nn

from pneumonai.networks.nets import NLRAN, AttentionTransferNet, DenseNet, ResNet
from pneumonai.pipeline.explain import (
    GradCAM,
    OffsetMap,
    RelevanceMap,
    Saliency,
    SliceBySlice,
    TeacherAttention,
    make_explainers,
    scale_to_unit,
)


def small(**options: object) -> AttentionTransferNet:
    network = AttentionTransferNet(2, 1, 3, growth_rate=4, block_config=(2, 2, 1), **options)  # type: ignore[arg-type]
    return randomise(network)


def without_biases(network: nn.Module) -> nn.Module:
    """Batch normalisation that only multiplies, and no bias anywhere."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.zero_()
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.bias)
    return network


@pytest.fixture(autouse=True)
def on_one_thread(one_thread: None) -> None:
    """See ``one_thread``."""


def test_saliency_equals_monai_s_gradient_and_leaves_nothing_behind() -> None:
    network = randomise(ResNet(2, 2, 3, depth=18, base_channels=4))
    images = torch.randn(2, 2, 48, 64)
    made = Saliency(network)(images, torch.tensor([2, 0]))
    assert all(parameter.grad is None for parameter in network.parameters())
    for number, label in enumerate((2, 0)):
        theirs = VanillaGrad(network)(images[number : number + 1].clone(), index=label)
        assert torch.allclose(made[number], scale_to_unit(theirs.abs().amax(1, keepdim=True))[0], atol=1e-5)
    with torch.inference_mode():
        network.to(memory_format=torch.channels_last)
        assert torch.allclose(Saliency(network)(images), Saliency(network)(images, network(images).argmax(1)))
    with pytest.raises(ValueError, match="for 2D networks, got the 3D NLRAN"):
        Saliency(NLRAN(base_channels=4))


def test_maps_of_the_student_hold_its_fused_input_fixed() -> None:
    network = small()
    images = torch.randn(2, 1, 64, 64)
    fused = network.forward_all(images).fused.detach()
    assert not torch.allclose(fused, images)
    for explainer in (Saliency, RelevanceMap):
        assert torch.allclose(explainer(network)(images), explainer(network.student)(fused), atol=1e-6)
    # Grad-CAM by its definition, on the student's last features.
    features = network.student.features(fused).detach().relu().requires_grad_()
    logits = network.student.classifier(features.mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), features)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()
    made = nn.functional.interpolate(scale_to_unit(expected), size=64, mode="bilinear")
    assert torch.allclose(GradCAM(network)(images), scale_to_unit(made), atol=1e-4)


def test_the_teacher_s_attention_is_the_sum_of_both_maps() -> None:
    images = torch.randn(2, 1, 64, 64)
    for network in (small(), small(transfer=False)):
        maps = network.forward_all(images).maps
        network.train()
        made = TeacherAttention(network)(images)
        assert all(layer.training for layer in network.modules())
        assert torch.equal(made, scale_to_unit((maps[0] + maps[1]).detach()))
        assert made.std() > 0.05


def test_offsets_that_are_known_give_their_length_in_pixels_of_the_picture() -> None:
    """A constant offset of -0.5 columns and 1.5 rows: 1 pixel of a map on average, 4 and 8 of the picture."""
    network = small()
    for module in (network.teacher.attention1, network.teacher.attention2):
        for convolution, moved in ((module.u, -0.5), (module.v, 1.5)):
            nn.init.zeros_(convolution.offset.weight)
            nn.init.constant_(convolution.offset.bias, moved)
    lengths = OffsetMap(network).lengths(torch.randn(2, 1, 64, 64))
    assert [tuple(one.shape) for one in lengths] == [(2, 1, 16, 16), (2, 1, 8, 8)]
    assert torch.allclose(lengths[0], torch.tensor(4.0))
    assert torch.allclose(lengths[1], torch.tensor(8.0))
    # Where one tap of nine moves further at one place, that place shines.
    nn.init.zeros_(network.teacher.attention2.v.offset.bias)
    nn.init.zeros_(network.teacher.attention2.u.offset.bias)
    network.teacher.attention1.u.offset.weight.data[4, :, 1, 1] = 1.0
    images = torch.zeros(1, 1, 64, 64)
    images[..., 40:48, 16:24] = 5.0
    heat_map = OffsetMap(network)(images)
    assert (heat_map.amin(), heat_map.amax()) == (0, 1)
    found = OffsetMap(network).lengths(images)[0][0, 0]
    assert (
        heat_map[0, 0].argmax()
        == nn.functional.interpolate(
            (found + OffsetMap(network).lengths(images)[1].mean())[None, None], size=64, mode="bilinear"
        ).argmax()
    )


@pytest.mark.parametrize("options", [{}, {"gamma": False}, {"transfer": False, "deformable_attention": False}])
def test_relevance_is_conserved_without_biases(options: dict[str, object]) -> None:
    network = without_biases(small(**options))
    images = torch.randn(3, 1, 64, 64)
    for classes in (None, 0, torch.tensor([0, 2, 1])):
        relevance, scores = RelevanceMap(network).relevance(images, classes)
        assert relevance.shape == images.shape
        assert torch.allclose(relevance.sum(dim=(1, 2, 3)), scores, rtol=0.01, atol=0.02)
    logits = network(images)
    assert torch.allclose(scores, logits.gather(1, torch.tensor([[0], [2], [1]]))[:, 0], atol=1e-4)


def shared_out(layer: object, x: torch.Tensor, relevance: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The epsilon rule written out: the layer as a matrix and a bias, share by share."""
    zero = torch.zeros_like(x)
    bias = layer(zero).flatten()  # type: ignore[operator]
    matrix = torch.autograd.functional.jacobian(layer, zero).reshape(len(bias), x.numel())
    y = matrix @ x.flatten() + bias
    shares = matrix * x.flatten() / (y + epsilon * torch.where(y < 0, -1.0, 1.0))[:, None]
    return (shares * relevance.flatten()[:, None]).sum(dim=0).reshape(x.shape)


def slow_relevance(network: DenseNet, image: torch.Tensor, label: int, epsilon: float) -> torch.Tensor:
    """LRP of a DenseNet of one block with two layers, a step at a time, all values kept."""
    parts = dict(network.features.named_children())
    block = parts["denseblock1"]
    gamma = [1.0] * len(block) if block.gamma is None else block.gamma.tolist()
    stem = lambda x: parts["norm0"](parts["conv0"](x))  # noqa: E731
    stemmed = stem(image).relu()
    pooled, places = nn.functional.max_pool2d(stemmed, 3, 2, 1, return_indices=True)
    sources = [pooled]
    steps = []
    for layer in block:
        read = torch.cat(sources, dim=1)
        factors = torch.cat([torch.full((s.shape[1], 1, 1), g) for s, g in zip(sources, gamma, strict=False)])
        normed = layer.norm1(read).relu()
        bottleneck = lambda x, layer=layer, factors=factors: layer.norm2(layer.conv1(x * factors))  # noqa: E731
        inner = bottleneck(normed).relu()
        steps.append((layer, read, normed, bottleneck, inner))
        sources.append(layer.conv2(inner))
    last = torch.cat(sources, dim=1)
    features = parts["norm5"](last).relu()
    length = features.mean(dim=(2, 3)).norm()
    weight = network.classifier.scale * network.classifier.weight / network.classifier.weight.norm(dim=1, keepdim=True)
    head = lambda x: x.mean(dim=(2, 3)) / length @ weight[label]  # noqa: E731
    relevance = shared_out(head, features, head(features), epsilon)
    relevance = shared_out(parts["norm5"], last, relevance, epsilon)
    for layer, read, normed, bottleneck, inner in reversed(steps):
        of_sources, own = relevance[:, : read.shape[1]], relevance[:, read.shape[1] :]
        own = shared_out(layer.conv2, inner, own, epsilon)
        own = shared_out(bottleneck, normed, own, epsilon)
        relevance = of_sources + shared_out(layer.norm1, read, own, epsilon)
    unpooled = torch.zeros_like(stemmed).flatten(2)
    unpooled.scatter_add_(2, places.flatten(2), relevance.flatten(2))
    return shared_out(stem, image, unpooled.reshape(stemmed.shape), epsilon)


@pytest.mark.parametrize("gamma", [True, False])
def test_relevance_equals_the_rule_written_out_layer_by_layer(gamma: bool) -> None:
    network = DenseNet(2, 1, 3, growth_rate=2, block_config=(2,), gamma=gamma, cosine_head=True)
    randomise(network).double()
    image = torch.randn(1, 1, 16, 12, dtype=torch.float64)
    label = int(network(image).argmax())
    with torch.no_grad():
        expected = slow_relevance(network, image, label, 0.01)
    found, _ = RelevanceMap(network, epsilon=0.01).relevance(image)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    heat_map = RelevanceMap(network, epsilon=0.01)(image)
    assert torch.allclose(heat_map.double(), scale_to_unit(expected.relu()), atol=1e-6)


def test_relevance_runs_where_predict_runs_it_and_leaves_the_network_as_it_was() -> None:
    network = small()
    images = torch.randn(1, 1, 64, 64)
    expected = RelevanceMap(network)(images)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.inference_mode():
        network.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            made = RelevanceMap(network)(images)
    # The teacher's pass is bfloat16's, the student's full precision.
    assert nn.functional.cosine_similarity(made.flatten(), expected.flatten(), dim=0) > 0.98
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_networks_say_which_maps_they_allow() -> None:
    everything = ["cam", "gradcam", "gradcam++", "teacher-attention", "offsets", "lrp", "saliency"]
    assert list(make_explainers(small(), ["all"])) == everything
    plain = small(transfer=False, deformable_attention=False)
    assert list(make_explainers(plain, ["all"])) == ["cam", "gradcam", "gradcam++", "lrp", "saliency"]
    attending = small(transfer=False)
    assert "lrp" not in make_explainers(attending, ["all"])
    with pytest.raises(ValueError, match="needs a DenseNet without deformable attention, whose layers it knows"):
        RelevanceMap(ResNet(2, 1, 2, depth=18, base_channels=4))
    with pytest.raises(ValueError, match="needs an AttentionTransferNet, got ResNet"):
        OffsetMap(ResNet(2, 1, 2, depth=18, base_channels=4))
    with pytest.raises(ValueError, match="which this network is without"):
        TeacherAttention(plain)
    with pytest.raises(ValueError, match="epsilon must be above 0, got 0"):
        RelevanceMap(plain, epsilon=0)


class Brightness(nn.Module):
    """Two classes by the mean grey value; counts the slices that went through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


class Itself:
    """An explainer whose map is the image."""

    name = method = shows = "itself"

    def __init__(self) -> None:
        self.classes: list[int] = []

    def __call__(self, images: torch.Tensor, classes: torch.Tensor | int | None = None) -> torch.Tensor:
        self.classes += torch.as_tensor(classes).tolist()
        return images


def test_of_a_volume_the_highest_slices_alone_are_explained() -> None:
    levels = torch.tensor([[0.1, 2.0, -1.0, 0.5, 1.0, 0.2, 0.3], [-0.5, -0.1, 0.0, 3.0, 2.0, 1.0, -2.0]])
    volumes = levels[:, None, :, None, None].expand(2, 1, 7, 4, 4).contiguous()
    network, explainer = Brightness(), Itself()
    maps = SliceBySlice(network, explainer, batch_size=2, highest=3)(volumes)
    assert network.seen == 14
    assert len(explainer.classes) == 6
    explained = [[1, 3, 4], [3, 4, 5]]
    for volume, chosen in enumerate(explained):
        assert maps[volume, 0].flatten(1).any(dim=1).nonzero().flatten().tolist() == chosen
        for number in chosen:
            level = float(levels[volume, number])
            assert maps[volume, 0, number, 0, 0].item() == pytest.approx(level / (1 + math.exp(-2 * level)), rel=1e-5)
    known = network(volumes.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 7)).transpose(1, 2)
    network.seen = 0
    again = SliceBySlice(network, Itself(), highest=3)(volumes, slice_logits=known)
    assert network.seen == 0
    assert torch.allclose(again, maps)
    picture = SliceBySlice(network, Itself(), highest=3)(volumes[:1, :, :1])
    assert torch.equal(picture, volumes[:1, :, :1])
