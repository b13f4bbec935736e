"""A BigFile laid out in full, whose rows are written at their places and in any order."""

import os
import shutil

import bigfile
import numpy as np

from ..errors import agreement
from .atomic import atomic_file, disk
from .checks import attributes, check_block, header_text
from .rows import RowFiles


class BlockFile(RowFiles):
    """Blocks of one number of rows; see `RowFiles`. `bigfile.Error` is raised too."""

    def create(self) -> None:
        with bigfile.File(self.folder, create=True) as file:
            for name, dtype in self.columns.items():
                with file.create(name, dtype, self.size, len(self.edges) - 1):
                    pass
        for name, dtype in self.columns.items():
            for number, (first, last) in enumerate(zip(self.edges, self.edges[1:])):
                os.truncate(self._file(name, number), (last - first) * dtype.itemsize)

    def seal(self, name: str, sums: list) -> None:
        """Give a block its header with the checksums of its files, and no attributes."""
        totals = np.zeros(len(self.edges) - 1, dtype="u8")
        for number, part in sums:
            totals[number] += np.uint64(part)
        dtype, folder = self.columns[name], os.path.join(self.folder, name)
        with atomic_file(os.path.join(folder, "header"), own=True) as file:
            file.write(header_text(dtype, np.diff(self.edges), totals).encode())
        with atomic_file(os.path.join(folder, "attr-v2"), own=True):
            pass  # since it was made, it may have been damaged
        check_block(folder, members=int(np.prod(dtype.shape)))

    def describe(self, name: str, attrs: dict) -> None:
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

    def _place(self, name: str, number: int, row: int) -> tuple[str, int]:
        offset = (row - self.edges[number]) * self.columns[name].itemsize
        return self._file(name, number), offset

    def _file(self, name: str, number: int) -> str:
        return os.path.join(self.folder, name, f"{number:06X}")


def write_rows(folder, columns, comm) -> None:
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


def write_header(folder, attrs, comm) -> None:
    """Make the block Header of a BigFile. Collective; raises as `write_rows` does."""
    with agreement(comm), disk(folder, bigfile.Error):
        if comm.rank == 0:
            BlockFile(os.fspath(folder), {}, 0).describe("Header", attrs)
