"""A light cone from a few LR snapshots of one simulation, over MPI.

    mpirun -n 4 nbodykit-sr lightcone PART_003 PART_004 PART_005 CONE --seed 7 --angle 10 --zmax 1

Every rank writes what its chunks have in the cone as they are computed, so memory does not grow with
the cone. The exit status is 0 only when all is complete; 75 when the run stopped on SIGTERM or
SIGUSR1, 130 when on Ctrl-C, and can be resumed; 2 when the input cannot be used. The catalogue is one
for nbodykit's BigFileCatalog, or HDF5.
"""

import os
import time
from argparse import ArgumentTypeError
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError, agreement
from ..inference import DTYPES
from ..io.atomic import disk
from ..io.blocks import write_header
from ..io.cones import COLUMNS, LAYOUTS, ConeWriter
from ..io.layout import NBODYKIT, plain
from ..io.preflight import CONE, prepare_output
from ..io.snapshot import open_snapshot
from ..io.staging import staged
from ..lightcone.cone import AXIS, SKIES, Cone
from ..lightcone.shells import Shells
from ..lightcone.worldlines import LightCone
from ..physics.matter import MASS
from ..preparation import AUTO, ModelOptions
from ..provenance import NAMES, Provenance
from .command import start_log, stop_requests
from .flow import Work, own_dtype, print_plan, write_chunks
from .lightcone_plan import lightcone_plan
from .options import command_line, option, parse_options
from .plan import check_room

# What a resumed run must share with the one it continues, and the attribute that holds it
IDENTITY = {
    "layout": NAMES["layout"],
    "input": NAMES["input"],
    "model": NAMES["model_hash"],
    "seed": NAMES["seed"],
    "dtype": NAMES["dtype"],
    "chunk": NAMES["chunk"],
    "columns": NAMES["columns"],
    "subsample": NAMES["subsample"],
    "device": NAMES["device"],
    "linear power": NAMES["power"],
    "phases": NAMES["initial"],
    "versions": NAMES["versions"],
    "cone": "ConeGeometry",
}

_MODEL, _CONE = "model", "cone"


def _vector(text):
    """Three numbers from the command line."""
    try:
        x, y, z = map(float, text.split(","))
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: three numbers such as 1,2,3 are needed") from None
    return x, y, z


def _shells(text):
    """A number of shells, or redshifts of their edges."""
    try:
        return int(text) if text.isdecimal() else tuple(map(float, text.split(",")))
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: a number, or redshifts such as 0,0.1,0.3") from None


def _written(vector):
    return ",".join(map(repr, vector))


@dataclass(frozen=True)
class LightConeOptions:
    """Options of a run; see ``nbodykit-sr lightcone --help``."""

    input: tuple = option(
        "input", "LR snapshots of one simulation, at two times or more", nargs="+"
    )
    output: str = option("output", "folder of the light cone")
    zmax: float | None = option(_CONE, "largest redshift", None)
    zmin: float = option(_CONE, "smallest redshift (0)", 0.0)
    observer: tuple = option(
        _CONE, "where from, comoving [Mpc/h] (0,0,0)", (0.0, 0.0, 0.0), metavar="X,Y,Z",
        type=_vector, written=_written,
    )  # fmt: skip
    angle: float | None = option(_CONE, "what is seen: up to this angle from the axis [deg]", None)
    axis: tuple = option(
        _CONE, "direction of the axis; by default one along which boxes repeat late", AXIS,
        metavar="X,Y,Z", type=_vector, written=_written,
    )  # fmt: skip
    sky: str | None = option(
        _CONE, "or all of the sky, or x, y, z > 0 from the observer", None, choices=SKIES
    )
    model: str | None = option(
        _MODEL,
        "weights (.safetensors, .pt), a shipped model's name, or 'interpolate'; by default the shipped "
        "one that fits all snapshots",
        None,
        path=True,
    )
    flavour: str | None = option(
        _MODEL, "code that a .pt checkpoint comes from", None, choices=("map2map", "srs")
    )
    seed: int = option(_MODEL, "realisation of the small scales (0)", 0)
    factor: int | None = option(_MODEL, "SR particles per LR particle, on a side", None)
    force: bool = option(
        _MODEL, "warn, instead of stopping, where snapshots and model card disagree", False
    )
    phases: str | None = option(
        _MODEL, "initial conditions of an HR run of this box", None, path=True, metavar="HR_IC"
    )
    power: str | None = option(
        _MODEL, "linear power spectrum, as of generate", None, path=True, metavar="FILE"
    )
    sigma8: float | None = option(_MODEL, "its amplitude; by default measured from LR", None)
    ns: float | None = option(_MODEL, "its spectral index (0.97)", None)
    layout: str = option(
        "output", "nbodykit, a BigFile (the default), or gadget-hdf5; units are the same",
        NBODYKIT.name, choices=LAYOUTS,
    )  # fmt: skip
    columns: tuple | None = option(
        "output",
        f"which, such as Position,Redshift; by default all: {','.join(COLUMNS)}",
        None,
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        written=",".join,
    )
    subsample: float = option(
        "output", "write this part of the particles, chosen by ID, such as 0.01", 1.0
    )
    maps: int | None = option(
        "output", "maps of the sky too: HEALPix counts and mass of shells, of this nside", None,
        metavar="NSIDE",
    )  # fmt: skip
    shells: int | tuple = option(
        "output", "so many of equal thickness (10), or redshifts of their edges, such as 0,0.1,0.3", 10,
        metavar="N", type=_shells, written=lambda shells: ",".join(map(repr, np.ravel(shells).tolist())),
    )  # fmt: skip
    maps_only: bool = option("output", "maps, and figures, without the particles", False)
    figures: bool = option("output", "draw the cone as a fan, and of maps the middle shell", False)
    overwrite: bool = option("output", "replace an existing output", False, repeated=False)
    device: str = option(
        "running", "each rank its local GPU, or the CPU", "auto", choices=("auto", "cpu", "cuda")
    )
    dtype: str = option(
        "running", "of the network, as of generate (auto)", AUTO, choices=(AUTO, *DTYPES)
    )
    chunk: int | None = option(
        "running", "side of a chunk [LR sites]; smaller takes less memory", None
    )
    plan: bool = option(
        "running", "print the time, memory and disk it takes, and stop", False, repeated=False
    )
    resume: bool = option("running", "go on with a run that was killed", False, repeated=False)
    verbose: bool = option("running", "log what is found and chosen", False, repeated=False)

    def command(self) -> str:
        """The command that makes this output again, however this run came about."""
        return command_line(self, "python -m nbodykit_sr lightcone")

    def model_options(self, comm) -> ModelOptions:
        """The model and how it is run."""
        phases = None if self.phases is None else open_snapshot(self.phases, comm)
        how = (self.device, self.dtype, self.force)
        return ModelOptions(
            self.model, self.flavour, self.factor, *how, phases, self.power, self.sigma8, self.ns
        )


def lightcone(options, comm) -> int:
    """Run with `options` over the ranks of `comm`; returns the exit status. Collective.

    Raises
    ------
    InputError
        On every rank alike; nothing is left behind.
    RankError
        On the rank whose disk or memory failed midway; what is recorded can be resumed.
    """
    files = [*options.input, options.model, options.phases, options.power]
    inputs = [name for name in files if name is not None and os.path.exists(name)]
    if not options.plan:
        prepare_output(options.output, comm, CONE, options.overwrite, options.resume, inputs)
        options = replace(options, dtype=own_dtype(options, CONE, comm))
    with agreement(comm):
        where = (options.observer, options.angle, options.axis, options.sky)
        cone = Cone(options.zmin, options.zmax, *where)
    sources = [open_snapshot(path, comm) for path in options.input]
    for source in sources:
        source.check_sums(options.force)
    if options.plan:
        print_plan(lambda options: _measured(options, sources, cone, comm), options, comm)
        return 0
    light, selection = _ready(options, sources, cone, comm)
    header = _header(light, sources, selection, options)
    with agreement(comm):
        products = _Products.of(light, selection, options)
    if options.maps_only:
        return _maps_only(light, selection, header, products, options)
    writer = ConeWriter(
        options.output,
        comm,
        LAYOUTS[options.layout],
        selection.columns,
        header,
        IDENTITY,
        light.grid,
        products,
    )
    space = (
        2 * light.expected * selection.subsample * sum(d.itemsize for d in writer.dtypes.values())
    )
    check_room(writer, space, options.resume)

    def compute(chunks):
        for chunk, pieces in light.stream(chunks, selection):
            for columns in pieces:
                writer.append(columns)
            yield chunk, None

    work = Work(light.chunks, compute, lambda chunk, _: writer.record(chunk.index), "sites")
    with stop_requests() as stopped:
        outcome = write_chunks(
            "lightcone", writer, work, stopped, options.overwrite, options.resume
        )
    if outcome.status == 0 and outcome.resumed is not None:
        light.check_margin()
        if comm.rank == 0:
            print(f"lightcone: {writer.size} particles in {options.output}")
    return outcome.status


def _ready(options, sources, cone, comm):
    """The light cone, and what is wanted of it."""
    light = LightCone(sources, cone, options.seed, options.chunk, options.model_options(comm))
    with agreement(comm):
        columns = ("Position",) if options.maps_only else options.columns
        return light, light.select(columns, options.subsample)


def _measured(options, sources, cone, comm):
    """The plan, and the device it is for."""
    begun = time.perf_counter()
    light, selection = _ready(options, sources, cone, comm)
    width = sum(np.dtype(COLUMNS[name]).itemsize for name in selection.columns)
    return lightcone_plan(light, selection, width, time.perf_counter() - begun), light.model.device


@dataclass(frozen=True)
class _Products:
    """Maps and figures, made from particles as they come by.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
    shells : Shells or None
    fan : Fan or None
    mass : float
        Of a particle [Msun/h].
    attrs : dict
        For the headers of maps.
    """

    comm: Any
    shells: Any
    fan: Any
    mass: float
    attrs: dict

    @classmethod
    def of(cls, light, selection, options):
        shells = fan = None
        if options.maps is not None:
            shells = Shells.of(options.maps, options.shells, light.cone, light.expansion)
        if options.figures:
            try:
                from ..diagnostics.cone_figures import Fan
            except ImportError:
                raise InputError(
                    "figures need matplotlib, which is not installed: pip install 'nbodykit_sr[report]'"
                ) from None
            density = light.fine.size / light.fine.BoxSize**3 * selection.subsample
            fan = Fan.of(light.cone, light.expansion, density)
        mass = light.attrs["ParticleMass"] * MASS / selection.subsample
        attrs = {"SEED": str(light.seed), "MODEL": light.attrs["SRModel"][:60]}
        return cls(light.comm, shells, fan, mass, attrs)

    def add(self, columns):
        for one in (self.shells, self.fan):
            if one is not None:
                one.add(columns)

    def write(self, folder):
        """Collective."""
        for one in (self.shells, self.fan):
            if one is not None:
                one.reduce(self.comm)
        with agreement(self.comm), disk(folder):
            if self.comm.rank == 0:
                self._write(folder)

    def _write(self, folder):
        figures = os.path.join(folder, "figures")
        if self.shells is not None:
            self.shells.write(os.path.join(folder, "maps"), self.mass, self.attrs)
        if self.fan is not None:
            os.makedirs(figures, exist_ok=True)
            self.fan.draw(os.path.join(figures, "fan.png"))
        if self.fan is not None and self.shells is not None:
            from ..diagnostics.cone_figures import draw_shell

            middle = len(self.shells.counts) // 2
            edges = self.shells.redshifts[middle : middle + 2]
            draw_shell(self.shells.counts[middle], edges, os.path.join(figures, "shell.png"))


def _maps_only(light, selection, header, products, options):
    """Maps and figures of particles that are not kept; memory is that of the maps."""
    comm = light.comm
    with staged(options.output, CONE, comm, options.overwrite) as folder:
        for _, pieces in light.stream(light.chunks, selection):
            for columns in pieces:
                products.add(columns)
        products.write(folder)
        write_header(folder, header, comm)
    light.check_margin()
    if comm.rank == 0:
        print(f"lightcone: {len(products.shells.counts)} maps in {options.output}")
    return 0


def _header(light, sources, selection, options):
    """Attributes of the Header: cosmology, the cone, and how it was made."""
    made = replace(
        Provenance.from_attrs(light.attrs),
        command=replace(options, chunk=light.grid.side, dtype=light.model.dtype).command(),
        layout=options.layout,
        input=" ".join(source.header.identity for source in sources),
        columns=None if selection.columns == light.names[:-1] else ",".join(selection.columns),
        subsample=None if selection.subsample == 1 else selection.subsample,
        source=", ".join(options.input),
    )
    attrs = light.attrs | made.to_attrs()
    attrs["ParticleMass"] = attrs["ParticleMass"] / selection.subsample
    cone = light.cone
    attrs["ConeGeometry"] = repr(cone)
    return plain(attrs)


def parse(argv) -> LightConeOptions:
    """Options from the command line."""
    options = parse_options(
        LightConeOptions,
        argv,
        "lightcone",
        "A light cone from a few LR snapshots of one simulation, over MPI.",
        "PART_003 PART_004 PART_005 CONE --angle 10 --zmax 1 --seed 7",
    )
    if options.zmax is None:
        raise InputError("--zmax is absent: name the largest redshift of the cone")
    if options.maps_only and options.maps is None:
        raise InputError("--maps-only makes maps: give --maps and their nside, such as 1024")
    if options.maps_only and options.resume:
        raise InputError(
            "--maps-only keeps nothing to --resume with: begin again, or keep particles"
        )
    return replace(options, input=tuple(options.input))


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    options = parse(argv)
    start_log("lightcone", comm, options.verbose)
    return lightcone(options, comm)
