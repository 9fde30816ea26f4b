import pytest
import torch
from random_networks import randomise

from pneumonai.networks.nets import AttentionTransferNet, DenseNet
from pneumonai.networks.nets.attention_transfer import attention_maps, fuse

SMALL = {"growth_rate": 4, "block_config": (2, 2, 1)}
ROWS = {  # Table V: deformable_attention, gamma, cosine_head, transfer
    "densenet": (False, False, False, False),
    "gamma": (False, True, False, False),
    "attention": (True, False, False, False),
    "cosine": (False, False, True, False),
    "all": (True, True, True, True),
}


def small(row="all", **options):
    names = ("deformable_attention", "gamma", "cosine_head", "transfer")
    return AttentionTransferNet(2, 1, 3, **SMALL, **dict(zip(names, ROWS[row], strict=True)), **options)


def counted(**options):
    with torch.device("meta"):
        network = AttentionTransferNet(2, 1, 3, **options)
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_paper_s_width_has_the_published_count():
    assert counted() / 1e6 == pytest.approx(15.8, abs=0.05)


def test_parts_add_what_their_wiring_says():
    """Stem 7x7 of one channel; 58 gammas; 1,024 features; attention on 256 and 512 channels."""
    plain = 7_978_856 - 1_025_000 - 2 * 49 * 64
    assert counted(deformable_attention=False, gamma=False, cosine_head=False, transfer=False) == plain + 3 * 1025
    assert counted(deformable_attention=False, gamma=True, cosine_head=True, transfer=False) == plain + 3072 + 58
    attention = 402_322 + 1_525_522
    assert counted(deformable_attention=True, gamma=False, cosine_head=True, transfer=False) == plain + 3072 + attention
    assert counted() == 2 * (plain + 3072) + 58 + attention


@pytest.mark.parametrize("row", ["densenet", "gamma", "attention", "cosine"])
def test_without_transfer_it_is_one_densenet(row):
    network = randomise(small(row))
    attention, gamma, cosine, _ = ROWS[row]
    options = {"deformable_attention": attention, "gamma": gamma, "cosine_head": cosine}
    plain = DenseNet(2, 1, 3, **SMALL, **options).eval()
    plain.load_state_dict({name.removeprefix("student."): part for name, part in network.state_dict().items()})
    x = torch.randn(2, 1, 48, 64)
    assert network.teacher is None
    assert torch.equal(network(x), plain(x))
    output = network.forward_all(x)
    assert torch.equal(output.student, network(x))
    assert output.teacher is None
    assert output.fused is x
    assert [part.shape for part in output.maps] == ([(2, 1, 48, 64)] * 2 if attention else [])


def test_the_student_sees_the_image_weighted_by_the_teacher_s_maps():
    network = randomise(small())
    x = torch.randn(2, 1, 48, 64)
    output = network.forward_all(x)
    logits, gathered, offsets = network.teacher.forward_attention(x)
    torch.testing.assert_close(output.teacher, logits)
    torch.testing.assert_close(output.maps, attention_maps(gathered, x))
    torch.testing.assert_close(output.offsets, offsets)
    torch.testing.assert_close(output.fused, (x + x * output.maps[0] + x * output.maps[1]) / 3)
    torch.testing.assert_close(output.student, network.student(output.fused))
    assert torch.equal(network(x), output.student)
    assert output.student.abs().max() <= 64
    for part in output.maps:
        assert part.amin(dim=(1, 2, 3)).tolist() == [0, 0]
        assert part.amax(dim=(1, 2, 3)).tolist() == [1, 1]


def test_maps_and_fusion_by_hand():
    gathered = torch.tensor([[[[1.0, 3.0]], [[3.0, 5.0]]], [[[4.0, 4.0]], [[4.0, 4.0]]]])
    image = torch.full((2, 1, 1, 4), 6.0)
    # Means 2 and 4 of the first image, at the centres of halves: 2, 2.5, 3.5, 4. The second image's are constant.
    (scaled,) = attention_maps([gathered], image)
    assert scaled.tolist() == [[[[0, 0.25, 0.75, 1]]], [[[0, 0, 0, 0]]]]
    ones = torch.ones_like(scaled)
    assert fuse(image, [scaled, ones]).tolist() == [[[[4, 4.5, 5.5, 6]]], [[[4, 4, 4, 4]]]]
    assert torch.equal(fuse(image, []), image)


def test_no_gradient_flows_from_the_student_into_the_teacher():
    network = randomise(small())
    output = network.forward_all(torch.randn(2, 1, 48, 48))
    output.student.square().sum().backward()
    assert all(parameter.grad is None for parameter in network.teacher.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.student.parameters())


def test_a_part_s_own_pass_leaves_out_what_it_does_not_need():
    network = randomise(small())
    x = torch.randn(2, 1, 48, 48)
    full = network.forward_all(x)
    teacher = network.forward_all(x, trained="teacher")
    assert teacher.student is None
    torch.testing.assert_close(teacher.teacher, full.teacher)
    teacher.teacher.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.teacher.parameters())
    student = network.forward_all(x, trained="student")
    torch.testing.assert_close(student.student, full.student)
    torch.testing.assert_close(student.teacher, full.teacher)
    assert not student.teacher.requires_grad
    assert student.student.requires_grad
    with torch.no_grad():
        assert not network.forward_all(x).teacher.requires_grad


@pytest.mark.parametrize("row", ROWS)
def test_scripted_and_exported_agree_with_eager(row):
    network = randomise(small(row))
    x = torch.randn(2, 1, 48, 64)
    expected = network(x)
    for other in (torch.jit.script(network), torch.export.export(network, (x,)).module()):
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-4)


def test_under_autocast_maps_and_logits_are_float32_and_close():
    network = randomise(small())
    x = torch.randn(2, 1, 48, 64)
    expected = network.forward_all(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = network.forward_all(x)
    assert {part.dtype for part in (output.student, output.teacher, output.fused, *output.maps)} == {torch.float32}
    assert (output.teacher - expected.teacher).abs().max() < 6.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims must be 2, since offsets are horizontal and vertical.*got 3"),
        ({"deformable_attention": False}, "transfer=True needs deformable_attention=True"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"block_config": (3,)}, "at least 2 blocks"),
        ({"temperature": 0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        AttentionTransferNet(**{"spatial_dims": 2, "in_channels": 1, "num_classes": 2, **SMALL, **options})


def test_one_network_has_no_parts_to_train_in_turn():
    with pytest.raises(ValueError, match="no parts to train in turn, got 'teacher'"):
        small("gamma").forward_all(torch.zeros(1, 1, 48, 48), trained="teacher")
