"""The command ``nbodykit-sr``, also ``python -m nbodykit_sr``: one table of commands."""

import difflib
import os
import pkgutil
import signal
import sys
from contextlib import suppress

from .commands.command import INTERRUPTED, enter, open_streams, typed
from .errors import InputError
from .version import __version__

# Each command: its main function, which takes arguments and communicator, and what it does
COMMANDS = {
    "generate": ("generate:main", "super-resolve a snapshot into a catalogue"),
    "lightcone": ("lightcone:main", "a light cone from a few snapshots of one simulation"),
    "verify": ("verify:main", "check a finished catalogue"),
    "validate": ("validate:main", "compare a catalogue with its references, on one page"),
    "halos": ("halos:main", "halos of a catalogue, with centres and masses"),
    "emulate": ("emulate:main", "density at high resolution from initial conditions"),
    "pairs": ("train:pairs", "matched snapshots to train on"),
    "train": ("train:main", "train a model"),
    "export": ("train:export", "weights and model card of a training run"),
    "evaluate": ("evaluate:main", "put what validate found into a model's card"),
    "models": ("about:models", "the models that ship: what for, and what they are worth"),
    "info": ("about:info", "versions, MPI, GPUs, threads: for a bug report"),
}

USAGE = """usage: {typed} COMMAND ...

Super-resolution of cosmological simulations for nbodykit, version {version}.

commands:
{commands}

example:
  mpirun -n 4 {typed} generate PART_008 SR_008 --seed 7

{typed} COMMAND --help tells the options of each."""


def main(argv, comm) -> int:
    """Answer a call without a command: help, version, or an error. Returns the exit status."""
    if argv[:1] == ["--version"]:
        text = __version__
    elif argv and argv[0] not in ("--help", "-h"):
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {argv[0][:40]!r}: {meant}")
    else:
        lines = (f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
        text = USAGE.format(typed=typed(""), version=__version__, commands="\n".join(lines))
    if comm.rank == 0:
        print(text)
    return 0


def run(command=None) -> None:
    """The console script: run a command, the one that the user named, and exit with its status."""
    open_streams()  # before MPI opens files of its own
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    from mpi4py import MPI

    argv = sys.argv[1:]
    if command is None and argv and argv[0] in COMMANDS:
        command, *argv = argv

    def imported(argv, comm):  # here, where a failure ends every rank
        path = f"{__package__}.commands.{COMMANDS[command][0]}" if command else None
        named = pkgutil.resolve_name(path) if path else main
        signal.signal(signal.SIGINT, interrupt)
        return named(argv, comm)

    enter(imported, command or "", MPI.COMM_WORLD, argv)


def _leave(*_):
    """Ctrl-C amid imports, where libraries lose an exception or make others of it."""
    with suppress(OSError):
        os.write(2, f"{typed('')}: interrupted\n".encode())
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    run()
