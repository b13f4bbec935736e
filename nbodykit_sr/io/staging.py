"""The folder in which an output is made until it is whole, and the record of an unfinished run."""

import fcntl
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError, agreement
from .atomic import atomic_file, disk, sync
from .preflight import check_partial, prepare_output

logger = logging.getLogger(__name__)

# File of the identity of an unfinished run
IDENTITY = "run.json"

# How long a resumed run waits for the one before to let go of the folder
LOCK_SECONDS = 15.0


class FolderLock:
    """Keeps other runs from a folder, for as long as this process lives, by its file ``lock``."""

    def __init__(self, folder):
        self.folder = os.fspath(folder)
        self._path = os.path.join(self.folder, "lock")
        self._file = None

    def acquire(self, patience=0.0) -> None:
        """Take the lock, or raise InputError if another run holds it.

        `patience` is a time to wait [s]: a run that was killed a moment ago may need it to let go.
        """
        self.release()
        self._file = open(self._path, "a")
        limit = time.monotonic() + patience
        while not self._taken():
            if time.monotonic() > limit:
                self.release()
                raise InputError(
                    f"another run is at work in {self.folder}: wait for it, or choose another output"
                )
            time.sleep(0.1)

    def release(self, remove=False) -> None:
        """Give the lock back, and on request remove its file."""
        if self._file is not None:
            if remove:
                Path(self._path).unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _taken(self):
        """Try to lock the open file; it must still be the one in the folder."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
        return os.path.exists(self._path) and os.path.samestat(
            os.fstat(self._file.fileno()), os.stat(self._path)
        )


class Staging:
    """The folder ``X.partial`` in which an output X is made. Not collective.

    - ``lock``: held by the process that writes;
    - a folder named after the kind of output: the new X;
    - ``old``: the previous X, while the new one is renamed.

    Parameters
    ----------
    path : path
        Path of the output.
    kind : Kind
    """

    def __init__(self, path, kind):
        self.path, self.kind = os.fspath(path).rstrip("/"), kind
        self.folder = self.path + ".partial"
        self.content = self.file(kind.name)
        self.lock = FolderLock(self.folder)

    def file(self, *names) -> str:
        """Path of a file in the folder."""
        return os.path.join(self.folder, *names)

    def begin(self, overwrite=False, takeover=False) -> None:
        """Make the folder.

        InputError if another run uses it, or it holds files that are not of this kind. With `overwrite` X may
        exist, with `takeover` files that an earlier run of this kind left in the folder are removed.
        """
        if takeover and os.path.lexists(self.folder):
            check_partial(self.path, self.kind)
            self.lock.acquire()
            if not os.path.lexists(self.path) and os.path.isdir(self.file("old")):
                os.rename(self.file("old"), self.path)  # a run was killed between two renames
            self.remove()
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            raise InputError(
                f"another run began {self.folder} just now: choose another output"
            ) from None
        if os.path.lexists(self.path) and not overwrite:  # by a run that just ended
            os.rmdir(self.folder)
            raise InputError(f"output {self.path} exists: choose another name")
        self.lock.acquire()

    def publish(self, overwrite=False) -> None:
        """Rename the new output to X, and remove the folder."""
        sync(self.content)
        old = self.file("old")
        if os.path.lexists(self.path):
            if not overwrite:
                raise InputError(
                    f"output {self.path} came into being during the run: move it away and go on"
                )
            prepare_output(self.path, None, self.kind, overwrite=True)
            shutil.rmtree(old, ignore_errors=True)
            os.rename(self.path, old)
        try:
            os.rename(self.content, self.path)
        except OSError:
            if os.path.isdir(old):
                os.rename(old, self.path)
            raise
        self.remove()

    def remove(self) -> None:
        """Remove all files that a run makes in the folder, and the folder if it is empty then."""
        with suppress(FileNotFoundError):
            os.remove(self.file(IDENTITY))  # first: without it no run goes on from what is left
        for root, _, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = os.path.join(root, name)
                if re.fullmatch(self.kind.staged, os.path.relpath(path, self.folder)):
                    os.remove(path)
            if os.listdir(root):
                logger.warning("%s holds what is of no run: it stays", root)
            else:
                os.rmdir(root)
        self.lock.release()


class UnfinishedRun(Staging):
    """A `Staging` folder with a record of the run, by which a later run resumes it.

    - ``run.json``: the identity of the run, written last when it begins;
    - ``journal.RANK``: a line for each chunk once it is written, with its checksums.
    """

    _journal: Any = None

    @property
    def begun(self) -> bool:
        """Whether its start was completed."""
        return os.path.isfile(self.file(IDENTITY))

    def identify(self, identity) -> None:
        """Record what defines the run, a dict of texts."""
        self.replace(IDENTITY, json.dumps(identity))

    def identity(self) -> dict[str, str]:
        """The identity that `identify` recorded; InputError if it cannot be read."""
        try:
            with open(self.file(IDENTITY)) as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file(IDENTITY)} is unreadable: {error}") from None

    def open(self, rank) -> None:
        """Open a rank's journal, to add to it."""
        self._journal = open(self.file(f"journal.{rank}"), "a")

    def record(self, entry) -> None:
        """Add the entry of a chunk that is written, a dict with its index as "chunk"."""
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    def close(self) -> None:
        """Close the rank's journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def entries(self) -> dict[int, dict]:
        """The entries of all ranks, by index of the chunk."""
        done = {}
        for name in self._journals():
            with open(self.file(name)) as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        done[entry["chunk"]] = entry
                    except (ValueError, KeyError, TypeError):
                        continue  # the line that a kill cut short
        return done

    def rewrite(self, entries) -> None:
        """Replace all journals by one with these entries."""
        self.replace("journal.0", "".join(json.dumps(entry) + "\n" for entry in entries))
        for name in self._journals() - {"journal.0"}:
            os.remove(self.file(name))

    def replace(self, name, text) -> None:
        """Write a file of the folder, whole or not at all."""
        with atomic_file(self.file(name), own=True) as file:
            file.write(text.encode())

    def _journals(self):
        return {name for name in os.listdir(self.folder) if re.fullmatch(r"journal\.\d+", name)}


@contextmanager
def staged(path, kind, comm=None, overwrite=False) -> Iterator[Path]:
    """A folder to fill that gets the name `path` when the block ends; collective at both ends.

    If the block fails nothing is left, and what bore the name before is as it was. Ranks that
    raise must do so together (see `errors.agreement`). The path was checked by `prepare_output`; the folders
    above it are made.
    """
    staging = Staging(path, kind)
    main = comm is None or comm.rank == 0
    with agreement(comm):
        if main:
            with disk(staging.folder):
                os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
                staging.begin(overwrite, takeover=True)
                os.mkdir(staging.content)
    try:
        yield Path(staging.content)
        with agreement(comm):  # all are done
            pass
        with agreement(comm):
            if main:
                with disk(staging.folder):
                    staging.publish(overwrite)
    except BaseException:
        if main:
            with suppress(OSError):
                staging.remove()
        raise
