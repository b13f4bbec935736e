"""A BigFile laid out in full, whose rows are written at their places and in any order."""

import os
import shutil

import numpy as np

from ..errors import agreement
from .atomic import atomic_file, disk
from .checks import attributes_text, check_block, header_text
from .rows import RowFiles

# A block of no rows, as the library makes one for attributes alone
_NO_ROWS = np.dtype(("<i8", (0,)))


class BlockFile(RowFiles):
    """Blocks of one number of rows; see `RowFiles`.

    The library writes nothing here: it refuses a blank anywhere in a path, takes no path that is
    not UTF-8, and does not look whether the disk took what it wrote.
    """

    def create(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        for name, dtype in self.columns.items():
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
            for number, rows in enumerate(np.diff(self.edges)):
                open(self._file(name, number), "wb").close()
                os.truncate(self._file(name, number), rows * dtype.itemsize)

    def seal(self, name: str, sums: list) -> None:
        """Give a block its header with the checksums of its files, and no attributes."""
        totals = np.zeros(len(self.edges) - 1, dtype="u8")
        for number, part in sums:
            totals[number] += np.uint64(part)
        dtype = self.columns[name]
        self._write(name, "header", header_text(dtype, np.diff(self.edges), totals))
        self._write(name, "attr-v2", "")  # it may be there, damaged
        check_block(os.path.join(self.folder, name), members=int(np.prod(dtype.shape)))

    def describe(self, name: str, attrs: dict) -> None:
        """Give a block its attributes; if it is none of the columns it is made."""
        if name not in self.columns:
            shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)
            os.mkdir(os.path.join(self.folder, name))
            self._write(name, "header", header_text(_NO_ROWS, (), ()))
        self._write(name, "attr-v2", attributes_text(attrs))

    def _write(self, name: str, file: str, text: str) -> None:
        with atomic_file(os.path.join(self.folder, name, file), own=True) as opened:
            opened.write(text.encode())

    def _place(self, name: str, number: int, row: int) -> tuple[str, int]:
        offset = (row - self.edges[number]) * self.columns[name].itemsize
        return self._file(name, number), offset

    def _file(self, name: str, number: int) -> str:
        return os.path.join(self.folder, name, f"{number:06X}")


def write_rows(folder, columns, comm) -> None:
    """Make blocks of a BigFile, of which every rank has consecutive rows. Collective.

    `columns` are arrays (n, ...) by the names of their blocks; n may differ between ranks. InputError on
    every rank, if the disk does not take them.
    """
    counts = comm.allgather(len(next(iter(columns.values()))))
    dtypes = {name: (rows.dtype, rows.shape[1:]) for name, rows in columns.items()}
    store = BlockFile(os.fspath(folder), dtypes, sum(counts))
    with agreement(comm), disk(folder):
        if comm.rank == 0:
            store.create()
    with agreement(comm), disk(folder):
        start = sum(counts[: comm.rank])
        sums = {
            name: store.write(name, start, np.ascontiguousarray(rows))
            for name, rows in columns.items()
        }
    sums = comm.gather(sums)
    with agreement(comm), disk(folder):
        if comm.rank == 0:
            for name in columns:
                store.seal(name, [part for one in sums for part in one[name]])


def write_header(folder, attrs, comm) -> None:
    """Make the block Header of a BigFile. Collective; raises as `write_rows` does."""
    with agreement(comm), disk(folder):
        if comm.rank == 0:
            BlockFile(os.fspath(folder), {}, 0).describe("Header", attrs)
