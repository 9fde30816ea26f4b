from functools import partial

import pytest
import torch
from random_networks import randomise

from pneumonai.networks.nets import InceptionV3
from pneumonai.networks.pretrained import PretrainedWeightsError, load_torchvision_weights

SMALL = partial(InceptionV3, base_channels=2)


def test_torchvision_s_counts_names_and_shapes():
    with torch.device("meta"):
        state = InceptionV3(2, 3, 1000).state_dict()
        without = InceptionV3(2, 3, 1000, auxiliary=False)
    parameters = [name for name in state if "running" not in name and "num_batches" not in name]
    assert sum(state[name].numel() for name in parameters) == 27_161_264
    assert sum(parameter.numel() for parameter in without.parameters()) == 23_834_568
    # 94 convolutions without bias and their five entries of BN, two of them in the auxiliary head; two linear layers.
    assert len(state) == 96 * 6 + 2 * 2
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3dbl_3.conv.weight": (96, 96, 3, 3),
        "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
        "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7),
        "AuxLogits.conv1.conv.weight": (768, 128, 5, 5),
        "AuxLogits.fc.weight": (1000, 768),
        "Mixed_7a.branch7x7x3_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1000, 2048),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert {module.eps for module in without.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.001}


@pytest.mark.parametrize(("side", "sizes"), [(299, (35, 17, 8)), (224, (25, 12, 5)), (75, (7, 3, 1))])
def test_sizes(side, sizes):
    with torch.device("meta"):
        network = InceptionV3(2, 1, 3)
        seen = []
        for stage in (network.Mixed_5d, network.Mixed_6e, network.Mixed_7c):
            stage.register_forward_hook(lambda _, __, output: seen.append(output.shape[1:]))
        assert network.eval()(torch.empty(2, 1, side, side)).shape == (2, 3)
    assert seen == [(channels, size, size) for channels, size in zip((288, 768, 2048), sizes, strict=True)]


@pytest.mark.parametrize(("sides", "on"), [((299, 300), True), ((400, 298), False)])
def test_the_auxiliary_classifier_is_off_below_299_pixels(sides, on):
    with torch.device("meta"):
        network = InceptionV3(2, 1, 3, base_channels=4)
        x = torch.empty(2, 1, *sides)
        logits, auxiliary = network.forward_all(x)
        assert InceptionV3(2, 1, 3, auxiliary=False).forward_all(x)[1] is None
    assert logits.shape == (2, 3)
    assert (auxiliary is not None) == on
    if auxiliary is not None:
        assert auxiliary.shape == (2, 3)


def test_scripted_and_exported_agree_with_eager():
    network = randomise(SMALL(2, 1, 3))
    x = torch.randn(2, 1, 80, 91)
    expected = network(x)
    assert expected.std() > 0.01
    assert torch.equal(network.forward_all(x)[0], expected)
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_finite_gradient():
    network = randomise(SMALL(2, 1, 3)).train()
    logits, auxiliary = network.forward_all(torch.randn(2, 1, 299, 299))
    (logits.square().sum() + auxiliary.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.fixture
def saved(tmp_path):
    """A file of the small network with three channels and ten classes, and the network."""
    network = randomise(SMALL(2, 3, 10))
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    return tmp_path / "inception.pth", network


def test_torchvision_weights_load_whole(saved):
    path, full = saved
    network = SMALL(2, 3, 10)
    assert load_torchvision_weights(network, path) == []
    assert all(torch.equal(value, full.state_dict()[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("auxiliary", [True, False])
def test_other_classes_leave_both_classifiers_and_grey_pictures_give_the_same(saved, auxiliary):
    path, full = saved
    network = SMALL(2, 1, 3, auxiliary=auxiliary).eval()
    left = load_torchvision_weights(network, path)
    heads = ["AuxLogits.fc.weight", "AuxLogits.fc.bias", "fc.weight", "fc.bias"]
    assert left == heads if auxiliary else left == heads[2:]
    grey = torch.rand(1, 1, 96, 96)
    for each in (full, network):
        each.fc = torch.nn.Identity()
    expected = full(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(network(grey), expected, rtol=1e-4, atol=1e-4)


def test_another_network_s_weights_are_refused(saved):
    with pytest.raises(PretrainedWeightsError, match="not those of InceptionV3"):
        load_torchvision_weights(InceptionV3(2, 3, 10, base_channels=4), saved[0])


def test_bad_arguments_and_small_pictures_are_refused_in_words():
    with pytest.raises(ValueError, match=r"spatial_dims must be 2, as .* got 3"):
        InceptionV3(3, 1, 2)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        InceptionV3(2, 1, 0)
    with pytest.raises(ValueError, match=r"each side must be at least 75, got .*80, 74"):
        SMALL(2, 1, 2)(torch.zeros(1, 1, 80, 74))
