"""Entry and exit of the commands: argument errors, signals, exit status, MPI abort."""

import argparse
import signal
import sys
import traceback
from contextlib import contextmanager

from .errors import InputError

# Status of a run that stopped on SIGTERM or SIGUSR1 with its work recorded: to be requeued
UNFINISHED = 75


class RankError(RuntimeError):
    """A failure of one rank alone, midway: the whole job must end."""


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong with the arguments by an InputError."""

    def error(self, message):
        raise InputError(f"{message}; see --help")


@contextmanager
def stop_requests():
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


def enter(run, command, comm, argv=None):
    """Run a command's main function and exit with its status.

    0 when complete; 2 with one line for an InputError, which all ranks raise alike, and for a
    RankError; `UNFINISHED` where the run says so; anything else ends every rank with status 1.
    """
    try:
        status = run(argv, comm) or 0
    except InputError as error:
        if comm.rank == 0:
            print(f"{command}: error: {error}", file=sys.stderr, flush=True)
        status = 2
    except RankError as error:
        print(f"{command}: error on rank {comm.rank}: {error}", file=sys.stderr, flush=True)
        comm.Abort(2)
    except SystemExit:
        raise
    except BaseException:
        print(
            f"{command}: error on rank {comm.rank}:\n{traceback.format_exc()}",
            file=sys.stderr,
            flush=True,
        )
        comm.Abort(1)
    sys.exit(status)
