"""HDF5 files of a Gadget snapshot, laid out in full, whose rows are written at their places."""

import os

import h5py
import numpy as np
from h5py import h5d, h5p

from ..provenance import NAMES
from .formats.hdf5 import CARD, DIGEST, attributes_of, opened
from .rows import RowFiles, write_at

# Readable by every HDF5 since 1.8 of 2008; from then on the format keeps checksums of its metadata
_VERSIONS = ("v108", "v108")

# What readers of Gadget-4 look for in the group Parameters; in the Header it is for all others
_PARAMETERS = (
    *("BoxSize", "Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam"),
    *("UnitLength_in_cm", "UnitMass_in_g", "UnitVelocity_in_cm_per_s"),
)

# What Gadget-4 says of a dataset: powers of a and h that make it physical, those of its unit, and
# the attribute of the header that is this unit in cgs
_SCALINGS = ("a_scaling", "h_scaling", "length_scaling", "mass_scaling", "velocity_scaling")
_UNITS = {
    "Coordinates": ((1.0, -1.0, 1.0, 0.0, 0.0), "UnitLength_in_cm"),
    "Velocities": ((0.5, 0.0, 0.0, 0.0, 1.0), "UnitVelocity_in_cm_per_s"),
}


class GadgetFiles(RowFiles):
    """A snapshot ``snapshot.0.hdf5``, ``snapshot.1.hdf5``, ... of Gadget-4's form; see `RowFiles`.

    Subclasses say by `stem` what the names of their files begin with, and by `units` what Gadget-4's
    readers are told of a dataset.

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
        The model card goes to a group of its own, cosmology and units to Gadget-4's, too.
    """

    stem, units = "snapshot", _UNITS

    def __init__(self, folder: str, columns: dict, size: int, header: dict) -> None:
        super().__init__(folder, columns, size)
        self.header = header
        self._offsets: dict[tuple[str, int], int] = {}

    def create(self) -> None:
        os.makedirs(self.folder, exist_ok=True)
        at_once = h5p.create(h5p.DATASET_CREATE)
        at_once.set_layout(h5d.CONTIGUOUS)
        at_once.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        at_once.set_fill_time(h5d.FILL_TIME_NEVER)
        for number, rows in enumerate(np.diff(self.edges)):
            with h5py.File(self._file(number), "w", libver=_VERSIONS, locking=False) as file:
                for group, attrs in self._groups(rows).items():
                    _describe(file.create_group(group), attrs)
                file.create_dataset(DIGEST, (1,), "S64", dcpl=at_once)
                file.flush()  # so that the header comes before the rows, see `preflight.Kind`
                for name, dtype in self.columns.items():
                    shape = (rows, *dtype.shape)
                    column = file.create_dataset(name, shape, dtype.base, dcpl=at_once)
                    _describe(column, self._units(name.rpartition("/")[2]))

    def _groups(self, rows):
        """Groups and their attributes, of a file with so many rows."""
        total = self.header["NumPart_Total"]
        counts = {
            "NumPart_ThisFile": np.where(total, rows, 0).astype(total.dtype),
            "NumPart_Total_HighWord": np.zeros_like(total),  # the total itself has 64 bits
            "NumFilesPerSnapshot": np.int32(len(self.edges) - 1),
        }
        card = {key: value for key, value in self.header.items() if key == NAMES["card"]}
        header = {key: value for key, value in self.header.items() if key not in card}
        parameters = {key: header[key] for key in _PARAMETERS if key in header}
        return {"Header": counts | header, "Parameters": parameters, CARD: card}

    def _units(self, name):
        """Attributes of a dataset, where it has units."""
        if name not in self.units:
            return {}
        powers, unit = self.units[name]
        return {**dict(zip(_SCALINGS, powers, strict=True)), "to_cgs": self.header[unit]}

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
        return os.path.join(self.folder, f"{self.stem}.{number}.hdf5")


def _describe(group, attrs):
    """Give a group or dataset attributes; of a fixed length, texts have checksums as well."""
    for key, value in attrs.items():
        group.attrs[key] = np.bytes_(value.encode()) if isinstance(value, str) else value
