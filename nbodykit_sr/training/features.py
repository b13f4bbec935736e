"""What losses compare of fields: distances, radii and one-point distributions, and energy scores.

Gradients of the ones that visit every site many times are written out: autograd would keep, and
pass over, several fields for each.
"""

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Squared distance that keeps logarithms of distances finite [cells squared]
SOFTENING = 0.05
# Squared radius along each axis below which cubes of sites count as points [cells squared]
POINT = 0.005


def difference(fields, lag, axis) -> torch.Tensor:
    """By how much fields (B, C, N, N, N) differ between sites `lag` apart along an axis (0 to 2)."""
    return _Difference.apply(fields, lag, 2 + axis)


class _Difference(torch.autograd.Function):
    @staticmethod
    def forward(ctx, fields, lag, axis):
        ctx.shape, ctx.lag, ctx.axis = fields.shape, lag, axis
        size = fields.shape[axis] - lag
        return fields.narrow(axis, lag, size) - fields.narrow(axis, 0, size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        out, size = gradient.new_zeros(ctx.shape), gradient.shape[ctx.axis]
        out.narrow(ctx.axis, ctx.lag, size).copy_(gradient)
        out.narrow(ctx.axis, 0, size).sub_(gradient)
        return out, None, None


def log_distance(step, lag, axis) -> torch.Tensor:
    """Log distance of particles `lag` sites apart along a lattice axis.

    Parameters
    ----------
    step : (B, C, ...) float tensor [cells]
        By how much their fields differ, the displacement's first.

    Returns
    -------
    (B, 1, ...) float tensor
    """
    return _LogDistance.apply(step, lag, axis)


class _LogDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step, lag, axis):
        square = torch.full_like(step[:, :1], SOFTENING)
        for component, part in enumerate(step[:, :3].split(1, dim=1)):
            apart = part + lag if component == axis else part
            square.addcmul_(apart, apart)
        ctx.save_for_backward(step, square)
        ctx.lag, ctx.axis = lag, axis
        return square.log().mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        step, square = ctx.saved_tensors
        pull, gradient = gradient / square, torch.zeros_like(step)
        torch.mul(step[:, :3], pull, out=gradient[:, :3])
        gradient.narrow(1, ctx.axis, 1).add_(pull, alpha=ctx.lag)
        return gradient, None, None


def log_radius(position, side) -> torch.Tensor:
    """Log rms radius of the cubes of `side`^3 neighbouring sites, half a side apart but two sites at
    least: small where the whole cube has collapsed, as a halo's particles have.

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
    moments = F.avg_pool3d(moments, side, max(2, side // 2))
    square = moments[:, 3:] - moments[:, :3].square().sum(1, keepdim=True)
    return 0.5 * torch.log(square.clamp(min=0) + SOFTENING)


def log_shape(position, side) -> torch.Tensor:
    """Logarithms of three radii of the cubes of `side`^3 neighbouring sites, half a side apart: from
    the three invariants of their second moments, which tell a ball from a disc and a string.

    Parameters
    ----------
    position : (B, 3, N, N, N) float tensor [cells]

    Returns
    -------
    (B, 3, M, M, M) float tensor
        All three are alike where a cube is as wide along all axes; the last is the least.
    """
    # moments are differences of large squares
    position = position.double()
    position = position - position.mean((2, 3, 4), keepdim=True)
    pairs = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
    squares = torch.stack([position[:, i] * position[:, j] for i, j in pairs], 1)
    mean, squares = (
        F.avg_pool3d(x, side, max(1, side // 2)) for x in (position, squares)
    )  # fmt: skip
    xx, yy, zz, xy, xz, yz = (
        (squares[:, n] - mean[:, i] * mean[:, j]).float() for n, (i, j) in enumerate(pairs)
    )
    xx, yy, zz = xx + POINT, yy + POINT, zz + POINT
    trace = xx + yy + zz
    minors = xx * yy + yy * zz + xx * zz - xy**2 - xz**2 - yz**2
    volume = (
        xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz)
    )  # fmt: skip
    radii = (
        torch.log(trace / 3) / 2,
        torch.log((minors / 3).clamp(min=POINT**2)) / 4,
        torch.log(volume.clamp(min=POINT**3)) / 6,
    )
    return torch.stack(radii, 1)


def ordered(fields) -> torch.Tensor:
    """The values of each sample in order: (B, ...) -> (B, n)."""
    values = fields.flatten(1)
    if not values.is_cpu:
        return values.sort(dim=1).values
    # numpy sorts with vector instructions, five times faster than torch
    if not (values.requires_grad and torch.is_grad_enabled()):
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=1))
    order = torch.from_numpy(np.argsort(values.detach().numpy(), axis=1))
    return values.gather(1, order)


def pdf_distance(members, truth) -> torch.Tensor:
    """The Wasserstein distance of one-point distributions of two members of each sample (2B, ...) from
    the truth's (B, ...), a scalar: the mean difference of their values in order."""
    one, other = ordered(members).unflatten(0, (2, -1))
    truth = ordered(truth)
    return ((one - truth).abs() + (other - truth).abs()).mean() / 2


def energy_score(members, truth, softening=1e-2) -> torch.Tensor:
    """The fair energy score of vectors, a scalar:
    ``mean |SR - HR| - mean |SR - SR'| / 2`` (Gneiting & Raftery 2007).

    Parameters
    ----------
    members : (2B, C, N, N, N) float tensor
        One field for each sample, then another.
    truth : (B, C, N, N, N) float tensor
    softening : float
        Added to the distances in quadrature, so that their gradient is finite.
    """
    return _EnergyScore.apply(members, truth, softening)


class _EnergyScore(torch.autograd.Function):
    @staticmethod
    def forward(ctx, members, truth, softening):
        gradient = torch.zeros_like(members)
        total, count = 0.0, truth[:, 0].numel()
        # sample by sample, so that what is worked on stays in the cache
        for b, real in enumerate(truth):
            one, other = members[b :: len(truth)]
            toward_one, toward_other = gradient[b :: len(truth)]
            for x, y, sign in ((one, real, 1), (other, real, 1), (one, other, -1)):
                apart = x - y
                square = torch.full_like(apart[0], softening**2)
                for component in apart:
                    square.addcmul_(component, component)
                distance = square.sqrt_()
                total = total + sign * distance.sum()
                apart /= distance
                if x is one:
                    toward_one.add_(apart, alpha=sign)
                if x is other or y is other:
                    toward_other.add_(apart)
        ctx.save_for_backward(gradient.div_(2 * count))
        return total / (2 * count)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        (direction,) = ctx.saved_tensors
        return direction * gradient, None, None
