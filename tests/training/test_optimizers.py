import pytest
import torch
from torch.nn import functional as F

from nbodykit_sr.models.generator import Generator
from nbodykit_sr.training.optimizers import Muon, make_optimizers, orthogonal


@pytest.mark.parametrize("shape", [(8, 200), (200, 8), (16, 16)])
def test_orthogonal(shape):
    """The singular vectors are kept, and all singular values are about 1."""
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = u.T @ orthogonal(matrix) @ v.T
    found = kept.diagonal()[s > 0.03 * s[0]]
    assert 0.6 < found.min() and found.max() < 1.3
    assert (kept - torch.diag(kept.diagonal())).abs().max() < 0.02


def test_orthogonal_of_nothing():
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_size_of_an_update():
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3, 3))
    muon = Muon([kernel], size=0.5)
    muon.param_groups[0]["lr"] = 0.01
    kernel.grad = 1e-9 * torch.randn_like(kernel)
    muon.step()
    assert kernel.detach().square().mean().sqrt() == pytest.approx(0.5 * 0.01, rel=0.2)


def test_rare_directions_are_learnt():
    """Of eight patterns in the input, down to a hundredth in amplitude, the weakest three are learnt
    further by Muon than by Adam of the same rates."""

    def left(kind):
        torch.manual_seed(0)
        x = torch.randn(4, 8, 6, 6, 6)
        x = torch.einsum("nc,bcijk->bnijk", torch.diag(torch.logspace(0, -2, 8)), x)
        mix = torch.linalg.qr(torch.randn(8, 8)).Q
        x = torch.einsum("nc,bcijk->bnijk", mix, x)
        truth, student = (torch.nn.Conv3d(8, 8, 3) for _ in range(2))
        torch.nn.init.zeros_(student.weight)
        optimizers = make_optimizers(kind, student, (0.9, 0.99))
        for step in range(100):
            student.zero_grad()
            F.mse_loss(student(x), truth(x).detach()).backward()
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 100)
                optimizer.step()
        apart = torch.einsum("nc,kc...->kn...", mix.T, student.weight - truth.weight)
        return float((apart[:, -3:].norm() / truth.weight.norm()).detach())  # of the weakest

    assert left("muon") < 0.8 * left("adam")


def test_which_parameters_are_kernels():
    network = Generator(chan_base=8, chan_min=4)
    adam, muon = make_optimizers("muon", network, (0.5, 0.99))
    kernels = {id(p) for group in muon.param_groups for p in group["params"]}
    others = {id(p) for group in adam.param_groups for p in group["params"]}
    assert not kernels & others and len(kernels | others) == len(list(network.parameters()))
    assert kernels == {
        id(conv.weight) for level in network.levels for conv in (level.conv0, level.conv1)
    }
    (only,) = make_optimizers("adam", network, (0.5, 0.99))
    assert isinstance(only, torch.optim.Adam)
