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
from dataclasses import asdict, dataclass

from ..domain import node_ranks
from ..errors import InputError, agreement
from ..models.device import choose_device
from ..training.configuration import Configuration, build, read_toml
from ..training.distributed import join, leave
from ..training.system import System
from .command import start_log, stop_requests, stop_status
from .options import option, parse_options

log = logging.getLogger("nbodykit_sr.training")

# What `system` in the configuration may be: its configuration and its system
SYSTEMS = {
    "displacement": (
        "training.displacement_configuration.DisplacementConfiguration",
        "training.displacement.DisplacementSystem",
    ),
    "density": ("density.training.DensityConfiguration", "density.training.DensitySystem"),
}


@dataclass(frozen=True)
class TrainOptions:
    """Options of ``train``."""

    configuration: str = option("input", "TOML file, which names pairs and the run's folder")
    resume: bool = option("running", "go on from the last checkpoint", False)


@dataclass(frozen=True)
class PairsOptions:
    """Options of ``pairs``, and of `training.matching.build_pair`."""

    lr: str = option("input", "LR snapshot, such as LR/PART_008")
    hr: str = option("input", "HR snapshot of the same box, time and seed")
    folder: str = option("output", "the pair to be made")
    ic: str | None = option(
        "input", "HR's initial conditions, for models that are given the phases", None
    )
    power: str | None = option(
        "input", "file of the linear power spectrum that they were drawn from", None
    )
    dataset: str | None = option("input", "particle type; dark matter, 1/, by default", None)
    channels: int = option(
        "output", "with velocities (6, the default) or without (3)", 6, choices=(3, 6)
    )
    source: str = option("output", "which code made them: TreePM, particle-mesh, ...", "unknown")
    seed: int | None = option("output", "of the initial conditions, for the manifest", None)


@dataclass(frozen=True)
class ExportOptions:
    """Options of ``export``."""

    run: str = option("input", "folder of a run")
    out: str = option("output", ".safetensors file to be made")
    name: str | None = option("output", "of the model", None)
    licence: str | None = option("output", "of the weights", None)
    caution: str | None = option("output", "a warning for whoever uses the model", None)
    notes: str | None = option("output", "what else a user should know", None)


def configure(table) -> tuple[Configuration, Callable]:
    """The configuration that a table of settings describes, and its system; InputError if it is wrong."""
    name = table.get("system", "displacement")
    if name not in SYSTEMS:
        raise InputError(f"system is {name!r}: one of {', '.join(map(repr, SYSTEMS))} needed")
    configuration, system = (pkgutil.resolve_name(f"nbodykit_sr.{path}") for path in SYSTEMS[name])
    return build(configuration, table), system


def make_system(table) -> System:
    """The system that a table of settings describes, on its fields; InputError if these cannot be used."""
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
    """The command ``train``; returns its exit status. Collective."""
    what = "Train a model as a TOML file says."
    options = parse_options(TrainOptions, argv, "train", what, "train.toml --resume")
    start_log("train", comm, verbose=True, others=logging.ERROR)
    return train(options.configuration, comm, options.resume)


def pairs(argv, comm) -> None:
    """The command ``pairs``. Collective."""
    from ..training.matching import build_pair

    what = "Put matched LR and HR snapshots on their lattices, as a pair folder to train on."
    example = "LR/PART_008 HR/PART_008 pairs/train-1 --seed 1"
    options = parse_options(PairsOptions, argv, "pairs", what, example)
    start_log("pairs", comm, verbose=True, others=logging.ERROR)
    build_pair(options, comm)


def export(argv, comm) -> None:
    """The command ``export``. Collective."""
    from ..training.export import export

    what = "Write the weights of a run's last checkpoint, with a model card."
    example = "runs/paper mine.safetensors --name mine"
    given = asdict(parse_options(ExportOptions, argv, "export", what, example))
    start_log("export", comm, verbose=True, others=logging.ERROR)
    with agreement(comm):
        if comm.rank == 0:
            run, out = given.pop("run"), given.pop("out")
            export(run, out, **{key: value for key, value in given.items() if value is not None})
