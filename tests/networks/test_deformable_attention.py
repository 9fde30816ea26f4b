import pytest
import torch
from random_networks import randomise

from pneumonai.networks.blocks import DeformableAttention


def by_definition(module, x):
    """Eqs. 2 and 3 with loops over positions, and population statistics of each position's vector."""
    u, v, w = module.u(x).flatten(2), module.v(x).flatten(2), module.w(x).flatten(2)
    samples, reduced, positions = u.shape
    added = torch.zeros_like(w)
    for b in range(samples):
        for j in range(positions):
            ncc = torch.zeros(positions, dtype=x.dtype)
            for i in range(positions):
                one, other = u[b, :, j], v[b, :, i]
                ncc[i] = ((one - one.mean()) * (other - other.mean())).sum() / reduced
                ncc[i] /= (one.var(correction=0) + 1e-5).sqrt() * (other.var(correction=0) + 1e-5).sqrt()
            assert ncc.abs().max() <= 1
            tau = torch.softmax(ncc / module.temperature, dim=0)
            added[b, :, j] = w[b] @ tau
    return added.reshape(x.shape)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_it_gathers_as_the_equations_say(temperature):
    module = randomise(DeformableAttention(2, 12, reduction=3, temperature=temperature)).double()
    x = torch.randn(2, 12, 4, 5, dtype=torch.float64)
    added, offsets = module.attend(x)
    torch.testing.assert_close(added, by_definition(module, x), rtol=0, atol=1e-9)
    torch.testing.assert_close(module(x), x + added)
    assert offsets.shape == (2, 2, 9, 4, 5)
    assert torch.equal(offsets[:, 0], module.u.offset(x))
    assert torch.equal(offsets[:, 1], module.v.offset(x))
    assert not module.u.vertical
    assert module.v.vertical


def test_equal_values_are_what_is_gathered():
    """Rows of tau sum to 1, so that a map w of one value everywhere comes out as it is."""
    module = randomise(DeformableAttention(2, 8))
    with torch.no_grad():
        module.w.weight.zero_()
    added, _ = module.attend(torch.randn(2, 8, 5, 6))
    torch.testing.assert_close(added, module.w.bias[None, :, None, None].expand_as(added))


@pytest.mark.parametrize(("channels", "expected"), [(256, 402_322), (512, 1_525_522)])
def test_count_of_parameters(channels, expected):
    """Two deformable convolutions to C / 4, two of C to 9 offsets, one 1x1 of C to C, all with bias."""
    module = DeformableAttention(2, channels)
    wired = 2 * (9 * channels + 1) * (channels // 4) + 2 * (81 * channels + 9) + channels**2 + channels
    assert sum(parameter.numel() for parameter in module.parameters()) == wired == expected


def test_every_parameter_learns_from_the_start():
    torch.manual_seed(0)
    module = DeformableAttention(2, 8)
    module(torch.randn(2, 8, 5, 6)).square().sum().backward()
    # A bias of w, too: it is added to every position of A.
    assert all(parameter.grad.abs().sum() > 1e-6 for parameter in module.parameters())


def test_scripted_and_exported_agree_with_eager():
    module = randomise(DeformableAttention(2, 8))
    x = torch.randn(2, 8, 6, 7)
    for other in (torch.jit.script(module), torch.export.export(module, (x,)).module()):
        torch.testing.assert_close(other(x), module(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims must be 2, since the offsets are horizontal and vertical.*got 3"),
        ({"spatial_dims": 1}, "got 1"),
        ({"in_channels": 7}, "at least 2 \\* reduction.*got 7 and reduction 4"),
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"reduction": 0}, "reduction must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_in_words(options, message):
    with pytest.raises(ValueError, match=message):
        DeformableAttention(**{"spatial_dims": 2, "in_channels": 8, **options})


def test_bfloat16_gathers_as_float32_does() -> None:
    """Another kernel on a CPU; the difference is bfloat16's rounding, which a temperature of 0.1 enlarges."""
    module = randomise(DeformableAttention(2, 16), seed=1)
    x = torch.randn(2, 16, 9, 7)
    expected, _ = module.attend(x)
    with torch.autocast("cpu", torch.bfloat16):
        gathered, _ = module.attend(x)
    assert gathered.dtype == torch.bfloat16
    assert (gathered.float() - expected).abs().mean() < 0.05 * expected.abs().mean()
