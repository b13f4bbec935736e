"""Find the halos of a catalogue or light cone, over MPI, and write them in MP-Gadget's group layout.

    mpirun -n 4 nbodykit-sr halos SR_008 HALOS_008

Friends-of-friends groups with their particles, centres, velocities and spherical-overdensity
masses; `open_halos` gives them to nbodykit's halo-occupation models.
"""

from dataclasses import dataclass

from ..diagnostics.cone_halos import find_cone_groups
from ..diagnostics.groups import find_groups
from ..errors import InputError, agreement
from ..io.cones import is_cone, open_cone
from ..io.groups import write_groups
from ..io.preflight import HALOS, prepare_output
from ..io.snapshot import open_snapshot
from ..io.staging import staged
from ..physics.matter import share
from .options import command_line, option, parse_options


@dataclass(frozen=True)
class HalosOptions:
    """Options of a run; see ``nbodykit-sr halos --help``."""

    input: str = option("input", "catalogue or snapshot, of any kind that is read, or a light cone")
    output: str = option("output", "folder of the halos")
    overwrite: bool = option("output", "replace an existing output", False, repeated=False)
    linking_length: float = option("halos", "in mean separations (0.2)", 0.2)
    nmin: int = option("halos", "the fewest particles of a halo (32)", 32)

    def command(self) -> str:
        """The command that makes this output again."""
        return command_line(self, "python -m nbodykit_sr halos")


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
    with agreement(comm):
        cone = is_cone(options.input)
    if cone:
        source = open_cone(options.input, comm)
    else:
        source = open_snapshot(options.input, comm)
        source.check_sums()
    finder = find_cone_groups if cone else find_groups
    groups, members = finder(source, options.linking_length, options.nmin)
    number = comm.allreduce(len(groups["GroupID"]))
    inside = comm.allreduce(len(members["GroupID"]))
    with staged(options.output, HALOS, comm, options.overwrite) as folder:
        write_groups(folder, source, groups, members, {"HaloCommand": options.command()})
    cut = comm.allreduce(int(groups["Cut"].sum())) if "Cut" in groups else None
    if comm.rank == 0:
        print(
            f"halos: {number} of at least {options.nmin} particles in {options.output}; they hold "
            f"{inside / source.csize:.1%} of {source.csize} particles"
        )
        if words := _walls(source, cone, cut):
            print(f"halos: {words}")
    return 0


def _walls(source, cone, cut):
    """A line on halos that the walls of a part of a box or the edges of a cone cut; None for a box."""
    if cone:
        return f"{cut} of them may go on beyond an edge of the cone (FOFGroups/Cut)"
    part = share(source.attrs, source.csize)
    if part == 1:
        return None
    walls = "some" if cut is None else f"{cut} of the halos (FOFGroups/Cut)"
    return (
        f"these particles are {part:.3g} of the matter of the box: its walls cut {walls}; masses and "
        "linking length are those of the whole"
    )


def parse(argv) -> HalosOptions:
    """Options from the command line."""
    return parse_options(
        HalosOptions,
        argv,
        "halos",
        "Find the halos of a catalogue, over MPI, and write them in MP-Gadget's group layout.",
        "SR_008 HALOS_008",
    )


def main(argv, comm) -> int:
    """The command: parse and run."""
    return find(parse(argv), comm)
