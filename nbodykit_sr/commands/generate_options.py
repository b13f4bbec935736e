"""Options of `generate`."""

from argparse import ArgumentTypeError
from dataclasses import dataclass, replace

from ..errors import InputError
from ..inference import DTYPES
from ..io.layout import LAYOUTS, NBODYKIT
from ..io.snapshot import open_snapshot
from ..preparation import AUTO
from .options import command_line, option, parse_options

# Heading of the options about the initial conditions
PHASES = "initial conditions that LR lacks, of models that are given them"


def _region(text):
    """Three (low, high) pairs [Mpc/h] from the command line."""
    try:
        region = tuple(tuple(float(edge) for edge in axis.split(":")) for axis in text.split(","))
        if len(region) != 3 or any(len(pair) != 2 for pair in region):
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: x0:x1,y0:y1,z0:z1 in Mpc/h is needed") from None
    return region


# Options that are arguments of `SRCatalog`
_OF_THE_CATALOGUE = (
    *("model", "flavour", "seed", "factor", "region", "eulerian", "device", "dtype", "chunk"),
    *("force", "power", "sigma8"),
)


@dataclass(frozen=True)
class GenerateOptions:
    """Options of a run; see ``nbodykit-sr generate --help``.

    `input` is a tuple of snapshots for a series in time, and then `model` may be one of models.
    """

    input: str | tuple = option(
        "input",
        "LR snapshot, such as the folder PART_008 of MP-Gadget; several of one simulation are a "
        "series in time",
        nargs="+",
    )
    output: str = option(
        "output", "folder of the SR catalogue; of a series, the folder of its catalogues"
    )
    model: str | tuple | None = option(
        "model",
        "weights (.safetensors, .pt), a shipped model's name, or 'interpolate'; by default the shipped "
        "one that fits; for a series one for all, or again for each snapshot",
        None,
        path=True,
        action="append",
    )
    flavour: str | None = option(
        "model",
        "code that a .pt checkpoint comes from; srs: those of Ni et al. 2021",
        None,
        choices=("map2map", "srs"),
    )
    seed: int = option("model", "realisation of the small scales (0)", 0)
    factor: int | None = option(
        "model",
        "SR particles per LR particle, on a side: of 'interpolate' (8); a model has its own, but one "
        "that is given the phases makes fewer too: 2, 4 or 8",
        None,
    )
    force: bool = option(
        "model", "warn, instead of stopping, where snapshot and model card disagree", False
    )
    phases: str | None = option(
        PHASES,
        "initial conditions of an HR run of this box: its halos",
        None,
        path=True,
        metavar="HR_IC",
    )
    power: str | None = option(
        PHASES,
        "linear power spectrum: of MP-Gadget, CAMB, CLASS, or columns k [h/Mpc], P [(Mpc/h)^3] at z = 0",
        None,
        path=True,
        metavar="FILE",
    )
    sigma8: float | None = option(
        PHASES, "its amplitude; by default measured from LR's displacements", None
    )
    ns: float | None = option(PHASES, "its spectral index (0.97)", None)
    layout: str = option(
        "output",
        "nbodykit (Mpc/h; the default), mp-gadget (units of the input) or gadget-hdf5",
        NBODYKIT.name,
        choices=LAYOUTS,
    )
    dataset: str | None = option(
        "input", "particle type of the input; dark matter, 1/, by default", None
    )
    region: tuple | None = option(
        "input",
        "only this part of the box [Mpc/h], by where particles began",
        None,
        metavar="X0:X1,Y0:Y1,Z0:Z1",
        type=_region,
        written=lambda region: ",".join(f"{low!r}:{high!r}" for low, high in region),
    )
    eulerian: bool = option(
        "input", "the region is one of the evolved box: what can have come to it", False
    )
    columns: tuple | None = option(
        "output",
        "which, such as Position,ID; by default all: Position,Velocity,ID",
        None,
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        written=",".join,
    )
    subsample: float = option(
        "output", "write this part of the particles, chosen by ID, such as 0.01", 1.0
    )
    device: str = option(
        "running", "each rank its local GPU, or the CPU", "auto", choices=("auto", "cpu", "cuda")
    )
    dtype: str = option(
        "running",
        "of the network; auto, the default: bfloat16, which is faster, where the machine has it and the "
        "model's card says that P(k) stays within a thousandth, else float32",
        AUTO,
        choices=(AUTO, *DTYPES),
    )
    chunk: int | None = option(
        "running", "side of a chunk [LR sites]; smaller takes less memory", None
    )
    overwrite: bool = option("output", "replace an existing output", False, repeated=False)
    resume: bool = option("running", "go on with a run that was killed", False, repeated=False)
    plan: bool = option(
        "running", "print the time, memory and disk it takes, and stop", False, repeated=False
    )
    json: str | None = option(
        "output", "write the summary, or the plan, there", None, repeated=False, metavar="FILE"
    )
    verbose: bool = option("running", "log what is found and chosen", False, repeated=False)

    def command(self) -> str:
        """The command that makes this output again, however this run came about."""
        return command_line(self, "python -m nbodykit_sr.generate")

    def arguments(self, comm) -> dict:
        """Arguments of `SRCatalog`, but for the snapshot."""
        given = {name: getattr(self, name) for name in _OF_THE_CATALOGUE} | {"n_s": self.ns}
        if self.phases is not None:
            given["phases"] = open_snapshot(self.phases, comm)
        return given


def parse(argv) -> GenerateOptions:
    """Options from the command line."""
    options = parse_options(
        GenerateOptions,
        argv,
        "generate",
        "Super-resolve a snapshot into a catalogue of particles, over MPI.",
        "PART_008 SR_008 --seed 7",
    )
    inputs, models = tuple(options.input), tuple(options.model or ())
    if len(inputs) == 1 and len(models) > 1:
        raise InputError(f"{len(models)} models for 1 snapshot: give one")
    if options.eulerian and options.region is None:
        raise InputError("--eulerian says of which box a --region is: give one")
    return replace(
        options,
        input=inputs if len(inputs) > 1 else inputs[0],
        model=models if len(models) > 1 else models[0] if models else None,
    )
