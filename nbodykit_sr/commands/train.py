"""Train a model from pairs of matched fields.

nbodykit-sr pairs LR HR FOLDER
mpirun -n 4 nbodykit-sr train train.toml [--resume]
nbodykit-sr export RUN OUT.safetensors
"""

import logging
import pkgutil
import socket
from collections.abc import Callable
from contextlib import ExitStack

from ..domain import node_ranks
from ..errors import InputError, agreement
from ..models.device import choose_device
from ..training.configuration import Configuration, build, read_toml
from ..training.distributed import join, leave
from ..training.system import System
from .command import Parser, start_log, stop_requests, stop_status

log = logging.getLogger("nbodykit_sr.training")

# What `system` in the configuration may be: its configuration and its system
SYSTEMS = {
    "displacement": (
        "training.displacement_configuration.DisplacementConfiguration",
        "training.displacement.DisplacementSystem",
    ),
    "density": ("density.training.DensityConfiguration", "density.training.DensitySystem"),
}


def configure(table) -> tuple[Configuration, Callable]:
    """The configuration that a table of settings describes, and the system that it is for.

    Raises
    ------
    InputError
        If the settings cannot be used.
    """
    name = table.get("system", "displacement")
    if name not in SYSTEMS:
        raise InputError(f"system is {name!r}: one of {', '.join(map(repr, SYSTEMS))} needed")
    configuration, system = (pkgutil.resolve_name(f"nbodykit_sr.{path}") for path in SYSTEMS[name])
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


def train(path, comm, resume=False) -> int:
    """Train as a TOML file says, or until SIGTERM, SIGUSR1 or SIGINT; returns the exit status. Collective.

    Parameters
    ----------
    path : path
    comm : mpi4py.MPI.Comm
        Its ranks share each batch.
    resume : bool
        Go on from the run's last sound checkpoint.

    Raises
    ------
    InputError
        On every rank.
    RankError
        On a rank whose memory ran out.
    """
    from ..training.loop import Trainer
    from ..training.run_log import claimed

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
            done = trainer.run(stopped)
            return 0 if done else stop_status("train", stopped, comm, system.configuration.run)
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
    parser = Parser("train", "Train a model as a TOML file says.", "train.toml --resume")
    parser.group("input")("configuration", help="TOML file, which names pairs and the run's folder")
    add = parser.group("running")
    add("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_args(argv)
    start_log("train", comm, verbose=True, others=logging.ERROR)
    return train(options.configuration, comm, options.resume)


def pairs(argv, comm) -> None:
    """The command ``pairs``. Collective."""
    from ..training.matching import build_pair

    parser = Parser(
        "pairs",
        "Put matched LR and HR snapshots on their lattices, as a pair folder to train on.",
        "LR/PART_008 HR/PART_008 pairs/train-1 --seed 1",
    )
    add = parser.group("input")
    add("lr", help="LR snapshot, such as LR/PART_008")
    add("hr", help="HR snapshot of the same box, time and seed")
    add("--ic", help="HR's initial conditions, for models that are given the phases")
    add("--power", help="file of the linear power spectrum that they were drawn from")
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
    start_log("pairs", comm, verbose=True, others=logging.ERROR)
    build_pair(comm=comm, **_given(options))


def export(argv, comm) -> None:
    """The command ``export``. Collective."""
    from ..training.export import export

    parser = Parser(
        "export",
        "Write the weights of a run's last checkpoint, with a model card.",
        "runs/paper mine.safetensors --name mine",
    )
    add = parser.group("input")
    add("run", help="folder of a run")
    add = parser.group("output")
    add("out", help=".safetensors file to be made")
    add("--name", help="of the model")
    add("--licence", help="of the weights")
    add("--caution", help="a warning for whoever uses the model")
    add("--notes", help="what else a user should know")
    given = _given(parser.parse_args(argv))
    start_log("export", comm, verbose=True, others=logging.ERROR)
    with agreement(comm):
        if comm.rank == 0:
            export(given.pop("run"), given.pop("out"), **given)


def evaluate(argv, comm) -> None:
    """The command ``evaluate``. Collective."""
    from ..diagnostics.verdicts import read_report
    from ..training.export import evaluate

    parser = Parser(
        "evaluate",
        "Put what validate found into a model's card.",
        "mine.safetensors z2/report.json z0/report.json",
    )
    add = parser.group("input")
    add("model", help=".safetensors file, whose card is written anew")
    add("reports", nargs="+", help="report.json of validate with HR, one for each redshift")
    options = parser.parse_args(argv)
    start_log("evaluate", comm, verbose=True, others=logging.ERROR)
    with agreement(comm):
        if comm.rank == 0:
            evaluate(options.model, [read_report(path) for path in options.reports])


def _given(options):
    return {key: value for key, value in vars(options).items() if value is not None}
