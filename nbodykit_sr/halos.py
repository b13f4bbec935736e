"""Find the halos of a catalogue, over MPI, and write them in MP-Gadget's group layout.

    mpirun -n 4 nbodykit-sr halos SR_008 HALOS_008

Friends-of-friends groups with their particles, centres, velocities and spherical-overdensity
masses; `open_halos` gives them to nbodykit's halo-occupation models.
"""

import os
import shlex
from dataclasses import dataclass

from .command import Parser, enter
from .diagnostics.groups import find_groups
from .errors import InputError
from .io.groups import write_groups
from .io.preflight import HALOS, prepare_output
from .io.snapshot import open_snapshot
from .io.staging import staged


@dataclass(frozen=True)
class HalosOptions:
    """Options of a run; see ``nbodykit-sr halos --help``."""

    input: str
    output: str
    linking_length: float = 0.2
    nmin: int = 32
    overwrite: bool = False

    def command(self) -> str:
        """The command that makes this output again."""
        words = ["python", "-m", "nbodykit_sr.halos", os.path.abspath(self.input), "OUTPUT"]
        return shlex.join(
            [*words, f"--linking-length={self.linking_length:g}", f"--nmin={self.nmin}"]
        )


def find(options, comm) -> int:
    """Run with `options` over the ranks of `comm`; returns the exit status.

    Raises
    ------
    InputError
        On every rank alike; nothing is left behind.
    """
    if not 0 < options.linking_length < 1:
        raise InputError(
            f"linking length is {options.linking_length:g}: a part of the mean separation, such as 0.2, is "
            "needed"
        )
    if options.nmin < 2:
        raise InputError(f"nmin is {options.nmin}: a halo has at least 2 particles")
    prepare_output(options.output, comm, HALOS, options.overwrite, inputs=[options.input])
    source = open_snapshot(options.input, comm)
    source.check_sums()
    groups, members = find_groups(source, options.linking_length, options.nmin)
    number = comm.allreduce(len(groups["GroupID"]))
    inside = comm.allreduce(len(members["GroupID"]))
    with staged(options.output, HALOS, comm, options.overwrite) as folder:
        write_groups(folder, source, groups, members, {"HaloCommand": options.command()})
    if comm.rank == 0:
        print(
            f"halos: {number} of at least {options.nmin} particles in {options.output}; they hold "
            f"{inside / source.csize:.1%} of {source.csize} particles"
        )
    return 0


def parse(argv) -> HalosOptions:
    """Options from the command line."""
    parser = Parser(
        "halos",
        "Find the halos of a catalogue, over MPI, and write them in MP-Gadget's group layout.",
        "SR_008 HALOS_008",
    )
    add = parser.group("input")
    add("input", help="catalogue or snapshot, of any kind that is read")
    add = parser.group("output")
    add("output", help="folder of the halos")
    add("--overwrite", action="store_true", help="replace an existing output")
    add = parser.group("halos")
    add("--linking-length", type=float, default=0.2, help="in mean separations (0.2)")
    add("--nmin", type=int, default=32, help="the fewest particles of a halo (32)")
    return HalosOptions(**vars(parser.parse_args(argv)))


def main(argv, comm) -> int:
    """The command: parse and run."""
    return find(parse(argv), comm)


if __name__ == "__main__":
    from mpi4py import MPI

    enter(main, "halos", MPI.COMM_WORLD)
