"""Losses: the paper's WGAN-GP, a relativistic one with R1, and a statistics loss."""

import math
from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .features import ordered


def critic_loss(kind, real, fake) -> torch.Tensor:
    """Loss of the critic for its outputs (B,) of both kinds of fields.

    "wasserstein"; or "relativistic", which compares HR with the SR of the same LR
    sample (Jolicoeur-Martineau 2019): what the outputs owe to LR alone cancels.
    """
    if kind == "wasserstein":
        return (fake - real).mean()
    return F.softplus(fake - real).mean()


def generator_loss(kind, real, fake) -> torch.Tensor:
    """Adversarial loss of the generator, see `critic_loss`; `real` is used by "relativistic" alone."""
    if kind == "wasserstein":
        return -fake.mean()
    return F.softplus(real - fake).mean()


def gradient_penalty(kind, critic, real, fake, mixing) -> torch.Tensor:
    """Penalty on the gradient of the critic with respect to its fields.

    "wasserstein": mean of ``(|gradient| - 1)**2`` between real and fake (WGAN-GP, Gulrajani et al. 2017).
    "relativistic": mean of ``|gradient|**2`` at the real fields (R1, Mescheder et al. 2018).

    Parameters
    ----------
    kind : str
        Of the critic's loss.
    critic : callable
        (B, C, N, N, N) -> (B,).
    real, fake : (B, C, N, N, N) float tensors
    mixing : (B,) float tensor in [0, 1]
        Where between fake (0) and real (1); not used by "relativistic".
    """
    x = real.detach().clone()
    if kind == "wasserstein":
        mixing = mixing.view(-1, 1, 1, 1, 1)
        x = mixing * x + (1 - mixing) * fake.detach()
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    square = gradient.square().sum((1, 2, 3, 4))
    if kind == "wasserstein":
        return (torch.sqrt(square + 1e-12) - 1).square().mean()
    return square.mean()


@lru_cache(maxsize=16)
def shells(size, device) -> tuple[torch.Tensor, int]:
    """Shell of each mode of a real transform of size^3, in half octaves of k, and their number.

    Returns
    -------
    (size * size * (size // 2 + 1),) int64 tensor; int
    """
    k = torch.fft.fftfreq(size, 1 / size, device=device)
    kz = torch.fft.rfftfreq(size, 1 / size, device=device)
    radius = torch.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kz**2)
    shell = torch.log2(radius.clamp(min=1)).mul(2).floor().long()
    number = int(2 * math.log2(size / 2))
    shell = shell.clamp(max=number)  # the corners beyond Nyquist share the last one
    shell[0, 0, 0] = number + 1
    return shell.flatten(), number


def shell_power(field, window=True) -> torch.Tensor:
    """Power of each sample in shells of k.

    Parameters
    ----------
    field : (B, C, N, N, N) float tensor
    window : bool
        Taper to zero at the faces: for crops, which are not periodic.

    Returns
    -------
    (B, shells) float tensor, arbitrary units
        Summed over channels and modes; the modes beyond the Nyquist sphere are left out.
    """
    return _ShellPower.apply(field, window)


class _ShellPower(torch.autograd.Function):
    """Its gradient by a real transform back, where autograd takes a complex one of twice the size."""

    @staticmethod
    def forward(ctx, field, window):
        batch, size = len(field), field.shape[-1]
        ctx.weight = weight = hann(size, field.device).to(field.dtype) if window else None
        if window:
            mean = (field.flatten(2) @ weight.flatten()) / weight.sum()
            field = (field - mean.view(*mean.shape, 1, 1, 1)).mul_(weight)
        modes = torch.fft.rfftn(field, dim=(2, 3, 4))
        power = modes.real.square().addcmul_(modes.imag, modes.imag).sum(1).view(batch, -1)
        shell, number = shells(size, field.device)
        ctx.save_for_backward(modes)
        total = power.new_zeros(batch, number + 2).index_add_(1, shell, power)
        return total[:, :number]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (modes,) = ctx.saved_tensors
        batch, size = len(modes), modes.shape[2]
        shell, _ = shells(size, modes.device)
        slope = F.pad(gradient, (0, 2)).index_select(1, shell).view(batch, 1, *modes.shape[2:])
        # the transform back counts modes between the planes of kz = 0 and Nyquist twice
        slope[..., 0] *= 2
        if size % 2 == 0:
            slope[..., -1] *= 2
        slope = torch.fft.irfftn(slope * modes, s=(size,) * 3, dim=(2, 3, 4), norm="forward")
        if ctx.weight is not None:
            slope *= ctx.weight
            mean = slope.sum((2, 3, 4), keepdim=True) / ctx.weight.sum()
            slope -= mean * ctx.weight
        return slope, None


@lru_cache(maxsize=16)
def hann(size, device, dtype=torch.float32) -> torch.Tensor:
    """A Hann window (N, N, N) that tapers a crop to zero at its faces."""
    row = torch.hann_window(size + 1, device=device, dtype=dtype)[:-1]
    return row[:, None, None] * row[:, None] * row


def statistics_loss(residuals, densities) -> torch.Tensor:
    """How far the one- and two-point statistics of SR fields are from those of HR. Not in the
    papers: it helps where the budget is small.

    The mean, over samples and the terms of each, of: the squared difference of log power in
    shells of each residual; the same of each density; and the squared difference of the sorted
    log densities (their one-point distributions).

    Parameters
    ----------
    residuals : list of (SR, HR) pairs of (nB, C, N, N, N) and (B, C, N, N, N) float tensors
        What the fields add to interpolated LR; n members of each sample of SR.
    densities : list of (SR, HR) pairs of (nB, 1, M, M, M) and (B, 1, M, M, M) float tensors
        1 + delta, on meshes of any size.
    """
    terms = [squared_difference(*_log_powers(*pair)) for pair in residuals]
    for pair in densities:
        terms.append(squared_difference(*_log_powers(*pair)))
        terms.append(squared_difference(*map(_ordered_logs, pair)))
    return sum(terms[1:], terms[0]) / len(terms)


def _log_powers(members, truth):
    """Log power of both in shells."""
    members, truth = shell_power(members), shell_power(truth)
    tiny = 1e-6 * truth.mean(1, keepdim=True) + 1e-30
    number = len(members) // len(truth)
    return torch.log(members + tiny.repeat(number, 1)), torch.log(truth + tiny)


def squared_difference(members, truth) -> torch.Tensor:
    """Mean squared difference of n members of each sample (nB, ...) from the truth (B, ...)."""
    return (members.unflatten(0, (-1, len(truth))) - truth).square().mean()


def _ordered_logs(density):
    """Log densities of every second voxel along each axis, in order: (B, n)."""
    return ordered(torch.log1p(density[..., ::2, ::2, ::2]))
