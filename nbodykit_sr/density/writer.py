"""Writing of a mesh: chunks in their own order first, then the normalised field in the mesh's."""

import zlib
from collections.abc import Iterator

import numpy as np

from ..chunks import Chunk
from ..errors import agreement
from ..io.atomic import disk
from ..io.blocks import BlockFile
from ..io.preflight import MESH
from ..io.writer import ChunkWriter, WrongValues
from ..provenance import NAMES

FIELD = MESH.header

# The mean density is summed as integers of this many to one: the same for any number of ranks
FIXED_POINT = 2**20

# Of painted chunks: bytes for a cell of the mesh, 16 for each that a chunk reaches, and its density
_PAINTED_ROOM = 40


def fixed_sum(values) -> int:
    """Sum of densities in fixed point, an int: the same in any order."""
    return int(np.rint(np.asarray(values, dtype="f8") * FIXED_POINT).astype("i8").sum())


def slabs(grid) -> Iterator[tuple[int, list[Chunk]]]:
    """The layers of a mesh that rows of chunks along x fill: (first cell, chunks) of each."""
    (rows, ny, nz), plane = grid.counts, grid.Nmesh**2
    for row in range(rows):
        chunks = grid.chunks([(row, row + 1), (0, ny), (0, nz)])
        yield chunks[0].start[0] * plane, chunks


class MeshWriter(ChunkWriter):
    """A real field, divided by its mean, that is being written by all ranks (see `ChunkWriter`).

    The mean is known when the last chunk is there. So the chunks are kept as they come, one after
    another, in the BigFile ``chunks`` beside the mesh, and `finish` makes the mesh from them,
    layer by layer: twice the room on the disk, and a step that can be done again.

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm
    grid : ChunkGrid
        Chunks of the mesh.
    header : dict
        Attributes of the field.
    identity : dict
    mean : callable
        Gives the mean density, by which the field is divided, from the `fixed_sum` of all chunks.
        Raises InputError.

    Attributes
    ----------
    unit : str
        What a row of `store` is, for the progress bar.
    room : int
        On the disk while the mesh is being written [bytes].
    """

    unit = "cells"

    def __init__(self, path, comm, grid, header, identity, mean):
        super().__init__(path, comm, MESH, header, identity)
        self.grid, self.mean, self.room = grid, mean, 8 * grid.size
        self.field = BlockFile(self.run.content, {FIELD: "f4"}, grid.size)
        self.store = BlockFile(self.run.file("chunks"), {FIELD: "f4"}, grid.size)

    def write(self, chunk, values) -> None:
        """Write the density of a chunk, which may be of a coarser mesh, and record it. Not collective.

        Raises
        ------
        OSError
            If the disk does not take it.
        WrongValues
            If a density is not finite or negative.
        """
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high < np.inf):  # false for NaN too
            raise WrongValues(f"chunk {chunk.index} has densities from {low:g} to {high:g}")
        start, rows = chunk.offset * (values.size // chunk.size), {FIELD: values.reshape(-1)}
        self._write(chunk.index, start, rows, total=fixed_sum(values))

    def _lay_out(self):
        super()._lay_out()
        self.field.create()

    def _complete(self, entries):
        with agreement(self.comm):
            mean = self._mean(entries)
        layers = list(enumerate(slabs(self.grid)))[self.comm.rank :: self.comm.size]
        written = []
        with agreement(self.comm), disk(self.partial):
            for number, (start, chunks) in layers:
                layer = self._layer(number, start, chunks, entries)
                layer /= np.float32(mean)
                sums = self.field.write(FIELD, start, layer.reshape(-1))
                block = {"crc": zlib.crc32(layer), "sums": sums}
                entry = {"start": start, "size": layer.size, "blocks": {FIELD: block}}
                written.append((number, entry))
        written = sorted(w for part in self.comm.allgather(written) for w in part)
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._seal(
                    self.field, [w for _, w in written], {**self.header, NAMES["mean"]: mean}
                )

    def _mean(self, entries):
        return self.mean(sum(entry["total"] for entry in entries))

    def _layer(self, number, start, chunks, entries):
        """Density of a layer before it is normalised, float32."""
        layer = np.empty((chunks[0].shape[0], *2 * [self.grid.Nmesh]), dtype="f4")
        for chunk in chunks:
            (_, y, z), (_, ny, nz) = chunk.start, chunk.shape
            values = self.store.read(FIELD, chunk.offset, chunk.size)
            layer[:, y : y + ny, z : z + nz] = values.reshape(chunk.shape)
        return layer


class PaintedWriter(MeshWriter):
    """A density painted from the particles of chunks, in whatever cells they lie.

    Each chunk's `painted` particles are kept in a file of their own. A layer of the mesh is the sum of
    the weights that all chunks have for it: integers, so the order does not matter.

    Parameters
    ----------
    chunks : int
        Number of chunks, of all ranks.
    density : callable
        Gives 1 + delta from the sums of the cells.
    """

    unit = "chunks"

    def __init__(self, path, comm, grid, header, identity, chunks, density):
        super().__init__(path, comm, grid, header, identity, mean=None)
        self.room, self.density, self.chunks = _PAINTED_ROOM * grid.size, density, chunks
        self.store = _PieceFiles(self.run.file("chunks"), {FIELD: ("i8", (2,))}, chunks)

    def write(self, chunk, values) -> None:
        """Write a `painted` chunk, (n, 2) int64. Not collective."""
        layers = np.unique(values[:, 0] // (self.grid.side * self.grid.Nmesh**2)).tolist()
        self._write(chunk.index, chunk.index, {FIELD: values}, layers=layers)

    def _mean(self, entries):
        return 1.0  # all particles are painted

    def _layer(self, number, start, chunks, entries):
        shape = (chunks[0].shape[0], *2 * [self.grid.Nmesh])
        total = np.zeros(np.prod(shape), dtype="i8")
        for entry in entries:
            if number in entry["layers"]:
                cell, part = self.store.read(FIELD, entry["start"], entry["size"]).T
                mine = slice(*np.searchsorted(cell, (start, start + total.size)))
                total[cell[mine] - start] += part[mine]  # each cell once
        return self.density(total).reshape(shape)


class _PieceFiles(BlockFile):
    """Rows of chunks, of each as many as it has, in a file with its number."""

    def __init__(self, folder, columns, size):
        super().__init__(folder, columns, size)
        self.edges = list(range(size + 1))

    def _parts(self, start, count):
        yield start, start, start + count
