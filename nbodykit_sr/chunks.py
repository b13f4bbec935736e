"""The chunk grid: how a lattice is cut, independently of ranks and devices."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from numbers import Integral

import numpy as np

from .errors import InputError, one_line
from .lattice import cuboid

# The largest side that is chosen by itself: wide enough for the padding of 3 to cost little,
# small enough for a chunk's features to stay in the caches of a CPU
DEFAULT_SIDE = 16


@dataclass(frozen=True)
class Chunk:
    """A cuboid of lattice sites."""

    index: int  # position in the order in which chunks are stored
    start: tuple  # (int, int, int), first site along each axis
    shape: tuple  # (int, int, int), sites along each axis
    offset: int  # sites of all chunks stored before this one

    @property
    def size(self) -> int:
        """Number of sites."""
        return int(np.prod(self.shape))

    def sites(self, factor: int = 1) -> np.ndarray:
        """Sites of the lattice `factor` times finer that fill this chunk, (n, 3) int64."""
        return cuboid([factor * s for s in self.start], [factor * n for n in self.shape])

    def blocks(self, side: int) -> Iterator["Chunk"]:
        """The cubes of `side` sites, or less, that fill it; their index and offset mean nothing."""
        for corner in product(*(range(0, n, side) for n in self.shape)):
            start = tuple(s + i for s, i in zip(self.start, corner))
            shape = tuple(min(side, n - i) for n, i in zip(self.shape, corner))
            yield replace(self, start=start, shape=shape)


@dataclass(frozen=True)
class ChunkGrid:
    """A lattice of ``Nmesh**3`` sites cut into chunks of ``side**3``, the last ones smaller."""

    Nmesh: int
    side: int
    # rows of chunks along each axis, all by default: chunks of a selection have the same shapes and
    # sites, but an order of their own in storage
    selection: tuple | None = None

    def __post_init__(self):
        if not (isinstance(self.side, Integral) and 1 <= self.side <= self.Nmesh):
            raise InputError(
                f"chunk is {self.side}: a side from 1 to the {self.Nmesh} sites of the LR lattice is needed"
            )

    @property
    def rows(self) -> tuple:
        """Rows of chunks along each axis, in storage order."""
        everything = tuple(range(-(-self.Nmesh // self.side)))
        return self.selection or (everything,) * 3

    @property
    def counts(self) -> tuple:
        """Rows of chunks along each axis."""
        return tuple(len(rows) for rows in self.rows)

    @cached_property
    def widths(self) -> tuple:
        """Sites of each row, three arrays."""
        return tuple(
            np.array([min(self.side, self.Nmesh - row * self.side) for row in rows])
            for rows in self.rows
        )

    @property
    def size(self) -> int:
        """Sites in all chunks."""
        return int(np.prod([widths.sum() for widths in self.widths]))

    def chunks(self, block=None) -> list[Chunk]:
        """Chunks in storage order: x slowest, z fastest.

        Parameters
        ----------
        block : three (first, last) pairs, optional
            Only these rows (positions in `rows`); all by default.
        """
        block = block or [(0, n) for n in self.counts]
        (_, ny, nz), (wx, wy, wz) = self.counts, self.widths
        before = [np.concatenate([[0], np.cumsum(w)]) for w in self.widths]
        chunks = []
        for i, j, k in product(*(range(*pair) for pair in block)):
            offset = before[0][i] * before[1][-1] * before[2][-1]
            offset += wx[i] * before[1][j] * before[2][-1] + wx[i] * wy[j] * before[2][k]
            chunks.append(
                Chunk(
                    index=(i * ny + j) * nz + k,
                    start=tuple(rows[n] * self.side for rows, n in zip(self.rows, (i, j, k))),
                    shape=(int(wx[i]), int(wy[j]), int(wz[k])),
                    offset=int(offset),
                )
            )
        return chunks

    def blocks(self, ranks: int) -> list:
        """Share the grid among ranks: a cuboid of rows, three (first, last) pairs, for each, none empty.

        Orthogonal recursive bisection: any number of ranks up to the number of chunks works,
        primes too. A grid is bisected once: every rank asks for the blocks of all others.
        """
        return list(_shared(self.counts, ranks))

    def select(self, region, cell: float) -> "ChunkGrid":
        """The chunks that meet a region, three (low, high) pairs or None, of a lattice with this cell.

        The region is Lagrangian, comoving [Mpc/h], and may reach over the edges of the periodic box.
        """
        region = region_of(region)
        if region is None:
            return self
        selection = []
        for low, high in region:
            first = int(np.floor(low / cell + 1e-9))
            last = int(np.ceil(high / cell - 1e-9))
            rows = [
                site % self.Nmesh // self.side
                for site in range(first, min(last, first + self.Nmesh))
            ]
            selection.append(tuple(dict.fromkeys(rows)))
        return ChunkGrid(self.Nmesh, self.side, tuple(selection))


def region_of(pairs) -> tuple | None:
    """A part of the box as three (low, high) pairs of numbers, or None for all of it."""
    if pairs is None:
        return None
    try:
        x, y, z = ((float(low), float(high)) for low, high in pairs)
    except (TypeError, ValueError):
        raise InputError(
            f"region is {one_line(pairs, 80)}: three (low, high) pairs in Mpc/h are needed"
        ) from None
    for axis, (low, high) in zip("xyz", (x, y, z)):
        if not (np.isfinite(low) and np.isfinite(high) and low < high):
            raise InputError(
                f"region along {axis} is {low:g}:{high:g} Mpc/h: low:high with low < high is needed"
            )
    return x, y, z


def default_grid(
    Nmesh: int, ranks: int = 1, widest: int = DEFAULT_SIDE, region=None, cell: float = 1.0
) -> ChunkGrid:
    """A chunk grid for a lattice: sides up to `widest` and half the lattice, a divisor if one is near.

    The grid is made finer only where it (or the region, if one is given) would have fewer chunks than
    there are ranks; otherwise it does not depend on the number of ranks.
    """
    widest = min(widest, max(Nmesh // 2, 1))
    side = next((n for n in range(widest, widest // 2, -1) if Nmesh % n == 0), widest)
    grid = ChunkGrid(Nmesh, side).select(region, cell)
    while grid.side > 1 and np.prod(grid.counts) < ranks:
        grid = ChunkGrid(Nmesh, (grid.side + 1) // 2).select(region, cell)
    return grid


@lru_cache(maxsize=8)
def _shared(counts, ranks):
    """Blocks of a grid of so many rows along each axis."""
    return tuple(_bisect([(0, n) for n in counts], ranks))


def _bisect(block, ranks):
    if ranks == 1:
        return [block]
    counts = [last - first for first, last in block]
    if ranks > np.prod(counts):
        raise InputError(
            f"{ranks} ranks share {np.prod(counts)} chunks: choose smaller chunks or fewer ranks"
        )
    best = None
    for axis, count in enumerate(counts):
        others = int(np.prod(counts)) // count
        for cut in range(1, count):
            left, right = cut * others, (count - cut) * others
            share = round(ranks * left / (left + right))
            share = min(max(share, 1, ranks - right), left, ranks - 1)
            load = max(left / share, right / (ranks - share))
            # lightest load first; then the longest axis, and its middle, for compact blocks
            order = (load, -count, abs(2 * cut - count))
            if best is None or order < best[0]:
                best = (order, axis, cut, share)
    _, axis, cut, share = best
    left, right = list(block), list(block)
    middle = block[axis][0] + cut
    left[axis], right[axis] = (block[axis][0], middle), (middle, block[axis][1])
    return _bisect(left, share) + _bisect(right, ranks - share)
