"""Optimizers of the networks: Adam, or Muon for the kernels of convolutions and Adam for the rest."""

from collections.abc import Iterable

import torch

# Coefficients of the quintic iteration that brings all singular values near 1 (Jordan et al. 2024)
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def make_optimizers(kind, network, betas) -> list[torch.optim.Optimizer]:
    """The optimizers "adam" or "muon" of a network. The caller sets the learning rate at each step.

    Parameters
    ----------
    kind : str
    network : torch.nn.Module
    betas : (float, float)
        Of Adam.
    """
    parameters = list(network.parameters())
    if kind == "adam":
        return [torch.optim.Adam(parameters, lr=1.0, betas=betas)]
    kernels = [p for p in parameters if p.dim() == 5 and p[0, 0].numel() > 1]
    chosen = set(map(id, kernels))
    others = [p for p in parameters if id(p) not in chosen]
    return [torch.optim.Adam(others, lr=1.0, betas=betas), Muon(kernels)]


class Muon(torch.optim.Optimizer):
    """Descent by orthogonalised momentum (Jordan et al. 2024), for kernels of convolutions.

    A kernel is a matrix, output channels by all their inputs. Its momentum is replaced by the
    nearest orthogonal matrix: all directions in which it can change are given the same weight, so
    rare ones are learnt as fast as those that dominate the gradient.

    Parameters
    ----------
    kernels : iterable of (N, C, K, K, K) tensors
    momentum : float
        Decay of the mean of the gradients.
    size : float
        Root mean square of an update's elements, in units of the learning rate. With 0.5 the rates
        of Adam serve.
    """

    def __init__(self, kernels: Iterable[torch.Tensor], momentum=0.9, size=0.5):
        super().__init__(kernels, {"lr": 1.0, "momentum": momentum, "size": size})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nobody here has a closure to give
        for group in self.param_groups:
            momentum = group["momentum"]
            for kernel in group["params"]:
                if kernel.grad is None:
                    continue
                state = self.state[kernel]
                if not state:
                    state["mean"] = torch.zeros_like(kernel)
                mean = state["mean"].lerp_(kernel.grad, 1 - momentum)
                ahead = kernel.grad.lerp(mean, momentum).flatten(1)  # as Nesterov's momentum
                update = orthogonal(ahead) * (group["size"] * max(ahead.shape) ** 0.5)
                kernel.sub_(update.view_as(kernel), alpha=group["lr"])


def orthogonal(matrix) -> torch.Tensor:
    """Approximately the orthogonal matrix nearest to a given matrix: the same singular vectors, with singular
    values of 0.7 to 1.2, by five Newton-Schulz iterations.

    Parameters
    ----------
    matrix : (N, M) float tensor

    Returns
    -------
    (N, M) float tensor
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-20)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
