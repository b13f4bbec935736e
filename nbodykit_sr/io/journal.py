"""The folder of an unfinished run: its identity and the journal of written chunks."""

import json
import os
import re
from typing import Any

from ..errors import InputError
from .atomic import atomic_file
from .staging import IDENTITY, Staging

# How long a resumed run waits for the one before to let go of the folder
LOCK_SECONDS = 15.0


class UnfinishedRun(Staging):
    """What is known of a run, beside what it makes in the same folder (see `Staging`).

    - ``run.json``: what the run was begun with, the last thing that is written at its start;
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
        """What `identify` recorded.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        try:
            with open(self.file(IDENTITY)) as file:
                return json.load(file)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.file(IDENTITY)} is unreadable: {error}") from None

    def open(self, rank) -> None:
        """Open a rank's journal, to add to it."""
        self._journal = open(self.file(f"journal.{rank}"), "a")

    def record(self, entry) -> None:
        """Add what is known of a chunk, a dict with its index as "chunk", once it is written."""
        self._journal.write(json.dumps(entry) + "\n")
        self._journal.flush()

    def close(self) -> None:
        """Close the rank's journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def entries(self) -> dict[int, dict]:
        """What all ranks recorded: index of the chunk to entry."""
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
