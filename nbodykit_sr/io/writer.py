"""Resumable writing of a catalogue, chunk by chunk, into a BigFile."""

import os
import shutil
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field

import bigfile
import numpy as np

from ..errors import InputError, agreement, one_line
from .checks import attributes, byte_sum, check_block, header_text
from .journal import LOCK_SECONDS, UnfinishedRun

# Rows in one physical file of a block, as nbodykit and bigfile write them
ROWS_PER_FILE = 32 * 1024**2

COLUMNS = {
    "nbodykit": {"Position": ("", "f4"), "Velocity": ("", "f4"), "ID": ("", "u8")},
    "mp-gadget": {"Position": ("1/", "f8"), "Velocity": ("1/", "f4"), "ID": ("1/", "u8")},
}

_KPC = 1000.0  # Mpc/h to MP-Gadget's kpc/h


class WrongValues(ValueError):
    """Particles that no model should give: not finite, or outside of the box."""


@dataclass
class SnapshotWriter:
    """A BigFile catalogue that is being written by all ranks.

    The folder ``path.partial`` (see `UnfinishedRun`) holds, while the run goes on, the BigFile
    ``catalogue``: blocks of their final size, to whose fixed places the chunks go. It gets its
    Header last.

    `finish` renames ``catalogue`` to `path`: what bears that name is complete. Whenever a run is
    killed, one of these states is left, and `resume` goes on from it to the same bytes.

    Attributes
    ----------
    path : str
        Of the finished catalogue.
    comm : mpi4py.MPI.Comm
    layout : {"nbodykit", "mp-gadget"}
        Mpc/h with columns at the root, or kpc/h with columns under "1/".
    size : int
        Particles in all.
    names : tuple of str
        Of Position, Velocity, ID.
    header : dict
        Attributes of the Header block, in the layout's own units.
    identity : dict
        What defines the output: a name for people to the attribute of `header` that holds it.
        A folder left by a run in which one differs is not continued.
    box : float
        Side of the box, comoving [Mpc/h]: no position lies outside.
    """

    path: str
    comm: object
    layout: str
    size: int
    names: tuple
    header: dict
    identity: dict
    box: float
    run: UnfinishedRun = field(init=False, repr=False)

    def __post_init__(self):
        self.path = os.fspath(self.path).rstrip("/")
        self.run = UnfinishedRun(self.path + ".partial")

    @property
    def partial(self):
        """The folder while the catalogue is being written."""
        return self.run.folder

    @property
    def folder(self):
        """The BigFile in it."""
        return os.path.join(self.partial, "catalogue")

    @property
    def position_dtype(self):
        """Number format of positions on disk."""
        return COLUMNS[self.layout]["Position"][1]

    def create(self, overwrite=False):
        """Lay out the blocks; returns the chunks that are done: none.

        Collective; if it raises InputError, on every rank, it leaves nothing behind.
        """
        with agreement(self.comm):
            if self.comm.rank == 0:
                with _disk(self.partial):
                    if overwrite and os.path.isdir(self.partial):
                        self.run.lock()
                        shutil.rmtree(self.partial)
                    try:
                        os.mkdir(self.partial)
                    except FileExistsError:
                        raise InputError(
                            f"another run began {self.partial} just now: choose another output"
                        ) from None
                    if os.path.lexists(self.path) and not overwrite:  # by a run that just ended
                        os.rmdir(self.partial)
                        raise InputError(f"output {self.path} exists: choose another name")
                    self.run.lock()
                    try:
                        self._lay_out()
                    except BaseException:
                        shutil.rmtree(self.partial, ignore_errors=True)
                        self.run.unlock()
                        raise
        self._open_journal()
        return set()

    def resume(self, overwrite=False):
        """Go on with what a killed run left. Collective; raises InputError on every rank.

        Parameters
        ----------
        overwrite : bool
            A complete catalogue of another identity may be replaced.

        Returns
        -------
        set or None
            Indices of the chunks that are done and sound. None: the catalogue was complete.
        """
        state, done = None, {}
        with agreement(self.comm):
            if self.comm.rank == 0:
                state, done = self._look(overwrite)
        state, done = self.comm.bcast((state, done))
        if state == "complete":
            return None
        if state == "nothing":
            return self.create(overwrite=True)
        sound = [
            entry
            for index, entry in sorted(done.items())[self.comm.rank :: self.comm.size]
            if self._sound(entry)
        ]
        sound = [entry for part in self.comm.allgather(sound) for entry in part]
        with agreement(self.comm):
            if self.comm.rank == 0:
                with _disk(self.partial):
                    self.run.rewrite(sound)
        self._open_journal()
        return {entry["chunk"] for entry in sound}

    def write(self, index, start, columns):
        """Write a chunk at its place and record it. Not collective.

        Parameters
        ----------
        index : int
            Of the chunk.
        start : int
            First row.
        columns : dict of arrays
            Position in Mpc/h.

        Raises
        ------
        OSError
            If the disk does not take it.
        WrongValues
            If a number is not finite or a position outside of the box.
        """
        _check_values(index, columns, self.box)
        entry = {"chunk": index, "start": int(start), "size": len(columns["ID"]), "blocks": {}}
        for name in self.names:
            values = columns[name]
            if name == "Position" and self.layout == "mp-gadget":
                values = values * _KPC
            values = np.ascontiguousarray(values, dtype=COLUMNS[self.layout][name][1])
            record = {"crc": zlib.crc32(values), "sums": []}
            for number, row, piece in self._pieces(int(start), values):
                path = os.path.join(self.folder, self._block(name), f"{number:06X}")
                _write_at(path, row * (piece.nbytes // len(piece)), piece)
                record["sums"].append([number, byte_sum(piece)])
            entry["blocks"][name] = record
        self.run.record(entry)

    def finish(self, overwrite=False):
        """Write the Header and give the catalogue its name. Collective."""
        self.close()
        self.comm.Barrier()
        with agreement(self.comm):
            if self.comm.rank == 0:
                with _disk(self.partial):
                    self._complete()
                    _sync(self.folder)
                    old = os.path.join(self.partial, "old")
                    if os.path.lexists(self.path):
                        if not overwrite:
                            raise InputError(
                                f"output {self.path} came into being during the run: remove it, then --resume"
                            )
                        shutil.rmtree(old, ignore_errors=True)
                        os.rename(self.path, old)
                    os.rename(self.folder, self.path)
                    self.run.clear()

    def close(self):
        """Close the journal; what is recorded can be resumed."""
        self.run.close()

    def _lay_out(self):
        with bigfile.File(self.folder, create=True) as file:
            for name in self.names:
                with file.create(self._block(name), self._dtype(name), self.size, self._files):
                    pass
        for name in self.names:
            for number, (first, last) in enumerate(zip(self._edges, self._edges[1:])):
                path = os.path.join(self.folder, self._block(name), f"{number:06X}")
                os.truncate(path, (last - first) * self._dtype(name).itemsize)
        self.run.begin(self._identity(self.header))

    def _look(self, overwrite):
        """What a run to be resumed left; on rank 0."""
        if self.run.begun and os.path.isdir(self.folder):
            with _disk(self.partial):
                self.run.lock(patience=LOCK_SECONDS)
            self._compare(self.partial, self.run.identity())
            return "begun", self.run.entries()
        if os.path.isdir(self.path):
            found = attributes(os.path.join(self.path, "Header"))
            if overwrite and self._identity(found) != self._identity(self.header):
                return "nothing", {}
            self._compare(self.path, self._identity(found))
            if os.path.isdir(self.partial):
                self.run.clear()
            return "complete", {}
        return "nothing", {}

    def _identity(self, header):
        values = {name: header.get(key) for name, key in self.identity.items()}
        return {n: v if isinstance(v, str) else str(np.ravel(v)[0]) for n, v in values.items()}

    def _compare(self, path, was):
        for name, now in self._identity(self.header).items():
            if was.get(name) != now:
                raise InputError(
                    f"{path} was begun with {name} {was.get(name)}, not {now}: resume it with the same, or "
                    "--overwrite it"
                )

    def _complete(self):
        """Checksums of the blocks, and the Header, from the journals."""
        done = self.run.entries()
        rows = sum(entry["size"] for entry in done.values())
        if rows != self.size:
            raise InputError(
                f"the journals of {self.partial} record {rows} particles of {self.size}: --resume to "
                "compute the rest"
            )
        for name in self.names:
            sums = np.zeros(self._files, dtype="u8")
            for entry in done.values():
                for number, part in entry["blocks"][name]["sums"]:
                    sums[number] += np.uint64(part)
            block = os.path.join(self.folder, self._block(name))
            text = header_text(self._dtype(name), np.diff(self._edges), sums)
            self.run.replace(os.path.join("catalogue", self._block(name), "header"), text)
            check_block(block, vector=name != "ID")
        shutil.rmtree(os.path.join(self.folder, "Header"), ignore_errors=True)
        with bigfile.File(self.folder) as file, file.create("Header") as block:
            for key, value in self.header.items():
                block.attrs[key] = value
        # the library does not look whether the disk took it
        if attributes(os.path.join(self.folder, "Header")).keys() != self.header.keys():
            raise OSError("the Header was not written")

    @property
    def _files(self):
        return max(1, -(-self.size // ROWS_PER_FILE))

    @property
    def _edges(self):
        """First row of each physical file of a block, and the number of rows: bigfile's rule."""
        return [self.size * n // self._files for n in range(self._files + 1)]

    def _pieces(self, start, values):
        """Cut rows at the edges of physical files: (file, row in it, its part of the values)."""
        for number, (first, last) in enumerate(zip(self._edges, self._edges[1:])):
            low, high = max(start, first), min(start + len(values), last)
            if low < high:
                yield number, low - first, values[low - start : high - start]

    def _block(self, name):
        return COLUMNS[self.layout][name][0] + name

    def _dtype(self, name):
        dtype = COLUMNS[self.layout][name][1]
        return np.dtype(dtype) if name == "ID" else np.dtype((dtype, 3))

    def _open_journal(self):
        with agreement(self.comm), _disk(self.partial):
            self.run.open(self.comm.rank)

    def _sound(self, entry):
        """Does the disk hold a recorded chunk as it was written?"""
        with bigfile.File(self.folder) as file:
            for name in self.names:
                with file[self._block(name)] as block:
                    values = block.read(entry["start"], entry["size"])
                if zlib.crc32(np.ascontiguousarray(values)) != entry["blocks"][name]["crc"]:
                    return False
        return True


def _check_values(index, columns, box):
    position = columns["Position"]
    low, high = float(position.min(initial=0)), float(position.max(initial=0))
    if not (low >= 0 and high < box):  # false for NaN too
        raise WrongValues(
            f"chunk {index} has positions from {low:g} to {high:g} Mpc/h in a box of {box:g} Mpc/h"
        )
    if "Velocity" in columns:
        velocity = columns["Velocity"]
        low, high = velocity.min(initial=0), velocity.max(initial=0)
        if not (np.isfinite(low) and np.isfinite(high)):
            raise WrongValues(f"chunk {index} has velocities from {low:g} to {high:g} km/s")


def _write_at(path, offset, values):
    """Write all bytes of an array at an offset of a file; the errors of the disk are raised."""
    data = memoryview(values).cast("B")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
    finally:
        os.close(descriptor)


@contextmanager
def _disk(path):
    """What the disk refuses is an InputError."""
    try:
        yield
    except (OSError, bigfile.Error) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path} can't be written: {reason}; make room or rights there") from None


def _sync(folder):
    """Have the disk hold everything before the folder's name says that it does."""
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
