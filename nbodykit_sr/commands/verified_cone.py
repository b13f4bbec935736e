"""Light cones that are verified."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..chunks import ChunkGrid
from ..errors import InputError
from ..io.checks import read_checksums
from ..io.cones import COLUMNS, MOVING, check_cone, cone_layout
from ..io.formats.bigfile import BigFileHeader
from ..lattice import LagrangianLattice, particle_ids
from ..lightcone.cone import Cone
from ..models.card import ModelCard
from ..physics.distance import Expansion, observed
from ..physics.universe import Universe
from ..selection import Selection
from .verified import MADE, Output, Piece, provenance

# Fields of the provenance that a cone has
_MADE = (*MADE, "dtype", "factor", "offset", "seed", "source")

ROWS = 2**20  # of a light cone, read at once

# How far particles of a light cone may be from it [Mpc/h], and what is observed of them from the truth
_ON_CONE, _ON_SKY = 1e-4, 1e-6


class LightCone(Output):
    """Particles of `lightcone`."""

    def __init__(self, path):
        self.path, self.header, self._keys = path, check_cone(path), []
        attrs, layout = self.header.attrs, cone_layout(self.header)
        self.columns = {layout.block(name): name for name in self.header.columns}
        self.blocks = self.header.blocks if isinstance(self.header, BigFileHeader) else {}
        made = provenance(path, "Header", attrs, _MADE, "model_hash", "light cone")
        self.part = 1.0 if made.subsample is None else made.subsample
        try:
            card, self.cone = ModelCard.from_dict(made.card), Cone.of(attrs)
            self.names = _cone_columns(made, card)
            self.selection = Selection.of(self.names, self.part, self.names)
            box = float(np.ravel(attrs["ConeBoxSize"])[0])
            lattice = LagrangianLattice(made.Nmesh, box, made.offset)
            chunks = ChunkGrid(made.Nmesh // made.factor, made.chunk).chunks()
            self.expansion = Expansion.of(Universe.of(attrs, "Omega0"), self.cone.times[0])
            far, near = self.expansion.distance(np.array(self.cone.times)).tolist()
            self.edges = near, far
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            raise InputError(f"the provenance of {path} makes no sense: {error}") from None
        self.lattice, self.factor = lattice, made.factor
        rows = [n for _, n, _ in read_checksums(path, self.columns, made.checksums)]
        self._cut_chunks(path, chunks, rows, made.checksums, self.header.size)

    def check_header(self) -> list[str]:
        """Rows and columns."""
        problems, found = list(self.sizes), sorted(self.header.columns)
        if sorted(self.names) != found:
            problems.append(f"columns {found}, its command gives {sorted(self.names)}")
        return problems

    def read(self, block, start, stop) -> np.ndarray:
        """Rows of a column as they are in the files."""
        return self.header.stored_rows(self.columns[block], start, stop)

    def parts(self, piece) -> Iterable[Piece]:
        for first in range(0, piece.rows, ROWS):
            rows = min(ROWS, piece.rows - first)
            yield replace(piece, start=piece.start + first, rows=rows)

    def check(self, piece, values) -> list[str]:
        """Check that particles are of their chunk, on the cone, inside it, and at the sky they claim."""
        values = {self.columns[block]: rows for block, rows in values.items()}
        values = {name: rows.reshape(-1, *COLUMNS[name][1]) for name, rows in values.items()}
        problems = [
            f"{piece.name}: {name} is not finite"
            for name, rows in values.items()
            if not np.isfinite(rows).all()
        ]
        if problems:
            return problems
        for words, wrong in self._wrong(piece.part, values):
            if wrong.any():
                row = piece.start + np.flatnonzero(wrong)[0]
                problems.append(f"{piece.name}: {wrong.sum()} {words}, the first in row {row}")
        return problems

    def _wrong(self, chunk, values):
        """Possible problems in words, each with the particles that have it."""
        position = values["Position"]
        distance = np.sqrt((position**2).sum(axis=1))
        a = self.expansion.scale_factor(distance)
        if "Aemit" in values:
            apart = abs(self.expansion.distance(values["Aemit"]) - distance)
            yield "particles are not where light meets them", ~(apart < _ON_CONE)
            a = values["Aemit"]
        depth = self.cone.depth(position, *self.edges)
        yield "particles are not in the cone", ~(depth > -_ON_CONE)
        if "Weight" in values:
            yield "weights are not of the subsample", values["Weight"] != np.float32(1 / self.part)
        for name, seen in observed(position, a, values.get("Velocity")).items():
            if name in values:
                yield f"{name} do not go with positions", ~(abs(values[name] - seen) < _ON_SKY)
        if "ID" in values:
            ids = values["ID"]
            known = (ids >= 1) & (ids <= self.lattice.size)
            site = self.lattice.site(particle_ids(np.where(known, ids, 1)))
            inside = self._in_chunk(chunk, site) & self.selection.keeps(ids)
            yield "IDs are not of the chunk", ~(known & inside)
            replica = self._replica(site, position)
            self._keys.append(self._key(ids, replica))
            if "Replica" in values:
                wrong = (values["Replica"] != replica).any(axis=1)
                yield "Replica do not go with positions", wrong

    def _in_chunk(self, chunk, site):
        site, start = site // self.factor, np.array(chunk.start)
        return ((site >= start) & (site < start + chunk.shape)).all(axis=1)

    def _replica(self, site, position):
        """Where the box is in which particles are, by the one in which they come from their site."""
        moved = position + self.cone.observer - self.lattice.site_position(site)
        return np.rint(moved / self.lattice.BoxSize).astype("i8")

    def _key(self, ids, replica):
        """A number for each particle of each replica, as none is farther than the cone is deep."""
        box, far = self.lattice.BoxSize, self.edges[1]
        reach = int((far + np.abs(self.cone.observer).max()) / box) + 2
        key = ids
        for along in np.clip(replica, -reach, reach).T:
            key = key * np.uint64(2 * reach + 1) + (along + reach).astype("u8")
        return key

    def check_whole(self, piece) -> list[str]:
        """That no particle of a replica is there twice; the others' IDs are of other chunks."""
        keys = np.sort(np.concatenate([np.empty(0, "u8"), *self._keys]))
        self._keys = []
        twice = np.count_nonzero(keys[1:] == keys[:-1])
        if not twice:
            return []
        return [f"{piece.name}: {twice} particles are there twice, with the same ID and Replica"]


def _cone_columns(made, card):
    """Names of the columns that a cone has."""
    if made.columns is not None:
        return tuple(made.columns.split(","))
    moving = () if card.channels == 6 else MOVING
    return tuple(name for name in COLUMNS if name not in (*moving, "Weight"))
