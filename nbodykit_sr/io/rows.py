"""Columns of rows at fixed places of files of bounded size, written in any order by any rank."""

import os
from collections.abc import Iterator

import numpy as np

from .checks import byte_sum

# Rows in one file, as nbodykit and bigfile write them
ROWS_PER_FILE = 32 * 1024**2


class RowFiles:
    """Columns of one number of rows, cut into files after the same rows.

    How many files there are follows from the number of rows alone. What the disk refuses is
    raised as the OSError that it is.

    Parameters
    ----------
    folder : str
    columns : dict
        Name of a column to the numpy dtype of a row: one number or several.
    size : int
        Rows.
    """

    def __init__(self, folder: str, columns: dict, size: int) -> None:
        self.folder, self.size = folder, size
        self.columns = {name: np.dtype(dtype) for name, dtype in columns.items()}
        count = max(1, -(-size // ROWS_PER_FILE))
        # first row of each file, and the number of rows: bigfile's rule
        self.edges = [size * n // count for n in range(count + 1)]

    def create(self) -> None:
        """Make the files, as long as they will be."""
        raise NotImplementedError

    def seal(self, name: str, sums: list) -> None:
        """Keep the sums of bytes that `write` gave for all rows of a column, where that is done."""

    def describe(self, name: str, attrs: dict) -> None:
        """Write the attributes of the header `name`, the last thing that is written."""
        raise NotImplementedError

    def write(self, name: str, start: int, values: np.ndarray) -> list:
        """Write rows from `start` on; gives [file, sum of bytes] of the part in each file."""
        sums = []
        for number, low, high in self._parts(start, len(values)):
            piece = values[low - start : high - start]
            write_at(*self._place(name, number, low), piece)
            sums.append([number, byte_sum(piece)])
        return sums

    def read(self, name: str, start: int, count: int) -> np.ndarray:
        """Rows of a column; OSError if a file ends before them."""
        pieces = [np.empty(0, self.columns[name])]
        for number, low, high in self._parts(start, count):
            path, offset = self._place(name, number, low)
            pieces.append(np.fromfile(path, self.columns[name], high - low, offset=offset))
            if len(pieces[-1]) < high - low:
                raise OSError(f"{path} ends early")
        return np.concatenate(pieces)

    def _parts(self, start: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Where rows from `start` on lie: (file, first, last) of each part."""
        for number, (first, last) in enumerate(zip(self.edges, self.edges[1:])):
            low, high = max(start, first), min(start + count, last)
            if low < high:
                yield number, low, high

    def _place(self, name: str, number: int, row: int) -> tuple[str, int]:
        """The path of a file, and the byte at which a row of a column begins in it."""
        raise NotImplementedError


def write_at(path: str, offset: int, values: np.ndarray) -> None:
    """Write all bytes of an array at an offset of a file."""
    data = values.data.cast("B")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(descriptor)
