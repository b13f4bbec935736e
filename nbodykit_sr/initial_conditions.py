"""The initial conditions of a user's own HR run as the phases of an SR catalogue."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32
from pmesh.pm import ParticleMesh
from torch import Tensor

from .chunks import ChunkGrid
from .domain import LatticeDomain
from .errors import InputError, agreement
from .particles import find_lattice
from .phases import at_sites, octave_ratios, split


@dataclass(frozen=True)
class OwnPhases:
    """psi of actual initial conditions on a rank's chunks; the counterpart of `Phases`, which draws it.

    The whole of psi is held, by all ranks together; it does not depend on their number but for
    rounding, as the transforms of a mesh do.
    """

    octaves: list  # (LatticeDomain, (3, X, Y, Z) float32 on the padded block [LR cells]) of each
    chunks: list  # for each octave: first site of an LR chunk to the chunk of the octave's lattice
    device: torch.device | str = "cpu"

    def fields(self, start, shape, layers) -> list[Float32[Tensor, "3 _ _ _"]]:
        """psi of each octave in a chunk: see `Phases.fields`."""
        fields = []
        for (domain, psi), chunks in zip(self.octaves, self.chunks):
            cut = domain.cut(psi, chunks[tuple(start)])
            fields.append(torch.from_numpy(np.ascontiguousarray(cut)).to(self.device))
        return fields

    @classmethod
    def of(cls, initial, particles, grid, layers, power, seed, device="cpu") -> "OwnPhases":
        """Split initial conditions into octaves. Collective.

        Parameters
        ----------
        initial : nbodykit CatalogSource
            Initial conditions from `open_snapshot`, with at least as many particles as SR has.
        particles : LatticeParticles
            LR particles.
        grid : ChunkGrid
            Chunks of the LR lattice.
        layers : sequence of (int, int)
            Refinement and padding of each octave: `Generator.octaves`.
        power : callable
            Linear P(k) at LR's time [(Mpc/h)^3] of k [h/Mpc].
        seed : int
            Seed of the noise that splits psi into octaves.

        Raises
        ------
        InputError
            On every rank, if box, cosmology, lattice or phases do not go with LR's.
        """
        comm, lattice = particles.catalog.comm, particles.lattice
        initial = find_lattice(initial)
        with agreement(comm):
            ratio = _check(initial, particles, layers[-1][0])
        modes, axes = _transform(initial, particles, ratio)
        pm = modes[0].pm
        drawn = [
            pm.generate_whitenoise(_seed(seed, n), type="complex").value
            for n in range(len(layers) + 1)
        ]
        square = sum(axis**2 for axis in axes)
        # pmesh's white noise has a variance of one in each mode
        amplitude = np.sqrt(power(np.sqrt(square) / lattice.cell) / lattice.BoxSize**3)
        found = split([one.value for one in modes], axes, drawn, amplitude, layers[-1][0])
        octaves, chunks = [], []
        for (refinement, padding), fields in zip(layers, found):
            fine = ChunkGrid(grid.Nmesh * refinement, grid.side * refinement, grid.selection)
            domain = LatticeDomain(fine, comm, padding)
            sampled = [_sampled(modes[0], field, axes, refinement, ratio) for field in fields]
            values = np.stack([along for _, along in sampled], axis=1)
            octaves.append((domain, domain.exchange(sampled[0][0], values)))
            starts = [tuple(s // refinement for s in chunk.start) for chunk in domain.chunks]
            chunks.append(dict(zip(starts, domain.chunks)))
        return cls(octaves, chunks, device)


def _check(initial, particles, factor) -> int:
    """Sites of the initial conditions to an LR cell, if box and lattice go with LR's."""
    lattice, start, now = particles.lattice, initial.universe, particles.universe
    for name in ("BoxSize", "Omega0"):
        ours, theirs = getattr(now, name), getattr(start, name)
        if abs(theirs - ours) > 1e-4 * ours:
            raise InputError(
                f"{name} is {theirs:g} in the initial conditions and {ours:g} in LR: give those of an "
                "HR run of the same box and cosmology"
            )
    ratio = initial.lattice.Nmesh / lattice.Nmesh
    if ratio not in octave_ratios(1024) or ratio < factor:
        raise InputError(
            f"the initial conditions have {initial.lattice.Nmesh}^3 particles and LR {lattice.Nmesh}^3: "
            f"{factor * lattice.Nmesh}^3 are needed"
        )
    if start.a >= now.a:
        raise InputError(
            f"the initial conditions are at z = {start.redshift:g}, LR at z = {now.redshift:g}: give the "
            "snapshot that the HR run was started from"
        )
    return int(ratio)


def _transform(initial, particles, ratio):
    """Transforms of the displacement by linear theory at LR's time along each axis [LR cells], and
    wavenumbers [1 / LR cell]."""
    lattice, fine = particles.lattice, initial.lattice
    # counted from the first of the sites in LR's first cell
    shift = fine.offset - lattice.refine(ratio).offset
    if abs(shift - round(shift)) > 0.01:
        raise InputError(
            f"the initial conditions' lattice lies {shift % 1:.3f} cells from SR's: start both runs "
            "from cell centres (PrePosGridCenter=1 of MP-GenIC)"
        )
    initial = initial.renumbered(round(shift))
    growth = particles.universe.growth / replace(particles.universe, a=initial.universe.a).growth
    pm = ParticleMesh(
        [fine.Nmesh] * 3, fine.BoxSize, dtype="f4", comm=particles.catalog.comm, resampler="nnb"
    )
    nodes = initial.site * fine.cell
    layout = pm.decompose(nodes)
    nodes = layout.exchange(nodes)
    modes = []
    for axis in range(3):
        values = layout.exchange(initial.displacement[:, axis] * (growth / lattice.cell))
        modes.append(pm.paint(nodes, mass=values).r2c())
    return modes, [np.asarray(x, dtype="f4") * np.float32(lattice.cell) for x in modes[0].x]


def _seed(seed, number):
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0]) >> 1


def _sampled(like, modes, axes, refinement, ratio):
    """A field given by its transform at the sites of a coarser lattice on this rank, and these."""
    field = like.copy()
    field[...] = at_sites(modes, axes, refinement, ratio)
    field = field.c2r()
    step = ratio // refinement
    nodes = [np.arange(s, s + n) for s, n in zip(field.start, field.shape, strict=True)]
    nodes = [along[along % step == 0] for along in nodes]
    local = [along - s for along, s in zip(nodes, field.start)]
    sites = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, 3) // step
    return sites, np.asarray(field.value, "f4")[np.ix_(*local)].ravel()
