"""Losses: the paper's WGAN-GP, logistic losses with R1, and a statistics loss."""

import math
from functools import lru_cache

import torch
from torch.nn import functional as F

# Squared distance that keeps logarithms of distances finite [cells squared]
SOFTENING = 0.05


def critic_loss(kind, real, fake):
    """Loss of the critic for the scores (B,) of both kinds of fields.

    "wasserstein"; "logistic"; or "relativistic", which scores HR against the SR of the same LR
    sample (Jolicoeur-Martineau 2019): what the scores owe to LR alone cancels.
    """
    if kind == "wasserstein":
        return (fake - real).mean()
    if kind == "relativistic":
        return F.softplus(fake - real).mean()
    return (F.softplus(fake) + F.softplus(-real)).mean()


def generator_loss(kind, real, fake):
    """Adversarial loss of the generator, see `critic_loss`; `real` is used by "relativistic" alone."""
    if kind == "wasserstein":
        return -fake.mean()
    if kind == "relativistic":
        return F.softplus(real - fake).mean()
    return F.softplus(-fake).mean()


def gradient_penalty(where, critic, real, fake, mixing):
    """Penalty on the gradient of the critic with respect to its fields.

    "between" real and fake: mean of ``(|gradient| - 1)**2`` (WGAN-GP, Gulrajani et al. 2017).
    "real": mean of ``|gradient|**2`` at the real fields (R1, Mescheder et al. 2018).
    "both": the same at either kind, half of the samples each (R1 and R2, Huang et al. 2024).

    Parameters
    ----------
    where : str
    critic : callable
        (B, C, N, N, N) -> (B,).
    real, fake : (B, C, N, N, N) float tensors
    mixing : (B,) float tensor in [0, 1]
        Where between fake (0) and real (1), or to which of both it is nearer; ignored by "real".
    """
    real, fake = real.detach(), fake.detach()
    if where == "real":
        x = real.clone()
    else:
        mixing = mixing.view(-1, 1, 1, 1, 1)
        mixing = mixing.round() if where == "both" else mixing
        x = mixing * real + (1 - mixing) * fake
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    square = gradient.square().sum((1, 2, 3, 4))
    if where == "between":
        return (torch.sqrt(square + 1e-12) - 1).square().mean()
    return square.mean()


@lru_cache(maxsize=16)
def shells(size, device):
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


def shell_power(field, window=True):
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
    batch, channels, size = field.shape[:3]
    if window:
        hann = torch.hann_window(size + 1, device=field.device, dtype=field.dtype)[:-1]
        weight = hann[:, None, None] * hann[:, None] * hann
        mean = (field * weight).sum((2, 3, 4), keepdim=True) / weight.sum()
        field = (field - mean) * weight
    modes = torch.fft.rfftn(field, dim=(2, 3, 4))
    power = (modes.real.square() + modes.imag.square()).sum(1).reshape(batch, -1)
    shell, number = shells(size, field.device)
    total = power.new_zeros(batch, number + 2).index_add(1, shell, power)
    return total[:, :number]


def log_distance(step, lag, axis):
    """Log distance of particles `lag` sites apart along a lattice axis.

    Parameters
    ----------
    step : (B, 3, ...) float tensor [cells]
        By how much their displacements differ.

    Returns
    -------
    (B, 1, ...) float tensor
    """
    apart = F.one_hot(torch.tensor(axis), 3).to(step).view(3, 1, 1, 1) * lag
    square = (step + apart).square().sum(1, keepdim=True)
    return 0.5 * torch.log(square + SOFTENING)


def log_radius(position, side):
    """Log rms radius of the cubes of `side`^3 neighbouring sites, half a side apart: small where
    the whole cube has collapsed, as a halo's particles have.

    Parameters
    ----------
    position : (B, 3, N, N, N) float tensor [cells]

    Returns
    -------
    (B, 1, M, M, M) float tensor
    """
    # small numbers, so that the difference of their squares is exact enough
    position = position - position.mean((2, 3, 4), keepdim=True)
    moments = torch.cat([position, position.square().sum(1, keepdim=True)], 1)
    moments = F.avg_pool3d(moments, side, max(1, side // 2))
    square = moments[:, 3:] - moments[:, :3].square().sum(1, keepdim=True)
    return 0.5 * torch.log(square.clamp(min=0) + SOFTENING)


def statistics_loss(residuals, densities):
    """How far the one- and two-point statistics of SR fields are from those of HR. Not in the
    papers: it helps where the budget is small.

    The mean, over samples and the terms of each, of: the squared difference of log power in
    shells of each residual; the same of each density; and the squared difference of the sorted
    log densities (their one-point distributions).

    Parameters
    ----------
    residuals : list of (SR, HR) pairs of (B, C, N, N, N) float tensors
        What the fields add to interpolated LR.
    densities : list of (SR, HR) pairs of (B, 1, M, M, M) float tensors
        1 + delta, on meshes of any size.
    """
    terms = [_power_difference(one, other) for one, other in residuals]
    for one, other in densities:
        terms.append(_power_difference(one, other))
        terms.append((_sorted(one) - _sorted(other)).square().mean())
    return sum(terms) / len(terms)


def _power_difference(one, other):
    """Mean squared difference of log power in shells."""
    one, other = shell_power(one), shell_power(other)
    tiny = 1e-6 * other.mean(1, keepdim=True) + 1e-30
    return (torch.log(one + tiny) - torch.log(other + tiny)).square().mean()


def _sorted(density):
    """Log densities of every second voxel along each axis, sorted: (B, n)."""
    return torch.log1p(density[..., ::2, ::2, ::2]).flatten(1).sort(dim=1).values
