"""A rank's padded block of the Lagrangian lattice, and the exchange that fills it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from mpi4py import MPI
from pmesh.domain import Layout

from .chunks import Chunk, ChunkGrid
from .errors import InputError, agreement
from .lattice import LagrangianLattice


@dataclass(frozen=True)
class LatticeDomain:
    """A rank's block of chunks, and its surroundings."""

    grid: ChunkGrid
    comm: MPI.Comm
    padding: int  # lattice sites around the primary block on each side

    @property
    def chunks(self) -> list[Chunk]:
        """The rank's own chunks."""
        return self.grid.chunks(self.grid.blocks(self.comm.size)[self.comm.rank])

    @cached_property
    def _primary(self):
        """First sites and shapes of the primary blocks of all ranks, (ranks, 3) each."""
        blocks = np.array(self.grid.blocks(self.comm.size))  # (ranks, axes, first and last row)
        start, shape = np.empty((2, len(blocks), 3), dtype="i8")
        for axis, (rows, widths) in enumerate(zip(self.grid.rows, self.grid.widths)):
            first, last = blocks[:, axis].T
            before = np.concatenate([[0], np.cumsum(widths)])
            start[:, axis] = np.array(rows)[first] * self.grid.side
            shape[:, axis] = before[last] - before[first]
        return start, shape

    def primary(self, rank: int) -> tuple:
        """First site and shape of a rank's primary block, in global sites."""
        start, shape = self._primary
        return start[rank], shape[rank]

    def padded(self, rank: int) -> tuple:
        """First site and shape of a rank's padded block; the first site may be negative."""
        start, shape = self.primary(rank)
        return start - self.padding, shape + 2 * self.padding

    def cut(self, data, chunk: Chunk) -> np.ndarray:
        """The part of an array (C, ...) on this rank's padded block that a chunk and its padding fill."""
        start, _ = self.primary(self.comm.rank)
        local = (np.array(chunk.start) - start) % self.grid.Nmesh
        width = np.array(chunk.shape) + 2 * self.padding
        return data[(slice(None), *(slice(i, i + n) for i, n in zip(local, width)))]

    def exchange(self, site, values) -> np.ndarray:
        """Bring every rank the values on its padded block, (C, X, Y, Z) float32. Collective.

        The padding may be wider than blocks, and the block with its padding wider than the
        box: sites then appear several times, once for each periodic image. InputError on every rank if a
        site of a block has no value or more than one.

        Parameters
        ----------
        site : (n, 3) int64
            Sites of this rank's values, in [0, Nmesh). All ranks together: each site once.
        values : (n, C) float32
        """
        counts, indices = self.destinations(site)
        if self.comm.size > 1 or counts[0] < len(site):
            layout = Layout(self.comm, len(site), counts, indices)
            site, values = layout.exchange(site, values)
        del indices
        with agreement(self.comm):
            return self.fill(site, values)

    def destinations(self, site) -> tuple[np.ndarray, np.ndarray]:
        """The sites that each rank gets: those in its padded block. Not collective.

        A rank gets a site, of (n, 3) in [0, Nmesh), once, however many images of it its padded block holds.

        Returns
        -------
        counts : (ranks,) int32
            Sites for each rank.
        indices : (counts.sum(),) int64
            Rows of `site`, rank after rank.
        """
        N = self.grid.Nmesh
        starts, shapes = self._primary
        within = [{}, {}, {}]  # of each axis: blocks share their few intervals
        indices, counts = [], np.zeros(len(starts), dtype="i4")
        for rank, block in enumerate(zip(starts - self.padding, shapes + 2 * self.padding)):
            inside = None
            for axis, (first, n) in enumerate(zip(*block, strict=True)):
                if (first, n) not in within[axis]:
                    within[axis][first, n] = (site[:, axis] - first) % N < min(n, N)
                mask = within[axis][first, n]
                inside = mask if inside is None else inside & mask
            indices.append(np.flatnonzero(inside))
            counts[rank] = len(indices[-1])
        return counts, np.concatenate(indices)

    def fill(self, site, values) -> np.ndarray:
        """The field on the padded block, (C, X, Y, Z) float32, from the values received for it.

        Not collective. InputError if a site of the block has no value or more than one.
        """
        N = self.grid.Nmesh
        start, shape = self.padded(self.comm.rank)
        unique = np.minimum(shape, N)
        local = np.zeros(len(site), dtype="i8")
        for axis in range(3):
            local *= unique[axis]
            local += (site[:, axis] - start[axis]) % N
        filled = np.bincount(local, minlength=np.prod(unique))
        if (filled != 1).any():
            worst = int(np.flatnonzero(filled != 1)[0])
            where = (np.unravel_index(worst, unique) + start) % N
            raise InputError(
                f"{(filled == 0).sum()} lattice sites have no particle and {(filled > 1).sum()} have "
                f"several, the first at site {tuple(int(i) for i in where)}: IDs are missing or repeated"
            )
        field = np.empty((values.shape[1], np.prod(unique)), dtype="f4")
        for component, column in zip(field, values.T, strict=True):
            component[local] = column
        field = field.reshape(-1, *unique)
        if (shape > N).any():
            field = field[np.ix_(np.arange(len(field)), *(np.arange(n) % N for n in shape))]
        return field


@dataclass(frozen=True)
class LatticeField:
    """A rank's padded block of a vector field on the Lagrangian lattice."""

    lattice: LagrangianLattice
    domain: LatticeDomain
    # (3 or 6, X, Y, Z) float32 on the padded block: displacement, comoving [Mpc/h], then peculiar
    # velocity [km/s]
    data: np.ndarray
    largest: float  # largest displacement along an axis anywhere in the box, comoving [Mpc/h]

    def padded(self, chunk: Chunk) -> np.ndarray:
        """The field on a chunk with its padding, (C, n + 2 padding, ...) view."""
        return self.domain.cut(self.data, chunk)


def node_ranks(comm: MPI.Comm) -> tuple[int, int]:
    """This rank among those of its node, and their number. Collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        return local.rank, local.size
    finally:
        local.Free()
