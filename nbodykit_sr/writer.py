"""Writing a catalogue chunk by chunk into a BigFile, so that a killed run can go on."""

import json
import os
import re
import shutil
import zlib
from dataclasses import dataclass, field

import bigfile
import numpy as np

from .errors import InputError, agreement

# Rows in one physical file of a block, as nbodykit and bigfile write them
ROWS_PER_FILE = 32 * 1024**2

COLUMNS = {
    "nbodykit": {"Position": ("", "f4"), "Velocity": ("", "f4"), "ID": ("", "u8")},
    "mp-gadget": {"Position": ("1/", "f8"), "Velocity": ("1/", "f4"), "ID": ("1/", "u8")},
}

_KPC = 1000.0  # Mpc/h to MP-Gadget's kpc/h


@dataclass
class SnapshotWriter:
    """A BigFile catalogue that is being written by all ranks.

    Chunks go to their fixed place in pre-sized blocks of a folder ``path.partial``; a journal
    records each with checksums once it is written. `finish` renames the folder to `path`: what
    bears that name is complete.

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
        What defines the output. A folder left by a run with another identity is not continued.
    """

    path: str
    comm: object
    layout: str
    size: int
    names: tuple
    header: dict
    identity: dict
    blocks: dict = field(default_factory=dict, repr=False)
    journal: object = field(default=None, repr=False)

    @property
    def partial(self):
        """The folder while it is being written."""
        return self.path + ".partial"

    def create(self):
        """Lay out the blocks. Collective; raises InputError on every rank."""
        with agreement(self.comm):
            if self.comm.rank == 0:
                _make_folder(self.partial)
        file = self._open(create=True)
        for name in self.names:
            with file.create(self._block(name), self._dtype(name), self.size, self._files):
                pass
        with file.create("Header") as block:
            if self.comm.rank == 0:
                for key, value in self.header.items():
                    block.attrs[key] = value
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._save("run.json", {"identity": self.identity, "headers": self._headers()})
        self._start(file)

    def resume(self):
        """Go on with the folder a killed run left. Collective; raises InputError on every rank.

        Returns
        -------
        dict
            Chunk index to (first row, number of rows), of the chunks that are done and sound.
        """
        done = None
        with agreement(self.comm):
            if self.comm.rank == 0:
                state = self._load()
                _check_identity(self.path, state["identity"], self.identity)
                for name, text in state["headers"].items():
                    # the library adds to the checksums it finds: let it start from nothing again
                    with open(os.path.join(self.partial, name), "w") as file:
                        file.write(text)
                done = self._journalled()
        done = self.comm.bcast(done)
        self._start(self._open())
        sound = {}
        with agreement(self.comm):
            for index in sorted(done)[self.comm.rank :: self.comm.size]:
                if self._readd(done[index]):
                    sound[index] = (done[index]["start"], done[index]["size"])
        return {k: v for part in self.comm.allgather(sound) for k, v in part.items()}

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
        """
        entry = {"chunk": index, "start": int(start), "size": len(columns["ID"]), "crc": {}}
        for name in self.names:
            values = columns[name]
            if name == "Position" and self.layout == "mp-gadget":
                values = values * _KPC
            values = np.ascontiguousarray(values, dtype=COLUMNS[self.layout][name][1])
            self.blocks[name].write(int(start), values)
            entry["crc"][name] = zlib.crc32(values)
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()

    def finish(self, overwrite=False):
        """Close the blocks, drop the journal and give the folder its name. Collective."""
        self.pause()
        with agreement(self.comm):
            if self.comm.rank == 0:
                for name in self._journals():
                    os.remove(os.path.join(self.partial, name))
                os.remove(os.path.join(self.partial, "run.json"))
                _sync(self.partial)
                if overwrite and os.path.isdir(self.path):
                    shutil.rmtree(self.path)
                os.rename(self.partial, self.path)

    def pause(self):
        """Close everything; the folder can be resumed. Collective."""
        for block in self.blocks.values():
            block.close()
        self.blocks.clear()
        self.journal.close()

    def discard(self):
        """Remove the unfinished folder. Rank 0 does it."""
        if self.comm.rank == 0:
            shutil.rmtree(self.partial, ignore_errors=True)

    @property
    def position_dtype(self):
        """Number format of positions on disk."""
        return COLUMNS[self.layout]["Position"][1]

    @property
    def _files(self):
        return max(1, -(-self.size // ROWS_PER_FILE))

    def _block(self, name):
        return COLUMNS[self.layout][name][0] + name

    def _dtype(self, name):
        dtype = COLUMNS[self.layout][name][1]
        return np.dtype(dtype) if name == "ID" else np.dtype((dtype, 3))

    def _open(self, create=False):
        return bigfile.FileMPI(self.comm, self.partial, create=create)

    def _start(self, file):
        self.blocks = {name: file.open(self._block(name)) for name in self.names}
        self.journal = open(os.path.join(self.partial, f"journal.{self.comm.rank}"), "a")

    def _headers(self):
        texts = {}
        for name in self.names:
            header = os.path.join(self._block(name), "header")
            with open(os.path.join(self.partial, header)) as file:
                texts[header] = file.read()
        return texts

    def _save(self, name, content):
        temporary = os.path.join(self.partial, name + ".new")
        with open(temporary, "w") as file:
            json.dump(content, file)
        os.replace(temporary, os.path.join(self.partial, name))

    def _load(self):
        try:
            with open(os.path.join(self.partial, "run.json")) as file:
                return json.load(file)
        except (OSError, ValueError):
            raise InputError(
                f"{self.partial} holds no run to resume: it stopped before its first chunk; remove it or use "
                "--overwrite"
            ) from None

    def _journals(self):
        return [name for name in os.listdir(self.partial) if re.fullmatch(r"journal\.\d+", name)]

    def _journalled(self):
        done = {}
        for name in self._journals():
            with open(os.path.join(self.partial, name)) as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        done[entry["chunk"]] = entry
                    except (ValueError, KeyError, TypeError):
                        continue  # the line that the kill cut short
        return done

    def _readd(self, entry):
        """Check a recorded chunk, and add it to the checksums of this run."""
        start, size = entry["start"], entry["size"]
        columns = {name: self.blocks[name][start : start + size] for name in self.names}
        if any(zlib.crc32(np.ascontiguousarray(v)) != entry["crc"][n] for n, v in columns.items()):
            return False
        for name, values in columns.items():
            self.blocks[name].write(start, values)
        return True


def prepare_output(path, comm, overwrite=False, resume=False):
    """Check that an output can be written there. Collective; raises InputError on every rank."""
    with agreement(comm):
        if comm.rank != 0:
            return
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(parent):
            raise InputError(f"the folder {parent} of output {path} does not exist: make it first")
        if not os.access(parent, os.W_OK):
            raise InputError(
                f"the folder {parent} of output {path} can't be written to: choose another"
            )
        if os.path.lexists(path):
            if not overwrite:
                raise InputError(f"output {path} exists: choose another name or --overwrite")
            if not os.path.isfile(os.path.join(path, "Header", "attr-v2")):
                raise InputError(f"output {path} exists and is no BigFile: it is not overwritten")
        if os.path.isdir(path + ".partial"):
            if overwrite and not resume:
                shutil.rmtree(path + ".partial")
            elif not resume:
                raise InputError(
                    f"an unfinished run is in {path}.partial: go on with --resume, or --overwrite it"
                )
        elif resume:
            raise InputError(f"no unfinished run is in {path}.partial: leave out --resume")


def _make_folder(path):
    try:
        os.makedirs(path)
    except OSError as error:
        raise InputError(f"output folder {path} can't be made: {error.strerror}") from None


def _check_identity(path, was, now):
    for name in sorted(was.keys() | now.keys()):
        if was.get(name) != now.get(name):
            raise InputError(
                f"{path}.partial was begun with {name} {was.get(name)}, not {now.get(name)}: resume it "
                "with the same, or --overwrite it"
            )


def _sync(folder):
    """Have the disk hold everything before the folder's name says that it does."""
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
