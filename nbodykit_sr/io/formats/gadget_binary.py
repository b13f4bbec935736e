"""Gadget's binary snapshots: formats 1 and 2 of Gadget-1 to 4, in either byte order.

A file is a row of records, each with its length before and after it. The first is the header; then
come positions, velocities, IDs and masses, each of all particle types in turn. In format 2 a record
with its name goes before each of them. Gadget-4's header has counts of 64 bits and no cosmology.
"""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
from .gadget_hdf5 import gadget_units
from .header import RawHeader, density_parameter
from .parts import PartsHeader, census, named, whole

logger = logging.getLogger(__name__)

_BLOCKS = {"Position": "POS ", "Velocity": "VEL ", "ID": "ID  ", "Mass": "MASS"}

_GADGET2 = [
    ("NumPart_ThisFile", "u4", 6),
    ("MassTable", "f8", 6),
    ("Time", "f8"),
    ("Redshift", "f8"),
    ("flags", "u4", 2),
    ("NumPart_Total", "u4", 6),
    ("Flag_Cooling", "u4"),
    ("NumFilesPerSnapshot", "u4"),
    ("BoxSize", "f8"),
    ("Omega0", "f8"),
    ("OmegaLambda", "f8"),
    ("HubbleParam", "f8"),
    ("more_flags", "u4", 2),
    ("NumPart_Total_HighWord", "u4", 6),
]

# Length of a header to what it begins with; Gadget-4 may be built for any number of types
_HEADERS = {
    24 * types + 48: [
        ("NumPart_ThisFile", "u8", types),
        ("NumPart_Total", "u8", types),
        ("MassTable", "f8", types),
        ("Time", "f8"),
        ("Redshift", "f8"),
        ("BoxSize", "f8"),
        ("NumFilesPerSnapshot", "u4"),
    ]
    for types in range(1, 11)
} | {256: _GADGET2}

_NAME = 8  # bytes of a block's name and length in format 2

_COSMOLOGY = ("Omega0", "OmegaLambda", "HubbleParam")

# What Gadget writes beside its snapshots
_PARAMETERS = "parameters-usedvalues"


@dataclass(frozen=True, kw_only=True)
class BinaryHeader(PartsHeader):
    """Header of a binary snapshot."""

    @classmethod
    def read(cls, path, files, dataset=None) -> "BinaryHeader":
        """Read and check the headers of all files; on one rank.

        Lengths are over h, comoving, in kpc or Mpc, which the matter density tells where the
        parameters of the run do not; velocities are peculiar ones over sqrt(a) [km/s].
        """
        raw = _File(named(path, files)).header
        files = whole(path, files, max(1, int(raw.number("NumFilesPerSnapshot"))))
        contents = [_File(name) for name in files]
        kind, counts = census(path, dataset, raw, [content.header for content in contents])
        mass = _mass(contents, kind)
        raw = _with_cosmology(raw, contents)
        length, mass, velocity = gadget_units(path, raw, mass, sum(counts))
        where = {
            "dataset": f"{kind}/",
            "columns": ("Position", "Velocity", "ID"),
            "files": tuple(files),
            "counts": tuple(counts),
        }
        a = raw.scale_factor()
        return cls.of(path, raw, where, length, velocity * np.sqrt(a), a, mass)

    def file_rows(self, file, name, first, last) -> np.ndarray:
        return _File(file).rows(name, int(self.dataset[0]), first, last)


def is_binary(begin: bytes) -> bool:
    """Whether a file that begins so is Gadget's binary."""
    return _byte_order(begin) is not None


def _byte_order(begin):
    """The order in which the first length makes sense, "<" or ">", or None."""
    for order, name in (("<", "little"), (">", "big")):
        if int.from_bytes(begin[:4], name) in (_NAME, *_HEADERS):
            return order
    return None


class _File:
    """One file: its header, and where its blocks lie."""

    def __init__(self, path):
        self.path = path
        with self._opened() as file:
            self.size = os.fstat(file.fileno()).st_size
            self._scan(file)

    def rows(self, name, kind, first, last):
        """Rows of a column of one particle type, in the machine's byte order."""
        if name not in self.blocks:
            raise InputError(
                f"{self.path} has no block {_BLOCKS[name]}: it is truncated or damaged"
            )
        start, dtype, counts = self.blocks[name]
        first, last = (int(sum(counts[:kind])) + row for row in (first, last))
        with self._opened() as file:
            file.seek(start + first * dtype.itemsize)
            values = np.fromfile(file, dtype, last - first)
        if len(values) < last - first:
            raise InputError(f"{self.path} ends within its {name}: it is truncated")
        return values.astype(dtype.base.newbyteorder("="))

    @contextmanager
    def _opened(self):
        try:
            with open(self.path, "rb") as file:
                yield file
        except OSError as error:
            raise InputError(f"{self.path} is unreadable: {error.strerror}") from None

    def _scan(self, file):
        """The header, and start, number format and rows of each type of the blocks."""
        self.order = _byte_order(file.read(4))
        length = self._length(file, 0) if self.order else 0
        labelled = length == _NAME
        start = 4 + labelled * (_NAME + 8)
        length = self._length(file, start - 4)
        if length not in _HEADERS:
            raise InputError(f"{self.path} has no header of Gadget's: it is damaged")
        layout = np.dtype(_HEADERS[length]).newbyteorder(self.order)
        file.seek(start)
        content = file.read(length)
        if len(content) < length:
            raise InputError(f"{self.path} ends within its header: it is truncated")
        values = np.frombuffer(content, layout, 1)[0]
        self.header = RawHeader(self.path, {name: values[name] for name in layout.names})
        counts = [int(count) for count in self.header["NumPart_ThisFile"]]
        massive = [n * (not m) for n, m in zip(counts, self.header["MassTable"])]
        self.blocks = {}
        start += length + 4
        for name, label in _BLOCKS.items():
            held = massive if name == "Mass" else counts
            if not sum(held):
                continue
            if labelled:
                start = self._find(file, label, start)
            dtype = self._number_format(file, name, start, sum(held))
            self.blocks[name] = (start + 4, dtype, held)
            start += sum(held) * dtype.itemsize + 8

    def _find(self, file, label, start):
        """Where the block of this name begins, at `start` or after it."""
        while start < self.size:
            file.seek(start + 4)
            name = file.read(4)
            start += _NAME + 8
            if name == label.encode():
                return start
            start += self._length(file, start) + 8
        raise InputError(f"{self.path} has no block {label}: it is truncated or damaged")

    def _number_format(self, file, name, start, rows):
        """Single or double precision, whichever the record's length shows. It is kept modulo 2^32."""
        letter, shape = "u" if name == "ID" else "f", () if name in ("ID", "Mass") else 3
        for width in (4, 8):
            dtype = np.dtype((f"{self.order}{letter}{width}", shape))
            size = rows * dtype.itemsize
            end = start + 4 + size
            if end + 4 > self.size:
                break
            if self._length(file, start) == self._length(file, end) == size % 2**32:
                return dtype
        raise InputError(
            f"{self.path} has a block {_BLOCKS[name]} that is not of its Header's {rows} particles: it is "
            "truncated or damaged"
        )

    def _length(self, file, start):
        file.seek(start)
        return int.from_bytes(file.read(4), "little" if self.order == "<" else "big")


def _mass(files, kind):
    """Mass of a particle of one type, in the files' units."""
    for file in files:
        if file.header.of_type("NumPart_ThisFile", kind):
            return file.header.of_type("MassTable", kind) or float(file.rows("Mass", kind, 0, 1)[0])
    return 0.0


def _with_cosmology(raw, files):
    """A header with Omega0, which Gadget-4's has not: from the run's parameters, or the masses."""
    if raw.get("Omega0"):
        return raw
    known = {name: value for name, value in raw.items() if name not in _COSMOLOGY}
    parameters = _parameters(raw)
    if "Omega0" in parameters:
        return RawHeader(raw.path, {**parameters, **known})
    box = raw.positive("BoxSize")
    mass = sum(
        sum(file.header.of_type("NumPart_ThisFile", kind) for file in files) * _mass(files, kind)
        for kind in range(len(raw["MassTable"]))
    )
    for unit in (1e-3, 1.0):
        matter = density_parameter(mass, box * unit)
        if 0.01 < matter <= 1:
            logger.warning(
                "the Header of %s has no cosmology: its particles' masses give Omega0 %.4f, flatness is "
                "assumed and h is not known; copy the run's %s there to have them",
                raw.path,
                matter,
                _PARAMETERS,
            )
            return RawHeader(raw.path, {**known, "Omega0": matter})
    raise InputError(
        f"the Header of {raw.path} has no cosmology, and particles of mass {mass:g} in all in a box of "
        f"{box:g} give no Omega0 in kpc/h or Mpc/h with 1e10 Msun/h: copy the run's {_PARAMETERS} there"
    )


def _parameters(raw):
    """The run's parameters from beside the snapshot or the folder above, if they are of its box."""
    folder = os.path.dirname(os.path.realpath(raw.path))
    for place in (folder, os.path.dirname(folder)):
        try:
            with open(os.path.join(place, _PARAMETERS), encoding="utf-8") as file:
                pairs = [
                    line.split()[:2] for line in file.read(2**16).splitlines() if line.split()[1:]
                ]
        except (OSError, UnicodeDecodeError):
            continue
        parameters = RawHeader(raw.path, dict(pairs))
        if parameters.number("BoxSize", default=0.0) == raw.number("BoxSize"):
            return parameters
    return {}
