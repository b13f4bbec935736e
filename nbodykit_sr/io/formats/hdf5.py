"""Snapshots in HDF5, one or several files: groups PartType0, PartType1, ... beside a Header."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import numpy as np
from h5py import h5t

from ...errors import InputError, one_line
from ...provenance import NAMES as MADE
from .header import RawHeader
from .parts import PartsHeader, census, whole

SIGNATURE = b"\x89HDF\r\n\x1a\n"

# Columns of a snapshot, and the shape of a row
COLUMNS: dict[str, tuple] = {"Position": (3,), "Velocity": (3,), "ID": ()}

# The datasets of a column; EAGLE's names are singular
NAMES = {
    "Position": ("Coordinates",),
    "Velocity": ("Velocities", "Velocity"),
    "ID": ("ParticleIDs",),
    "Mass": ("Masses", "Mass"),
}

# Dataset in our own files that holds the digest of their checksums, empty until they are finished
DIGEST = f"Header/{MADE['checksums']}"

# Group in our own files that holds the model card, which would fill any reader's list of the Header
CARD = "ModelCard"

# Attributes of more numbers than this are none that a snapshot is described by
_LONGEST = 1024


@dataclass(frozen=True, kw_only=True)
class HDF5Header(PartsHeader):
    """Header of an HDF5 snapshot."""

    def file_rows(self, file, name, first, last) -> np.ndarray:
        with opened(file) as content:
            values = _held(content, self.dataset, name)[first:last]
        if values.dtype.kind in "iu" and name == "Position" and "BoxSize" in self.attrs:
            # Gadget-4's integers divide the box into 2^32 or 2^64
            box = self.attrs["BoxSize"][0] / self.length
            return values * (box / 2.0 ** (8 * values.dtype.itemsize))
        return values


@contextmanager
def opened(path) -> Iterator[h5py.File]:
    """An HDF5 file; whatever the library finds wrong with it is an InputError."""
    try:
        with _open(path) as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # of a damaged file h5py raises nearly anything
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path} is unreadable, truncated or damaged: {reason}") from None


def _open(path):
    try:
        # a lock can't be had on every file system, and nothing is written
        return h5py.File(path, "r", locking=False)
    except OSError:
        return h5py.File(path, "r")  # with a lock, if this process has it open with one


def attributes_of(path, *groups) -> RawHeader:
    """Attributes of some groups of a file, the later ones first, and the model card; texts as str.

    Attributes of variable length are left out, but for the name of the code: no snapshot needs them,
    and in a damaged file the library may look for them for ever.
    """
    found = {}
    with opened(path) as file:
        if "Header" not in file:
            raise InputError(f"{path} has no group Header: it is no snapshot")
        for attrs in (file[group].attrs for group in (CARD, *groups) if group in file):
            for name in attrs:
                if name == "Code" or _is_plain(attrs.get_id(name)):
                    value = attrs[name]
                    text = isinstance(value, bytes | np.bytes_)
                    found[name] = value.decode("utf-8", "replace") if text else value
        digest = file.get(DIGEST)
        if isinstance(digest, h5py.Dataset) and digest.shape == (1,) and digest.dtype == "S64":
            found[MADE["checksums"]] = digest[0].decode("latin-1")
            if not digest[0]:
                raise InputError(f"{path} is of a run that stopped midway: finish it with --resume")
    return RawHeader(path, found)


def _is_plain(attribute):
    """Numbers, not too many, or a text of fixed length."""
    kind = attribute.get_type()
    if isinstance(kind, h5t.TypeStringID):
        return attribute.shape == () and not kind.is_variable_str()
    plain = isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID | h5t.TypeEnumID)
    return plain and attribute.get_space().get_simple_extent_npoints() <= _LONGEST


def particles(path, files, dataset, raw, columns=COLUMNS) -> tuple[int, dict]:
    """Find the particles of one type, by default of dark matter.

    `columns` are those that are looked for, and the shape of a row.

    Returns
    -------
    kind : int
        The type.
    where : dict
        dataset, columns, files, counts of an `HDF5Header`.

    Raises
    ------
    InputError
        If files, datasets or rows of them are missing.
    """
    files = whole(path, files, int(raw.number("NumFilesPerSnapshot", default=1)))
    headers = [attributes_of(name, "Header") for name in files]
    kind, counts = census(path, dataset, raw, headers)
    group, here = f"PartType{kind}/", None
    for name, count in zip(files, counts, strict=True):
        if not count:
            continue
        with opened(name) as file:
            found = {column: _held(file, group, column) for column in columns}
            held = tuple(column for column in columns if found[column] is not None)
            for column in held:
                _check_dataset(name, column, found[column], (count, *columns[column]))
        if here not in (None, held):
            raise InputError(f"{name} has {held} where files before it have {here}")
        here = held
    if "Position" not in (here or ()):
        raise InputError(f"snapshot {path} has no {group}Coordinates: it is damaged")
    return kind, {
        "dataset": group,
        "columns": here,
        "files": tuple(files),
        "counts": tuple(counts),
    }


def first_mass(where) -> float:
    """Mass of the first of `particles` in the file's units, or 0 where none is kept."""
    name = next(name for name, count in zip(where["files"], where["counts"]) if count)
    with opened(name) as file:
        masses = _held(file, where["dataset"], "Mass")
        return float(masses[0]) if masses is not None else 0.0


def _held(file, group, column):
    """The dataset of a column, by any of its names, or None."""
    return next(
        (file[group + name] for name in NAMES.get(column, (column,)) if group + name in file), None
    )


def _check_dataset(path, column, data, wanted):
    """Rows, numbers a row and their type; that the file holds them, not fill values."""
    if not isinstance(data, h5py.Dataset) or data.shape != wanted:
        shape = getattr(data, "shape", None)
        raise InputError(
            f"{data.name} of {path} has shape {shape}, its Header says {wanted}: it is truncated"
        )
    integers = data.dtype.kind in "iu" and data.dtype.itemsize in (4, 8)
    plain = {"ID": integers, "Velocity": data.dtype.kind == "f"}
    if not plain.get(column, integers or data.dtype.kind == "f"):
        raise InputError(f"{data.name} of {path} holds {data.dtype}: plain numbers are needed")
    if data.is_virtual:
        folder = os.path.dirname(os.path.realpath(path))
        for source in {entry.file_name for entry in data.virtual_sources()} - {"."}:
            if not os.path.isfile(os.path.join(folder, source)):
                raise InputError(f"{path} refers to {source}, which is missing: copy it there")
    elif data.chunks:
        chunks = math.prod(-(-n // m) for n, m in zip(data.shape, data.chunks, strict=True))
        if data.id.get_num_chunks() != chunks:
            raise InputError(f"{data.name} of {path} lacks parts: it is truncated")
    elif data.id.get_storage_size() < data.nbytes:
        raise InputError(f"{data.name} of {path} has no data: it is truncated")
