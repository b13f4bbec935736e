"""Train a model from pairs: ``python -m nbodykit_sr.train train.toml``."""

import argparse
import importlib
import logging
import socket
import sys

from .errors import InputError, agreement
from .training.configuration import build, one_of, read_toml

log = logging.getLogger("nbodykit_sr.training")

# (module, configuration, system)
SYSTEMS = {
    "displacement": ("displacement", "DisplacementConfiguration", "DisplacementSystem"),
    "density": ("density", "DensityConfiguration", "DensitySystem"),
}


def make_system(table):
    """The system of a table of settings: its ``system`` says which."""
    name = table.get("system", "displacement")
    one_of("system", name, tuple(SYSTEMS))
    module, configuration, system = SYSTEMS[name]
    module = importlib.import_module(f".training.{module}", __package__)
    return getattr(module, system)(build(getattr(module, configuration), table))


def train(path, comm, resume=False):
    """Train as the TOML file `path` says. Collective.

    Raises
    ------
    InputError
        On all ranks.
    """
    from .training.distributed import choose_device, join, leave
    from .training.loop import Trainer

    system = None
    with agreement(comm):
        system = make_system(read_toml(path))
        local = comm.rank
        device = choose_device(system.configuration.device, local)
    address = comm.bcast(_address() if comm.rank == 0 and comm.size > 1 else None)
    ranks = join(device, comm.rank, comm.size, address)
    try:
        trainer = None
        with agreement(comm):
            trainer = Trainer(system, ranks, resume)
        return trainer.run()
    finally:
        leave(ranks)


def _address():
    """Where the ranks meet: a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{socket.gethostname()}:{probe.getsockname()[1]}"


def main(arguments=None):
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser(prog="python -m nbodykit_sr.train", description=__doc__)
    parser.add_argument("configuration")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if comm.rank == 0 else logging.ERROR)
    try:
        train(options.configuration, comm, options.resume)
    except InputError as error:
        if comm.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
