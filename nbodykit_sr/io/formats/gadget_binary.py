"""Gadget-1 and 2 binary snapshots, by nbodykit's reader."""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from nbodykit.io.gadget import Gadget1File

from ...errors import InputError, one_line
from .header import RawHeader, length_from_density, particle_type
from .parts import PartsHeader, check_total, named, whole

_NAMES = {"Position": "Position", "Velocity": "GadgetVelocity", "ID": "ID"}
_COLUMNS = [
    ("Position", ("auto", 3), "all"),
    ("GadgetVelocity", ("auto", 3), "all"),
    ("ID", "auto", "all"),
    ("Mass", "auto", None),
]


@dataclass(frozen=True, kw_only=True)
class BinaryHeader(PartsHeader):
    """Header of a binary snapshot."""

    @classmethod
    def read(cls, path, files, dataset=None) -> "BinaryHeader":
        """Read and check the headers of all files; on one rank.

        Lengths are over h, comoving, in kpc or Mpc, which the matter density tells; velocities
        are peculiar ones over sqrt(a) [km/s].

        Raises
        ------
        InputError
        """
        raw = _attributes(named(path, files), 1)
        files = whole(path, files, max(1, int(raw.number("NumFiles"))))
        total = raw.numbers("Nall") + raw.numbers("NallHW") * 2.0**32
        kind = particle_type(path, dataset, total)
        counts = [int(_attributes(name, kind).numbers("Npart")[kind]) for name in files]
        check_total(path, kind, counts, total[kind])
        a = raw.scale_factor()
        mass = raw.numbers("Massarr")[kind]
        if not mass > 0:
            first = next(name for name, count in zip(files, counts, strict=True) if count)
            with _opened(first, kind) as file:
                mass = float(file.read(["Mass"], 0, 1)["Mass"][0])
        length = length_from_density(path, raw.number("BoxSize"), mass, sum(counts), raw.matter())
        where = {
            "dataset": f"{kind}/",
            "columns": tuple(_NAMES),
            "files": tuple(files),
            "counts": tuple(counts),
        }
        return cls.of(path, raw, where, length, np.sqrt(a), a, mass)

    def file_rows(self, file, name, first, last) -> np.ndarray:
        column = _NAMES[name]
        with _opened(file, int(self.dataset[0])) as content:
            values = content.read([column], first, last)[column]
        # the reader takes IDs of 4 bytes for signed ones
        return values.view(f"u{values.itemsize}") if name == "ID" else values


@contextmanager
def _opened(path, kind):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a block Mass that is not there, nor need be
            file = Gadget1File(path, columndefs=_COLUMNS, ptype=kind)
        yield file
    except Exception as error:  # whatever numbers a damaged file makes of its header
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path} is unreadable, truncated or damaged: {reason}") from None


def _attributes(path, kind):
    with _opened(path, kind) as file:
        return RawHeader(path, file.attrs)
