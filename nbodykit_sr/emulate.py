"""Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.

    mpirun -n 4 nbodykit-sr emulate LR_SNAPSHOT INITIAL OUTPUT --model WEIGHTS

INITIAL is a mesh that nbodykit saved (the linear overdensity, twice as many cells a side as LR
has particles) or the HR run's initial snapshot. OUTPUT is a mesh for nbodykit's BigFileMesh,
dataset "Field". The exit status is 0 only when it is complete; 2 when the input cannot be used.
"""

import logging
import os
from dataclasses import dataclass

from bigfile import Error as BigFileError
from nbodykit.lab import BigFileMesh

from .command import Parser, RankError, enter, start_log
from .errors import InputError, agreement, one_line
from .io.checks import check_block
from .io.preflight import MESH, prepare_output
from .io.snapshot import open_snapshot
from .io.staging import staged
from .mesh import SRMesh

logger = logging.getLogger(__name__)

DATASET = "Field"


@dataclass(frozen=True)
class EmulateOptions:
    """Options of a run; see ``nbodykit-sr emulate --help``."""

    lr: str
    initial: str
    output: str
    model: str | None = None
    nmesh: int | None = None
    initial_redshift: float | None = None
    dataset: str = DATASET
    device: str = "auto"
    chunk: int | None = None
    force: bool = False
    overwrite: bool = False
    verbose: bool = False


def open_source(path, comm, dataset=DATASET):
    """A snapshot as a catalogue, or a saved mesh as a mesh; whichever `path` holds. Collective.

    Raises
    ------
    InputError
        On every rank, if it is neither.
    """
    kind = None
    with agreement(comm):
        if comm.rank == 0:
            kind = _kind(path, dataset)
    if comm.bcast(kind) == "snapshot":
        return open_snapshot(path, comm)
    with agreement(comm):
        try:
            # opened by each rank for itself, so that a failure is not collective
            BigFileMesh(path, dataset, comm=_alone())
        except (BigFileError, OSError, ValueError, KeyError, AssertionError) as error:
            line = one_line(error)
            raise InputError(
                f"dataset {dataset} of {path} is no mesh of nbodykit: {line}"
            ) from None
    return BigFileMesh(path, dataset, comm=comm)


def _kind(path, dataset):
    folder = os.path.join(path, dataset)
    if not os.path.isdir(path):
        raise InputError(f"{path} does not exist: give a snapshot or a mesh, folders of BigFile")
    if os.path.isfile(os.path.join(folder, "header")):
        check_block(folder)
        return "mesh"
    if os.path.isdir(os.path.join(path, "Header")):
        return "snapshot"
    raise InputError(
        f"{path} has neither a Header nor {dataset}: no snapshot, no mesh of that name"
    )


def _alone():
    from mpi4py import MPI

    return MPI.COMM_SELF


def emulate(options, comm):
    """Run with `options` over the ranks of `comm`. Collective.

    Raises
    ------
    InputError
        On every rank alike.
    """
    inputs = [name for name in (options.lr, options.initial, options.model) if name]
    prepare_output(options.output, comm, MESH, options.overwrite, inputs=inputs)
    lr = open_source(options.lr, comm, options.dataset)
    initial = open_source(options.initial, comm, options.dataset)
    mesh = SRMesh(
        lr,
        initial,
        model=options.model,
        Nmesh=options.nmesh,
        initial_redshift=options.initial_redshift,
        device=options.device,
        chunk=options.chunk,
        force=options.force,
    )
    with staged(options.output, MESH, comm, options.overwrite) as folder:
        try:
            mesh.save(str(folder), dataset=DATASET, mode="real")
        except (BigFileError, OSError) as error:
            line = one_line(error)
            raise RankError(f"{folder} can't be written ({line}): make room, run again") from None
        comm.Barrier()
        with agreement(comm):
            if comm.rank == 0:
                check_block(os.path.join(folder, DATASET))
    if comm.rank == 0:
        print(f"emulate: {mesh.attrs['Nmesh'][0]}^3 cells in {options.output}")


def parse(argv):
    """Options from the command line."""
    parser = Parser(
        "emulate",
        "Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.",
        "PART_008 IC OUTPUT --device cpu",
    )
    add = parser.group("input")
    add("lr", help="LR snapshot, or a mesh of its density 1 + delta")
    add("initial", help="mesh of the HR run's linear overdensity, or its initial snapshot")
    add("--dataset", default=DATASET, help=f"of meshes that are read ({DATASET})")
    add("--nmesh", type=int, help="LR cells a side; as many as particles by default")
    add("--initial-redshift", type=float, help="of INITIAL, if it does not say; 0 for today's")
    add = parser.group("output")
    add("output", help="folder of the HR density")
    add("--overwrite", action="store_true", help="replace an existing output")
    add = parser.group("model")
    add("--model", help="weights (.safetensors); those for z = 0 by default")
    add("--force", action="store_true", help="warn where the fields and the model card disagree")
    add = parser.group("running")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--chunk", type=int, help="side of a chunk [LR cells]")
    add("--verbose", action="store_true", help="log what is found and chosen")
    return EmulateOptions(**vars(parser.parse_args(argv)))


def main(argv, comm):
    """The command: parse, set up logging, run."""
    options = parse(argv)
    shown = logging.INFO if options.verbose and comm.rank == 0 else logging.WARNING
    start_log("emulate", shown)
    emulate(options, comm)


if __name__ == "__main__":
    from mpi4py import MPI

    enter(main, "emulate", MPI.COMM_WORLD)
