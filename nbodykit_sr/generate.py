"""Super-resolve a snapshot into a catalogue of particles, over MPI.

    mpirun -n 4 nbodykit-sr generate PART_008 SR_008 --model WEIGHTS --seed 7

Each rank writes its chunks as they finish, so memory does not grow with the box. Several snapshots
are a series in time, of one noise and one model. The exit status is 0 only when all is complete; 75
when the run stopped on SIGTERM or SIGUSR1 and can be resumed; 2 when the input cannot be used. A
finished catalogue is checked by ``verify``.
"""

import json
import logging
import os
import shlex
import sys
import time
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from .catalog import SRCatalog
from .command import Parser, enter, start_log, stop_requests
from .errors import InputError, agreement
from .io.atomic import atomic_file, disk
from .io.flow import write_chunks
from .io.layout import LAYOUTS, NBODYKIT
from .io.particles import SnapshotWriter
from .io.preflight import CATALOGUE, SUMMARY, prepare_output
from .io.snapshot import open_snapshot
from .models.displacement import PADDING
from .plan import check_disk, plan
from .provenance import NAMES
from .selection import Selection, first_rows
from .series import arrange
from .universe import Universe
from .verify import Expectation
from .verify import main as verify
from .version import __version__

logger = logging.getLogger(__name__)

# What a resumed run must share with the one it continues, and the attribute that holds it
IDENTITY = {
    "input": NAMES["input"],
    "model": NAMES["model_hash"],
    "seed": NAMES["seed"],
    "dtype": NAMES["dtype"],
    "chunk": NAMES["chunk"],
    "region": NAMES["region"],
    "columns": NAMES["columns"],
    "subsample": NAMES["subsample"],
    "layout": NAMES["layout"],
    "device": NAMES["device"],
    "versions": NAMES["versions"],
}


@dataclass(frozen=True)
class GenerateOptions:
    """Options of a run; see ``nbodykit-sr generate --help``.

    `input` is a tuple of snapshots for a series in time, and then `model` may be one of models.
    """

    input: str | tuple
    output: str
    model: str | tuple | None = None
    flavour: str | None = None
    seed: int = 0
    factor: int | None = None
    layout: str = NBODYKIT.name
    dataset: str | None = None
    region: tuple | None = None
    eulerian: bool = False
    columns: tuple | None = None
    subsample: float = 1.0
    device: str = "auto"
    dtype: str = "float32"
    chunk: int | None = None
    force: bool = False
    overwrite: bool = False
    resume: bool = False
    plan: bool = False
    json: str | None = None
    verbose: bool = False

    def command(self) -> str:
        """The command that makes this output again, however this run came about."""
        words = ["python", "-m", "nbodykit_sr.generate", os.path.abspath(str(self.input)), "OUTPUT"]
        passing = ("output", "overwrite", "resume", "plan", "json", "verbose")
        for option in fields(self)[1:]:
            value = getattr(self, option.name)
            if value == option.default or option.name in passing:
                continue
            if option.name == "region":
                value = ",".join(f"{low!r}:{high!r}" for low, high in value)
            elif option.name == "columns":
                value = ",".join(value)
            elif option.name == "model" and os.path.isfile(value):
                value = os.path.abspath(value)
            words.append(f"--{option.name}" if value is True else f"--{option.name}={value}")
        return shlex.join(words)


def generate(options, comm) -> int:
    """Run with `options` over the ranks of `comm`; returns the exit status.

    Raises
    ------
    InputError
        On every rank alike; nothing is left behind.
    RankError
        On the rank whose disk or memory failed midway; what is recorded can be resumed.
    """
    inputs = [*_several(options.input), *_several(options.model)]
    inputs = [name for name in inputs if os.path.exists(name)]
    if options.json:  # it is written after hours: see at once that it can be
        apart = [*inputs, options.output, options.output.rstrip("/") + ".partial"]
        prepare_output(options.json, comm, SUMMARY, options.overwrite, inputs=apart)
    with stop_requests() as stopped:
        if isinstance(options.input, str):
            status, table = _generate(options, comm, stopped, inputs)
        else:
            status, table = _series(options, comm, stopped, inputs)
    if comm.rank == 0 and table:
        _save(table, options.json)
    return status


def _several(value):
    """One, none or several as a tuple."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _series(options, comm, stopped, inputs):
    """Every snapshot of a series in turn, once all of them are known to do."""
    models = _several(options.model)
    arranged = arrange(options.input, options.output, models, comm, options.dataset)
    members, needed = [replace(options, **asdict(member)) for member in arranged], 0
    for member in members:
        _, sr, selection = _ready(member, comm, inputs, parents=True)
        there = os.path.lexists(member.output) or os.path.lexists(member.output + ".partial")
        if not comm.bcast(there):
            needed += _rows(sr, selection)[1] * _particle_bytes(options, selection)
    if not options.plan:
        check_disk(options.output, needed, comm)
        with agreement(comm):
            if comm.rank == 0:
                with disk(options.output):
                    os.makedirs(options.output, exist_ok=True)
    tables = []
    for member in members:
        if options.plan and comm.rank == 0:
            print(f"{member.input}, by {member.model}")
        status, table = _generate(member, comm, stopped, inputs)
        tables += [table] if table else []
        if status:
            return status, None
    return 0, {"series": tables}


def _ready(options, comm, inputs, parents=False):
    """The snapshot, its super-resolved catalogue and what is wanted of it. Writes nothing."""
    if not options.plan:
        again = (options.overwrite, options.resume)
        prepare_output(options.output, comm, CATALOGUE, *again, inputs, parents)
    source = open_snapshot(options.input, comm, options.dataset)
    source.check_sums(options.force)
    sr = SRCatalog(
        source,
        model=options.model,
        flavour=options.flavour,
        seed=options.seed,
        factor=options.factor,
        region=options.region,
        eulerian=options.eulerian,
        device=options.device,
        dtype=options.dtype,
        chunk=options.chunk,
        force=options.force,
    )
    with agreement(comm):
        return source, sr, Selection.of(options.columns, options.subsample, sr.names)


def _generate(options, comm, stopped, inputs):
    """One catalogue, or its plan: the status, and what is told of it on rank 0."""
    begun = time.perf_counter()
    source, sr, selection = _ready(options, comm, inputs)
    if options.plan:
        return 0, _plan(sr, selection, options, comm, time.perf_counter() - begun)
    layout = LAYOUTS[options.layout]
    first, size = _rows(sr, selection)
    command = replace(options, chunk=sr.grid.side).command()
    writer = SnapshotWriter(
        path=options.output,
        comm=comm,
        layout=layout,
        size=size,
        names=selection.columns,
        header=layout.header(sr, source, command, size, selection),
        identity=IDENTITY,
        universe=Universe.of(sr.attrs, "BoxSize", "a"),
    )
    disk_space = size * _particle_bytes(options, selection)
    begun_before = options.resume and os.path.isdir(writer.partial)
    check_disk(options.output, disk_space, comm, already=begun_before)
    expectation = Expectation(sr.lattice, sr.card.factor, sr.card.displacement_range)

    def write(chunk, columns):
        writer.write(chunk.index, first[chunk.index], selection.take(columns))
        if complaint := expectation.complaint(chunk, columns["Position"]):
            logger.warning("%s", complaint)

    outcome = write_chunks(
        "generate",
        writer,
        sr.chunks,
        lambda chunks: sr.stream(chunks, writer.position_dtype),
        write,
        stopped,
        options.overwrite,
        options.resume,
        "particles",
    )
    if outcome.resumed is None:
        return outcome.status, None
    return outcome.status, _summary(sr, size, options, comm, time.perf_counter() - begun, outcome)


def _rows(sr, selection):
    """First row of every chunk, and the rows of all. Collective."""
    counts = np.zeros(int(np.prod(sr.grid.counts)), dtype="i8")
    for chunk in sr.chunks:
        counts[chunk.index] = selection.count(chunk, sr.lattice, sr.card.factor)
    counts = sr.comm.allreduce(counts)
    if not counts.any():
        raise InputError(f"subsample {selection.subsample:g} of {sr.csize} particles is none")
    return first_rows(counts), int(counts.sum())


def _particle_bytes(options, selection):
    return LAYOUTS[options.layout].particle_bytes(selection.columns)


def _plan(sr, selection, options, comm, start):
    """Print what the run takes, from the time of a few chunks on every rank at once; a table of it."""
    chunk = sr.chunks[0]
    flight = [chunk] * sr.inference.workers
    for _ in sr.stream(flight):
        pass
    comm.Barrier()
    begun = time.perf_counter()
    for _ in sr.stream(2 * flight):
        pass
    seconds = max(comm.allgather(time.perf_counter() - begun)) / (2 * len(flight))
    cost = plan(
        sr.grid,
        comm.size,
        sr.card.factor,
        sr.card.channels,
        selection.subsample * _particle_bytes(options, selection),
        chunk_seconds=seconds,
        start_seconds=start,
        working_memory=sr.inference.working_memory(chunk.shape),
        padding=PADDING,
    )
    if comm.rank == 0:
        print(cost)
    return asdict(cost) | {"seconds": cost.seconds}


def _summary(sr, size, options, comm, total, outcome):
    rate = sr.csize / max(outcome.seconds, 1e-9)
    summary = {
        "output": os.path.abspath(options.output),
        "particles": sr.csize,
        "Nmesh": sr.lattice.Nmesh,
        "model": sr.card.name,
        "seed": str(sr.inference.seed),
        "ranks": comm.size,
        "device": str(sr.inference.device.type),
        "chunk": sr.grid.side,
        "chunks": int(np.prod(sr.grid.counts)),
        "chunks_resumed": outcome.resumed,
        "seconds": round(total, 3),
        "particles_per_second": round(rate, 1),
        "options": asdict(options),
    }
    if comm.rank == 0:
        written = f"{size} of " * (size < sr.csize)
        print(
            f"generate: {written}{sr.csize} particles in {options.output}, {total:.1f} s on {comm.size} "
            f"rank{'s' * (comm.size > 1)}, {rate / 1e6:.3g} million particles/s"
        )
    return summary


def _save(table, path):
    """Write a table as JSON, where a path is given."""
    if path:
        text = json.dumps({"nbodykit_sr": __version__, **table}, indent=1)
        with disk(path), atomic_file(path) as file:
            file.write(text.encode())


def _region(text):
    try:
        region = tuple(tuple(float(edge) for edge in axis.split(":")) for axis in text.split(","))
        if len(region) != 3 or any(len(pair) != 2 for pair in region):
            raise ValueError
    except ValueError:
        raise InputError(f"region is {text!r}: x0:x1,y0:y1,z0:z1 in Mpc/h is needed") from None
    return region


def parse(argv) -> GenerateOptions:
    """Options from the command line."""
    parser = Parser(
        "generate",
        "Super-resolve a snapshot into a catalogue of particles, over MPI.",
        "PART_008 SR_008 --seed 7",
    )
    add = parser.group("input")
    add(
        "input",
        nargs="+",
        help="LR snapshot, such as the folder PART_008 of MP-Gadget; several of one simulation are a "
        "series in time",
    )
    add("--dataset", help="particle type of the input; dark matter, 1/, by default")
    add(
        "--region",
        metavar="X0:X1,Y0:Y1,Z0:Z1",
        help="only this part of the box [Mpc/h], by where particles began",
    )
    add(
        "--eulerian",
        action="store_true",
        help="the region is one of the evolved box: what can have come to it",
    )
    add = parser.group("output")
    add("output", help="folder of the SR catalogue; of a series, the folder of its catalogues")
    add(
        "--layout",
        choices=LAYOUTS,
        default=NBODYKIT.name,
        help="nbodykit (Mpc/h; the default), mp-gadget (units of the input) or gadget-hdf5",
    )
    add("--columns", help="which, such as Position,ID; by default all: Position,Velocity,ID")
    add(
        "--subsample",
        type=float,
        default=1.0,
        help="write this part of the particles, chosen by ID, such as 0.01",
    )
    add("--overwrite", action="store_true", help="replace an existing output")
    add("--json", metavar="FILE", help="write the summary, or the plan, there")
    add = parser.group("model")
    add(
        "--model",
        action="append",
        help="weights (.safetensors, .pt), a shipped model's name, or 'interpolate'; by default the shipped "
        "one that fits; for a series one for all, or again for each snapshot",
    )
    add(
        "--flavour",
        choices=("map2map", "srs"),
        help="code that a .pt checkpoint comes from; srs: those of Ni et al. 2021",
    )
    add("--seed", type=int, default=0, help="realisation of the small scales (0)")
    add(
        "--factor",
        type=int,
        help="SR particles per LR particle, on a side: of 'interpolate' (8); a model has its own",
    )
    add(
        "--force",
        action="store_true",
        help="warn, instead of stopping, where snapshot and model card disagree",
    )
    add = parser.group("running")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="each rank its local GPU, or the CPU",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the network (float32); bfloat16 is faster where the machine has it",
    )
    add("--chunk", type=int, help="side of a chunk [LR sites]; smaller takes less memory")
    add("--plan", action="store_true", help="print the time, memory and disk it takes, and stop")
    add("--resume", action="store_true", help="go on with a run that was killed")
    add("--verbose", action="store_true", help="log what is found and chosen")
    values = vars(parser.parse_args(argv))
    inputs, models = tuple(values["input"]), tuple(values["model"] or ())
    if len(inputs) == 1 and len(models) > 1:
        raise InputError(f"{len(models)} models for 1 snapshot: give one")
    values["input"] = inputs if len(inputs) > 1 else inputs[0]
    values["model"] = models if len(models) > 1 else models[0] if models else None
    if values["columns"] is not None:
        values["columns"] = tuple(values["columns"].split(","))
    if values["region"] is not None:
        values["region"] = _region(values["region"])
    elif values["eulerian"]:
        raise InputError("--eulerian says of which box a --region is: give one")
    return GenerateOptions(**values)


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    if argv[:1] == ["verify"]:
        return verify(argv[1:], comm)
    options = parse(argv)
    shown = logging.INFO if options.verbose and comm.rank == 0 else logging.WARNING
    start_log("generate", shown)
    return generate(options, comm)


if __name__ == "__main__":
    from mpi4py import MPI

    enter(main, "verify" if sys.argv[1:2] == ["verify"] else "generate", MPI.COMM_WORLD)
