"""Errors of users and of single ranks, and how ranks agree before one raises."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Input of the user that cannot be used.

    The message is one line that names the quantity, its value, what was wanted and the remedy.
    The commands print it on rank 0 and exit with status 2.
    """


class RankError(RuntimeError):
    """A failure of one rank alone, midway: the whole job must end."""


def one_line(error, limit: int = 200) -> str:
    """The message of an error as one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit]


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. Without a GPU torch says so by the text of a RuntimeError alone."""
    return isinstance(error, MemoryError) or "memory" in str(error)


@contextmanager
def agreement(comm) -> Iterator[None]:
    """Run a rank-local block; if any rank fails in it, every rank raises the same InputError.

    The block must hold no collective call: a rank that failed would leave the others in it.
    Collective on exit, but for a `comm` of None, a single rank. An error that is no InputError is a defect
    of the program: it leaves unchanged on the rank it came from, and the others learn where it happened.
    """
    failure: Exception | None = None
    try:
        yield
    except PermissionError as error:
        failure = InputError(
            f"{error.filename or 'a file'} can't be opened: permission denied; ask its owner for the right"
        )
    except Exception as error:
        failure = error
    message = None
    if failure is not None:
        message = str(failure) if isinstance(failure, InputError) else f"{failure!r}"
    messages = [message] if comm is None else comm.allgather(message)
    if failure is not None and not isinstance(failure, InputError):
        raise failure
    first = next((rank for rank, text in enumerate(messages) if text is not None), None)
    if first is not None:
        raise InputError(messages[first])


def require_same(comm, **values) -> None:
    """Refuse values that differ between ranks, such as a seed that each rank drew. Collective.

    Values are given by the names that users know, and compared by their `repr`. InputError on every rank.
    """
    everywhere = comm.allgather({name: repr(value) for name, value in values.items()})
    for name, first in everywhere[0].items():
        for rank, theirs in enumerate(everywhere):
            if theirs[name] != first:
                raise InputError(
                    f"{name} is {one_line(first, 80)} on rank 0 but {one_line(theirs[name], 80)} on "
                    f"rank {rank}: give all ranks the same"
                )
