import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from skimage.transform import resize

from pneumonai.networks.nets import (
    BCNN,
    VGG,
    BackboneUNet,
    DSPPCIDNet,
    FPNClassifier,
    FUSAResNet,
    MANet,
    MobileNetV2,
    ResNet,
    UNetClassifier,
)
from pneumonai.networks.pretrained import PretrainedWeightsError, load_torchvision_weights

IMAGENET = Path(__file__).resolve().parents[2].parent / "shared/data/imagenet_mobilenet_v2/mobilenet_v2.pt"
needs_imagenet = pytest.mark.skipif(
    not IMAGENET.exists(), reason=f"no ImageNet weights beside the checkout: {IMAGENET}"
)

RESNET = partial(ResNet, depth=18, base_channels=2)
FAMILIES = {
    "resnet": RESNET,
    "resnet50": partial(ResNet, depth=50, base_channels=2),
    "vgg": partial(VGG, depth=16, base_channels=1),
    "mobilenet": partial(MobileNetV2, width_mult=0.1),
}
CLASSIFIERS = {"resnet": "fc.", "resnet50": "fc.", "vgg": "classifier.6.", "mobilenet": "classifier.1."}


def random_state(network):
    """A state dict of the network's names and shapes with random values; no value is a starting value of a network."""
    torch.manual_seed(11)
    return {
        name: torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else torch.tensor(77)
        for name, tensor in network.state_dict().items()
    }


@pytest.fixture
def saved(tmp_path):
    """Saves what it is given and returns the path."""

    def save(content):
        torch.save(content, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_three_channels_and_the_same_classes_load_whole(family, saved):
    state = random_state(FAMILIES[family](2, 3, 7))
    network = FAMILIES[family](2, 3, 7)
    assert load_torchvision_weights(network, saved(state)) == []
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_one_channel_sees_a_grey_picture_as_three_equal_planes(family, saved):
    full = FAMILIES[family](2, 3, 7).eval()
    network = FAMILIES[family](2, 1, 7).eval()
    assert load_torchvision_weights(network, saved(full.state_dict())) == []
    grey = torch.rand(2, 1, 64, 64)
    expected = full(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(network(grey), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("family", FAMILIES)
def test_classifier_stays_as_it_was_where_the_classes_differ(family, saved):
    state = random_state(FAMILIES[family](2, 3, 10))
    network = FAMILIES[family](2, 1, 2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    left = load_torchvision_weights(network, saved(state))
    assert left == [CLASSIFIERS[family] + "weight", CLASSIFIERS[family] + "bias"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in left), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_without_classifier_leaves_that_of_the_file(family, saved):
    network = FAMILIES[family](2, 3, 0)
    assert load_torchvision_weights(network, saved(random_state(FAMILIES[family](2, 3, 10)))) == []


def test_attention_stays_as_it_was(saved):
    state = random_state(RESNET(2, 3, 5))
    network = FUSAResNet(2, 1, 5, depth=18, base_channels=2)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    left = load_torchvision_weights(network, saved(state))
    assert left == [name for name in before if ".attention." in name]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in left), name


def test_a_network_with_a_backbone_loads_into_it(saved):
    state = random_state(RESNET(2, 3, 1000))
    network = DSPPCIDNet(2, 1, 2, backbone=RESNET(2, 1, 0), width=4)
    left = load_torchvision_weights(network, saved(state))
    assert left == [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]
    assert torch.equal(network.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    torch.testing.assert_close(network.backbone.conv1.weight, state["conv1.weight"].sum(1, keepdim=True))


BACKBONES = FAMILIES | {"fusa": partial(FUSAResNet, depth=18, base_channels=2)}
NESTED = {
    "dspp_cid": lambda backbone: DSPPCIDNet(2, 1, 2, backbone=backbone, width=4),
    "without modules": lambda backbone: DSPPCIDNet(2, 1, 2, backbone=backbone, stages=(), cid=False),
    "unet": lambda backbone: BackboneUNet(2, 1, 2, backbone=backbone, decoder_channels=(4, 4, 4, 4, 4)),
    "unet classifier": lambda backbone: UNetClassifier(2, 1, 2, backbone=backbone),
    "fpn classifier": lambda backbone: FPNClassifier(2, 1, 2, backbone=backbone),
}


@pytest.mark.parametrize("nest", NESTED)
@pytest.mark.parametrize("family", BACKBONES)
def test_every_backbone_loads_inside_every_network_that_carries_one(family, nest, saved):
    plain = "resnet" if family == "fusa" else family
    state = random_state(FAMILIES[plain](2, 3, 10))
    network = NESTED[nest](BACKBONES[family](2, 1, 0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    left = load_torchvision_weights(network, saved(state))
    names = [name for name, _ in network.named_parameters()]
    assert left == [name for name in names if not name.startswith("backbone.") or ".attention." in name]
    for name, tensor in network.state_dict().items():
        if not name.startswith("backbone.") or ".attention." in name:
            assert torch.equal(tensor, before[name]), name
            continue
        given = state[name.removeprefix("backbone.")]
        torch.testing.assert_close(tensor, given.sum(1, keepdim=True) if given.shape != tensor.shape else given)


@pytest.mark.parametrize("network", [BCNN, MANet])
def test_the_backbone_of_a_named_network_loads_too(network, saved):
    state = random_state(ResNet(2, 3, 10, depth=18))
    small = network(2, 1, 2, backbone="resnet18")
    left = load_torchvision_weights(small, saved(state))
    assert left == [name for name, _ in small.named_parameters() if not name.startswith("backbone.")]
    assert torch.equal(small.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


@pytest.mark.parametrize(("classes", "left"), [(10, []), (2, ["backbone.fc.weight", "backbone.fc.bias"])])
def test_a_backbone_that_keeps_its_classifier_takes_it_where_the_classes_agree(classes, left, saved):
    state = random_state(ResNet(2, 3, 10, depth=18))
    network = DSPPCIDNet(2, 1, classes, backbone="resnet18", stages=(), cid=False)
    assert load_torchvision_weights(network, saved(state)) == left
    assert torch.equal(network.backbone.fc.weight, state["fc.weight"]) == (not left)


def test_another_family_inside_a_network_is_refused_with_what_is_missing(saved):
    network = DSPPCIDNet(2, 1, 2, backbone=FAMILIES["mobilenet"](2, 1, 0), width=4)
    path = saved(random_state(RESNET(2, 3, 10)))
    wanted = sum(not name.endswith("num_batches_tracked") for name in network.backbone.state_dict())
    unchanged_and_refused(
        network, path, "not those of MobileNetV2", f"{wanted} missing in the file: features.0.0.weight"
    )


def test_half_precision_and_files_without_counts_of_batches_load(saved):
    state = {name: tensor.half() for name, tensor in random_state(RESNET(2, 3, 5)).items() if tensor.dim()}
    network = RESNET(2, 3, 5)
    assert load_torchvision_weights(network, saved(state)) == []
    assert network.conv1.weight.dtype == torch.float32
    assert torch.equal(network.conv1.weight, state["conv1.weight"].float())


def unchanged_and_refused(network, path, *words):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(PretrainedWeightsError) as caught:
        load_torchvision_weights(network, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for word in words:
        assert word in caught.value.reason, caught.value.reason
    assert caught.value.subject == str(path)
    assert caught.value.remedy in str(caught.value)
    return caught.value


def test_a_file_that_lacks_parameters_is_refused_with_their_names(saved):
    state = random_state(RESNET(2, 3, 5))
    del state["layer2.0.downsample.0.weight"], state["bn1.bias"]
    error = unchanged_and_refused(
        RESNET(2, 1, 5),
        saved(state),
        "not those of ResNet",
        "2 missing in the file: bn1.bias, layer2.0.downsample.0.weight",
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_another_family_and_another_width_are_refused(saved):
    vgg = saved(random_state(FAMILIES["vgg"](2, 3, 5)))
    unchanged_and_refused(RESNET(2, 3, 5), vgg, "missing in the file: conv1.weight", "32 unknown to the network: feat")
    wide = saved(random_state(ResNet(2, 3, 5, depth=18, base_channels=4)))
    unchanged_and_refused(
        RESNET(2, 3, 5),
        wide,
        "of another shape: conv1.weight (4 x 3 x 7 x 7 in the file, 2 x 3 x 7 x 7 in the network)",
    )
    unchanged_and_refused(ResNet(3, 3, 5, depth=18, base_channels=2), saved(random_state(RESNET(2, 3, 5))), "2 x 3 x 7")


def test_two_input_channels_are_refused(saved):
    path = saved(random_state(RESNET(2, 3, 5)))
    unchanged_and_refused(RESNET(2, 2, 5), path, "1 of another shape: conv1.weight (2 x 3 x 7 x 7 in the file, 2 x 2 x")


def test_what_is_no_state_dict_is_refused(saved, tmp_path):
    network = RESNET(2, 1, 2)
    unchanged_and_refused(network, tmp_path / "none.pth", "cannot be read (No such file or directory)")
    unchanged_and_refused(network, saved([torch.zeros(1)]), "no state dict")
    unchanged_and_refused(network, saved({"model": {"conv1.weight": torch.zeros(1)}}), "no state dict")
    unchanged_and_refused(network, saved({1: torch.zeros(1)}), "no state dict")
    unchanged_and_refused(network, saved(network), "no file of tensors alone")
    text = tmp_path / "page.html"
    text.write_text("<html>not found</html>")
    unchanged_and_refused(network, text, "no file of tensors alone")
    text.write_bytes(b"")
    unchanged_and_refused(network, text, "no file of tensors alone")


@needs_imagenet
def test_imagenet_weights_load_strictly_and_name_pictures():
    """A cat (classes 281 to 285 are house cats) and a cup of espresso (967)."""
    network = MobileNetV2(2, 3, 1000).eval()
    network.load_state_dict(torch.load(IMAGENET, weights_only=True), strict=True)
    pictures = [resize(picture[:, start : start + side], (224, 224), anti_aliasing=True)
                for picture, start, side in ((data.chelsea(), 75, 300), (data.coffee(), 100, 400))]  # fmt: skip
    x = torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2)).float() * 2 - 1
    with torch.no_grad():
        probabilities = network(x).softmax(1)
    assert 281 <= probabilities[0].argmax() <= 285
    assert probabilities[0, 281:286].sum() > 0.5
    assert probabilities[1].argmax() == 967


@needs_imagenet
def test_imagenet_weights_load_into_the_shipped_default():
    network = DSPPCIDNet(2, 1, 2, backbone="mobilenet_v2")
    left = load_torchvision_weights(network, IMAGENET)
    assert left == [name for name, _ in network.named_parameters() if not name.startswith("backbone.")]
