"""A BigFile laid out in full, whose rows are written at their places and in any order."""

import os
import shutil

import bigfile
import numpy as np

from ..errors import agreement
from .atomic import atomic_file, disk
from .checks import attributes, byte_sum, check_block, header_text

# Rows in one physical file of a block, as nbodykit and bigfile write them
ROWS_PER_FILE = 32 * 1024**2


class BlockFile:
    """Blocks of one number of rows. The errors of the disk, and `bigfile.Error`, are raised.

    Parameters
    ----------
    folder : str
    columns : dict
        Name of a block to the numpy dtype of a row: a number or several.
    size : int
        Rows.
    """

    def __init__(self, folder, columns, size):
        self.folder, self.size = folder, size
        self.columns = {name: np.dtype(dtype) for name, dtype in columns.items()}
        count = max(1, -(-size // ROWS_PER_FILE))
        # first row of each physical file of a block, and the number of rows: bigfile's rule
        self.edges = [size * n // count for n in range(count + 1)]

    def create(self):
        """Make the blocks, as long as they will be."""
        with bigfile.File(self.folder, create=True) as file:
            for name, dtype in self.columns.items():
                with file.create(name, dtype, self.size, len(self.edges) - 1):
                    pass
        for name, dtype in self.columns.items():
            for number, (first, last) in enumerate(zip(self.edges, self.edges[1:])):
                os.truncate(self._file(name, number), (last - first) * dtype.itemsize)

    def write(self, name, start, values):
        """Write rows from `start` on; gives (physical file, byte sum) of the parts in each."""
        sums = []
        for number, (first, last) in enumerate(zip(self.edges, self.edges[1:])):
            low, high = max(start, first), min(start + len(values), last)
            if low < high:
                piece = values[low - start : high - start]
                offset = (low - first) * self.columns[name].itemsize
                _write_at(self._file(name, number), offset, piece)
                sums.append([number, byte_sum(piece)])
        return sums

    def read(self, name, start, count):
        """Rows of a block."""
        with bigfile.File(self.folder) as file, file[name] as block:
            return np.ascontiguousarray(block.read(start, count))

    def seal(self, name, sums):
        """Give a block its checksums, from the (physical file, byte sum) of all parts."""
        totals = np.zeros(len(self.edges) - 1, dtype="u8")
        for number, part in sums:
            totals[number] += np.uint64(part)
        dtype, folder = self.columns[name], os.path.join(self.folder, name)
        with atomic_file(os.path.join(folder, "header"), own=True) as file:
            file.write(header_text(dtype, np.diff(self.edges), totals).encode())
        check_block(folder, members=int(np.prod(dtype.shape)))

    def describe(self, name, attrs):
        """Give a block its attributes; if it is none of the columns it is made."""
        folder = os.path.join(self.folder, name)
        if name in self.columns:
            if os.path.exists(os.path.join(folder, "attr-v2")):
                os.remove(os.path.join(folder, "attr-v2"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
        with bigfile.File(self.folder) as file:
            with file[name] if name in self.columns else file.create(name) as block:
                for key, value in attrs.items():
                    block.attrs[key] = value
        # the library does not look whether the disk took it
        if attributes(folder).keys() != attrs.keys():
            raise OSError(f"the attributes of {name} were not written")

    def _file(self, name, number):
        return os.path.join(self.folder, name, f"{number:06X}")


def write_rows(folder, columns, comm):
    """Make blocks of which every rank has consecutive rows. Collective.

    Parameters
    ----------
    folder : path
        Of a BigFile.
    columns : dict of (n, ...) arrays
        By the names of their blocks; n may differ between ranks.
    comm : mpi4py.MPI.Comm

    Raises
    ------
    InputError
        On every rank, if the disk does not take them.
    """
    counts = comm.allgather(len(next(iter(columns.values()))))
    dtypes = {name: (rows.dtype, rows.shape[1:]) for name, rows in columns.items()}
    store = BlockFile(os.fspath(folder), dtypes, sum(counts))
    with agreement(comm), disk(folder, bigfile.Error):
        if comm.rank == 0:
            store.create()
    with agreement(comm), disk(folder):
        start = sum(counts[: comm.rank])
        sums = {
            name: store.write(name, start, np.ascontiguousarray(rows))
            for name, rows in columns.items()
        }
    sums = comm.gather(sums)
    with agreement(comm), disk(folder, bigfile.Error):
        if comm.rank == 0:
            for name in columns:
                store.seal(name, [part for one in sums for part in one[name]])


def write_header(folder, attrs, comm):
    """Make the block Header of a BigFile. Collective; raises as `write_rows` does."""
    with agreement(comm), disk(folder, bigfile.Error):
        if comm.rank == 0:
            BlockFile(os.fspath(folder), {}, 0).describe("Header", attrs)


def _write_at(path, offset, values):
    """Write all bytes of an array at an offset of a file."""
    data = memoryview(values).cast("B")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(descriptor)
