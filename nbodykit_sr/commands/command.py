"""Entry and exit of the commands: arguments, launcher, signals, streams, exit status, MPI abort."""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

from ..errors import InputError, RankError

# Status of a run that stopped on SIGTERM or SIGUSR1 with its work recorded: to be requeued
UNFINISHED = 75

# Status of a run that was interrupted from the keyboard, as shells give it
INTERRUPTED = 128 + signal.SIGINT

# Where launchers tell a process how many ranks they started, and which of them it is; the innermost
# launcher first. PMIx tells the number by its library only.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("", "PMIX_RANK"),
)


class Parser(argparse.ArgumentParser):
    """Argument parser of a command; its help has an example, its errors are InputErrors.

    Parameters
    ----------
    name : str
        Name of the command.
    what : str
        One line on what the command does.
    example : str
        Typical arguments.
    """

    def __init__(self, name, what, example):
        super().__init__(
            prog=typed(name),
            description=what,
            epilog=f"example:\n  {typed(name)} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # what begins with a negative number, such as the region -5:5, is a value and no option
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def group(self, title) -> Callable:
        """The function that adds options under a heading of the help."""
        return self.add_argument_group(title).add_argument

    def error(self, message) -> NoReturn:
        raise InputError(f"{message}; see --help")


def typed(name) -> str:
    """A command as the user called it: by the console script, the package or a module of its own."""
    program = Path(sys.argv[0])
    if program.parent.name != "nbodykit_sr" or program.suffix != ".py":
        return f"nbodykit-sr {name}".rstrip()
    if program.stem == "__main__":
        return f"python -m nbodykit_sr {name}".rstrip()
    module = f"python -m nbodykit_sr.{program.stem}"
    return module if program.stem == name else f"{module} {name}".rstrip()


def start_log(name, comm, verbose=False, others=logging.WARNING) -> None:
    """Log to standard error under the name of the command, each line once.

    Rank 0 shows warnings, and with `verbose` also what is found and chosen; the other ranks show
    messages of the level `others` and above.
    """
    shown = logging.INFO if verbose else logging.WARNING
    level = shown if comm.rank == 0 else others
    handler, said = logging.StreamHandler(), set()

    def first(record):
        line = record.getMessage()
        return not (line in said or said.add(line))

    handler.addFilter(first)
    logging.basicConfig(level=level, format=f"{typed(name)}: %(message)s", handlers=[handler])


def check_launcher(comm) -> None:
    """Refuse to run where the launcher started several ranks and each believes to be alone.

    InputError on the launcher's first rank; the others exit with status 2, so that the line comes once.
    """
    size, rank = _launched()
    if comm.size > 1 or size == 1:
        return
    if rank > 0:
        sys.exit(2)
    raise InputError(
        f"the launcher started {size} ranks but MPI shows each of them no other, so each would do "
        "the whole job: use the mpirun of the MPI that mpi4py was built with, or srun --mpi=pmix"
    )


def _launched():
    """Number of ranks that the launcher started, at least, and this process's rank among them."""
    for size, rank in _LAUNCHERS:
        number, said = os.environ.get(rank, ""), os.environ.get(size, "")
        if number.isdecimal():
            return int(said) if said.isdecimal() else int(number) + 1, int(number)
    return 1, 0


class _Stream:
    """A standard stream that falls silent, instead of ending the run, once it can't be written to.

    Attributes
    ----------
    failure : OSError or None
        What went wrong; None where the reader has closed the pipe, as ``| head`` does.
    """

    def __init__(self, stream):
        self._stream, self.failure = stream, None

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def write(self, text):
        return self._attempt(self._stream.write, text)

    def flush(self):
        self._attempt(self._stream.flush)

    def _attempt(self, act, *what):
        try:
            return act(*what)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.failure = error
            with open(os.devnull, "wb") as nothing:  # the rest of the buffer goes there too
                os.dup2(nothing.fileno(), self._stream.fileno())


def open_streams() -> None:
    """Open closed standard streams on /dev/null, so that no other file gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


@contextmanager
def _streams(command):
    """Go on where a standard stream fails, and say at the end that its output is lost."""
    open_streams()
    nowhere = open(os.devnull, "w")  # Python has no stream where there was none
    out, err = _Stream(sys.stdout or nowhere), _Stream(sys.stderr or nowhere)
    with nowhere, redirect_stdout(out), redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            if out.failure:
                print(
                    f"{typed(command)}: standard output can't be written ({out.failure.strerror}): "
                    "what should stand there is lost",
                    file=err,
                )
            err.flush()


@contextmanager
def stop_requests() -> Iterator[list]:
    """A list that SIGTERM, SIGUSR1 and SIGINT add to, instead of ending the process.

    Batch systems send one of the first two some time before they kill; the last is Ctrl-C, which
    ends the process at once when it comes again.
    """
    stopped = []

    def ask(number, _):
        if number == signal.SIGINT and number in stopped:
            raise KeyboardInterrupt("go on with --resume")
        stopped.append(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    handlers = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stop_status(command, stopped, comm, folder) -> int:
    """Say on rank 0 that a run stopped on a signal, its work in `folder`, and give the status. Collective."""
    if comm.rank == 0:
        print(f"{command}: stopped on a signal; go on with --resume ({folder})", file=sys.stderr)
    return INTERRUPTED if any(signal.SIGINT in s for s in comm.allgather(stopped)) else UNFINISHED


def enter(run, command, comm, argv=None) -> NoReturn:
    """Run a command's main function, ``run(argv, comm)``, and exit with its status.

    0 when complete; 2 with one line for an InputError, which all ranks raise alike, and for a
    RankError; `UNFINISHED` and `INTERRUPTED` where the run says so; `INTERRUPTED` with one line for
    Ctrl-C at other times; anything else ends every rank with status 1. What happens to standard
    output and standard error changes none of them.
    """
    with _streams(command):
        sys.exit(_status(run, command, comm, argv))


def _status(run, command, comm, argv):
    """The exit status for `enter`; a rank that fails alone ends all ranks."""

    def complain(what):
        print(f"{typed(command)}: {what}", file=sys.stderr, flush=True)

    try:
        check_launcher(comm)
        return run(sys.argv[1:] if argv is None else argv, comm) or 0
    except InputError as error:
        if comm.rank == 0:
            complain(f"error: {error}")
        return 2
    except RankError as error:
        complain(f"error on rank {comm.rank}: {error}")
        comm.Abort(2)
    except SystemExit:
        raise
    except KeyboardInterrupt as stop:
        complain("; ".join(("interrupted", *map(str, stop.args))))
        if comm.size > 1:
            comm.Abort(INTERRUPTED)
        return INTERRUPTED
    except BaseException:
        complain(f"error on rank {comm.rank}:\n{traceback.format_exc()}")
        comm.Abort(1)
