"""Differentiable cloud-in-cell densities of particles given as displacements on a lattice."""

import torch


def cic(position, mesh, periodic=False):
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
        Particles per mesh cell.
    """
    batch = position.shape[0]
    position = position.reshape(batch, 3, -1)
    lower = position.detach().floor()
    upper_weight = position - lower  # (B, 3, n)
    lower = lower.long()
    field = position.new_zeros(batch * mesh**3)
    start = torch.arange(batch, device=position.device).view(-1, 1) * mesh**3
    for corner in range(8):
        bits = [(corner >> 2) & 1, (corner >> 1) & 1, corner & 1]
        weight, index = 1.0, start
        for axis, bit in enumerate(bits):
            w = upper_weight[:, axis]
            weight = weight * (w if bit else 1 - w)
            i = lower[:, axis] + bit
            if periodic:
                i = i % mesh
            else:
                inside = (i >= 0) & (i < mesh)
                weight = weight * inside
                i = i.clamp(0, mesh - 1)
            index = index + i * mesh ** (2 - axis)
        field = field.index_add(0, index.reshape(-1), weight.reshape(-1))
    return field.view(batch, mesh, mesh, mesh)


def density(displacement, cell, density_factor=1, periodic=False, shift=None):
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
    n = displacement.shape[-1]
    if shift is not None:
        displacement = displacement - shift.view(-1, 3, 1, 1, 1)
    # mesh points at (m + 1/2) / density_factor lattice cells, sites at i + 1/2
    site = (torch.arange(n, device=displacement.device, dtype=displacement.dtype) + 0.5) * (
        density_factor
    ) - 0.5
    grid = torch.stack(torch.meshgrid(site, site, site, indexing="ij"))
    position = grid + displacement * (density_factor / cell)
    return cic(position, density_factor * n, periodic).unsqueeze(1) * density_factor**3


def space_to_depth(x, factor):
    """Fold blocks of ``factor**3`` voxels into channels: (B, 1, fN, ...) -> (B, f^3, N, ...)."""
    if factor == 1:
        return x
    batch, channels, size = x.shape[:3]
    n = size // factor
    x = x.view(batch, channels, n, factor, n, factor, n, factor)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, channels * factor**3, n, n, n)
