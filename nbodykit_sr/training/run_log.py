"""Logs of a training run: JSON lines and figures, written by rank 0."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import InputError, RankError, one_line
from ..io.atomic import atomic_file, disk
from ..io.staging import FolderLock

LOG = "log.jsonl"


class RunLog:
    """The logs of a run: ``log.jsonl`` and ``figures/`` in its folder.

    Parameters
    ----------
    run : path
    step : int
        First step to come: what earlier attempts logged from there on is dropped.

    Raises
    ------
    RankError
        By every method, if the disk refuses.
    """

    def __init__(self, run, step=0):
        self.run = Path(run)
        self.run.mkdir(parents=True, exist_ok=True)
        path = self.run / LOG
        kept = [line for line in _lines(self.run) if _step(line) <= step]
        with atomic_file(path, own=True) as file:
            file.write("".join(kept).encode())
        self.file = open(path, "a")

    def write(self, kind, step, **values) -> None:
        """One line of the log: its kind ("train" or "evaluation"), the step and the values."""
        rounded = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in values.items()}
        with self._disk():
            self.file.write(json.dumps({"kind": kind, "step": step, **rounded}) + "\n")
            self.file.flush()

    def figure(self, step, figure) -> None:
        """Keep a matplotlib figure."""
        folder = self.run / "figures"
        with self._disk():
            folder.mkdir(exist_ok=True)
            figure.savefig(folder / f"step-{step:08d}.png", dpi=120)

    @contextmanager
    def _disk(self):
        try:
            yield
        except OSError as error:
            raise RankError(
                f"the logs in {self.run} can't be written ({error.strerror or one_line(error)}): make "
                "room there and resume"
            ) from error

    def close(self) -> None:
        with suppress(
            OSError
        ):  # of a line that found no room: that was raised where it was written
            self.file.close()


def check_log(run) -> None:
    """Refuse a folder whose log is not of a run.

    Raises
    ------
    InputError
    """
    if any(_step(line) == float("inf") for line in _lines(Path(run))[:-1]):
        raise InputError(f"{run} holds a {LOG} that is of no run: name another folder as run")


@contextmanager
def claimed(run) -> Iterator[None]:
    """Keep other runs from a run's folder, which is made, during the block. On one rank.

    Raises
    ------
    InputError
        If another run is at work there, or it can't be made.
    """
    lock = FolderLock(run)
    with disk(run):
        Path(run).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release(remove=True)
        with suppress(OSError):  # nothing was written
            Path(run).rmdir()


def _lines(run):
    path = run / LOG
    return path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []


def _step(line):
    """Step of a line of the log; a line cut short by a kill counts as never written."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
