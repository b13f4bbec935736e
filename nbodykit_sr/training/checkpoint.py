"""Checkpoints of a training run, rotated, each with a digest."""

import hashlib
import logging
import pickle
import re
from pathlib import Path

import torch

from ..errors import InputError, one_line
from ..io.atomic import atomic_file

log = logging.getLogger("nbodykit_sr.training")


class CheckpointFolder:
    """The rotated checkpoints of a run: ``step-00001000.pt`` and its digest beside it.

    A checkpoint counts once its digest is there, which is written last; one whose content does
    not fit the digest, or cannot be read, is passed over for the one before.

    Parameters
    ----------
    folder : path
    keep : int
        How many to keep.
    """

    def __init__(self, folder, keep=3):
        self.folder, self.keep = Path(folder), keep

    def save(self, step, state) -> None:
        """Write `state` (nested dicts, lists, scalars and tensors) and drop the oldest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        with atomic_file(path, own=True) as file:
            torch.save(state, file)
        digest = f"{_digest(path)}  {path.name}\n".encode()
        with atomic_file(path.with_suffix(".sha256"), own=True) as file:
            file.write(digest)
        for old in self.steps()[: -self.keep]:
            for suffix in (".sha256", ".pt"):
                self._path(old).with_suffix(suffix).unlink(missing_ok=True)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        names = [path.name for path in self.folder.glob("step-*.sha256")]
        found = [re.fullmatch(r"step-(\d{8})\.sha256", name) for name in names]
        return sorted(int(match[1]) for match in found if match)

    def latest(self) -> tuple[int, dict] | None:
        """The newest sound checkpoint: (step, state), or None if there is none."""
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                if _digest(path) != path.with_suffix(".sha256").read_text().split()[0]:
                    raise OSError("its content does not fit its digest")
                return step, torch.load(path, map_location="cpu", weights_only=True)
            except (OSError, RuntimeError, EOFError, IndexError, pickle.UnpicklingError) as error:
                log.warning("%s is passed over: %s", path, one_line(error))
        return None

    def require(self) -> tuple[int, dict]:
        """`latest`, or an InputError if there is none."""
        found = self.latest()
        if found is None:
            raise InputError(f"{self.folder} holds no sound checkpoint: train the run first")
        return found

    def describe(self) -> str:
        """Name of the newest complete checkpoint, for messages."""
        steps = self.steps()
        return str(self._path(steps[-1])) if steps else "none"

    def _path(self, step):
        return self.folder / f"step-{step:08d}.pt"


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
