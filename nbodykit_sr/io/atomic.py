"""Atomic file writes."""

import os
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path):
    """A file to write, as bytes, that gets its name once all of it is on the disk.

    A reader never meets half of it, whatever is killed meanwhile. If the block fails, a file that
    had this name before is as it was, and nothing else is left.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
