"""Compare a super-resolved catalogue with its references, over MPI, on one page.

    mpirun -n 4 nbodykit-sr validate --sr SR_008 --hr HR_008 --lr PART_008 --out report

Writes report.html (self-contained), report.json (every number) and figures as PNG and PDF.

Measurements of HR are kept beside it in HR_008.measured, and reused for the next SR.

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
from .command import start_log
from .options import option, parse_options

BROKEN = 1  # exit status when a limit of --require is broken


MEASURED, ASKED = "what is measured", "what is asked of it"


@dataclass(frozen=True)
class ValidateOptions:
    """Options of a comparison; see ``nbodykit-sr validate --help``."""

    sr: tuple = option(
        "input",
        "SR catalogues, realisations of one LR; again with --hr and --lr for each other box",
        (),
        nargs="+",
        action="append",
    )
    out: str = option("output", "folder of the report", "")
    hr: tuple = option("input", "HR snapshots, one for each --sr", (), nargs="+", action="extend")
    lr: tuple = option("input", "LR snapshots, one for each --sr", (), nargs="+", action="extend")
    mesh: int | None = option(
        MEASURED, "cells a side; by default those of the finest lattice, up to 1024", None
    )
    kmax: float | None = option(
        MEASURED, "largest wavenumber [h/Mpc]; by default the mesh's Nyquist one", None
    )
    boxes: tuple | None = option(
        MEASURED,
        "widths of the zooms in the pictures [Mpc/h]; by default 1/4 and 1/16 of the box",
        None,
        nargs="+",
        type=float,
    )
    sigma8: float | None = option(
        MEASURED, "for theory's curves, where the snapshots do not tell it", None
    )
    ns: float | None = option(MEASURED, "spectral index of the initial conditions, likewise", None)
    overwrite: bool = option("output", "replace an existing report", False, repeated=False)
    only: tuple | None = option(
        MEASURED,
        "some of power, redshift, halos, pairs, bias, pdf, bispectrum, voids, seams, pictures",
        None,
        type=lambda text: tuple(text.split(",")),
        metavar="PART,...",
    )
    quick: bool = option(
        MEASURED,
        "power, redshift space and halos with their radii, on half the mesh: a first look",
        False,
    )
    fresh: bool = option(MEASURED, "measure HR anew, and keep nothing of it in HR.measured", False)
    require: str | None = option(
        ASKED,
        "limits in TOML, such as [power] within = 0.1 to = 8; status 1 when one is broken",
        None,
        metavar="FILE",
    )
    compare: tuple = option(
        ASKED,
        "only print the verdicts of report.json files side by side",
        (),
        nargs="+",
        metavar="REPORT",
    )
    quiet: bool = option("output", "no progress bar, no summary", False)

    def command(self) -> str:
        """The command that makes this report again."""
        words = ["python -m nbodykit_sr validate"]
        for one in fields(self):
            value = getattr(self, one.name)
            if value == one.default or not one.metadata["repeated"]:
                continue
            for group in value if one.name == "sr" else (value,):
                words.append(f"--{one.name}")
                if group is not True:
                    many = group if isinstance(group, tuple) else (group,)
                    said = [f"{part:g}" if isinstance(part, float) else str(part) for part in many]
                    said = [",".join(said)] if one.name == "only" else said
                    words += map(shlex.quote, said)
        return " ".join(words)


def validate(options, comm) -> int:
    """Measure and write the report. Collective.

    Returns
    -------
    int
        0, or `BROKEN` if a limit of `require` is broken.

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
    """Options from the command line, if they go together."""
    options = parse_options(
        ValidateOptions,
        argv,
        "validate",
        "Compare a super-resolved catalogue with its references, over MPI, on one page.",
        "--sr SR_A SR_B --hr HR --lr LR --out report",
    )
    if options.compare:
        return ValidateOptions(compare=options.compare)
    for name in ("sr", "out"):
        if not getattr(options, name):
            raise InputError(f"--{name} is needed, or --compare alone; see --help")
    if options.only is not None:
        _check_parts(options.only)
    for name in ("hr", "lr"):
        number = len(getattr(options, name))
        if number not in (0, len(options.sr)):
            raise InputError(
                f"{number} --{name} for {len(options.sr)} --sr: give one for each, "
                "after the realisations of its box"
            )
    return options


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
