"""An HR density by a network that is given LR's density and the initial conditions."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from nbodykit.base.catalog import CatalogSource
from pmesh.pm import RealField

from ..chunks import Chunk, ChunkGrid, default_grid
from ..domain import LatticeDomain, node_ranks
from ..errors import InputError, agreement, require_same
from ..inference import one_thread, side_by_side
from ..io.atomic import readable
from ..lattice import cuboid
from ..models.card import fingerprint, load_model
from ..models.density import PADDING, PADDING_HR
from ..models.device import choose_device
from ..models.loading import model_file
from ..preparation import AUTO
from ..provenance import Provenance, versions
from ..weights import named
from .moved import moved_overdensity
from .painting import mesh_size
from .writer import FIXED_POINT, MeshWriter, fixed_sum

logger = logging.getLogger(__name__)

# The shipped models, the first for LR snapshots: it moves the initial conditions with their particles
MOVED_MODEL, MESH_MODEL = named("density_moved_z0"), named("density_z0")


class NetworkDensity:
    """The density of a network such as Kodi Ramanah et al.'s; one way of `SRMesh`.

    Parameters
    ----------
    inputs : Inputs
    model, device, dtype, chunk
        See `SRMesh`.

    Attributes
    ----------
    card : ModelCard
    device : torch.device
    chunk : int
        Side of a chunk [LR cells].
    provenance : Provenance
    """

    def __init__(self, inputs, model=None, device="auto", dtype=AUTO, chunk=None):
        self.inputs, self.comm = inputs, inputs.comm
        node, N = node_ranks(self.comm), inputs.Nmesh
        with agreement(self.comm):
            if dtype not in (AUTO, "float32"):
                raise InputError(
                    f"dtype is {dtype!r}: the network of densities computes in float32"
                )
            self.network, self.card = _load(named(model) if model else default_model(inputs))
            M, universe = mesh_size(inputs.initial), inputs.universe
            if M != 2 * N:
                raise InputError(
                    f"the initial conditions have {M} cells a side and LR {N}: {2 * N} are needed, twice LR"
                )
            problem = self.card.disagreement(inputs.cell, universe.redshift, universe.Omega0)
            if problem:
                inputs.object(problem)
            self.grid = default_grid(N, self.comm.size) if chunk is None else ChunkGrid(N, chunk)
            self.grid.blocks(self.comm.size)
            self.device = choose_device(device, *node)
            identity = fingerprint(self.network, self.card)
        require_same(self.comm, model=identity, device=self.device.type)
        if self.card.caution and self.comm.rank == 0:
            logger.warning("%s: %s", self.card.name, self.card.caution)
        self.chunk = self.grid.side
        self.provenance = Provenance(
            origin=0.0 if isinstance(inputs.lr, CatalogSource) else -0.5,
            model=self.card.name,
            model_hash=identity,
            card=self.card.entries,
            chunk=self.chunk,
            dtype="float32",
            versions=versions(),
        )

    def prepare(self) -> tuple[list[Chunk], Callable]:
        """Paint the fields and put them on this rank's blocks. Collective.

        Gives this rank's chunks of the LR mesh, and a function: ``compute(chunks)`` yields (chunk, density),
        (2n, 2n, 2n) float32 and not yet normalised, for each of them, several computed at a time.
        """
        lr, initial = self.fields()
        coarse = LatticeDomain(self.grid, self.comm, PADDING)
        fine = LatticeDomain(self._fine, self.comm, PADDING_HR)
        lr, initial = _on_blocks([lr], coarse), _on_blocks(initial, fine)
        network = self.network.to(self.device)
        inner = {chunk.index: chunk for chunk in fine.chunks}

        def evaluate(chunk):
            fields = coarse.cut(lr, chunk), fine.cut(initial, inner[chunk.index])
            return _evaluate(network, *fields, self.device)

        def compute(chunks):
            workers = 1 if self.device.type == "cuda" else torch.get_num_threads()
            return side_by_side(evaluate, chunks, workers)

        return coarse.chunks, compute

    def fields(self) -> tuple[RealField, list[RealField]]:
        """LR density, and the initial conditions: as `Inputs.fields` gives them and, for a network that
        takes these too, moved with LR's particles. Collective."""
        lr, initial = self.inputs.fields(self.network.initial_kmin)
        if not self.network.moved:
            return lr, [initial]
        chunk = min(self.chunk, mesh_size(self.inputs.lr))
        return lr, [initial, *moved_overdensity(self.inputs.lr, initial, self.network.moved, chunk)]

    def writer(self, path, header, identity) -> MeshWriter:
        """The writer of the density's chunks to a file."""
        return MeshWriter(path, self.comm, self._fine, header, identity, self.mean)

    def gather(self, field) -> "_Slabs":
        """The object whose `add` puts chunks into a distributed field. Collective."""
        return _Slabs(field, self.mean)

    def mean(self, total) -> float:
        """The mean density from the `fixed_sum` of all cells; InputError if there is none."""
        mean = total / FIXED_POINT / self._fine.size
        if not mean > 0:
            raise InputError(
                f"model {self.card.name} gives no density at all for these fields: it is not for "
                "them, or was not trained"
            )
        return mean

    @property
    def _fine(self):
        return ChunkGrid(2 * self.grid.Nmesh, 2 * self.grid.side)


def default_model(inputs) -> str | Path:
    """The shipped model for LR: one for particles with IDs, another for meshes. Not collective."""
    lr = inputs.lr
    numbered = isinstance(lr, CatalogSource) and "ID" in lr.columns
    return MOVED_MODEL if numbered and inputs.Nmesh % mesh_size(lr) == 0 else MESH_MODEL


def _load(path):
    with readable(path):
        path = model_file(path, ".safetensors")
        network, card = load_model(path)
    if card.network != "density":
        raise InputError(f"model {path} is a {card.network} network: a density one is needed")
    return network, card


def _on_blocks(fields, domain):
    """Distributed fields of one mesh on a rank's padded block, (C, X, Y, Z) float32. Collective."""
    values = [np.asarray(field.value, dtype="f4").ravel() for field in fields]
    return domain.exchange(cuboid(fields[0].start, fields[0].shape), np.stack(values, axis=1))


@torch.inference_mode()
def _evaluate(
    network, lr: Float32[np.ndarray, "1 _ _ _"], initial: Float32[np.ndarray, "c _ _ _"], device
) -> Float32[np.ndarray, "x y z"]:
    """The HR density of a chunk, two cells a side for each of LR, from its padded fields."""
    fields = [torch.from_numpy(np.ascontiguousarray(x))[None].to(device) for x in (lr, initial)]
    with one_thread():
        return network(*fields)[0, 0].float().cpu().numpy()


class _Slabs:
    """Puts chunks into a distributed pmesh field, wherever its cells are."""

    def __init__(self, field, mean):
        self.field, self.comm, self.mean = field, field.pm.comm, mean
        self.slabs = self.comm.allgather((np.array(field.start), np.array(field.shape)))
        self.total = 0

    def add(self, chunk, values):
        """Put in the density of a chunk, (2n, 2n, 2n); None for nothing. Collective."""
        pieces = [None] * self.comm.size
        if chunk is not None:
            self.total += fixed_sum(values)
            start = 2 * np.array(chunk.start)
            for rank, (first, shape) in enumerate(self.slabs):
                low = np.maximum(first, start)
                high = np.minimum(first + shape, start + np.array(values.shape))
                if (low < high).all():
                    part = tuple(slice(a, b) for a, b in zip(low - start, high - start))
                    pieces[rank] = low, values[part]
        own = self.slabs[self.comm.rank][0]
        for piece in self.comm.alltoall(pieces):
            if piece is not None:
                low, part = piece
                where = (slice(a, a + n) for a, n in zip(low - own, part.shape))
                self.field[tuple(where)] = part

    def finish(self):
        """Normalise the field; gives the mean it had. Collective."""
        mean = self.mean(self.comm.allreduce(self.total))
        if self.comm.rank == 0:
            logger.info("mean density %.6f before it is normalised", mean)
        self.field[...] /= np.float32(mean)
        return mean
