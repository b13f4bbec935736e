"""Differentiable cloud-in-cell densities of particles given as displacements on a lattice."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def cic(position, mesh, periodic=False) -> torch.Tensor:
    """Paint particles by cloud-in-cell.

    Parameters
    ----------
    position : (B, 3, ...) float tensor, in mesh cells
        A particle at an integer position lies on a mesh point and gives it its whole mass, as
        in pmesh.
    mesh : int
        Points on a side.
    periodic : bool
        Wrap the mass that leaves the mesh, or drop it.

    Returns
    -------
    (B, mesh, mesh, mesh) float tensor
        Particles per mesh cell. Differentiable once.
    """
    batch = position.shape[0]
    position = position.reshape(batch, 3, -1)
    if periodic:
        painted = _Paint.apply(position % mesh, mesh + 2, False)
        for axis in (1, 2, 3):  # the last two planes hold the mass of the first ones
            body, rest = painted.split([mesh, 2], dim=axis)
            painted = torch.cat(
                [body.narrow(axis, 0, 2) + rest, body.narrow(axis, 2, mesh - 2)], axis
            )
        return painted
    return _Paint.apply(position, mesh, True)


class _Paint(torch.autograd.Function):
    """Cloud-in-cell of positions that lie within [0, mesh - 1) along each axis, or of any if what
    is `outside` goes to two planes around the mesh that are then dropped: no mass, no gradient."""

    @staticmethod
    def forward(ctx, position, mesh, outside):
        ctx.shape, ctx.pads = position.shape, (2,) * 6 if outside else ()
        if outside:
            position, mesh = position.clamp(-2, mesh).add_(2), mesh + 4
        batch = position.shape[0]
        lower = position.nan_to_num(mesh // 2).floor_()  # a NaN shows in the weights
        upper = position - lower  # weight of the upper of two mesh points, (B, 3, n)
        strides = (mesh * mesh, mesh, 1)
        lower = lower.long()
        index = lower[:, 2].add(lower[:, 1], alpha=mesh).add_(lower[:, 0], alpha=mesh**2)
        index += torch.arange(batch, device=index.device)[:, None] * mesh**3
        index = index.flatten()
        ctx.save_for_backward(index, upper)
        ctx.mesh = mesh
        x, y, z = upper.unbind(1)
        field = position.new_zeros(batch * mesh**3)
        for i, wx in enumerate((1 - x, x)):
            for j in range(2):
                both = wx * y if j else wx * (1 - y)
                upper_part = both * z
                lower_part = both.sub_(upper_part)
                first = i * strides[0] + j * strides[1]
                # all eight points of a particle lie at fixed distances from the lowest
                field[first:].index_add_(0, index, lower_part.flatten())
                field[first + 1 :].index_add_(0, index, upper_part.flatten())
        field = field.view(batch, mesh, mesh, mesh)
        return field[:, 2:-2, 2:-2, 2:-2].contiguous() if outside else field

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        index, upper = ctx.saved_tensors
        grad = F.pad(grad, ctx.pads).contiguous().view(-1)
        x, y, z = upper.unbind(1)
        planes = []  # for each x plane: d/dy, d/dz and the value, at the particle
        for i in (0, 1):
            rows = []
            for j in (0, 1):
                first = i * ctx.mesh**2 + j * ctx.mesh
                low = grad[first:].index_select(0, index).view_as(z)
                step = grad[first + 1 :].index_select(0, index).view_as(z) - low
                rows.append((step, low + z * step))
            (dz0, v0), (dz1, v1) = rows
            dy = v1 - v0
            planes.append((dy, torch.lerp(dz0, dz1, y), v0 + y * dy))
        (dy0, dz0, v0), (dy1, dz1, v1) = planes
        gradient = [v1 - v0, torch.lerp(dy0, dy1, x), torch.lerp(dz0, dz1, x)]
        return torch.stack(gradient, dim=1), None, None


def density(displacement, cell, density_factor=1, periodic=False, shift=None) -> torch.Tensor:
    """Overdensity 1 + delta of a crop of particles, by cloud-in-cell.

    The mesh covers the crop's own Lagrangian volume: unless it is periodic, particles that leave
    it are lost, and those that would come in from outside are missing.

    Parameters
    ----------
    displacement : (B, 3, N, N, N) float tensor, comoving [Mpc/h]
    cell : float
        Spacing of the particle lattice, comoving [Mpc/h].
    density_factor : int
        Mesh cells per lattice cell, on a side.
    periodic : bool
        The crop is a whole periodic box.
    shift : (B, 3) float tensor, comoving [Mpc/h], optional
        Taken off the displacements: the bulk motion of a crop, say.

    Returns
    -------
    (B, 1, M, M, M) float tensor
        1 + delta with ``M = density_factor * N``. Mesh point m lies at ``(m + 1/2) / M`` of the
        crop, as lattice sites do.
    """
    position = mesh_position(displacement, cell, density_factor, shift)
    mesh = density_factor * displacement.shape[-1]
    return cic(position, mesh, periodic).unsqueeze(1) * density_factor**3


def mesh_position(displacement, cell, density_factor=1, shift=None) -> torch.Tensor:
    """Positions (B, 3, N, N, N) on the mesh of `density`, whose points are the integers."""
    n = displacement.shape[-1]
    # mesh points at (m + 1/2) / density_factor lattice cells, sites at i + 1/2
    site = torch.arange(n, device=displacement.device, dtype=displacement.dtype)
    site = (site + 0.5) * density_factor - 0.5
    grid = torch.stack(torch.meshgrid(site, site, site, indexing="ij"))
    if shift is not None:
        grid = grid - shift.view(-1, 3, 1, 1, 1) * (density_factor / cell)
    return torch.add(grid, displacement, alpha=density_factor / cell)


def read_out(field, site, density_factor) -> torch.Tensor:
    """Values of a mesh at particles, by cloud-in-cell; zero outside the mesh.

    Parameters
    ----------
    field : (B, C, M, M, M) float tensor
    site : (B, N, N, N, 3) float tensor, in lattice cells
        Positions as `mesh_position` gives them for `density_factor` 1, the last axis first.
    density_factor : float
        Mesh cells per lattice cell, on a side.

    Returns
    -------
    (B, C, N, N, N) float tensor
    """
    # the faces of mesh and lattice lie at -1 and 1
    where = (site + 0.5) * (2 * density_factor / field.shape[-1]) - 1
    return F.grid_sample(field, where, padding_mode="zeros", align_corners=False)


def space_to_depth(x, factor) -> torch.Tensor:
    """Fold blocks of ``factor**3`` voxels into channels: (B, 1, fN, ...) -> (B, f^3, N, ...)."""
    if factor == 1:
        return x
    batch, channels, size = x.shape[:3]
    n = size // factor
    x = x.view(batch, channels, n, factor, n, factor, n, factor)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * factor**3, n, n, n)
