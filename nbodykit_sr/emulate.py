"""Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.

    mpirun -n 4 nbodykit-sr emulate LR_SNAPSHOT INITIAL OUTPUT --model WEIGHTS

INITIAL is a mesh that nbodykit saved (the linear overdensity, twice as many cells a side as LR
has particles) or the HR run's initial snapshot. OUTPUT is a mesh for nbodykit's BigFileMesh,
dataset "Field". The exit status is 0 only when it is complete; 75 when the run stopped on SIGTERM
or SIGUSR1 and can be resumed; 2 when the input cannot be used. A finished mesh is checked by
``verify``.
"""

import logging
import os
import shlex
import sys
from dataclasses import dataclass, fields, replace

import numpy as np
from bigfile import Error as BigFileError
from nbodykit.base.catalog import CatalogSource
from nbodykit.base.mesh import MeshSource
from nbodykit.lab import BigFileMesh

from .chunks import ChunkGrid
from .command import Parser, enter, start_log, stop_requests
from .errors import InputError, agreement, one_line
from .io.checks import BlockHeader, check_block, check_sums
from .io.flow import write_chunks
from .io.formats.bigfile import fingerprint
from .io.mesh import MeshWriter
from .io.preflight import MESH, prepare_output
from .io.snapshot import open_snapshot
from .mesh import SRMesh, fixed_sum
from .plan import check_disk
from .provenance import NAMES, Provenance
from .verify import main as verify

DATASET = MESH.header

# What a resumed run must share with the one it continues, and the attribute that holds it
IDENTITY = {
    "LR": NAMES["input"],
    "initial conditions": NAMES["initial"],
    "initial redshift": NAMES["initial_redshift"],
    "model": NAMES["model_hash"],
    "Nmesh": NAMES["Nmesh"],
    "chunk": NAMES["chunk"],
    "device": NAMES["device"],
    "versions": NAMES["versions"],
}

# Bytes of a cell, before it is normalised and after
_CELL = 8


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
    resume: bool = False
    verbose: bool = False

    def command(self) -> str:
        """The command that makes this output again, however this run came about."""
        inputs = [os.path.abspath(path) for path in (self.lr, self.initial)]
        words = ["python", "-m", "nbodykit_sr.emulate", *inputs, "OUTPUT"]
        for option in fields(self)[3:]:
            value = getattr(self, option.name)
            if value == option.default or option.name in ("overwrite", "resume", "verbose"):
                continue
            if option.name == "model":
                value = os.path.abspath(value)
            name = f"--{option.name.replace('_', '-')}"
            words.append(name if value is True else f"{name}={value}")
        return shlex.join(words)


def open_source(path, comm, dataset=DATASET) -> CatalogSource | MeshSource:
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


def _identity(source, path, options, comm):
    """Fingerprint of an input, whose checksums are compared. Collective."""
    if not isinstance(source, BigFileMesh):
        source.check_sums(options.force)
        return source.header.identity
    files = identity = None
    with agreement(comm):
        if comm.rank == 0:
            files = BlockHeader.read(os.path.join(path, options.dataset)).checksums
            names = [os.path.join(options.dataset, name) for name in ("attr-v2", "header")]
            identity = fingerprint(path, names)
    check_sums(comm.bcast(files), comm, options.force)
    return comm.bcast(identity)


def emulate(options, comm) -> int:
    """Run with `options` over the ranks of `comm`; returns the exit status. Collective.

    Raises
    ------
    InputError
        On every rank alike; nothing is left behind.
    RankError
        On the rank whose disk or memory failed midway; what is recorded can be resumed.
    """
    inputs = [name for name in (options.lr, options.initial, options.model) if name]
    prepare_output(options.output, comm, MESH, options.overwrite, options.resume, inputs)
    lr = open_source(options.lr, comm, options.dataset)
    initial = open_source(options.initial, comm, options.dataset)
    identities = (
        _identity(lr, options.lr, options, comm),
        _identity(initial, options.initial, options, comm),
    )
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
    grid = ChunkGrid(2 * mesh.grid.Nmesh, 2 * mesh.grid.side)
    writer = MeshWriter(
        options.output, comm, grid, _header(mesh, identities, options), IDENTITY, mesh.mean
    )
    begun_before = options.resume and os.path.isdir(writer.partial)
    check_disk(options.output, _CELL * grid.size, comm, already=begun_before)
    with stop_requests() as stopped:
        chunks, compute = mesh.prepare()
        outcome = write_chunks(
            "emulate",
            writer,
            chunks,
            compute,
            lambda chunk, values: writer.write(
                chunk.index, 8 * chunk.offset, values, fixed_sum(values)
            ),
            stopped,
            options.overwrite,
            options.resume,
            "cells",
        )
    if comm.rank == 0 and outcome.resumed is not None:
        print(f"emulate: {grid.Nmesh}^3 cells in {options.output}")
    return outcome.status


def _header(mesh, identities, options):
    """Attributes of the field: nbodykit's, and how it was made."""
    Nmesh = mesh.attrs["Nmesh"]
    attrs = {"ndarray.shape": np.array(Nmesh), "BoxSize": mesh.attrs["BoxSize"], "Nmesh": Nmesh}
    attrs.update((name, value) for name, value in mesh.attrs.items() if name not in attrs)
    made = Provenance(
        Nmesh=int(Nmesh[0]),
        input=identities[0],
        initial=identities[1],
        initial_redshift=str(options.initial_redshift),
        device=mesh.device.type,
        command=replace(options, chunk=mesh.grid.side).command(),
    )
    attrs.update(made.to_attrs())
    return {name: v if isinstance(v, str) else np.asarray(v) for name, v in attrs.items()}


def parse(argv) -> EmulateOptions:
    """Options from the command line."""
    parser = Parser(
        "emulate",
        "Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.",
        "PART_008 IC DENSITY_008",
    )
    add = parser.group("input")
    add("lr", help="LR snapshot, or a mesh of its density 1 + delta")
    add("initial", help="mesh of the HR run's linear overdensity, or its initial snapshot")
    add("--dataset", default=DATASET, help=f"name of the field in a mesh that is read ({DATASET})")
    add("--nmesh", type=int, help="LR cells a side; as many as particles by default")
    add("--initial-redshift", type=float, help="of INITIAL, if it does not say; 0 for today's")
    add = parser.group("output")
    add("output", help="folder of the HR density")
    add("--overwrite", action="store_true", help="replace an existing output")
    add = parser.group("model")
    add("--model", help="weights (.safetensors); those for z = 0 by default")
    add(
        "--force",
        action="store_true",
        help="warn, instead of stopping, where fields and model card disagree",
    )
    add = parser.group("running")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="each rank its local GPU, or the CPU",
    )
    add("--chunk", type=int, help="side of a chunk [LR cells]; smaller takes less memory")
    add("--resume", action="store_true", help="go on with a run that was killed")
    add("--verbose", action="store_true", help="log what is found and chosen")
    return EmulateOptions(**vars(parser.parse_args(argv)))


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    if argv[:1] == ["verify"]:
        return verify(argv[1:], comm)
    options = parse(argv)
    shown = logging.INFO if options.verbose and comm.rank == 0 else logging.WARNING
    start_log("emulate", shown)
    return emulate(options, comm)


if __name__ == "__main__":
    from mpi4py import MPI

    enter(main, "verify" if sys.argv[1:2] == ["verify"] else "emulate", MPI.COMM_WORLD)
