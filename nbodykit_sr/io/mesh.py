"""Writing of a mesh: chunks in their own order first, then the normalised field in the mesh's."""

import zlib
from collections.abc import Iterator

import bigfile
import numpy as np

from ..chunks import Chunk
from ..errors import agreement
from ..provenance import NAMES
from .atomic import disk
from .blocks import BlockFile
from .preflight import MESH
from .writer import ChunkWriter, WrongValues

FIELD = MESH.header


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
        Of the mesh.
    header : dict
        Attributes of the field.
    identity : dict
    mean : callable
        Of the sum of the integers that `write` was given, what the field is divided by. Raises
        InputError.
    """

    def __init__(self, path, comm, grid, header, identity, mean):
        super().__init__(path, comm, MESH, header, identity)
        self.grid, self.mean = grid, mean
        self.field = BlockFile(self.run.content, {FIELD: "f4"}, grid.size)
        self.store = BlockFile(self.run.file("chunks"), {FIELD: "f4"}, grid.size)

    def write(self, index, start, values, total) -> None:
        """Write a chunk, (X, Y, Z) float32, and record it. Not collective.

        Raises
        ------
        OSError
            If the disk does not take it.
        WrongValues
            If a density is not finite or negative.
        """
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high < np.inf):  # false for NaN too
            raise WrongValues(f"chunk {index} has densities from {low:g} to {high:g}")
        self._write(index, start, {FIELD: values.reshape(-1)}, total=total)

    def _lay_out(self):
        super()._lay_out()
        self.field.create()

    def _complete(self, entries):
        with agreement(self.comm):
            mean = self.mean(sum(entry["total"] for entry in entries))
        layers = list(enumerate(slabs(self.grid)))[self.comm.rank :: self.comm.size]
        written = []
        with agreement(self.comm), disk(self.partial, bigfile.Error):
            written += [(number, self._layer(*layer, mean)) for number, layer in layers]
        written = sorted(w for part in self.comm.allgather(written) for w in part)
        with agreement(self.comm):
            if self.comm.rank == 0:
                self._seal(
                    self.field, [w for _, w in written], {**self.header, NAMES["mean"]: mean}
                )

    def _layer(self, start, chunks, mean):
        """Put chunks into their layer of the mesh; gives its record."""
        width, Nmesh = chunks[0].shape[0], self.grid.Nmesh
        layer = np.empty((width, Nmesh, Nmesh), dtype="f4")
        for chunk in chunks:
            (_, y, z), (_, ny, nz) = chunk.start, chunk.shape
            values = self.store.read(FIELD, chunk.offset, chunk.size)
            layer[:, y : y + ny, z : z + nz] = values.reshape(chunk.shape)
        layer /= np.float32(mean)
        sums = self.field.write(FIELD, start, layer.reshape(-1))
        block = {"crc": zlib.crc32(layer), "sums": sums}
        return {"start": start, "size": layer.size, "blocks": {FIELD: block}}
