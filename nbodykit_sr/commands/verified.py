"""Outputs that are verified: catalogues of particles, and meshes."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import bigfile
import numpy as np

from ..chunks import Chunk, ChunkGrid
from ..density.writer import FIELD, slabs
from ..errors import InputError, one_line
from ..io.checks import attributes, check_block, read_checksums
from ..io.formats import read_header
from ..io.formats.bigfile import BigFileHeader
from ..io.layout import LAYOUTS, MPGADGET, NBODYKIT
from ..lattice import LagrangianLattice
from ..models.card import ModelCard
from ..physics.universe import Universe
from ..provenance import NAMES, Provenance
from ..selection import Selection, first_rows
from .expectation import Expectation

# Fields of the provenance that every output has, and those of a catalogue and of a mesh
MADE = (
    *("card", "checksums", "chunk", "command", "device", "input", "model", "model_hash", "Nmesh"),
    "versions",
)
_CATALOGUE = (*MADE, "dtype", "factor", "layout", "offset", "region", "seed", "source")
_MESH = (*MADE, "initial", "initial_redshift", "mean", "origin")


@dataclass(frozen=True)
class Piece:
    """Rows that were written together: those of a chunk, or of a layer of a mesh by its number."""

    part: Chunk | int
    name: str
    start: int
    rows: int
    crcs: dict


class Output:
    """An output that is verified. Only rank 0 opens it; the others get a copy.

    Attributes
    ----------
    path : str
    columns : dict
        Path of each column's block or dataset to its name.
    blocks : dict
        `BlockHeader` of each block; empty for HDF5.
    pieces : list of Piece
        Empty if the number of rows is wrong.
    """

    path: str
    columns: dict
    blocks: dict

    def _cut(self, path, wanted, digest, size):
        """Pieces from those of the grid, (part, name, start, rows), and the file of checksums."""
        self.sizes = []
        if size != sum(rows for *_, rows in wanted):
            self.sizes = [f"{size} rows, its grid has {sum(rows for *_, rows in wanted)}"]
            self.pieces = []
            return
        written = read_checksums(path, self.columns, digest)
        if [(start, rows) for start, rows, _ in written] != [(s, r) for *_, s, r in wanted]:
            raise InputError(f"the checksums of {path} are of other pieces than its grid has")
        self.pieces = [Piece(*w, crcs) for w, (*_, crcs) in zip(wanted, written, strict=True)]

    def _cut_chunks(self, path, chunks, rows, digest, size):
        """Pieces that are chunks of so many `rows` each, one after another: see `_cut`."""
        if len(rows) != len(chunks):
            raise InputError(f"{path} has checksums of {len(rows)} chunks of {len(chunks)}")
        wanted = [
            (chunk, f"chunk {chunk.index}", start, n)
            for chunk, start, n in zip(chunks, first_rows(rows).tolist(), rows, strict=True)
        ]
        self._cut(path, wanted, digest, size)

    def parts(self, piece) -> Iterable[Piece]:
        """The pieces in which it is read, one after another."""
        return [piece]

    def check_whole(self, piece) -> list[str]:
        """What is wrong with a piece whose parts have all been checked."""
        return []

    def read(self, block, start, stop) -> np.ndarray:
        """Rows of a block as they are in the files."""
        try:
            with bigfile.File(self.path) as file, file[block] as column:
                return column[start:stop]
        except (bigfile.Error, OSError) as error:
            raise InputError(
                f"block {block} of {self.path} is unreadable: {one_line(error)}"
            ) from None


class Catalogue(Output):
    """Particles of `generate`."""

    def __init__(self, path):
        self.path, self.header = path, read_header(path)
        header = self.header
        self.made = made = provenance(
            path, "Header", header.attrs, _CATALOGUE, "layout", "catalogue of generate"
        )
        try:
            card, factor, Nmesh = ModelCard.from_dict(made.card), made.factor, made.Nmesh
            if factor < 1 or Nmesh % factor or card.factor != factor:
                raise ValueError(f"factor {factor}, Nmesh {Nmesh}, the card's factor {card.factor}")
            self.layout = layout = LAYOUTS[made.layout]
            at = {name: header.dataset + layout.columns[name][0] for name in header.columns}
            self.columns = {block: name for name, block in at.items()}
            box = Universe.of(header.attrs, "BoxSize").BoxSize
            lattice = LagrangianLattice(Nmesh, box, made.offset)
            names = ("Position", "Velocity", "ID") if card.channels == 6 else ("Position", "ID")
            columns = None if made.columns is None else tuple(made.columns.split(","))
            part = 1.0 if made.subsample is None else made.subsample
            self.selection = Selection.of(columns, part, names)
            grid = ChunkGrid(Nmesh // factor, made.chunk)
            grid = grid.select(made.region or None, factor * lattice.cell)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise InputError(f"the provenance of {path} makes no sense: {error}") from None
        self.blocks = {}
        if isinstance(header, BigFileHeader):
            self.blocks = {at[name]: block for name, block in header.blocks.items()}
        self.expectation = Expectation(lattice, factor, card.displacement_range)
        chunks = grid.chunks()
        rows = [chunk.size * factor**3 for chunk in chunks]
        if part < 1:  # `check` counts them, chunk by chunk on all ranks
            rows = [n for _, n, _ in read_checksums(path, self.columns, made.checksums)]
        self._cut_chunks(path, chunks, rows, made.checksums, header.size)

    def check_header(self) -> list[str]:
        """Columns, counts and units of the layout."""
        problems, header, layout = list(self.sizes), self.header, self.layout
        names = sorted(self.selection.columns)
        if names != sorted(header.columns):
            problems.append(f"columns {sorted(header.columns)}, its model and command give {names}")
        if header.dataset != layout.prefix:
            problems.append(f"columns under {header.dataset!r} do not go with layout {layout.name}")
        for name in header.columns:
            found, wanted = header.stored_rows(name, 0, 1).dtype, layout.dtype(name).base
            if found != wanted:
                problems.append(f"{name} is {found.str}, layout {layout.name} has {wanted.str}")
        if layout is MPGADGET:
            count = int(np.ravel(header.raw["TotNumPart"])[1])
            if count != header.size:
                problems.append(f"TotNumPart is {count}, there are {header.size} particles")
        elif layout is NBODYKIT and np.size(header.raw["BoxSize"]) != 3:
            problems.append(
                f"BoxSize has length {np.size(header.raw['BoxSize'])}, nbodykit needs 3"
            )
        return problems

    def read(self, block, start, stop) -> np.ndarray:
        """Rows of a column as they are in the files."""
        return self.header.stored_rows(self.columns[block], start, stop)

    def check(self, piece, values) -> list[str]:
        """IDs, positions and velocities of a chunk."""
        problems, expectation = [], self.expectation
        values = {self.columns[block]: rows for block, rows in values.items()}
        ids = expectation.lattice.id(piece.part.sites(expectation.factor))
        ids = ids[self.selection.keeps(ids)]
        if len(ids) != piece.rows:
            return [f"{piece.name}: {piece.rows} particles, its subsample has {len(ids)}"]
        if (found := values.get("ID")) is not None:
            wrong = np.flatnonzero(found.reshape(-1) != ids)
            if len(wrong):
                problems.append(
                    f"{piece.name}: {len(wrong)} IDs are not those of its sites, the first "
                    f"{found.reshape(-1)[wrong[0]]} at row {piece.start + wrong[0]} instead of "
                    f"{ids[wrong[0]]}"
                )
        box = expectation.lattice.BoxSize
        position = values["Position"] * np.float64(self.header.length)
        if not np.isfinite(position).all() or ((position < 0) | (position > box)).any():
            outside = ~((position >= 0) & (position <= box)).all(axis=1)
            row = np.flatnonzero(outside)[0]
            problems.append(
                f"{piece.name}: {outside.sum()} particles are not in the box of {box:g} Mpc/h, the "
                f"first in row {piece.start + row} at {position[row].tolist()}"
            )
        elif self.selection.subsample == 1:  # else they fill no lattice
            if complaint := expectation.complaint(piece.part, position):
                problems.append(complaint)
        velocity = values.get("Velocity")
        if velocity is not None and not np.isfinite(velocity).all():
            problems.append(f"{piece.name}: Velocity is not finite")
        return problems


class Mesh(Output):
    """A density of `emulate`."""

    def __init__(self, path):
        self.path, folder = path, os.path.join(path, FIELD)
        self.attrs = attrs = attributes(folder)
        self.made = made = provenance(path, FIELD, attrs, _MESH, "model_hash", "mesh of emulate")
        self.columns = {FIELD: FIELD}
        self.blocks = {FIELD: check_block(folder)}
        try:
            ModelCard.from_dict(made.card)
            if made.Nmesh % 2:
                raise ValueError(f"Nmesh {made.Nmesh}")
            layers = list(slabs(ChunkGrid(made.Nmesh, min(2 * made.chunk, made.Nmesh))))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise InputError(f"the provenance of {path} makes no sense: {error}") from None
        wanted = [
            (number, f"layer {number}", start, sum(chunk.size for chunk in chunks))
            for number, (start, chunks) in enumerate(layers)
        ]
        self._cut(path, wanted, made.checksums, sum(self.blocks[FIELD].rows))

    def check_header(self) -> list[str]:
        """Number format and what nbodykit needs."""
        problems, dtype = list(self.sizes), self.blocks[FIELD].dtype
        if np.dtype(dtype) != np.dtype("f4"):
            problems.append(f"{FIELD} is {dtype}, a mesh of emulate has <f4")
        Nmesh = self.made.Nmesh
        for name, wanted in (("Nmesh", Nmesh), ("ndarray.shape", Nmesh), ("BoxSize", None)):
            value = np.ravel(self.attrs.get(name, []))
            if len(value) != 3 or (wanted is not None and (value != wanted).any()):
                problems.append(f"{name} is {value}, nbodykit needs {wanted or 'three lengths'}")
        return problems

    def check(self, piece, values) -> list[str]:
        """Densities of a layer."""
        density = values[FIELD]
        if np.isfinite(density).all() and density.min(initial=0) >= 0:
            return []
        return [f"{piece.name}: densities are negative or not finite"]


def provenance(path, block, attrs, names, mark, kind) -> Provenance:
    """How an output was made. InputError if an attribute of `names` is missing, `mark` before all."""
    missing = [NAMES[name] for name in names if NAMES[name] not in attrs]
    if NAMES[mark] in missing:
        raise InputError(f"{path} is no {kind}: its {block} has no {NAMES[mark]}")
    if missing:
        raise InputError(
            f"the {block} of {path} lacks {', '.join(missing)}: it is damaged, or of an older version"
        )
    try:
        return Provenance.from_attrs(attrs)
    except InputError as error:
        raise InputError(f"the provenance of {path} makes no sense: {error}") from None
