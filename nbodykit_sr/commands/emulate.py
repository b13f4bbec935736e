"""Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.

    mpirun -n 4 nbodykit-sr emulate LR_SNAPSHOT INITIAL OUTPUT --model WEIGHTS

INITIAL is a mesh that nbodykit saved (the linear overdensity, twice as many cells a side as LR
has particles) or the HR run's initial snapshot. With ``--by particles`` the density is painted from
SR particles, which are not kept. OUTPUT is a mesh for nbodykit's BigFileMesh,
dataset "Field". The exit status is 0 only when it is complete; 75 when the run stopped on SIGTERM
or SIGUSR1, 130 when on Ctrl-C, and can be resumed; 2 when the input cannot be used. A finished mesh
is checked by ``verify``.
"""

import math
import os
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from resource import RUSAGE_SELF, getrusage

import numpy as np
from nbodykit.lab import BigFileMesh

from ..density.mesh import DATASET, WAYS, SRMesh, open_source
from ..errors import agreement
from ..inference import DTYPES
from ..io.checks import BlockHeader, check_sums
from ..io.formats.bigfile import fingerprint
from ..io.layout import plain
from ..io.preflight import MESH, prepare_output
from ..preparation import AUTO
from ..provenance import NAMES, Provenance
from .command import start_log, stop_requests
from .flow import Work, own_dtype, write_chunks
from .options import command_line, option, parse_options
from .plan import check_room

# What a resumed run must share with the one it continues, and the attribute that holds it
IDENTITY = {
    "LR": NAMES["input"],
    "initial conditions": NAMES["initial"],
    "initial redshift": NAMES["initial_redshift"],
    "model": NAMES["model_hash"],
    "factor": NAMES["factor"],
    "linear power": NAMES["power"],
    "Nmesh": NAMES["Nmesh"],
    "chunk": NAMES["chunk"],
    "dtype": NAMES["dtype"],
    "device": NAMES["device"],
    "versions": NAMES["versions"],
}


@dataclass(frozen=True)
class EmulateOptions:
    """Options of a run; see ``nbodykit-sr emulate --help``."""

    lr: str = option("input", "LR snapshot, or a mesh of its density 1 + delta")
    initial: str = option(
        "input", "mesh of the HR run's linear overdensity, or its initial snapshot"
    )
    output: str = option("output", "folder of the HR density")
    dataset: str = option("input", f"name of the field in a mesh that is read ({DATASET})", DATASET)
    nmesh: int | None = option("input", "LR cells a side; as many as particles by default", None)
    initial_redshift: float | None = option(
        "input", "of INITIAL, if it does not say; 0 for today's", None
    )
    overwrite: bool = option("output", "replace an existing output", False, repeated=False)
    by: str = option(
        "model",
        "network: of densities (the default); particles: painted from those that a model which is given "
        "the phases makes of an LR snapshot",
        "network",
        choices=tuple(WAYS),
    )
    factor: int | None = option(
        "model",
        "of particles: SR ones per LR particle, on a side: 2 (the default), 4 or 8; INITIAL must have as "
        "many",
        None,
    )
    model: str | None = option(
        "model",
        "weights (.safetensors) or a shipped model's name; by default density_moved_z0, for an LR mesh "
        "density_z0, by particles phases",
        None,
        path=True,
    )
    force: bool = option(
        "model", "warn, instead of stopping, where fields and model card disagree", False
    )
    device: str = option(
        "running", "each rank its local GPU, or the CPU", "auto", choices=("auto", "cpu", "cuda")
    )
    dtype: str = option(
        "running",
        "of the network that makes particles, as of generate (auto); that of densities has float32",
        AUTO,
        choices=(AUTO, *DTYPES),
    )
    chunk: int | None = option(
        "running", "side of a chunk [LR cells]; smaller takes less memory", None
    )
    resume: bool = option("running", "go on with a run that was killed", False, repeated=False)
    plan: bool = option(
        "running", "print the time, memory and disk it takes, and stop", False, repeated=False
    )
    verbose: bool = option("running", "log what is found and chosen", False, repeated=False)

    def command(self) -> str:
        """The command that makes this output again, however this run came about."""
        return command_line(self, "python -m nbodykit_sr emulate")


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
    begun = time.perf_counter()
    inputs = [name for name in (options.lr, options.initial, options.model) if name]
    if not options.plan:
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
        dtype=own_dtype(options, MESH, comm),
        chunk=options.chunk,
        force=options.force,
        by=options.by,
        factor=options.factor,
    )
    writer = mesh.way.writer(options.output, _header(mesh, identities, options), IDENTITY)
    if options.plan:
        return _plan(mesh, writer, begun)
    check_room(writer, writer.room, options.resume)
    with stop_requests() as stopped:
        chunks, compute = mesh.way.prepare()
        work = Work(chunks, compute, writer.write, writer.unit)
        outcome = write_chunks("emulate", writer, work, stopped, options.overwrite, options.resume)
    if comm.rank == 0 and outcome.resumed is not None:
        print(f"emulate: {writer.grid.Nmesh}^3 cells in {options.output}")
    return outcome.status


def _plan(mesh, writer, begun):
    """Print the cost of a run, from the time of a few chunks on every rank; gives the exit status."""
    chunks, compute = mesh.way.prepare()
    for _ in compute(chunks[:1]):  # the first is slow
        pass
    started = time.perf_counter()
    for _ in compute(2 * chunks[:1]):
        pass
    seconds, most = (
        max(mesh.comm.allgather(one)) for one in ((time.perf_counter() - started) / 2, len(chunks))
    )
    used = max(mesh.comm.allgather(getrusage(RUSAGE_SELF).ru_maxrss))
    total = timedelta(seconds=math.ceil(started - begun + most * seconds))
    if mesh.comm.rank == 0:
        print(f"cells            {writer.grid.Nmesh}^3")
        print(f"chunks           up to {most} on each of {mesh.comm.size} ranks")
        print(f"time             {total} ({seconds:.3g} s a chunk, measured here)")
        print(f"memory a rank    {used / 1e6:.2f} GB")
        print(f"disk             {writer.room / 1e9:.3g} GB")
    return 0


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
        command=replace(options, chunk=mesh.way.chunk, dtype=mesh.way.provenance.dtype).command(),
    )
    attrs.update(made.to_attrs())
    return plain(attrs)


def parse(argv) -> EmulateOptions:
    """Options from the command line."""
    return parse_options(
        EmulateOptions,
        argv,
        "emulate",
        "Emulate the HR density of an LR run from its snapshot and HR initial conditions, over MPI.",
        "PART_008 IC DENSITY_008",
    )


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    options = parse(argv)
    start_log("emulate", comm, options.verbose)
    return emulate(options, comm)
