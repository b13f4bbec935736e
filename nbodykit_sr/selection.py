"""Which particles of a super-resolved lattice are written, and which of their columns."""

from dataclasses import dataclass

import numpy as np

from .chunks import Chunk
from .errors import InputError
from .lattice import LagrangianLattice


@dataclass(frozen=True)
class Selection:
    """The columns and the part of the particles that are written."""

    columns: tuple
    # part of the particles that is kept, chosen by a hash of the ID: the same particles for any chunks,
    # ranks and realisation, and those of a smaller part are among those of a larger
    subsample: float = 1.0

    @classmethod
    def of(cls, columns: tuple | None, subsample: float, given: tuple) -> "Selection":
        """Check wanted columns, all by default, against those that are `given`.

        InputError for unknown columns, none of them Position, or a part outside of (0, 1].
        """
        columns = given if columns is None else columns
        if "Position" not in columns or not set(columns) <= set(given):
            raise InputError(
                f"columns are {', '.join(columns)}: Position and any of {', '.join(given[1:])} are given"
            )
        if not 0 < subsample <= 1:
            raise InputError(
                f"subsample is {subsample:g}: a part above 0 and up to 1 of the particles is needed"
            )
        return cls(tuple(name for name in given if name in columns), float(subsample))

    def keeps(self, ids: np.ndarray) -> np.ndarray:
        """Whether particles of these IDs, (n,) uint64, are kept, (n,) bool."""
        if self.subsample == 1:
            return np.ones(len(ids), dtype=bool)
        return scrambled(ids) < np.uint64(int(self.subsample * 2**64))

    def count(self, chunk: Chunk, lattice: LagrangianLattice, factor: int) -> int:
        """Particles of a chunk, of LR sites, that are kept of the `factor` times finer lattice."""
        if self.subsample == 1:
            return chunk.size * factor**3
        return int(self.keeps(lattice.id(chunk.sites(factor))).sum())

    def take(self, columns: dict) -> dict:
        """The rows and columns that are kept."""
        kept = slice(None) if self.subsample == 1 else self.keeps(columns["ID"])
        return {name: columns[name][kept] for name in self.columns}


def scrambled(ids: np.ndarray) -> np.ndarray:
    """A number for each uint64, uint64: the finaliser of SplitMix64 (Steele et al. 2014).

    Every bit of the ID moves all others.
    """
    mixed = ids + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def first_rows(counts: np.ndarray) -> np.ndarray:
    """Row at which each chunk begins, from the rows of all, in storage order."""
    return np.cumsum(counts) - counts
