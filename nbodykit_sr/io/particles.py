"""Writing of a catalogue of particles in any layout, and what no particle may be."""

import numpy as np

from .preflight import CATALOGUE
from .writer import ChunkWriter, WrongValues


class SnapshotWriter(ChunkWriter):
    """A catalogue that is being written by all ranks (see `ChunkWriter`).

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm
    layout : Layout
    size : int
        Particles in all.
    names : tuple of str
        Columns to write, of Position, Velocity, ID.
    header : dict
        Attributes of the Header block, in the layout's own units.
    identity : dict
    universe : Universe
        BoxSize, outside of which no position lies, and the scale factor.
    """

    def __init__(self, path, comm, layout, size, names, header, identity, universe):
        super().__init__(path, comm, CATALOGUE, header, identity)
        self.layout, self.names, self.universe = layout, names, universe
        self.store = layout.files(self.run.content, names, size, header)

    @property
    def position_dtype(self) -> np.dtype:
        """Number format of positions on disk."""
        return self.layout.dtype("Position").base

    def write(self, index, start, columns) -> None:
        """Write a chunk of this index at its place, from row `start` on, and record it. Not collective.

        `columns` are Position comoving [Mpc/h], Velocity peculiar [km/s], ID.

        Raises
        ------
        OSError
            If the disk does not take it.
        WrongValues
            If a number is not finite or a position outside of the box.
        """
        _check_values(index, columns, self.universe.BoxSize)
        values = {
            self.layout.block(name): self.layout.stored(name, columns[name], self.universe.a)
            for name in self.names
        }
        self._write(index, start, values)


def _check_values(index, columns, box):
    position = columns["Position"]
    low, high = float(position.min(initial=0)), float(position.max(initial=0))
    if not (low >= 0 and high < box):  # false for NaN too
        raise WrongValues(
            f"chunk {index} has positions from {low:g} to {high:g} Mpc/h in a box of {box:g} Mpc/h"
        )
    if "Velocity" in columns:
        velocity = columns["Velocity"]
        low, high = velocity.min(initial=0), velocity.max(initial=0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise WrongValues(f"chunk {index} has velocities from {low:g} to {high:g} km/s")
