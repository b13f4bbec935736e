"""The Lagrangian region from which particles can reach an Eulerian one."""

import numpy as np
from mpi4py import MPI
from scipy.ndimage import maximum_filter, minimum_filter

from .chunks import default_grid
from .domain import LatticeDomain
from .errors import InputError
from .particles import LatticeParticles

# SR particles may lie this much outside of the LR particles around them [LR cells]
MARGIN = 1.0


def lagrangian_region(particles: LatticeParticles, region: tuple) -> tuple:
    """The Lagrangian region of the SR particles that can lie in a region of the evolved box.

    Both are three (low, high) pairs, comoving [Mpc/h], that may reach over the edges of the periodic box; it
    is the smallest along each axis. Interpolated positions of a cell lie between those of the LR particles
    around it; small scales that a model adds move them by up to `MARGIN`. InputError on every rank, if no
    particle reaches the region. Collective.
    """
    comm, lattice = particles.catalog.comm, particles.lattice
    domain = LatticeDomain(default_grid(lattice.Nmesh, comm.size), comm, 1)
    field = domain.exchange(particles.site, particles.displacement.astype("f4"))
    start, _ = domain.padded(comm.rank)
    inside: np.ndarray = np.array(True)
    for axis, (low, high) in enumerate(region):
        sites = start[axis] + np.arange(field.shape[axis + 1])
        along = lattice.site_position(sites).reshape([-1 if i == axis else 1 for i in range(3)])
        position = field[axis] + along
        lowest, highest = (
            extreme(position, size=3)[1:-1, 1:-1, 1:-1]
            for extreme in (minimum_filter, maximum_filter)
        )
        margin, box = MARGIN * lattice.cell, lattice.BoxSize
        # some periodic image of the region overlaps the cell
        first = np.ceil((lowest - margin - high) / box)
        inside = inside & (first <= np.floor((highest + margin - low) / box))
    reached = []
    for axis in range(3):
        mine = np.zeros(lattice.Nmesh, dtype=bool)
        sites = np.flatnonzero(inside.any(axis=tuple({0, 1, 2} - {axis})))
        mine[(start[axis] + 1 + sites) % lattice.Nmesh] = True
        comm.Allreduce(MPI.IN_PLACE, mine, MPI.LOR)
        reached.append(mine)
    if not reached[0].any():
        raise InputError(f"region {region}: no particle can reach it; choose another")
    return tuple(_arc(mine, lattice.cell) for mine in reached)


def _arc(sites, cell):
    """The shortest part of a periodic axis that holds all marked sites."""
    marked = np.flatnonzero(sites)
    gaps = np.diff(marked, append=marked[0] + len(sites))
    widest = int(np.argmax(gaps))
    first = int(marked[(widest + 1) % len(marked)])
    length = len(sites) - int(gaps[widest]) + 1
    return first * cell, (first + length) * cell
