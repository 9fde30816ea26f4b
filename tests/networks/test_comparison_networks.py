"""The networks that MAG-SD is compared with: COVID-Net, BCNN, FPN and U-Net as classifiers."""

from functools import partial

import pytest
import torch
from random_networks import randomise

from pneumonai.networks.nets import BCNN, COVIDNet, FPNClassifier, MobileNetV2, ResNet, UNetClassifier
from pneumonai.networks.nets.covid_net import PEPX, Stage
from pneumonai.networks.pretrained import load_torchvision_weights


def backbone(spatial_dims=2, in_channels=1):
    return ResNet(spatial_dims, in_channels, 0, depth=18, base_channels=4)


NETWORKS = {
    "covid_net": lambda dims=2: COVIDNet(dims, 1, 3, base_channels=4),
    "bcnn": lambda dims=2: BCNN(dims, 1, 3, backbone=backbone(dims), stage=6),
    "bcnn_attention": lambda dims=2: BCNN(dims, 1, 3, backbone=backbone(dims), attention=True, num_attention_maps=4),
    "fpn": lambda dims=2: FPNClassifier(dims, 1, 3, backbone=backbone(dims), pyramid_channels=8),
    "unet": lambda dims=2: UNetClassifier(dims, 1, 3, backbone=backbone(dims), decoder_channels=(8, 8, 4, 4, 4)),
}


@pytest.mark.parametrize(
    ("build", "count"),
    [
        # Its authors' page: 127.4 million.
        (lambda: COVIDNet(2, 3, 3), 127_416_531),
        # VGG-16 without its classifier, and 512 x 512 products.
        (lambda: BCNN(2, 3, 3), 14_714_688 + 3 * (512 * 512 + 1)),
        # Two 1x1 convolutions to 32 maps with BN, and 32 x 512 pooled channels.
        (
            lambda: BCNN(2, 3, 3, attention=True),
            14_714_688 + 3 * (512 * 512 + 32 * 512 + 1) + 2 * (512 * 32 + 64),
        ),
        # ResNet-50 without its classifier, 1x1 and 3x3 convolutions a level.
        (
            lambda: FPNClassifier(2, 3, 3),
            23_508_032 + 256 * (256 + 512 + 1024 + 2048 + 4) + 4 * (256 * 256 * 9 + 256) + 3 * (4 * 256 + 1),
        ),
    ],
)
def test_count_of_parameters(build, count):
    with torch.device("meta"):
        network = build()
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("name", NETWORKS)
def test_scripted_and_exported_agree_with_eager(name):
    network = randomise(NETWORKS[name]())
    x = torch.randn(2, 1, 65, 70)
    expected = network(x)
    assert expected.shape == (2, 3)
    assert expected.std() > 0.01
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_volumes_and_the_smallest_size_work(name):
    assert randomise(NETWORKS[name](3))(torch.randn(1, 1, 32, 33, 40)).shape == (1, 3)
    assert torch.isfinite(randomise(NETWORKS[name]())(torch.randn(1, 1, 32, 32))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_gets_a_finite_gradient(name):
    network = randomise(NETWORKS[name]()).train()
    network(torch.randn(2, 1, 96, 96)).square().sum().backward()
    for key, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["bcnn", "bcnn_attention", "fpn", "unet"])
def test_torchvision_weights_load_into_the_backbone(name, tmp_path):
    state = randomise(ResNet(2, 3, 1000, depth=18, base_channels=4)).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    network = NETWORKS[name]()
    left = load_torchvision_weights(network, tmp_path / "resnet18.pth")
    assert left == [key for key, _ in network.named_parameters() if not key.startswith("backbone.")]
    assert torch.equal(network.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_stage_of_covid_net_sums_all_before_it():
    stage = randomise(Stage(2, 4, 6, modules=3))
    x = torch.randn(2, 4, 5, 5)
    total = stage.connection(x) + stage.first(x)
    total = total + stage.others[0](total)
    torch.testing.assert_close(stage(x), total + stage.others[1](total))


def test_pepx_projects_expands_looks_around_projects_and_extends():
    convolutions = [module for module in PEPX(2, 64, 256).modules() if isinstance(module, torch.nn.Conv2d)]
    described = [(conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.groups) for conv in convolutions]
    assert described == [(64, 24, 1, 1), (24, 48, 1, 1), (48, 48, 3, 48), (48, 24, 1, 1), (24, 256, 1, 1)]


def test_bilinear_pooling_is_the_mean_of_all_products():
    network = randomise(NETWORKS["bcnn"]())
    x = torch.randn(2, 1, 64, 64)
    features = network.backbone.forward_features(x)[2].flatten(2)
    products = torch.einsum("bip,bjp->bij", features, features).flatten(1) / features.shape[2]
    roots = products.sign() * products.abs().sqrt()
    row = 100 * roots / roots.norm(dim=1, keepdim=True)
    torch.testing.assert_close(network(x), network.classifier(row), rtol=1e-3, atol=1e-3)


def test_attention_is_appended_to_the_bilinear_row():
    network = randomise(NETWORKS["bcnn_attention"]())
    x = torch.randn(2, 1, 64, 96)
    logits, maps = network.forward_all(x)
    assert torch.equal(network(x), logits)
    assert maps.shape == (2, 4, 2, 3)
    assert maps.min() >= 0
    _, fifth, sixth = network.backbone.forward_features(x)
    torch.testing.assert_close(network.generator([fifth, sixth]), maps)
    row = torch.cat([network.pool(fifth, fifth), network.pool(sixth, maps)], dim=1)
    torch.testing.assert_close(network.classifier(row), logits)


def test_pyramid_sees_every_stage():
    network = randomise(NETWORKS["fpn"]())
    x = torch.randn(1, 1, 64, 64)
    before = network(x)
    for level in range(4):
        changed = randomise(NETWORKS["fpn"]())
        changed.pyramid.layer_blocks[level].bias.data += 1
        # The mean of one level's eight channels grows by one.
        weight = changed.classifier.weight[:, 8 * level : 8 * (level + 1)].sum(dim=1)
        torch.testing.assert_close(changed(x) - before, weight[None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(COVIDNet, 2, 1, 0), "num_classes must be at least 1, got 0"),
        (partial(COVIDNet, 4, 1, 2), "spatial_dims must be 2 or 3, got 4"),
        (partial(BCNN, 2, 1, 2, stage=3), "stage must be 4, 5 or 6, got 3"),
        (partial(BCNN, 2, 1, 2, backbone="lenet"), "backbone must be one of"),
        (partial(FPNClassifier, 2, 1, 2, pyramid_channels=0), "pyramid_channels must be at least 1, got 0"),
        (partial(FPNClassifier, 2, 1, 2, backbone=torch.nn.Identity()), "a backbone must publish out_channels"),
        (partial(UNetClassifier, 2, 1, 0, backbone=MobileNetV2(2, 1, 0, width_mult=0.1)), "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()
