"""The folder of an unfinished run: its lock, its identity and the journal of written chunks."""

import fcntl
import json
import os
import re
import shutil
import time

from ..errors import InputError
from .atomic import atomic_file

# How long a resumed run waits for the one before to let go of the folder
LOCK_SECONDS = 15.0

_IDENTITY = "run.json"


class UnfinishedRun:
    """What is known of a run beside its output, in the same folder.

    - ``run.json``: what the run was begun with, the last thing that is written at its start;
    - ``journal.RANK``: a line for each chunk once it is written, with its checksums;
    - ``lock``: held by the process at work.

    Parameters
    ----------
    folder : str
    """

    def __init__(self, folder):
        self.folder = folder
        self._journal = self._lock = None

    @property
    def begun(self):
        """Whether its start was completed."""
        return os.path.isfile(self._path(_IDENTITY))

    def begin(self, identity):
        """Record what defines the run, a dict of texts."""
        self.replace(_IDENTITY, json.dumps(identity))

    def identity(self):
        """What `begin` recorded.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        try:
            with open(self._path(_IDENTITY)) as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            raise InputError(f"{self._path(_IDENTITY)} is unreadable: {error}") from None

    def lock(self, patience=0.0):
        """Keep other runs from the folder, for as long as this process lives.

        Parameters
        ----------
        patience : float
            Seconds to wait: a run that was killed a moment ago may take some to let go.

        Raises
        ------
        InputError
            If another run holds it.
        """
        self.unlock()
        self._lock = open(self._path("lock"), "w")
        limit = time.monotonic() + patience
        while not self._locked():
            if time.monotonic() > limit:
                self.unlock()
                raise InputError(
                    f"another run is at work in {self.folder}: wait for it, or choose another output"
                )
            time.sleep(0.1)

    def unlock(self):
        """Let other runs have the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def open(self, rank):
        """Open a rank's journal, to add to it."""
        self._journal = open(self._path(f"journal.{rank}"), "a")

    def record(self, entry):
        """Add what is known of a chunk, a dict with its index as "chunk", once it is written."""
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    def close(self):
        """Close the rank's journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def entries(self):
        """What all ranks recorded: index of the chunk to entry."""
        done = {}
        for name in self._journals():
            with open(self._path(name)) as file:
                for line in file:
                    try:
                        entry = json.loads(line)
                        done[entry["chunk"]] = entry
                    except (ValueError, KeyError, TypeError):
                        continue  # the line that a kill cut short
        return done

    def rewrite(self, entries):
        """Replace all journals by one with these entries."""
        self.replace("journal.0", "".join(json.dumps(entry) + "\n" for entry in entries))
        for name in self._journals() - {"journal.0"}:
            os.remove(self._path(name))

    def replace(self, name, text):
        """Write a file of the folder, whole or not at all."""
        with atomic_file(self._path(name)) as file:
            file.write(text.encode())

    def clear(self):
        """Remove the folder of a run that is complete, its identity last."""
        for name in sorted(os.listdir(self.folder), key=lambda name: name == _IDENTITY):
            path = self._path(name)
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        os.rmdir(self.folder)
        self.unlock()

    def _path(self, name):
        return os.path.join(self.folder, name)

    def _journals(self):
        return {name for name in os.listdir(self.folder) if re.fullmatch(r"journal\.\d+", name)}

    def _locked(self):
        """Try to lock the open file; it must still be the one in the folder."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks
        path = self._path("lock")
        return os.path.exists(path) and os.path.samestat(
            os.fstat(self._lock.fileno()), os.stat(path)
        )
