"""Writing and reading of light cones.

How many particles each chunk has in a cone is known once it is computed.
"""

import os
import shutil
import zlib

import bigfile
import numpy as np
from mpi4py import MPI
from nbodykit import CurrentMPIComm
from nbodykit.lab import BigFileCatalog

from ..errors import InputError, agreement, one_line
from .atomic import disk, readable
from .blocks import BlockFile
from .checks import attributes, check_block, check_sums
from .preflight import CONE
from .rows import RowFiles, write_at
from .writer import ChunkWriter, WrongValues

# Number formats of the columns, in their order
COLUMNS = {
    "Position": ("f8", (3,)),
    "Velocity": ("f4", (3,)),
    "ID": ("u8", ()),
    "Replica": ("i4", (3,)),
    "Aemit": ("f8", ()),
    "RA": ("f8", ()),
    "DEC": ("f8", ()),
    "Redshift": ("f8", ()),
    "RedshiftObserved": ("f8", ()),
    "Weight": ("f4", ()),
}

MOVING = ("Velocity", "RedshiftObserved")  # columns that take a velocity

# Rows that are copied at a time
_PIECE = 2**20


def empty(names) -> dict:
    """No particles, with these columns."""
    return {name: np.empty((0, *COLUMNS[name][1]), COLUMNS[name][0]) for name in names}


def joined(pieces) -> dict:
    """Columns of several pieces, one after another."""
    return {name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]}


def is_cone(path) -> bool:
    """Whether `path` is a light cone of this package."""
    folder = os.path.join(path, CONE.header)
    with readable(path):
        if not os.path.isdir(os.path.join(path, "Position")) or not CONE.marked(path):
            return False
        return "ConeObserver" in attributes(folder)


def check_cone(path) -> tuple[dict, dict]:
    """The attributes of a cone's Header, and the `BlockHeader` of each of its columns.

    InputError if `path` is no light cone, or is damaged.
    """
    if not is_cone(path):
        raise InputError(f"{path} is no light cone: make one with nbodykit-sr lightcone")
    attrs, blocks = attributes(os.path.join(path, CONE.header)), {}
    for name, (_, shape) in COLUMNS.items():
        if os.path.isdir(os.path.join(path, name)):
            blocks[name] = check_block(os.path.join(path, name), int(np.prod(shape)))
    rows = {name: sum(block.rows) for name, block in blocks.items()}
    if not rows.get("Position") or len(set(rows.values())) > 1:
        raise InputError(f"the columns of {path} have {rows} rows: a cone has as many of each")
    return attrs, blocks


def open_cone(path, comm=None) -> BigFileCatalog:
    """A light cone that `nbodykit-sr lightcone` made, as an nbodykit catalogue. Collective.

    Parameters
    ----------
    path : str or Path
    comm : mpi4py.MPI.Comm, optional

    Returns
    -------
    BigFileCatalog
        With the columns of `COLUMNS` that are in the file; scalar columns have shape (n,).

    Raises
    ------
    InputError
        On every rank: no cone, damaged headers, bytes that do not have their checksums.
    """
    comm, path = CurrentMPIComm.get() if comm is None else comm, os.fspath(path)
    blocks: dict = {}
    with agreement(comm):
        if comm.rank == 0:
            _, blocks = check_cone(path)
    blocks = comm.bcast(blocks)
    check_sums([file for block in blocks.values() for file in block.checksums], comm)
    with agreement(comm):
        if comm.rank == 0:  # nbodykit's catalogue opens it on rank 0, while the others wait
            try:
                BigFileCatalog(path, header=CONE.header, comm=MPI.COMM_SELF)
            except (bigfile.Error, ValueError) as error:
                raise InputError(f"{path} is unreadable: {one_line(error)}") from None
    catalog = BigFileCatalog(path, header=CONE.header, comm=comm)
    for name in blocks:
        if not COLUMNS[name][1]:
            catalog[name] = catalog[name].reshape(-1)
    return catalog


class AppendedFiles(RowFiles):
    """Columns in files that grow, one file a rank; a row is found by its rank and its place there."""

    def create(self) -> None:
        for name in self.columns:
            os.makedirs(os.path.join(self.folder, name))

    def path(self, name, number) -> str:
        return os.path.join(self.folder, name, f"{number:06X}")

    def open(self, number) -> int:
        """Make a rank's files where there are none; the first row that is free in all of them."""
        free = 0
        for name, dtype in self.columns.items():
            with open(self.path(name, number), "ab") as file:
                free = max(free, -(-file.tell() // dtype.itemsize))
        return free

    def append(self, name, number, row, values) -> None:
        """Write rows of a column into a rank's file."""
        write_at(self.path(name, number), row * self.columns[name].itemsize, values)

    def rows(self, name, number, row, count) -> np.ndarray:
        """Rows of a column of a rank's file; OSError if it ends before them."""
        dtype = self.columns[name]
        path = self.path(name, number)
        found = np.fromfile(path, dtype, count, offset=row * dtype.itemsize)
        if len(found) < count:
            raise OSError(f"{path} ends early")
        return found


class ConeWriter(ChunkWriter):
    """A light cone that is being written by all ranks (see `ChunkWriter`).

    Every rank appends the particles of its chunks to files of its own in the folder ``chunks`` beside
    the catalogue. `finish` makes the catalogue from them, chunk after chunk: twice the room on the
    disk, and a step that can be done again.

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm
    names : tuple of str
        Columns to write, of `COLUMNS`.
    header : dict
    identity : dict
    grid : ChunkGrid
        Chunks of the LR lattice.
    products : optional
        Maps and figures of the particles: its ``add(columns)`` is given all of them in the end, each
        by one rank, and its ``write(folder)``, collective, the folder of the catalogue.
    """

    store: AppendedFiles

    def __init__(self, path, comm, names, header, identity, grid, products=None):
        super().__init__(path, comm, CONE, header, identity)
        self.dtypes = {name: np.dtype(COLUMNS[name]) for name in names}
        # the progress is told in LR sites
        self.store = AppendedFiles(self.run.file("chunks"), self.dtypes, grid.size)
        self.chunks, self.products = int(np.prod(grid.counts)), products
        self.size = 0  # particles, once it is finished
        self._row, self._crc, self._size = 0, dict.fromkeys(names, 0), 0

    def append(self, columns) -> None:
        """Write some particles of the chunk that `record` closes. Not collective.

        OSError if the disk does not take them, WrongValues if a number is not finite.
        """
        for name, dtype in self.dtypes.items():
            values = np.ascontiguousarray(columns[name], dtype.base)
            if not np.isfinite(values).all():
                raise WrongValues(f"{name} is not finite somewhere")
            self.store.append(name, self.comm.rank, self._row + self._size, values)
            self._crc[name] = zlib.crc32(values.data, self._crc[name])
        self._size += len(values)

    def record(self, index) -> None:
        """Close a chunk: all of its particles are written. Not collective."""
        blocks = {name: {"crc": crc} for name, crc in self._crc.items()}
        entry = {"chunk": index, "rank": self.comm.rank, "row": self._row, "size": self._size}
        self.run.record(entry | {"blocks": blocks})
        self._row += self._size
        self._crc, self._size = dict.fromkeys(self._crc, 0), 0

    def _lay_out(self):
        os.mkdir(self.run.content)
        super()._lay_out()

    def _open_journal(self):
        super()._open_journal()
        with agreement(self.comm), disk(self.partial):
            self._row = self.store.open(self.comm.rank)

    def _pieces(self, entry):
        """(first row, rows) of the parts in which a chunk is read."""
        for first in range(0, entry["size"], _PIECE):
            yield entry["row"] + first, min(_PIECE, entry["size"] - first)

    def _sound(self, entry):
        try:
            for name in self.dtypes:
                crc = 0
                for row, count in self._pieces(entry):
                    crc = zlib.crc32(self.store.rows(name, entry["rank"], row, count), crc)
                if crc != entry["blocks"][name]["crc"]:
                    return False
        except OSError:
            return False
        return True

    def _entries(self):
        start, entries = 0, []
        for entry in super()._entries():
            entries.append(entry | {"start": start})
            start += entry["size"]
        if not start:
            raise InputError("no particle lies in the cone: choose a larger one, or more particles")
        return entries

    def _complete(self, entries):
        self.size = sum(entry["size"] for entry in entries)
        final = BlockFile(self.run.content, self.dtypes, self.size)
        with agreement(self.comm), disk(self.partial):
            if self.comm.rank == 0:
                for name in self.dtypes:  # of a run that was killed in this step
                    shutil.rmtree(os.path.join(final.folder, name), ignore_errors=True)
                final.create()
        mine = entries[self.comm.rank :: self.comm.size]
        with agreement(self.comm), disk(self.partial):
            for entry in mine:
                self._copy(entry, final)
        entries = sorted(
            (entry for part in self.comm.allgather(mine) for entry in part),
            key=lambda entry: entry["start"],
        )
        if self.products is not None:
            self.products.write(self.run.content)
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._seal(final, entries, self.header)

    def _copy(self, entry, final):
        """Put a chunk into its place, and note the sums of its bytes."""
        for name in self.dtypes:
            entry["blocks"][name]["sums"] = []
        start = entry["start"]
        for row, count in self._pieces(entry):
            columns = {
                name: self.store.rows(name, entry["rank"], row, count) for name in self.dtypes
            }
            for name, values in columns.items():
                entry["blocks"][name]["sums"] += final.write(name, start, values)
            if self.products is not None:
                self.products.add(columns)
            start += count
