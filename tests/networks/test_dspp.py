import itertools

import pytest
import torch

from pneumonai.networks.blocks import CID, DSPP

STRIDES = {4: 8, 5: 16, 6: 32}


def positive_module(strides, alpha=3, width=2):
    """A module that neither cancels nor clips: positive weights, normalisation without offset."""
    torch.manual_seed(0)
    module = DSPP(2, [2] * len(strides), strides=strides, width=width, alpha=alpha).eval()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
            if name.endswith(("running_mean", "bias")):
                tensor.zero_()
    return module


def maps(strides, size, rounding=lambda side, stride: -(-side // stride)):
    return [torch.rand(1, 2, *(rounding(side, stride) for side in size)) for stride in strides]


@pytest.mark.parametrize("alpha", [1, 2, 3])
@pytest.mark.parametrize("stages", [(4, 5, 6), (5, 6), (4, 6), (6,)])
def test_taps_of_every_branch_lie_equally_far_apart_in_input_pixels(stages, alpha):
    """One bright position is seen by its branch at itself and at its eight taps, alpha * 32 input pixels away."""
    strides = [STRIDES[stage] for stage in stages]
    module = positive_module(strides, alpha)
    for stride, branch, rate in zip(strides, module.branches, module.rates, strict=True):
        centre, side = 2 * rate, 4 * rate + 1
        bright = torch.zeros(1, 2, side, side)
        bright[..., centre, centre] = 1
        seen = branch[0](bright)[0].sum(0).nonzero() - centre
        offsets = {tuple(pixel) for pixel in (seen * stride).tolist()}
        assert offsets == set(itertools.product((-32 * alpha, 0, 32 * alpha), repeat=2))


@pytest.mark.parametrize("stages", [(4, 5, 6), (5, 6), (6,)])
@pytest.mark.parametrize("size", [(224, 224), (225, 250), (40, 33)])
def test_every_position_of_every_map_reaches_the_output(stages, size):
    strides = [STRIDES[stage] for stage in stages]
    module = positive_module(strides)
    features = [part.requires_grad_() for part in maps(strides, size)]
    module(features)[:, :2].sum().backward()
    for part in features:
        assert (part.grad > 0).all()


@pytest.mark.parametrize("stages", [(4, 5, 6), (5, 6), (6,)])
def test_a_change_at_any_position_of_any_map_changes_the_fused_output(stages):
    module = positive_module([STRIDES[stage] for stage in stages])
    features = maps([STRIDES[stage] for stage in stages], (96, 70))
    before = module(features)[:, :2]
    for index, part in enumerate(features):
        positions = part[0, 0].numel()
        changed = part.repeat(positions, 1, 1, 1).flatten(2)
        changed[torch.arange(positions), 1, torch.arange(positions)] += 1
        repeated = [other.repeat(positions, 1, 1, 1) for other in features]
        repeated[index] = changed.unflatten(2, part.shape[2:])
        difference = (module(repeated)[:, :2] - before).abs().amax(dim=(1, 2, 3))
        assert (difference > 1e-4).all()


def test_every_position_reaches_the_output_where_a_backbone_rounds_down():
    """VGG's stages at 250 x 250 are 31, 15 and 7 positions a side: the last window of 31 is cut, its taps are not."""
    module = positive_module([8, 16, 32])
    features = [part.requires_grad_() for part in maps([8, 16, 32], (250, 250), lambda side, stride: side // stride)]
    assert [part.shape[2] for part in features] == [31, 15, 7]
    output = module(features)
    assert output.shape == (1, 4, 7, 7)
    output.sum().backward()
    assert all((part.grad > 0).all() for part in features)


def test_output_is_the_fused_map_beside_the_last_one():
    module = positive_module([8, 16, 32])
    features = maps([8, 16, 32], (96, 64))
    output = module(features)
    assert module.out_channels == output.shape[1] == 4
    assert output.shape[2:] == (3, 2)
    assert torch.equal(output[:, 2:], features[2])
    pooled = [branch(part) for branch, part in zip(module.branches, features, strict=True)]
    torch.testing.assert_close(output[:, :2], module.fuse(torch.cat(pooled, dim=1)))


def test_pooling_is_the_mean_of_whole_and_of_incomplete_windows():
    pool = DSPP(2, [1, 1], strides=[16, 32], width=1).branches[0][-1]
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert pool(x)[0, 0].tolist() == [[2.0, 3.5], [6.5, 8.0]]


@pytest.mark.parametrize(
    ("spatial_dims", "in_channels", "out_channels"), [(2, (512, 1024, 2048), 2304), (3, (32, 96, 1280), 1536)]
)
def test_widths_of_the_paper(spatial_dims, in_channels, out_channels):
    with torch.device("meta"):
        module = DSPP(spatial_dims, in_channels, strides=(8, 16, 32))
        features = [
            torch.empty(1, width, *[side] * spatial_dims) for width, side in zip(in_channels, (8, 4, 2), strict=True)
        ]
        output = module(features)
    assert module.rates == (12, 6, 3)
    assert output.shape == (1, out_channels, *[2] * spatial_dims)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"strides": (8, 16)}, "one entry a stage.*got \\(4, 4, 4\\) and \\(8, 16\\)"),
        ({"in_channels": (), "strides": ()}, "one entry a stage"),
        ({"strides": (16, 8, 32)}, "strides must grow.*got \\(16, 8, 32\\)"),
        ({"strides": (8, 12, 32)}, "the last be a multiple of each"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        DSPP(**{"spatial_dims": 2, "in_channels": (4, 4, 4), "strides": (8, 16, 32), "width": 4, **options})


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_cid_weighs_all_channels_of_a_position_alike(spatial_dims):
    torch.manual_seed(1)
    module = CID(spatial_dims, 12)
    x = torch.randn(2, 12, *[5, 4, 3][:spatial_dims])
    attention = module.attention(x)
    assert attention.shape == (2, 1, *x.shape[2:])
    assert ((attention > 0) & (attention < 1)).all()
    assert attention.std() > 0
    torch.testing.assert_close(module(x), x * attention)
    assert sum(parameter.numel() for parameter in module.parameters()) == 12 * 3 + 3 + 3 + 1


def test_cid_by_hand():
    module = CID(2, 4)
    values = {"0.weight": [1.0, 2.0, 0.0, -1.0], "0.bias": [-2.0], "2.weight": [3.0], "2.bias": [0.5]}
    state = module.state_dict()
    module.load_state_dict({f"weigh.{name}": torch.tensor(value).reshape(state[f"weigh.{name}"].shape)
                            for name, value in values.items()})  # fmt: skip
    x = torch.tensor([[1.0, 0.0], [1.0, 0.5], [7.0, 7.0], [0.0, 0.0]]).reshape(1, 4, 1, 2)
    # ReLU of 1 + 2 - 2 = 1 and of 0 + 1 - 2 = -1; logits 3 * 1 + 0.5 and 0.5
    torch.testing.assert_close(module.attention(x).flatten(), torch.sigmoid(torch.tensor([3.5, 0.5])))


@pytest.mark.parametrize(("options", "message"), [((1, 8), "got 1"), ((2, 3), "in_channels must be at least 4, got 3")])
def test_cid_refuses_bad_arguments_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        CID(*options)
