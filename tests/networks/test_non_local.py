import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pneumonai.networks.blocks import NonLocal
from pneumonai.networks.blocks.non_local import weighted_sum

# (channels C', positions N): the first is computed as (g phi^T) theta, the other two pairwise.
SHAPES = [(3, 11), (11, 3), (5, 5)]


def pairwise(theta, phi, g):
    """The definition: y_i = 1/N sum_j (theta_i . phi_j) g_j."""
    result = torch.zeros_like(g)
    samples, _, positions = g.shape
    for sample in range(samples):
        for i in range(positions):
            for j in range(positions):
                weight = torch.dot(theta[sample, :, i], phi[sample, :, j]) / positions
                result[sample, :, i] += weight * g[sample, :, j]
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sum_is_the_pairwise_loop(shape):
    torch.manual_seed(0)
    theta, phi, g = torch.randn(3, 2, *shape, dtype=torch.float64)
    torch.testing.assert_close(weighted_sum(theta, phi, g), pairwise(theta, phi, g), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_weighted_sum_takes_the_cheaper_order(shape):
    channels, positions = shape
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        weighted_sum(*(torch.empty(1, *shape) for _ in range(3)))
    assert counter.get_total_flops() / 2 == 2 * channels * positions * min(shape)


@pytest.mark.parametrize("size", [(2, 3, 3), (1, 1, 2)])
def test_module_is_the_loop_between_its_convolutions(size):
    torch.manual_seed(1)
    module = NonLocal(3, 8).double().eval()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    theta, phi, g = (F.conv3d(x, layer.weight, layer.bias).flatten(2) for layer in (module.theta, module.phi, module.g))
    assert theta.shape[1] == 4
    gathered = F.conv3d(pairwise(theta, phi, g).reshape(2, 4, *size), module.project.weight)
    norm = module.norm
    gathered = F.batch_norm(gathered, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    torch.testing.assert_close(module(x), x + gathered, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_module_begins_as_identity(training):
    x = torch.randn(2, 6, 3, 4)
    assert torch.equal(NonLocal(2, 6).train(training)(x), x)


def test_module_refuses_a_single_channel():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        NonLocal(3, 1)
