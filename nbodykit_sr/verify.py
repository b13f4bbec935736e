"""Verification of SR particles: of each chunk as it is written, and of a finished catalogue."""

import json
import logging
import os
from dataclasses import dataclass

import bigfile
import numpy as np

from .chunks import ChunkGrid
from .command import Parser
from .errors import InputError, agreement, one_line
from .io.checks import byte_sum
from .io.formats.bigfile import BigFileHeader
from .io.particles import COLUMNS
from .lattice import LagrangianLattice
from .models.card import ModelCard
from .universe import Universe

logger = logging.getLogger(__name__)

# SR particles may move this much further than LR ones, which the card's range is of [LR cells]
_SMALL_SCALES = 1.0

# Beyond this part of the box the periodic image of a particle is uncertain
_REACH = 0.45

# What every catalogue says of how it was made
PROVENANCE = (
    "SRCard",
    "SRChunk",
    "SRCommand",
    "SRDevice",
    "SRDtype",
    "SRFactor",
    "SRInput",
    "SRLayout",
    "SRModel",
    "SRModelHash",
    "SRNmesh",
    "SROffset",
    "SRRegion",
    "SRSeed",
    "SRSource",
    "SRVersions",
)


@dataclass(frozen=True)
class Expectation:
    """What the displacements of SR particles are held against.

    Attributes
    ----------
    lattice : LagrangianLattice
        Of the SR particles.
    factor : int
    range : float or None
        Largest LR displacement that the model was trained on [LR cells].
    """

    lattice: LagrangianLattice
    factor: int
    range: float | None

    def displacement(self, chunk, position):
        """Largest and rms displacement of every second particle along each axis [LR cells].

        Parameters
        ----------
        chunk : Chunk
        position : (n, 3) array
            In the order of the chunk's sites, comoving [Mpc/h].
        """
        shape = [self.factor * n for n in chunk.shape]
        box, cell = self.lattice.BoxSize, self.factor * self.lattice.cell
        sample = position.reshape(*shape, 3)[::2, ::2, ::2]
        largest, squares = 0.0, 0.0
        for axis in range(3):
            sites = self.factor * chunk.start[axis] + np.arange(0, shape[axis], 2)
            along = self.lattice.site_position(sites).astype(position.dtype)
            moved = sample[..., axis] - along.reshape([-1 if i == axis else 1 for i in range(3)])
            moved -= box * np.rint(moved / box)
            largest = max(largest, float(moved.max()), -float(moved.min()))
            squares += float(np.mean(moved * moved, dtype="f8"))
        return largest / cell, np.sqrt(squares) / cell

    def complaint(self, chunk, position):
        """What is unusual about the displacements of a chunk, or None."""
        largest, rms = self.displacement(chunk, position)
        reach = _REACH * self.lattice.Nmesh / self.factor
        limit = reach if self.range is None else min(self.range + _SMALL_SCALES, reach)
        if largest <= limit:
            return None
        why = f"the model was trained up to {self.range:.3g}" if limit < reach else "half a box"
        return (
            f"chunk {chunk.index} at site {chunk.start}: displacements up to {largest:.3g} LR cells (rms "
            f"{rms:.3g}), {why}"
        )


def verify(path, comm):
    """Check a finished catalogue of `generate` against everything it says of itself.

    Every byte is read once; a rank holds no more than one chunk. Collective.

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm

    Returns
    -------
    list of str
        What is wrong, a line each, the same on every rank; empty if nothing is.

    Raises
    ------
    InputError
        If it can't be read as a catalogue at all.
    """
    header = expectation = grid = None
    problems = []
    with agreement(comm):
        if comm.rank == 0:
            header, grid, expectation = _open(path)
            problems = _check_header(header, grid)
    header, grid, expectation = comm.bcast((header, grid, expectation))
    sums = {name: np.zeros(len(block.rows), "u8") for name, block in header.blocks.items()}
    if sum(header.blocks["Position"].rows) == grid.size * expectation.factor**3:
        with agreement(comm):
            for chunk in grid.chunks()[comm.rank :: comm.size]:
                problems += _check_chunk(header, expectation, chunk, sums)
    else:
        problems += [f"{header.size} particles, its lattice and region have {grid.size}"]
    for name, block in header.blocks.items():
        total = comm.allreduce(sums[name]) % 2**32
        for number in np.flatnonzero(total != np.array(block.sums, "u8")):
            if comm.rank == 0:
                problems.append(
                    f"{block.file(number)}: checksum {total[number]}, its header says {block.sums[number]}"
                )
    return [line for part in comm.allgather(problems) for line in part]


def _open(path):
    header = BigFileHeader.read(path)
    missing = [name for name in PROVENANCE if name not in header.raw]
    if "SRLayout" in missing:
        raise InputError(f"{path} is no catalogue of generate: its Header has no SRLayout")
    if missing:
        raise InputError(f"the Header of {path} lacks {', '.join(missing)}: it is damaged")
    raw = header.raw
    try:
        factor, Nmesh, chunk = (
            int(np.ravel(raw[f"SR{n}"])[0]) for n in ("Factor", "Nmesh", "Chunk")
        )
        region = json.loads(raw["SRRegion"])
        card = ModelCard.from_dict(json.loads(raw["SRCard"]))
        json.loads(raw["SRVersions"])
        if factor < 1 or Nmesh % factor or card.factor != factor:
            raise ValueError(f"SRFactor {factor}, SRNmesh {Nmesh}, the card's factor {card.factor}")
        if raw["SRLayout"] not in COLUMNS:
            raise ValueError(f"SRLayout {raw['SRLayout']}")
        lattice = LagrangianLattice(
            Nmesh, Universe.of(header.attrs, "BoxSize").BoxSize, float(np.ravel(raw["SROffset"])[0])
        )
        grid = ChunkGrid(Nmesh // factor, chunk)
        if region is not None:
            grid = grid.select(region, factor * lattice.cell)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise InputError(f"the provenance of {path} makes no sense: {error}") from None
    return header, grid, Expectation(lattice, factor, card.displacement_range)


def _check_header(header, grid):
    """On rank 0: columns, counts and units of the layout."""
    problems = []
    layout = header.raw["SRLayout"]
    card = json.loads(header.raw["SRCard"])
    names = {"Position", "ID"} | ({"Velocity"} if card["channels"] == 6 else set())
    if names != set(header.blocks):
        problems.append(f"columns {sorted(header.blocks)}, its model gives {sorted(names)}")
    if header.dataset != COLUMNS[layout]["Position"][0]:
        problems.append(f"columns under {header.dataset!r} do not go with layout {layout}")
    for name, block in header.blocks.items():
        wanted = np.dtype(COLUMNS[layout][name][1])
        if np.dtype(block.dtype) != wanted:
            problems.append(f"{name} is {block.dtype}, layout {layout} has {wanted.str}")
    if layout == "mp-gadget":
        count = int(np.ravel(header.raw["TotNumPart"])[1])
        if count != header.size:
            problems.append(f"TotNumPart is {count}, there are {header.size} particles")
    elif np.size(header.raw["BoxSize"]) != 3:
        problems.append(f"BoxSize has length {np.size(header.raw['BoxSize'])}, nbodykit needs 3")
    return problems


def _check_chunk(header, expectation, chunk, sums):
    """Rows of a chunk: IDs, positions, velocities; adds their bytes to the checksums."""
    scale = expectation.factor**3
    start, stop = chunk.offset * scale, (chunk.offset + chunk.size) * scale
    values = {}
    with bigfile.File(header.path) as file:
        for name, block in header.blocks.items():
            try:
                with file[header.dataset + name] as column:
                    values[name] = column[start:stop]
            except (bigfile.Error, OSError) as error:
                line = one_line(error)
                raise InputError(f"block {block.folder} is unreadable: {line}") from None
            first = 0
            for number, rows in enumerate(block.rows):
                low, high = max(start, first), min(stop, first + rows)
                if low < high:
                    piece = values[name][low - start : high - start]
                    sums[name][number] += np.uint64(byte_sum(piece))
                first += rows
    problems = []
    ids = expectation.lattice.id(chunk.sites(expectation.factor))
    if "ID" in values:
        wrong = np.flatnonzero(values["ID"].reshape(-1) != ids)
        if len(wrong):
            problems.append(
                f"chunk {chunk.index}: {len(wrong)} IDs are not those of its sites, the first "
                f"{values['ID'].reshape(-1)[wrong[0]]} at row {start + wrong[0]} instead of {ids[wrong[0]]}"
            )
    box = expectation.lattice.BoxSize
    position = values["Position"] * np.float64(header.length)
    if not np.isfinite(position).all() or position.min() < 0 or position.max() > box:
        outside = ~((position >= 0) & (position <= box)).all(axis=1)
        row = start + np.flatnonzero(outside)[0]
        problems.append(
            f"chunk {chunk.index}: {outside.sum()} particles are not in the box of {box:g} Mpc/h, the first "
            f"in row {row} at {position[row - start].tolist()}"
        )
    elif complaint := expectation.complaint(chunk, position):
        problems.append(complaint)
    if "Velocity" in values and not np.isfinite(values["Velocity"]).all():
        problems.append(f"chunk {chunk.index}: Velocity is not finite")
    return problems


def main(argv, comm):
    """The command: 0 if all is well, 1 with a line for each problem."""
    parser = Parser(
        "verify",
        "Check a finished catalogue: every checksum, count, ID and position, and the Header.",
        "SR_008",
    )
    parser.group("input")("output", help="folder of an SR catalogue")
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
