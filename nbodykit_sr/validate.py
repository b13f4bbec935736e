"""Compare a super-resolved catalogue with its references, over MPI, on one page.

    mpirun -n 4 python -m nbodykit_sr.validate --sr SR_008 --hr HR_008 --lr PART_008 --out report

Writes report.html (self-contained), report.json (every number) and figures as PNG and PDF.
"""

import logging
import os
import shlex
from dataclasses import dataclass, fields

from tqdm import tqdm

from .command import Parser, enter
from .errors import InputError, agreement
from .io.snapshot import open_snapshot
from .universe import Universe


@dataclass(frozen=True)
class ValidateOptions:
    """Options of a comparison; see ``python -m nbodykit_sr.validate --help``."""

    sr: tuple
    out: str
    hr: tuple = ()
    lr: tuple = ()
    mesh: int | None = None
    kmax: float | None = None
    boxes: tuple | None = None
    quiet: bool = False

    def command(self):
        """The command that makes this report again."""
        words = ["python -m nbodykit_sr.validate"]
        for option in fields(self):
            value = getattr(self, option.name)
            if value == option.default:
                continue
            words.append(f"--{option.name}")
            if value is not True:
                many = value if isinstance(value, tuple) else (value,)
                words += [
                    shlex.quote(f"{one:g}" if isinstance(one, float) else str(one)) for one in many
                ]
        return " ".join(words)


def validate(options, comm):
    """Measure and write the report. Collective.

    Raises
    ------
    InputError
        On every rank alike, before anything is measured.
    """
    with agreement(comm):
        try:
            from .diagnostics import report, suite
        except ImportError as error:
            raise InputError(
                f"the report needs {error.name}: pip install nbodykit_sr[report]"
            ) from None
    paths = {"SR": options.sr, "HR": options.hr, "LR": options.lr}
    catalogs = {
        kind: [open_snapshot(path, comm) for path in many] for kind, many in paths.items() if many
    }
    with agreement(comm):
        suite.check(catalogs)
        first = catalogs["SR"][0]
        largest = max(one.csize for many in catalogs.values() for one in many)
        box = Universe.of(first.attrs, "BoxSize").BoxSize
        settings = suite.Settings.choose(box, largest, options.mesh, options.kmax, options.boxes)
        if comm.rank == 0:
            _make_folder(options.out)
    silent = comm.rank > 0 or options.quiet
    with tqdm(total=suite.steps(catalogs) + 1, disable=silent, unit="step") as bar:

        def step(text):
            bar.set_description(text)
            bar.update()

        results = suite.measure(catalogs, settings, step)
        step("drawing")
        with agreement(comm):
            if comm.rank == 0:
                report.write_report(results, catalogs, options.out, options.command())
    if comm.rank == 0 and not options.quiet:
        for row in report.summary(results):
            print(f"{row['quantity']}: {row['value']}")
        print(f"The page: {os.path.join(options.out, 'report.html')}")
    return 0


def _make_folder(path):
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise InputError(f"cannot write into {path}: choose another folder with --out")


def parse(argv):
    """Options from the command line."""
    parser = Parser(prog="python -m nbodykit_sr.validate", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add(
        "--sr",
        nargs="+",
        required=True,
        help="SR catalogues: realisations of one LR, or several boxes",
    )
    add("--hr", nargs="+", default=(), help="HR snapshots: one for all, or one for each SR")
    add("--lr", nargs="+", default=(), help="LR snapshots: one for all, or one for each SR")
    add("--out", required=True, help="folder of the report")
    add("--mesh", type=int, help="cells a side; by default those of the finest lattice, up to 1024")
    add("--kmax", type=float, help="largest wavenumber [h/Mpc]; by default the mesh's Nyquist one")
    add(
        "--boxes",
        nargs="+",
        type=float,
        help="widths of the zooms in the pictures [Mpc/h]; by default 1/4 and 1/16 of the box",
    )
    add("--quiet", action="store_true", help="no progress bar, no summary")
    values = vars(parser.parse_args(argv))
    for name in ("sr", "hr", "lr", "boxes"):
        if values[name] is not None:
            values[name] = tuple(values[name])
    return ValidateOptions(**values)


def main(argv, comm):
    """The command: parse, set up logging, run."""
    options = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="validate: %(message)s")
    return validate(options, comm)


if __name__ == "__main__":
    from mpi4py import MPI

    enter(main, "validate", MPI.COMM_WORLD)
