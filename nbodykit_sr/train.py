"""Train a model from pairs of matched fields.

mpirun -n 4 python -m nbodykit_sr.train train.toml [--resume]
python -m nbodykit_sr.train pairs LR HR FOLDER
python -m nbodykit_sr.train export RUN OUT.safetensors
"""

import logging
import pkgutil
import socket
import sys
from argparse import RawDescriptionHelpFormatter
from contextlib import ExitStack

from mpi4py import MPI

from .command import UNFINISHED, Parser, enter, stop_requests
from .device import choose_device
from .domain import node_ranks
from .errors import agreement
from .training.configuration import build, one_of, read_toml
from .training.distributed import join, leave

log = logging.getLogger("nbodykit_sr.training")

# What `system` in the configuration may be: its configuration and its system, in `training`
SYSTEMS = {
    "displacement": (
        "displacement_configuration.DisplacementConfiguration",
        "displacement.DisplacementSystem",
    ),
    "displacement score": ("score.ScoreConfiguration", "score.ScoreSystem"),
    "density": ("density.DensityConfiguration", "density.DensitySystem"),
}


def configure(table):
    """The configuration that a table of settings describes, and the system that it is for.

    Raises
    ------
    InputError
        If the settings cannot be used.
    """
    name = table.get("system", "displacement")
    one_of("system", name, tuple(SYSTEMS))
    configuration, system = (
        pkgutil.resolve_name(f"{__package__}.training.{path}") for path in SYSTEMS[name]
    )
    return build(configuration, table), system


def make_system(table):
    """The system that a table of settings describes, on its fields.

    Raises
    ------
    InputError
        If the settings or the fields they name cannot be used.
    """
    configuration, system = configure(table)
    return system(configuration)


def train(path, comm, resume=False):
    """Train as a TOML file says, or until SIGTERM or SIGUSR1. Collective.

    Parameters
    ----------
    path : path
    comm : mpi4py.MPI.Comm
        Its ranks share each batch.
    resume : bool
        Go on from the run's last sound checkpoint.

    Returns
    -------
    bool
        Whether the schedule is done; if not, the run can be resumed.

    Raises
    ------
    InputError
        On every rank.
    RankError
        On a rank whose memory ran out.
    """
    from .training.loop import Trainer
    from .training.run_log import claimed

    node = node_ranks(comm)
    folder = ExitStack()
    with agreement(comm):
        system = make_system(read_toml(path))
        device = choose_device(system.configuration.device, *node)
        if comm.rank == 0:
            folder.enter_context(claimed(system.configuration.run))
    address = comm.bcast(_address() if comm.rank == 0 and comm.size > 1 else None)
    ranks = join(device, comm.rank, comm.size, address)
    try:
        with agreement(comm):
            trainer = Trainer(system, ranks, resume)
        with stop_requests() as stopped:
            return trainer.run(stopped)
    finally:
        folder.close()
        leave(ranks)


def _address():
    """Where the ranks meet: a free port of this host."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"tcp://{socket.gethostname()}:{probe.getsockname()[1]}"


def _parser(command):
    usage = {
        "pairs": "Put matched LR and HR snapshots on their lattices, as a pair folder.",
        "export": "Write the weights of a run's last checkpoint, with a model card.",
    }
    if command in usage:
        parser = Parser(prog=f"python -m nbodykit_sr.train {command}", description=usage[command])
    if command == "pairs":
        parser.add_argument("lr", help="LR snapshot, such as LR/PART_008")
        parser.add_argument("hr", help="HR snapshot of the same box, time and seed")
        parser.add_argument("folder", help="to be made")
        parser.add_argument("--channels", type=int, choices=(3, 6), default=6)
        parser.add_argument("--dataset", help="prefix of the columns, such as 1/")
        parser.add_argument("--source", default="unknown", help="TreePM, particle-mesh, ...")
        parser.add_argument("--seed", type=int, help="of the initial conditions, for the manifest")
    elif command == "export":
        parser.add_argument("run", help="folder of a run")
        parser.add_argument("out", help=".safetensors file to be made")
        parser.add_argument("--mean-with", help="average the weights with this run's or file's")
        parser.add_argument("--name", help="of the model")
        parser.add_argument("--licence", help="of the weights")
        parser.add_argument("--notes", help="what else a user should know")
    else:
        parser = Parser(
            prog="python -m nbodykit_sr.train",
            description=__doc__,
            formatter_class=RawDescriptionHelpFormatter,
        )
        parser.add_argument("configuration", help="TOML file")
        parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


def main(argv, comm):
    """The command; returns its exit status. Collective."""
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in ("pairs", "export") else "train"
    options = _parser(command).parse_args(argv[command != "train" :])
    logging.basicConfig(
        level=logging.INFO if comm.rank == 0 else logging.ERROR, format="train: %(message)s"
    )
    if command == "train":
        return 0 if train(options.configuration, comm, options.resume) else UNFINISHED
    given = {key: value for key, value in vars(options).items() if value is not None}
    if command == "pairs":
        from .training.matching import build_pair

        build_pair(comm=comm, **given)
    else:
        from .training.export import export

        with agreement(comm):
            if comm.rank == 0:
                export(given.pop("run"), given.pop("out"), **given)
    return 0


if __name__ == "__main__":
    enter(main, "train", MPI.COMM_WORLD)
