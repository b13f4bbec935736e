"""Compare a super-resolved catalogue with its references, over MPI, on one page.

    mpirun -n 4 nbodykit-sr validate --sr SR_008 --hr HR_008 --lr PART_008 --out report

Writes report.html (self-contained), report.json (every number) and figures as PNG and PDF.

What was measured of HR is kept in HR_008.measured, beside it, and reused for the next SR.

    nbodykit-sr validate --compare report_a/report.json report_b/report.json

puts the verdicts on two models side by side.
"""

import os
import shlex
import sys
from dataclasses import dataclass, fields, replace

from tqdm import tqdm

from ..errors import InputError, agreement
from ..io.atomic import disk
from ..io.preflight import REPORT, prepare_output
from ..io.snapshot import open_snapshot
from ..io.staging import staged
from ..physics.universe import Universe
from .command import Parser, start_log

BROKEN = 1  # status when a limit of --require is


@dataclass(frozen=True)
class ValidateOptions:
    """Options of a comparison; see ``nbodykit-sr validate --help``."""

    sr: tuple = ()  # of tuples of paths: for each box its realisations
    out: str = ""
    hr: tuple = ()
    lr: tuple = ()
    mesh: int | None = None
    kmax: float | None = None
    boxes: tuple | None = None
    sigma8: float | None = None
    ns: float | None = None
    overwrite: bool = False
    only: tuple | None = None
    quick: bool = False
    fresh: bool = False
    require: str | None = None
    compare: tuple = ()
    quiet: bool = False

    def command(self) -> str:
        """The command that makes this report again."""
        words = ["python -m nbodykit_sr validate"]
        for option in fields(self):
            value = getattr(self, option.name)
            if value == option.default or option.name == "overwrite":
                continue
            for group in value if option.name == "sr" else (value,):
                words.append(f"--{option.name}")
                if group is not True:
                    many = group if isinstance(group, tuple) else (group,)
                    said = [f"{one:g}" if isinstance(one, float) else str(one) for one in many]
                    said = [",".join(said)] if option.name == "only" else said
                    words += map(shlex.quote, said)
        return " ".join(words)


def validate(options, comm) -> int:
    """Measure and write the report. Collective.

    Returns
    -------
    int
        0, or `BROKEN` if a limit of `require` is.

    Raises
    ------
    InputError
        On every rank alike, before anything is measured.
    """
    with agreement(comm):
        try:
            from ..diagnostics import registry, report, suite, verdicts
        except ImportError as error:
            raise InputError(
                f"the report needs {error.name}: pip install nbodykit_sr[report]"
            ) from None
    limits = {}
    with agreement(comm):
        if options.require is not None:
            limits = verdicts.read_limits(options.require)
            if not options.hr:
                raise InputError("limits are on SR against HR: give --hr with --require")
    inputs = [path for many in (*options.sr, options.hr, options.lr) for path in many]
    prepare_output(options.out, comm, REPORT, options.overwrite, inputs=inputs, parents=True)
    boxes = _open(options, comm)
    with agreement(comm):
        suite.check(boxes)
        settings = _settings(options, boxes)
    for one in (one for box in boxes for many in box.values() for one in many):
        one.check_sums()
    silent = comm.rank > 0 or options.quiet
    for purpose, needed in suite.memory(boxes, settings).items():
        if not silent:
            print(f"{purpose}: {needed / 1e9:.1f} GB a rank")
    with (
        staged(options.out, REPORT, comm, options.overwrite) as folder,
        tqdm(total=suite.steps(boxes, settings) + 1, disable=silent, unit="step") as bar,
    ):

        def step(text):
            bar.set_description(text)
            bar.update()

        results = suite.measure(boxes, settings, step, keep=not options.fresh)
        step("drawing")
        with agreement(comm):
            if comm.rank == 0:
                with disk(folder):
                    report.write_report(results, boxes, folder, options.command())
    found = verdicts.verdicts(results)
    with agreement(comm):
        lines = verdicts.broken(found, limits)
    if not silent:
        _print(found, registry.rows(results), options.out)
    if lines and comm.rank == 0:
        print(*(f"validate: broken: {line}" for line in lines), sep="\n", file=sys.stderr)
    return BROKEN if lines else 0


def _print(found, rows, out):
    """Verdicts and single numbers, and where the page is."""
    for verdict in found.values():
        how_far, worst = verdict.text(0.1), verdict.worst_text()
        print(f"{verdict.criterion.title}: within 10 % {how_far}; {worst}")
    for row in rows:
        print(f"{row['quantity']}: {row['value']}")
    print(f"The page: {os.path.join(out, 'report.html')}")


def _open(options, comm):
    """The catalogues of each box by kind: of SR its realisations, of HR and LR one where there are any."""
    boxes = []
    for number, paths in enumerate(options.sr):
        kinds = {"SR": paths, "HR": options.hr[number:][:1], "LR": options.lr[number:][:1]}
        boxes.append(
            {
                kind: [open_snapshot(one, comm) for one in many]
                for kind, many in kinds.items()
                if many
            }
        )
    return boxes


def _settings(options, boxes):
    from ..diagnostics import registry
    from ..diagnostics.results import Settings

    largest = max(one.csize for box in boxes for many in box.values() for one in many)
    size = Universe.of(boxes[0]["SR"][0].attrs, "BoxSize").BoxSize
    settings = Settings.choose(
        size, largest, options.mesh, options.kmax, options.boxes, options.quick
    )
    parts = options.only or (registry.QUICK if options.quick else registry.parts())
    return replace(settings, sigma8=options.sigma8, n_s=options.ns, parts=parts)


def compare(paths, comm) -> int:
    """Print the verdicts of reports side by side. Collective."""
    with agreement(comm):
        from ..diagnostics.verdicts import read_report, side_by_side

        documents = [read_report(path) for path in paths]
        rows = [("", *map(str, paths)), *side_by_side(documents)]
    if comm.rank == 0:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def parse(argv) -> ValidateOptions:
    """Options from the command line."""
    parser = Parser(
        "validate",
        "Compare a super-resolved catalogue with its references, over MPI, on one page.",
        "--sr SR_A SR_B --hr HR --lr LR --out report",
    )
    add = parser.group("input")
    add(
        "--sr",
        nargs="+",
        action="append",
        default=[],
        help="SR catalogues, realisations of one LR; again with --hr and --lr for each other box",
    )
    add("--hr", nargs="+", action="extend", default=[], help="HR snapshots, one for each --sr")
    add("--lr", nargs="+", action="extend", default=[], help="LR snapshots, one for each --sr")
    add = parser.group("output")
    add("--out", help="folder of the report")
    add("--overwrite", action="store_true", help="replace an existing report")
    add("--quiet", action="store_true", help="no progress bar, no summary")
    _measured(parser)
    return _checked(parser, vars(parser.parse_args(argv)))


def _measured(parser):
    """Options of what is measured, and of what is asked of it."""
    add = parser.group("what is measured")
    add("--mesh", type=int, help="cells a side; by default those of the finest lattice, up to 1024")
    add("--kmax", type=float, help="largest wavenumber [h/Mpc]; by default the mesh's Nyquist one")
    add(
        "--boxes",
        nargs="+",
        type=float,
        help="widths of the zooms in the pictures [Mpc/h]; by default 1/4 and 1/16 of the box",
    )
    add("--sigma8", type=float, help="for theory's curves, where the snapshots do not tell it")
    add("--ns", type=float, help="spectral index of the initial conditions, likewise")
    add(
        "--only",
        type=lambda text: tuple(text.split(",")),
        metavar="PART,...",
        help="some of power, redshift, halos, pairs, bias, pdf, bispectrum, voids, seams, pictures",
    )
    add(
        "--quick",
        action="store_true",
        help="power, redshift space and halos with their radii, on half the mesh: a first look",
    )
    add(
        "--fresh",
        action="store_true",
        help="measure HR anew, and keep nothing of it in HR.measured",
    )
    add = parser.group("what is asked of it")
    add(
        "--require",
        metavar="FILE",
        help="limits in TOML, such as [power] within = 0.1 to = 8; status 1 when one is broken",
    )
    add(
        "--compare",
        nargs="+",
        default=(),
        metavar="REPORT",
        help="only print the verdicts of report.json files side by side",
    )


def _checked(parser, values):
    """The options, if they go together."""
    if values["compare"]:
        return ValidateOptions(compare=tuple(values["compare"]))
    for name in ("sr", "out"):
        if not values[name]:
            parser.error(f"--{name} is needed, or --compare alone")
    values["sr"] = tuple(tuple(many) for many in values["sr"])
    for name in ("hr", "lr", "boxes"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    if values["only"] is not None:
        _check_parts(values["only"])
    for name in ("hr", "lr"):
        if len(values[name]) not in (0, len(values["sr"])):
            raise InputError(
                f"{len(values[name])} --{name} for {len(values['sr'])} --sr: give one for each, "
                "after the realisations of its box"
            )
    return ValidateOptions(**values)


def _check_parts(parts):
    from ..diagnostics.registry import parts as known  # late: importing nbodykit takes seconds

    for part in parts:
        if part not in known():
            raise InputError(f"--only names {part!r}: parts are {', '.join(known())}")


def main(argv, comm) -> int:
    """The command: parse, set up logging, run."""
    options = parse(argv)
    start_log("validate", comm)
    return compare(options.compare, comm) if options.compare else validate(options, comm)
