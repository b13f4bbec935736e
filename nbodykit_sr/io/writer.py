"""Resumable writing of an output, chunk by chunk, by all ranks."""

import hashlib
import os
import zlib
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, agreement
from ..provenance import NAMES
from .atomic import atomic_file, disk
from .checks import CHECKSUMS, attributes
from .formats.hdf5 import attributes_of
from .rows import RowFiles
from .staging import LOCK_SECONDS, UnfinishedRun


class WrongValues(ValueError):
    """Numbers that no model should give: not finite, or outside of the box."""


@dataclass(frozen=True)
class Progress:
    """How far an earlier run of the same output came."""

    done: frozenset = frozenset()  # indices of the chunks that the disk has, by their checksums
    complete: bool = False  # the whole output is there: nothing is left to do


def recorded_dtype(path, kind) -> str | None:
    """The dtype that a finished or unfinished output was computed in; None if there is no output."""
    run = UnfinishedRun(path, kind)
    if run.begun:
        return run.identity().get("dtype")
    return _header(run.path, kind).get(NAMES["dtype"]) if os.path.isdir(run.path) else None


def _header(path, kind):
    """The attributes of a finished output."""
    block = os.path.join(path, kind.header)
    if os.path.isdir(block):
        return attributes(block)
    return attributes_of(os.path.join(path, kind.marks[-1][0]), "Header")


class ChunkWriter:
    """Files that are being written by all ranks.

    The folder ``path.partial`` (see `UnfinishedRun`) holds them while the run goes on: files of
    their final size, to whose fixed places the chunks go. They get their header last.

    `finish` renames the folder to `path`, so an output of that name is complete. After a run was
    killed at any moment, `resume` goes on to the same bytes.

    Parameters
    ----------
    path : str
        Path of the finished output.
    comm : mpi4py.MPI.Comm
    kind : preflight.Kind
    header : dict
        Attributes of the finished output.
    identity : dict
        What defines the output: names for messages, and the attributes of `header` that hold the
        values. A run is resumed only if all of them are the same.

    Attributes
    ----------
    store : RowFiles
        Files that hold the chunks.
    chunks : int or None
        Number of chunks, where the rows of `store` do not tell whether all are there.
    """

    store: RowFiles
    chunks: int | None = None

    def __init__(self, path, comm, kind, header, identity):
        self.run = UnfinishedRun(path, kind)
        self.path, self.comm, self.kind = self.run.path, comm, kind
        self.header, self.identity = header, identity

    @property
    def partial(self) -> str:
        """The folder while the output is being written."""
        return self.run.folder

    def create(self, overwrite: bool = False, takeover: bool | None = None) -> Progress:
        """Make the folder and its files, without any chunk.

        Collective; if it raises InputError, on every rank, it leaves nothing behind.
        """
        with agreement(self.comm):
            if self.comm.rank == 0:
                with disk(self.partial):
                    self.run.begin(overwrite, overwrite if takeover is None else takeover)
                    try:
                        self._lay_out()
                        self.run.identify(self._identity(self.header))
                    except BaseException:
                        self.run.remove()
                        raise
        self._open_journal()
        return Progress()

    def resume(self, overwrite: bool = False) -> Progress:
        """Go on with what a killed run left. Collective; raises InputError on every rank.

        Parameters
        ----------
        overwrite : bool
            A complete output of another identity may be replaced.
        """
        state, done = None, {}
        with agreement(self.comm):
            if self.comm.rank == 0:
                state, done = self._look(overwrite)
        state, done = self.comm.bcast((state, done))
        if state == "complete":
            return Progress(complete=True)
        if state == "nothing":
            return self.create(overwrite, takeover=True)
        sound = [
            entry
            for index, entry in sorted(done.items())[self.comm.rank :: self.comm.size]
            if self._sound(entry)
        ]
        sound = [entry for part in self.comm.allgather(sound) for entry in part]
        with agreement(self.comm):
            if self.comm.rank == 0:
                with disk(self.partial):
                    self.run.rewrite(sound)
        self._open_journal()
        return Progress(frozenset(entry["chunk"] for entry in sound))

    def finish(self, overwrite=False) -> None:
        """Complete the output and give it its name. Collective."""
        self.run.close()
        self.comm.Barrier()
        entries = None
        with agreement(self.comm):
            if self.comm.rank == 0:
                entries = self._entries()
        self._complete(self.comm.bcast(entries))
        with agreement(self.comm):
            if self.comm.rank == 0:
                with disk(self.partial):
                    self.run.publish(overwrite)

    def close(self) -> None:
        """Release the folder; the recorded chunks can be resumed. Collective."""
        self.run.close()
        self.comm.Barrier()
        self.run.lock.release()

    def _write(self, index, start, values, **noted):
        """Write a chunk, column to array, at its place and record it. Not collective."""
        size = len(next(iter(values.values())))
        entry = {"chunk": index, "start": int(start), "size": size, "blocks": {}, **noted}
        for name, rows in values.items():
            rows = np.ascontiguousarray(rows, dtype=self.store.columns[name].base)
            sums = self.store.write(name, int(start), rows)
            entry["blocks"][name] = {"crc": zlib.crc32(rows), "sums": sums}
        self.run.record(entry)

    def _lay_out(self):
        self.store.create()

    def _complete(self, entries):
        """Write checksums and header, from the entries of all chunks. Collective."""
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._seal(self.store, entries, self.header)

    def _seal(self, blocks, entries, header):
        """On rank 0: checksums of whole files, and of each chunk, and then the header."""
        with disk(self.partial):
            for name in blocks.columns:
                blocks.seal(name, [part for e in entries for part in e["blocks"][name]["sums"]])
            lines = [f"# first row, rows, CRC-32 of their bytes in {' '.join(blocks.columns)}"]
            for e in entries:
                crcs = (f"{e['blocks'][name]['crc']:08x}" for name in blocks.columns)
                lines.append(f"{e['start']} {e['size']} {' '.join(crcs)}")
            text = "\n".join(lines).encode() + b"\n"
            with atomic_file(os.path.join(blocks.folder, CHECKSUMS), own=True) as file:
                file.write(text)
            digest = hashlib.sha256(text).hexdigest()
            blocks.describe(self.kind.header, {**header, NAMES["checksums"]: digest})

    def _look(self, overwrite):
        """The state of an output that is to be resumed, and the chunks recorded; on rank 0."""
        if self.run.begun and os.path.isdir(self.run.content):
            self._compare(self.partial, self.run.identity())
            with disk(self.partial):
                self.run.lock.acquire(patience=LOCK_SECONDS)
            return "begun", self.run.entries()
        if os.path.isdir(self.path):
            found = _header(self.path, self.kind)
            if overwrite and self._identity(found) != self._identity(self.header):
                return "nothing", {}
            self._compare(self.path, self._identity(found))
            if os.path.isdir(self.partial):
                self.run.remove()
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

    def _entries(self):
        """The journal's entries of all chunks, in their order; on rank 0."""
        done = self.run.entries()
        found, all_of, unit = len(done), self.chunks, "chunks"
        if self.chunks is None:
            rows = sum(entry["size"] for entry in done.values())
            found, all_of, unit = rows, self.store.size, "rows"
        if found != all_of:
            raise InputError(
                f"the journals of {self.partial} record {found} {unit} of {all_of}: --resume to compute "
                "the rest"
            )
        return [entry for _, entry in sorted(done.items())]

    def _open_journal(self):
        with agreement(self.comm), disk(self.partial):
            self.run.open(self.comm.rank)

    def _sound(self, entry):
        """Whether the rows of a recorded chunk on the disk have its checksums."""
        try:
            return all(
                zlib.crc32(self.store.read(name, entry["start"], entry["size"]))
                == entry["blocks"][name]["crc"]
                for name in self.store.columns
            )
        except OSError:
            return False
