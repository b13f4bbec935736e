"""HDF5 files of a Gadget snapshot, laid out in full, whose rows are written at their places."""

import os

import h5py
import numpy as np
from h5py import h5d, h5p

from ..provenance import NAMES
from .formats.hdf5 import DIGEST, attributes_of, opened
from .rows import RowFiles, write_at

# Readable by every HDF5 since 1.8 of 2008; from then on the format keeps checksums of its metadata
_VERSIONS = ("v108", "v108")


class GadgetFiles(RowFiles):
    """A snapshot ``snapshot.0.hdf5``, ``snapshot.1.hdf5``, ... of Gadget-4's form; see `RowFiles`.

    The library makes the files when a run begins, and writes nothing to them any more: contiguous
    datasets have their place in a file, to which the rows go as they come. So ranks write side by
    side, and no kill leaves a file that the library cannot open. All of the header is there from
    the beginning but the digest of the checksums, which has a dataset of its own and tells
    finished files from unfinished ones.

    Parameters
    ----------
    folder : str
    columns : dict
    size : int
    header : dict
        Attributes of the group Header but those of a file; NumPart_Total is of one type alone.
    """

    def __init__(self, folder: str, columns: dict, size: int, header: dict) -> None:
        super().__init__(folder, columns, size)
        self.header = header
        self._offsets: dict[tuple[str, int], int] = {}

    def create(self) -> None:
        os.mkdir(self.folder)
        at_once = h5p.create(h5p.DATASET_CREATE)
        at_once.set_layout(h5d.CONTIGUOUS)
        at_once.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        at_once.set_fill_time(h5d.FILL_TIME_NEVER)
        for number, rows in enumerate(np.diff(self.edges)):
            with h5py.File(self._file(number), "w", libver=_VERSIONS, locking=False) as file:
                header = file.create_group("Header")
                total = self.header["NumPart_Total"]
                header.attrs["NumPart_ThisFile"] = np.where(total, rows, 0).astype(total.dtype)
                header.attrs["NumFilesPerSnapshot"] = np.int32(len(self.edges) - 1)
                for key, value in self.header.items():
                    # of a fixed length, a text is in what the format keeps checksums of
                    header.attrs[key] = (
                        np.bytes_(value.encode()) if isinstance(value, str) else value
                    )
                file.create_dataset(DIGEST, (1,), "S64", dcpl=at_once)
                file.flush()  # so that the header comes before the rows, see `preflight.Kind`
                for name, dtype in self.columns.items():
                    file.create_dataset(name, (rows, *dtype.shape), dtype.base, dcpl=at_once)

    def describe(self, name: str, attrs: dict) -> None:
        """Write the digest; the other attributes are there, if nothing damaged them since."""
        digest = np.frombuffer(attrs[NAMES["checksums"]].encode(), "u1")
        for number in range(len(self.edges) - 1):
            write_at(self._file(number), self._offset(DIGEST, number), digest)
            found = attributes_of(self._file(number), "Header")
            if not found.keys() >= attrs.keys():
                raise OSError(f"{self._file(number)} lacks attributes that were written")

    def _place(self, name: str, number: int, row: int) -> tuple[str, int]:
        offset = self._offset(name, number)
        return self._file(number), offset + (row - self.edges[number]) * self.columns[name].itemsize

    def _offset(self, name: str, number: int) -> int:
        """The byte at which a dataset begins."""
        if (name, number) not in self._offsets:
            with opened(self._file(number)) as file:
                self._offsets[name, number] = file[name].id.get_offset()
        return self._offsets[name, number]

    def _file(self, number: int) -> str:
        return os.path.join(self.folder, f"snapshot.{number}.hdf5")
