"""Files that are whole or not there, and what the disk refuses."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError, one_line


@contextmanager
def atomic_file(path, own=False) -> Iterator[BinaryIO]:
    """A file to write, as bytes, that gets its name once all of it is on the disk.

    A reader never meets half of it, whatever is killed meanwhile. If the block fails, a file that
    had this name before is as it was, and nothing else is left.

    Parameters
    ----------
    path : path
    own : bool
        Its folder is this run's alone: what a killed run left of it there is overwritten.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    path = Path(path)
    middle = "" if own else f".{secrets.token_hex(4)}"  # elsewhere, a name of nobody else's file
    partial = path.with_name(f"{path.name}{middle}.partial")
    with open(partial, "wb" if own else "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def save_figure(figure, path) -> None:
    """Save a matplotlib figure as PNG, whole or not at all, with what `preflight.FIGURE` looks for."""
    with disk(path), atomic_file(path) as file:
        figure.savefig(file, dpi=150, metadata={"Software": "nbodykit_sr"})


@contextmanager
def disk(path, *kinds) -> Iterator[None]:
    """What the disk refuses is an InputError.

    Parameters
    ----------
    path : path
        That is written.
    *kinds : types
        Of exceptions by which libraries tell it, besides OSError.
    """
    try:
        yield
    except (OSError, *kinds) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{path} can't be written: {reason}; make room or rights there") from None


def sync(folder) -> None:
    """Have the disk hold everything before the folder's name says that it does."""
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
