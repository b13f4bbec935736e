"""Train a model from pairs of matched fields.

nbodykit-sr pairs LR HR FOLDER
mpirun -n 4 nbodykit-sr train train.toml [--resume]
nbodykit-sr export RUN OUT.safetensors
"""

import logging
import pkgutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack

from mpi4py import MPI

from .command import UNFINISHED, Parser, enter, start_log, stop_requests
from .device import choose_device
from .domain import node_ranks
from .errors import agreement
from .training.configuration import Configuration, build, one_of, read_toml
from .training.distributed import join, leave
from .training.system import System

log = logging.getLogger("nbodykit_sr.training")

# What `system` in the configuration may be: its configuration and its system, in `training`
SYSTEMS = {
    "displacement": (
        "displacement_configuration.DisplacementConfiguration",
        "displacement.DisplacementSystem",
    ),
    "density": ("density.DensityConfiguration", "density.DensitySystem"),
}


def configure(table) -> tuple[Configuration, Callable]:
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


def make_system(table) -> System:
    """The system that a table of settings describes, on its fields.

    Raises
    ------
    InputError
        If the settings or the fields they name cannot be used.
    """
    configuration, system = configure(table)
    return system(configuration)


def train(path, comm, resume=False) -> bool:
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


def main(argv, comm) -> int:
    """The command; returns its exit status. Collective."""
    if argv and argv[0] in OTHERS:
        return OTHERS[argv[0]](argv[1:], comm) or 0
    parser = Parser("train", "Train a model as a TOML file says.", "train.toml --resume")
    parser.group("input")("configuration", help="TOML file, which names pairs and the run's folder")
    add = parser.group("running")
    add("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_args(argv)
    _start_log("train", comm)
    return 0 if train(options.configuration, comm, options.resume) else UNFINISHED


def pairs(argv, comm) -> None:
    """The command ``pairs``. Collective."""
    from .training.matching import build_pair

    parser = Parser(
        "pairs",
        "Put matched LR and HR snapshots on their lattices, as a pair folder to train on.",
        "LR/PART_008 HR/PART_008 pairs/train-1 --seed 1",
    )
    add = parser.group("input")
    add("lr", help="LR snapshot, such as LR/PART_008")
    add("hr", help="HR snapshot of the same box, time and seed")
    add("--dataset", help="particle type; dark matter, 1/, by default")
    add = parser.group("output")
    add("folder", help="the pair to be made")
    add(
        "--channels",
        type=int,
        choices=(3, 6),
        default=6,
        help="with velocities (6, the default) or without (3)",
    )
    add("--source", default="unknown", help="which code made them: TreePM, particle-mesh, ...")
    add("--seed", type=int, help="of the initial conditions, for the manifest")
    options = parser.parse_args(argv)
    _start_log("pairs", comm)
    build_pair(comm=comm, **_given(options))


def export(argv, comm) -> None:
    """The command ``export``. Collective."""
    from .training.export import export

    parser = Parser(
        "export",
        "Write the weights of a run's last checkpoint, with a model card.",
        "runs/paper mine.safetensors --name mine",
    )
    add = parser.group("input")
    add("run", help="folder of a run")
    add("--mean-with", nargs="+", help="average the weights with these runs' or files'")
    add = parser.group("output")
    add("out", help=".safetensors file to be made")
    add("--name", help="of the model")
    add("--licence", help="of the weights")
    add("--caution", help="a line that whoever uses the model is told")
    add("--notes", help="what else a user should know")
    given = _given(parser.parse_args(argv))
    _start_log("export", comm)
    with agreement(comm):
        if comm.rank == 0:
            export(given.pop("run"), given.pop("out"), **given)


def evaluate(argv, comm) -> None:
    """The command ``evaluate``. Collective."""
    from .diagnostics.verdicts import read_report
    from .training.export import evaluate

    parser = Parser(
        "evaluate",
        "Put what validate found into a model's card.",
        "mine.safetensors z2/report.json z0/report.json",
    )
    add = parser.group("input")
    add("model", help=".safetensors file, whose card is written anew")
    add("reports", nargs="+", help="report.json of validate with HR, one for each redshift")
    options = parser.parse_args(argv)
    _start_log("evaluate", comm)
    with agreement(comm):
        if comm.rank == 0:
            evaluate(options.model, [read_report(path) for path in options.reports])


# Commands of their own, which `train` has always taken too
OTHERS = {"pairs": pairs, "export": export, "evaluate": evaluate}


def _given(options):
    return {key: value for key, value in vars(options).items() if value is not None}


def _start_log(name, comm):
    start_log(name, logging.INFO if comm.rank == 0 else logging.ERROR)


if __name__ == "__main__":
    enter(main, next((word for word in sys.argv[1:2] if word in OTHERS), "train"), MPI.COMM_WORLD)
