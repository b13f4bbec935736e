"""Verification of finished catalogues, light cones and meshes."""

import os
import zlib

import numpy as np

from ..density.writer import FIELD
from ..errors import agreement
from ..io.checks import byte_sum
from ..io.cones import is_cone
from .command import Parser
from .verified import Catalogue, Mesh
from .verified_cone import LightCone


def verify(path, comm) -> list[str]:
    """Check a catalogue of `generate`, a light cone, or a mesh of `emulate` against its own header.

    Gives a line for each problem, the same on every rank. Every byte is read once; a rank holds no more than
    one chunk, layer of a mesh, or so many rows of a cone and a number for each particle of a chunk.
    InputError if `path` is none of the three, or is unreadable. Collective.
    """
    output, problems = None, []
    with agreement(comm):
        if comm.rank == 0:
            mesh = os.path.isdir(os.path.join(path, FIELD))
            output = (Mesh if mesh else LightCone if is_cone(path) else Catalogue)(path)
            problems = output.check_header()
    output = comm.bcast(output)
    sums = {name: np.zeros(len(block.rows), "u8") for name, block in output.blocks.items()}
    with agreement(comm):
        for piece in output.pieces[comm.rank :: comm.size]:
            problems += _check_piece(output, piece, sums)
    for name, block in output.blocks.items() if output.pieces else ():
        total = comm.allreduce(sums[name]) % 2**32
        for number in np.flatnonzero(total != np.array(block.sums, "u8")):
            if comm.rank == 0:
                problems.append(
                    f"{block.file(number)}: checksum {total[number]}, its header says {block.sums[number]}"
                )
    return [line for part in comm.allgather(problems) for line in part]


def _check_piece(output, piece, sums):
    """Values and order of the rows of a piece; adds their bytes to the sums of their files."""
    problems, crcs = [], dict.fromkeys(output.columns, 0)
    for part in output.parts(piece):
        values, stop = {}, part.start + part.rows
        for name in output.columns:
            values[name] = np.ascontiguousarray(output.read(name, part.start, stop))
            crcs[name] = zlib.crc32(values[name], crcs[name])
            first = 0
            for number, rows in enumerate(output.blocks[name].rows if output.blocks else ()):
                low, high = max(part.start, first), min(stop, first + rows)
                if low < high:
                    inside = values[name][low - part.start : high - part.start]
                    sums[name][number] += np.uint64(byte_sum(inside))
                first += rows
        problems += output.check(part, values)
    problems += output.check_whole(piece)
    for name in output.columns:
        if crcs[name] != piece.crcs[name]:
            problems.append(f"{piece.name}: {name} is not what was written, or in another order")
    return problems


def main(argv, comm) -> int:
    """The command: 0 if all is well, 1 with a line for each problem."""
    parser = Parser(
        "verify",
        "Check a finished catalogue, light cone or mesh: every checksum, count and value, and the Header.",
        "SR_008",
    )
    parser.group("input")("output", help="folder of an SR catalogue, light cone or mesh")
    path = parser.parse_args(argv).output
    problems = verify(path, comm)
    if comm.rank == 0:
        for line in problems[:100]:
            print(f"verify: {line}")
        if len(problems) > 100:
            print(f"verify: and {len(problems) - 100} more")
        state = f"has {len(problems)} problems" if problems else "is sound"
        print(f"verify: {os.path.abspath(path)} {state}")
    return 1 if problems else 0
