"""Super-resolve a snapshot into a catalogue of particles, over MPI.

    mpirun -n 4 nbodykit-sr generate PART_008 SR_008 --model WEIGHTS --seed 7

Each rank writes its chunks as they finish, so memory does not grow with the box. Several snapshots
are a series in time, of one noise and one model. The exit status is 0 only when all is complete; 75
when the run stopped on SIGTERM or SIGUSR1, 130 when on Ctrl-C, and can be resumed; 2 when the input
cannot be used. A finished catalogue is checked by ``verify``.
"""

import json
import logging
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np

from ..catalog import SRCatalog
from ..errors import InputError, agreement
from ..io.atomic import atomic_file, disk
from ..io.layout import LAYOUTS, plain
from ..io.particles import SnapshotWriter
from ..io.preflight import CATALOGUE, SUMMARY, prepare_output
from ..io.snapshot import open_snapshot
from ..physics.matter import MASS, particle_mass
from ..physics.universe import Universe
from ..provenance import NAMES, Provenance
from ..selection import Selection, first_rows
from ..version import __version__
from .command import start_log, stop_requests
from .expectation import Expectation
from .flow import Work, own_dtype, print_plan, write_chunks
from .generate_options import parse
from .plan import check_disk, check_room, plan
from .series import arrange

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
    "linear power": NAMES["power"],
    "phases": NAMES["initial"],
    "versions": NAMES["versions"],
}


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
    inputs += [path for path in (options.phases, options.power) if path is not None]
    inputs = [name for name in inputs if os.path.exists(name)]
    if options.json:  # it is written after hours: see at once that it can be
        apart = [*inputs, options.output, options.output.rstrip("/") + ".partial"]
        prepare_output(options.json, comm, SUMMARY, options.overwrite, inputs=apart)
    # a plan cannot be resumed
    with nullcontext() if options.plan else stop_requests() as stopped:
        if isinstance(options.input, str):
            source = open_snapshot(options.input, comm, options.dataset)
            status, table = _generate(options, comm, stopped, inputs, source)
        else:
            status, table = _series(options, comm, stopped, inputs)
    if comm.rank == 0 and table:
        _save(table, options.json)
    return status


def _several(value):
    """A value, a tuple of values or None, as a tuple."""
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _series(options, comm, stopped, inputs):
    """Super-resolve the snapshots of a series in turn, after all of them were checked."""
    models = _several(options.model)
    members = arrange(options.input, options.output, models, comm, options.dataset)
    runs, sources, needed = [], [member.source for member in members], 0
    for member in members:
        where = {"input": member.input, "output": member.output, "model": member.model}
        runs.append(replace(options, **where))
    runs = _with_one_power(runs, sources, comm)
    for run, source in zip(runs, sources):
        sr, selection = _ready(run, source, comm, inputs, parents=True)
        there = os.path.lexists(run.output) or os.path.lexists(run.output + ".partial")
        if not comm.bcast(there):
            needed += _rows(sr, selection)[1] * _particle_bytes(options, selection)
    if not options.plan:
        check_disk(options.output, needed, comm)
        with agreement(comm):
            if comm.rank == 0:
                with disk(options.output):
                    os.makedirs(options.output, exist_ok=True)
    tables = []
    for run, source in zip(runs, sources):
        if options.plan and comm.rank == 0:
            print(f"{run.input}, by {run.model}")
        status, table = _generate(run, comm, stopped, inputs, source)
        tables += [table] if table else []
        if status:
            return status, None
    return 0, {"series": tables}


def _with_one_power(runs, sources, comm):
    """The runs with one amplitude of the linear power spectrum: that measured from the earliest
    snapshot, the most linear, unless the user gave one or the models take no phases."""
    first = runs[0]
    if first.power or first.sigma8:
        return runs
    earliest = min(sources, key=lambda source: source.attrs["Time"])
    sr = SRCatalog(earliest, **first.arguments(comm))
    if sr.power is None:
        return runs
    return [replace(run, sigma8=float(f"{sr.power.sigma8:.4g}")) for run in runs]


def _ready(options, source, comm, inputs, parents=False):
    """The super-resolved catalogue of a snapshot, and the `Selection` of it. Writes nothing."""
    if not options.plan:
        again = (options.overwrite, options.resume)
        prepare_output(options.output, comm, CATALOGUE, *again, inputs, parents)
        options = replace(options, dtype=own_dtype(options, CATALOGUE, comm))
    source.check_sums(options.force)
    sr = SRCatalog(source, **options.arguments(comm))
    with agreement(comm):
        return sr, Selection.of(options.columns, options.subsample, sr.names)


def _generate(options, comm, stopped, inputs, source):
    """Make one catalogue, or print its plan; gives the exit status and a summary."""
    if options.plan:
        return 0, _plan(options, source, comm, inputs)
    begun = time.perf_counter()
    sr, selection = _ready(options, source, comm, inputs)
    layout = LAYOUTS[options.layout]
    first, size = _rows(sr, selection)
    writer = SnapshotWriter(
        path=options.output,
        comm=comm,
        layout=layout,
        size=size,
        names=selection.columns,
        header=_header(layout, sr, source, options, size, selection),
        identity=IDENTITY,
        universe=Universe.of(sr.attrs, "BoxSize", "a"),
    )
    check_room(writer, size * _particle_bytes(options, selection), options.resume)
    expectation = Expectation(sr.lattice, sr.card.factor, sr.card.displacement_range)

    def write(chunk, columns):
        writer.write(chunk.index, first[chunk.index], selection.take(columns))
        if complaint := expectation.complaint(chunk, columns["Position"]):
            logger.warning("%s", complaint)

    work = Work(
        sr.chunks, lambda chunks: sr.stream(chunks, writer.position_dtype), write, "particles"
    )
    outcome = write_chunks("generate", writer, work, stopped, options.overwrite, options.resume)
    if outcome.resumed is None:
        return outcome.status, None
    return outcome.status, _summary(sr, size, options, comm, time.perf_counter() - begun, outcome)


def _header(layout, sr, source, options, size, selection):
    """Attributes of the Header: the layout's own, and how the catalogue was made."""
    made = Provenance.from_attrs(sr.attrs)
    provenance = replace(
        made,
        command=replace(options, chunk=made.chunk, dtype=made.dtype).command(),
        layout=layout.name,
        input=source.header.identity,
        columns=None if selection.columns == sr.names else ",".join(selection.columns),
        subsample=None if selection.subsample == 1 else selection.subsample,
    )
    attrs = {**sr.attrs, **provenance.to_attrs()}
    attrs["ParticleMass"] = particle_mass(attrs, size) / MASS
    return layout.attributes(attrs, size, source.header.raw) | plain(provenance.to_attrs())


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


def _plan(options, source, comm, inputs):
    """Print the cost of a run; gives it as a table."""

    def measure(options):
        begun = time.perf_counter()
        sr, selection = _ready(options, source, comm, inputs)
        return _cost(sr, selection, options, time.perf_counter() - begun), sr.inference.device

    cost = print_plan(measure, options, comm)
    return asdict(cost) | {"seconds": cost.seconds}


def _cost(sr, selection, options, start):
    """The cost of a run, from the time of a few chunks on every rank at once."""
    comm = sr.comm
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
        sr.card,
        selection.subsample * _particle_bytes(options, selection),
        chunk_seconds=seconds,
        start_seconds=start,
        working_memory=sr.inference.working_memory(chunk.shape),
        padding=sr.inference.generator.padding,
    )
    return replace(cost, dtype=sr.attrs[NAMES["dtype"]])


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
        "dtype": sr.attrs[NAMES["dtype"]],
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
            f"generate: {written}{sr.csize} particles in {options.output}, {total:.1f} s in "
            f"{summary['dtype']} on {comm.size} rank{'s' * (comm.size > 1)}, {rate / 1e6:.3g} million "
            "particles/s"
        )
    return summary


def _save(table, path):
    """Write a table as JSON, where a path is given."""
    if path:
        text = json.dumps({"nbodykit_sr": __version__, **table}, indent=1)
        with disk(path), atomic_file(path) as file:
            file.write(text.encode())


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    options = parse(argv)
    start_log("generate", comm, options.verbose)
    return generate(options, comm)
