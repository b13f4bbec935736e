"""Entry and exit of the commands: argument errors, launcher, signals, exit status, MPI abort."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from .errors import InputError

# Status of a run that stopped on SIGTERM or SIGUSR1 with its work recorded: to be requeued
UNFINISHED = 75

# Where launchers tell a process how many ranks they started, and which of them it is; the innermost
# launcher first. PMIx tells the number by its library only.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("", "PMIX_RANK"),
)


class RankError(RuntimeError):
    """A failure of one rank alone, midway: the whole job must end."""


class Parser(argparse.ArgumentParser):
    """A parser of a command that shows an example and says what is wrong by an InputError.

    Parameters
    ----------
    name : str
        Of the command.
    what : str
        What it does, in a line.
    example : str
        Arguments that make sense.
    """

    def __init__(self, name, what, example):
        super().__init__(
            prog=typed(name),
            description=what,
            epilog=f"example:\n  {typed(name)} {example}".rstrip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

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
    return module if program.stem == name else f"{module} {name}"


def start_log(name, level) -> None:
    """Show what is logged at `level` and above, in the name of the command; the same line once."""
    handler, said = logging.StreamHandler(), set()

    def first(record):
        line = record.getMessage()
        return not (line in said or said.add(line))

    handler.addFilter(first)
    logging.basicConfig(level=level, format=f"{typed(name)}: %(message)s", handlers=[handler])


def check_launcher(comm) -> None:
    """Refuse to run where the launcher started several ranks and each believes to be alone.

    Raises
    ------
    InputError
        On the launcher's first rank; the others exit with status 2, so that it is said once.
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
    """How many ranks the launcher says it started, at least, and which of them this is."""
    for size, rank in _LAUNCHERS:
        number, said = os.environ.get(rank, ""), os.environ.get(size, "")
        if number.isdecimal():
            return int(said) if said.isdecimal() else int(number) + 1, int(number)
    return 1, 0


@contextmanager
def stop_requests() -> Iterator[list]:
    """A list that SIGTERM and SIGUSR1 add to, instead of ending the process.

    Batch systems send one of them some time before they kill.
    """
    stopped = []
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    handlers = {n: signal.signal(n, lambda number, _: stopped.append(number)) for n in numbers}
    try:
        yield stopped
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def enter(run, command, comm, argv=None) -> NoReturn:
    """Run a command's main function, ``run(argv, comm)``, and exit with its status.

    0 when complete; 2 with one line for an InputError, which all ranks raise alike, and for a
    RankError; `UNFINISHED` where the run says so; anything else ends every rank with status 1.
    """
    try:
        check_launcher(comm)
        status = run(sys.argv[1:] if argv is None else argv, comm) or 0
    except InputError as error:
        if comm.rank == 0:
            print(f"{typed(command)}: error: {error}", file=sys.stderr, flush=True)
        status = 2
    except RankError as error:
        print(f"{typed(command)}: error on rank {comm.rank}: {error}", file=sys.stderr, flush=True)
        comm.Abort(2)
    except SystemExit:
        raise
    except BaseException:
        print(
            f"{typed(command)}: error on rank {comm.rank}:\n{traceback.format_exc()}",
            file=sys.stderr,
            flush=True,
        )
        comm.Abort(1)
    sys.exit(status)
