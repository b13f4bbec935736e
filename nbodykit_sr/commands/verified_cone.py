"""Light cones that are verified."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..chunks import ChunkGrid
from ..errors import InputError
from ..io.checks import read_checksums
from ..io.cones import COLUMNS, MOVING, check_cone
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
        self.path, (attrs, self.blocks) = path, check_cone(path)
        self.columns = {name: name for name in self.blocks}
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
        size = sum(self.blocks["Position"].rows)
        self._cut_chunks(path, chunks, rows, made.checksums, size)

    def check_header(self) -> list[str]:
        """Columns and their number formats."""
        problems = list(self.sizes)
        if sorted(self.names) != sorted(self.columns):
            problems.append(
                f"columns {sorted(self.columns)}, its command gives {sorted(self.names)}"
            )
        for name, block in self.blocks.items():
            if np.dtype(block.dtype) != np.dtype(COLUMNS[name][0]):
                problems.append(f"{name} is {block.dtype}, a cone has {COLUMNS[name][0]}")
        return problems

    def parts(self, piece) -> Iterable[Piece]:
        for first in range(0, piece.rows, ROWS):
            rows = min(ROWS, piece.rows - first)
            yield replace(piece, start=piece.start + first, rows=rows)

    def check(self, piece, values) -> list[str]:
        """Check that particles are of their chunk, on the cone, inside it, and at the sky they claim."""
        values = {
            name: rows.reshape(-1, *COLUMNS[name][1]).astype(COLUMNS[name][0])
            for name, rows in values.items()
        }
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
            yield "IDs are not of the chunk", ~self._of_chunk(chunk, values["ID"])

    def _of_chunk(self, chunk, ids):
        lattice = self.lattice
        known = (ids >= 1) & (ids <= lattice.size)
        site = lattice.site(particle_ids(np.where(known, ids, 1))) // self.factor
        start = np.array(chunk.start)
        inside = ((site >= start) & (site < start + chunk.shape)).all(axis=1)
        return known & inside & self.selection.keeps(ids)


def _cone_columns(made, card):
    """Names of the columns that a cone has."""
    if made.columns is not None:
        return tuple(made.columns.split(","))
    moving = () if card.channels == 6 else MOVING
    return tuple(name for name in COLUMNS if name not in (*moving, "Weight"))
