"""Writing and reading of light cones.

How many particles each chunk has in a cone is known once it is computed.
"""

import os
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
from mpi4py import MPI
from nbodykit import CurrentMPIComm
from nbodykit.base.catalog import CatalogSource
from nbodykit.lab import BigFileCatalog, HDFCatalog

from ..errors import InputError, agreement, one_line
from .atomic import disk, readable
from .checks import attributes, check_block, check_sums
from .formats.bigfile import BigFileHeader
from .formats.hdf5 import HDF5Header, attributes_of, particles
from .formats.header import GADGET_MASS, MPC, SnapshotHeader
from .formats.parts import part_files
from .gadget_files import GadgetFiles
from .layout import GADGET_HDF5, NBODYKIT, Layout, plain
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


class ConeFiles(GadgetFiles):
    """HDF5 files ``cone.0.hdf5``, ``cone.1.hdf5``, ... of a light cone; see `GadgetFiles`."""

    stem = "cone"
    # particles have no time in common whose root velocities could be divided by
    units = GadgetFiles.units | {
        "Velocities": ((0.0, 0.0, 0.0, 0.0, 1.0), "UnitVelocity_in_cm_per_s")
    }


# What is in the Header of HDF5 files alone
_OF_FILES = ("NumPart_", "NumFiles", "MassTable", "Unit")


def _hdf5_header(attrs: dict, size: int, raw: dict) -> dict:
    """The attributes of a cone, and what readers of Gadget's files look for."""
    attrs = {name: x if isinstance(x, str) else np.ravel(x) for name, x in plain(attrs).items()}
    return attrs | {
        "NumPart_Total": np.array([0, size, 0, 0, 0, 0], "u8"),
        "MassTable": np.array([0, attrs["ParticleMass"][0], 0, 0, 0, 0]),
        "UnitLength_in_cm": MPC,
        "UnitMass_in_g": GADGET_MASS,
        "UnitVelocity_in_cm_per_s": 1e5,
    }


# Of the columns, all in the units of `COLUMNS`
LAYOUTS = {
    NBODYKIT.name: replace(
        NBODYKIT, columns={name: (name, kind) for name, kind in COLUMNS.items()}
    ),
    GADGET_HDF5.name: replace(
        GADGET_HDF5,
        columns={
            name: (GADGET_HDF5.columns.get(name, [name])[0], kind) for name, kind in COLUMNS.items()
        },
        attributes=_hdf5_header,
        length=1.0,
        comoving=False,
        hdf5=ConeFiles,
    ),
}

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
    with readable(path):
        if not CONE.marked(path):
            return False
        if _in_hdf5(path):
            return "ConeObserver" in attributes_of(_first_file(path), "Header")
        position = os.path.isdir(os.path.join(path, "Position"))  # halos have none there
        return position and "ConeObserver" in attributes(os.path.join(path, CONE.header))


def _in_hdf5(path):
    return not os.path.isdir(os.path.join(path, CONE.header))


def _first_file(path):
    return os.path.join(path, CONE.marks[-1][0])


def cone_layout(header: SnapshotHeader) -> Layout:
    """The layout of a cone with this header."""
    return LAYOUTS[NBODYKIT.name if isinstance(header, BigFileHeader) else GADGET_HDF5.name]


def check_cone(path) -> SnapshotHeader:
    """What a cone says of itself; its columns are those of `COLUMNS` that are there.

    InputError if `path` is no light cone, or is damaged.
    """
    path = os.fspath(path)
    if not is_cone(path):
        raise InputError(f"{path} is no light cone: make one with nbodykit-sr lightcone")
    header = (_check_hdf5 if _in_hdf5(path) else _check_bigfile)(path)
    for name in header.columns:
        found, wanted = header.stored_rows(name, 0, 1).dtype, np.dtype(COLUMNS[name]).base
        if found != wanted:
            raise InputError(f"{name} of {path} is {found.str}, a cone has {wanted.str}")
    return header


def _check_bigfile(path):
    blocks = {}
    for name, (_, shape) in COLUMNS.items():
        if os.path.isdir(os.path.join(path, name)):
            blocks[name] = check_block(os.path.join(path, name), int(np.prod(shape)))
    rows = {name: sum(block.rows) for name, block in blocks.items()}
    if not rows.get("Position") or len(set(rows.values())) > 1:
        raise InputError(f"the columns of {path} have {rows} rows: a cone has as many of each")
    attrs, size = attributes(os.path.join(path, CONE.header)), rows["Position"]
    return BigFileHeader(
        dataset="", columns=tuple(blocks), size=size, blocks=blocks, **_of_cone(path, attrs)
    )


def _check_hdf5(path):
    raw = attributes_of(_first_file(path), "Header")
    shapes = {name: shape for name, (_, shape) in COLUMNS.items()}
    _, where = particles(path, part_files(_first_file(path)), None, raw, shapes)
    attrs = {name: value for name, value in raw.items() if not name.startswith(_OF_FILES)}
    return HDF5Header(size=sum(where["counts"]), **where, **_of_cone(path, attrs))


def _of_cone(path, attrs):
    """What the headers of all layouts say."""
    return {"path": path, "attrs": attrs, "length": 1.0, "velocity": 1.0, "identity": ""}


def open_cone(path, comm=None) -> CatalogSource:
    """A light cone that `nbodykit-sr lightcone` made, as an nbodykit catalogue. Collective.

    Parameters
    ----------
    path : str or Path
    comm : mpi4py.MPI.Comm, optional

    Returns
    -------
    CatalogSource
        With the columns of `COLUMNS` that are in the files; scalar columns have shape (n,).

    Raises
    ------
    InputError
        On every rank: no cone, damaged headers, bytes of a BigFile that do not have their checksums.
    """
    comm, path = CurrentMPIComm.get() if comm is None else comm, os.fspath(path)
    header = None
    with agreement(comm):
        if comm.rank == 0:
            header = check_cone(path)
    header = comm.bcast(header)
    check_sums(header.checksums, comm)
    if isinstance(header, HDF5Header):
        opened = partial(HDFCatalog, list(header.files), dataset=header.dataset)
    else:
        opened = partial(BigFileCatalog, path, header=CONE.header)
    with agreement(comm):
        if comm.rank == 0:  # nbodykit's catalogue opens it on rank 0, while the others wait
            try:
                opened(comm=MPI.COMM_SELF)
            except Exception as error:  # of damaged files the libraries raise nearly anything
                raise InputError(f"{path} is unreadable: {one_line(error)}") from None
    catalog, layout = opened(comm=comm), cone_layout(header)
    for name in header.columns:
        column = catalog[layout.columns[name][0]]
        catalog[name] = column if COLUMNS[name][1] else column.reshape(-1)
    catalog = catalog[list(header.columns)]
    catalog.attrs.clear()  # of datasets
    catalog.attrs.update(header.attrs)
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
    layout : Layout
        One of `LAYOUTS`.
    names : tuple of str
        Columns to write, of `COLUMNS`.
    header : dict
        Attributes of the cone.
    identity : dict
    grid : ChunkGrid
        Chunks of the LR lattice.
    products : optional
        Maps and figures of the particles: its ``add(columns)`` is given all of them in the end, each
        by one rank, and its ``write(folder)``, collective, the folder of the catalogue.
    """

    store: AppendedFiles

    def __init__(self, path, comm, layout, names, header, identity, grid, products=None):
        super().__init__(path, comm, CONE, header, identity)
        self.layout, self.dtypes = layout, {name: layout.dtype(name) for name in names}
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
        header = self.layout.attributes(self.header, self.size, {})
        final = self.layout.files(self.run.content, tuple(self.dtypes), self.size, header)
        with agreement(self.comm), disk(self.partial):
            if self.comm.rank == 0:
                final.create()
        mine = entries[self.comm.rank :: self.comm.size]
        with agreement(self.comm), disk(self.partial):
            mine = [self._copied(entry, final) for entry in mine]
        entries = sorted(
            (entry for part in self.comm.allgather(mine) for entry in part),
            key=lambda entry: entry["start"],
        )
        if self.products is not None:
            self.products.write(self.run.content)
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._seal(final, entries, header)

    def _copied(self, entry, final):
        """Put a chunk into its place; what is recorded of it there, with the sums of its bytes."""
        blocks = {
            self.layout.block(name): entry["blocks"][name] | {"sums": []} for name in self.dtypes
        }
        start = entry["start"]
        for row, count in self._pieces(entry):
            columns = {
                name: self.store.rows(name, entry["rank"], row, count) for name in self.dtypes
            }
            for name, values in columns.items():
                block = self.layout.block(name)
                blocks[block]["sums"] += final.write(block, start, values)
            if self.products is not None:
                self.products.add(columns)
            start += count
        return entry | {"blocks": blocks}
