"""Snapshots in one or several files: which files, which rows of which, and whether they changed."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from ...errors import InputError, one_line
from .header import RawHeader, SnapshotHeader, catalogue_attrs, particle_type

_PART = re.compile(r"(?P<stem>.+)\.(?P<number>\d{1,6})(?P<ending>\.hdf5|\.h5|)")
_ENDINGS = (".hdf5", ".h5")
_SAMPLE = 2**16  # bytes

# What the headers of all parts of a snapshot say alike
_ALIKE = ("Time", "Redshift", "NumFilesPerSnapshot")

_TYPES = 10  # of particles, at most


@dataclass(frozen=True, kw_only=True)
class PartsHeader(SnapshotHeader):
    """Header of a snapshot in `files`, with `counts` rows in each."""

    files: tuple
    counts: tuple

    @classmethod
    def of(cls, path, raw: RawHeader, where: dict, length, velocity, a, mass) -> Self:
        """The header, from what a format says in its own words.

        `where` are dataset, columns, files and counts; a is the scale factor, and mass a
        particle's [1e10 Msun/h].
        """
        return cls(
            path=path,
            size=sum(where["counts"]),
            length=length,
            velocity=velocity,
            attrs=catalogue_attrs(path, raw, raw.numbers("BoxSize") * length, a, mass),
            identity=identity_of(where["files"]),
            **where,
        )

    def stored_rows(self, name, start, stop) -> np.ndarray:
        pieces = [
            self.file_rows(self.files[number], name, first, last)
            for number, first, last in cut(self.counts, start, stop)
        ]
        return np.concatenate(pieces) if pieces else np.empty((0, 1 if name == "ID" else 3))

    def file_rows(self, file: str, name: str, first: int, last: int) -> np.ndarray:
        """Rows of a column in one file; raises as `stored_rows` does."""
        raise NotImplementedError


def part_files(path) -> list[str]:
    """The files of a snapshot that is no folder of a BigFile, in the order of their numbers; none for others.

    `path` is a file, one of several numbered files, their folder, or what their names begin with. InputError
    if a folder holds several snapshots.
    """
    path = Path(path)
    if path.is_file():
        match = _PART.fullmatch(path.name)
        files = _siblings(path.parent, match["stem"], match["ending"]) if match else [str(path)]
        # the other parts lie beside what a link points to
        linked = path.is_symlink() and len(files) == 1
        return part_files(path.resolve()) if linked else files
    if path.is_dir():
        if (path / "Header").exists() or (path / "run.json").exists():
            return []
        # macOS puts a ._snap.0.hdf5 beside snap.0.hdf5
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
        kinds = {(m["stem"], m["ending"]) for name in names if (m := _PART.fullmatch(name))}
        single = [name for name in names if name.endswith(_ENDINGS)]
        if not kinds and len(single) == 1:
            return [str(path / single[0])]
        if len(kinds or single) > 1:
            raise InputError(
                f"folder {path} holds {len(kinds or single)} snapshots: name a file of one of them"
            )
        return _siblings(path, *kinds.pop()) if kinds else []
    for ending in _ENDINGS:
        if path.with_name(path.name + ending).is_file():
            return [str(path) + ending]
    for ending in (*_ENDINGS, ""):
        if path.with_name(f"{path.name}.0{ending}").is_file():
            return _siblings(path.parent, path.name, ending)
    return []


def named(path, files) -> str:
    """The file that stands for the snapshot: the one that was named, or the first."""
    return path if os.path.isfile(path) else files[0]


def whole(path, files, number) -> list[str]:
    """The files of a snapshot, whose header says the number; InputError if some are missing."""
    if number == 1:
        return [named(path, files)]
    first = min(map(_number, files), default=0)
    # a run of more files may have left its last ones there
    kept = [name for name in files if _number(name) < first + number]
    if len(kept) != number:
        raise InputError(
            f"snapshot {path} has {len(kept)} files, its Header says {number}: some are missing"
        )
    return kept


def census(path, dataset, raw, headers) -> tuple[int, list[int]]:
    """The wanted particle type, by default dark matter, and how many of its particles each file holds.

    `raw` is the header of the snapshot, `headers` are those of its files. InputError if there is no such
    type, files are of several runs, or they hold fewer particles than the header says.
    """
    for header in headers:
        for name in _ALIKE:
            if not np.array_equal(raw.get(name), header.get(name)):
                raise InputError(
                    f"{header.path} is of another snapshot than {raw.path}: {name} is "
                    f"{one_line(header.get(name), 40)} there and {one_line(raw.get(name), 40)} here; put "
                    "them into folders of their own"
                )
    here = np.array([_by_type(header.numbers("NumPart_ThisFile")) for header in headers])
    total = _by_type(raw.numbers("NumPart_Total", default=0))
    total += _by_type(raw.numbers("NumPart_Total_HighWord", default=0)) * 2.0**32
    if not total.any():  # initial conditions may leave it out
        total = here.sum(axis=0)
    kind = particle_type(path, dataset, total)
    counts = [int(count) for count in here[:, kind]]
    if sum(counts) != total[kind]:
        raise InputError(
            f"snapshot {path} has {sum(counts)} particles of type {kind}, its Header says "
            f"{total[kind]:.0f}: it is truncated"
        )
    return kind, counts


def cut(counts, start, stop) -> Iterator[tuple[int, int, int]]:
    """Rows `start` to `stop` of all files together: (file, first row in it, last)."""
    first = 0
    for number, count in enumerate(counts):
        low, high = max(start, first), min(stop, first + count)
        if low < high:
            yield number, low - first, high - first
        first += count


def identity_of(files) -> str:
    """A digest of the files' sizes and of their first, middle and last bytes."""
    digest = hashlib.sha256()
    for name in files:
        size = os.path.getsize(name)
        digest.update(f"{size},".encode())
        with open(name, "rb") as file:
            for start in (0, size // 2, max(size - _SAMPLE, 0)):
                file.seek(start)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _by_type(numbers):
    return np.resize(np.append(numbers, np.zeros(_TYPES)), _TYPES)


def _number(name):
    match = _PART.fullmatch(os.path.basename(name))
    return int(match["number"]) if match else 0


def _siblings(folder, stem, ending):
    matches = [match for name in os.listdir(folder) if (match := _PART.fullmatch(name))]
    ours = [match for match in matches if (match["stem"], match["ending"]) == (stem, ending)]
    return [str(Path(folder, match[0])) for match in sorted(ours, key=lambda m: int(m["number"]))]
