"""Files that are written whole or not at all, and errors of the disk as errors of the input."""

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
    had this name before is as it was, and nothing else is left. OSError if it cannot be written.

    Parameters
    ----------
    path : path
    own : bool
        Its folder is this run's alone: what a killed run left of it there is overwritten.
    """
    path = Path(path)
    # in a shared folder, a name that no other file has
    middle = "" if own else f".{secrets.token_hex(4)}"
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
def disk(path) -> Iterator[None]:
    """Turn an OSError while `path` is written, such as a full disk, into an InputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"{path} can't be written: {reason}; make room or rights there") from None


@contextmanager
def readable(path) -> Iterator[None]:
    """Name the reason, in an InputError, if an input cannot be read for its name or a missing permission.

    A file in a folder without permission looks as if it were missing or damaged. The error is raised at once
    for a name that is not UTF-8; else in place of the block's own error or of any OSError.
    """
    check_name(path)
    try:
        yield
    except (InputError, OSError) as error:
        if denied := _denied(os.path.realpath(path)):
            raise InputError(
                f"{denied} can't be read: permission denied; ask its owner for the right, or for a copy"
            ) from None
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} can't be read: {error.strerror or one_line(error)}") from None


def check_name(path) -> None:
    """Refuse a path that is not UTF-8: bigfile and the provenance of an output can't hold it."""
    path = os.path.abspath(path)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"the path {ascii(path)} is not UTF-8: rename it, or move it") from None


def _denied(path):
    """The first folder or file above, at or in a place that this user may not read, or None."""
    for folder in reversed(Path(path).parents):
        if not os.path.lexists(folder):
            return None
        if not os.access(folder, os.X_OK):
            return folder
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        return path
    for root, folders, names in os.walk(path):
        for name in (*folders, *names):
            inside, right = os.path.join(root, name), os.R_OK | (os.X_OK if name in folders else 0)
            if os.path.exists(inside) and not os.access(inside, right):
                return inside
    return None


def sync(folder) -> None:
    """Have the disk hold everything before the folder's name says that it does."""
    for root, _, names in os.walk(folder):
        for name in [*names, "."]:
            descriptor = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
