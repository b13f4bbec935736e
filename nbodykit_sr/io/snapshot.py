"""Snapshots of any known format, and catalogues written by this package, as nbodykit catalogues."""

from typing import TYPE_CHECKING

import dask
import dask.array as da
from nbodykit import CurrentMPIComm
from nbodykit.base.catalog import CatalogSource

from ..errors import agreement
from ..physics.matter import MASS, snapshot_mass
from ..physics.universe import Universe
from .checks import check_sums
from .formats import read_header

if TYPE_CHECKING:
    from nbodykit.cosmology import Cosmology

# Rows of a column that one dask task reads
ROWS = 2**21


class SnapshotCatalog(CatalogSource):
    """A snapshot as an nbodykit catalogue; every rank reads its own slice, when it is computed.

    Columns: Position [comoving Mpc/h], Velocity [peculiar km/s], ID. Made by `open_snapshot`.
    """

    def __init__(self, header, comm):
        self.comm = comm
        self.attrs.update(header.attrs)
        self.attrs["ParticleMass"] = snapshot_mass(header.attrs, header.size) / MASS
        self.header, self._checked = header, False
        self._start = comm.rank * header.size // comm.size
        self._size = (comm.rank + 1) * header.size // comm.size - self._start
        CatalogSource.__init__(self, comm=comm)

    def check_sums(self, force=None) -> None:
        """Compare the bytes of all columns with the checksums in their headers, once. Collective.

        See `checks.check_sums`. Formats without checksums are not compared: HDF5 checks those of its own
        filters as it reads.
        """
        if not self._checked:
            check_sums(self.header.checksums, self.comm, force)
            self._checked = True

    @property
    def hardcolumns(self) -> list[str]:
        return [*self.header.columns, *CatalogSource.hardcolumns.fget(self)]

    def get_hardcolumn(self, col) -> da.Array:
        if col not in self.header.columns:
            return CatalogSource.get_hardcolumn(self, col)
        dtype = {"Position": "f8", "Velocity": "f4", "ID": "u8"}[col]
        stop = self._start + self._size
        pieces = []
        for first in range(self._start, stop, ROWS):
            last = min(first + ROWS, stop)
            shape = (last - first,) if col == "ID" else (last - first, 3)
            rows = dask.delayed(self.header.rows, pure=True, traverse=False)(col, first, last)
            pieces.append(da.from_delayed(rows, shape, dtype))
        if not pieces:
            return da.zeros((0,) if col == "ID" else (0, 3), dtype=dtype)
        return da.concatenate(pieces)

    def __repr__(self):
        return f"SnapshotCatalog(size={self.size}, path={self.attrs['source']!r})"


def open_snapshot(path, comm=None, dataset=None) -> SnapshotCatalog:
    """Open a snapshot, or a catalogue written by this package, by looking at what is there.

    Parameters
    ----------
    path : str or Path
        A BigFile folder of MP-Gadget or FastPM, such as PART_008; HDF5 of Gadget-2, 3, 4, AREPO,
        GIZMO or SWIFT; or Gadget's binary format 1 or 2. Of several files any one, their folder,
        or what their names begin with.
    comm : mpi4py.MPI.Comm, optional
        nbodykit's current communicator by default. Collective.
    dataset : str or int, optional
        Particle type, such as 1 or "1/", or prefix of the columns of a BigFile; dark matter by
        default.

    Returns
    -------
    SnapshotCatalog
        In nbodykit's units whatever the file's: Mpc/h, peculiar km/s, BoxSize of length 3.

    Raises
    ------
    InputError
        On every rank: no snapshot, no header, no BoxSize, columns or files missing, truncated or
        damaged, units unknown, an unfinished output of this package.
    """
    comm = CurrentMPIComm.get() if comm is None else comm
    header = None
    with agreement(comm):
        if comm.rank == 0:
            header = read_header(path, None if dataset is None else str(dataset))
    return SnapshotCatalog(comm.bcast(header), comm)


def cosmology(attrs) -> "Cosmology":
    """The nbodykit Cosmology of a snapshot's attrs (for FOF catalogues and redshift space)."""
    from nbodykit.cosmology import Cosmology

    return Cosmology(**Universe.of(attrs, "Omega0", "OmegaBaryon", "h").boltzmann)
