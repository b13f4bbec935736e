"""Snapshot formats, one module each, which read headers as `SnapshotHeader`."""

import os

from ...errors import InputError
from ..atomic import readable
from .bigfile import BigFileHeader
from .gadget_binary import BinaryHeader, is_binary
from .gadget_hdf5 import GadgetHeader
from .hdf5 import SIGNATURE, attributes_of
from .header import SnapshotHeader
from .parts import named, part_files
from .readings import fitting
from .swift import SwiftHeader

__all__ = ["SnapshotHeader", "read_header"]


def read_header(path, dataset=None) -> SnapshotHeader:
    """The header of a snapshot of any known format; arguments as of `open_snapshot`. Not collective."""
    with readable(path):
        return _read_header(os.fspath(path), dataset)


def _read_header(path, dataset):
    files = part_files(path)
    if not files:
        return BigFileHeader.read(path, dataset)
    first = named(path, files)
    try:
        with open(first, "rb") as file:
            begin = file.read(len(SIGNATURE))
    except OSError as error:
        raise InputError(f"snapshot {first} is unreadable: {error.strerror}") from None
    if begin == SIGNATURE:
        swift = str(attributes_of(first, "Header").get("Code", "")).strip() == "SWIFT"
        header = (SwiftHeader if swift else GadgetHeader).read(path, files, dataset)
        return fitting(path, {"those of its Header": header})
    if is_binary(begin):
        return fitting(path, {"those of its kind": BinaryHeader.read(path, files, dataset)})
    raise InputError(
        f"snapshot {first} is of no known format: a BigFile folder, HDF5 of Gadget, AREPO or SWIFT, or "
        "Gadget's binary is needed"
    )
