"""Writing of a catalogue of particles: its columns in two layouts, and what no particle may be."""

import numpy as np

from .preflight import CATALOGUE
from .writer import ChunkWriter, WrongValues

COLUMNS = {
    "nbodykit": {"Position": ("", "f4"), "Velocity": ("", "f4"), "ID": ("", "u8")},
    "mp-gadget": {"Position": ("1/", "f8"), "Velocity": ("1/", "f4"), "ID": ("1/", "u8")},
}

_KPC = 1000.0  # Mpc/h to MP-Gadget's kpc/h


class SnapshotWriter(ChunkWriter):
    """A catalogue that is being written by all ranks (see `ChunkWriter`).

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm
    layout : {"nbodykit", "mp-gadget"}
        Mpc/h with columns at the root, or kpc/h with columns under "1/".
    size : int
        Particles in all.
    names : tuple of str
        Of Position, Velocity, ID.
    header : dict
        Attributes of the Header block, in the layout's own units.
    identity : dict
    box : float
        Side of the box, comoving [Mpc/h]: no position lies outside.
    """

    def __init__(self, path, comm, layout, size, names, header, identity, box):
        self.layout, self.names, self.box = layout, names, box
        columns = {
            self._block(n): (COLUMNS[layout][n][1], () if n == "ID" else (3,)) for n in names
        }
        super().__init__(path, comm, CATALOGUE, columns, size, header, identity)

    @property
    def position_dtype(self):
        """Number format of positions on disk."""
        return COLUMNS[self.layout]["Position"][1]

    def write(self, index, start, columns):
        """Write a chunk at its place and record it. Not collective.

        Parameters
        ----------
        index : int
            Of the chunk.
        start : int
            First row.
        columns : dict of arrays
            Position in Mpc/h.

        Raises
        ------
        OSError
            If the disk does not take it.
        WrongValues
            If a number is not finite or a position outside of the box.
        """
        _check_values(index, columns, self.box)
        values = {self._block(name): columns[name] for name in self.names}
        if self.layout == "mp-gadget":
            values[self._block("Position")] = columns["Position"] * _KPC
        self._write(index, start, values)

    def _block(self, name):
        return COLUMNS[self.layout][name][0] + name


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
