"""The super-resolved density: an LR density and HR initial conditions as an nbodykit mesh."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource
from nbodykit.base.mesh import MeshSource
from pmesh.pm import RealField

from .chunks import Chunk, ChunkGrid, default_grid
from .device import choose_device
from .domain import LatticeDomain, node_ranks
from .errors import InputError, agreement, require_same
from .inference import one_thread
from .lattice import LagrangianLattice
from .models.card import fingerprint, load_model
from .models.density import PADDING, PADDING_HR
from .models.evaluation import card_rows
from .models.html import html_table
from .painting import correlation, initial_overdensity, lr_density, mesh_size
from .provenance import Provenance, versions
from .universe import Universe, growth_factor

logger = logging.getLogger(__name__)

DEFAULT_MODEL = Path(__file__).parent / "weights" / "density_z0.safetensors"

# Runs from the same phases agree better than this on the largest scales; of other phases, worse
_MATCHED = 0.3

# The mean density is summed as integers of this many to one: the same for any number of ranks
_FIXED_POINT = 2**20


class SRMesh(MeshSource):
    """HR density 1 + delta emulated from an LR density and HR initial conditions.

    Nothing is painted or computed before the mesh is looked at (by FFTPower, `compute`, `save`).
    Its first point lies in the corner of the box, as in nbodykit's own meshes, if `lr` is a
    catalogue; half an HR cell below if `lr` is a mesh (``attrs["SROrigin"]``, in HR cells). The
    values do not depend on the number of ranks; the mean is normalised to one, and the mean the
    network gave is in ``attrs["SRMean"]`` of the computed field.

    Parameters
    ----------
    lr : nbodykit CatalogSource or MeshSource
        The evolved LR run: particles, Position [comoving Mpc/h], or its density 1 + delta. The
        communicator is taken from it.
    initial : nbodykit MeshSource or CatalogSource
        The linear overdensity at any early time on a mesh with twice the Nmesh of LR, or the HR
        run's initial snapshot, from a lattice of as many particles.
    model : str, optional
        A `.safetensors` file; the shipped weights for z = 0 by default.
    Nmesh : int, optional
        LR cells a side for a catalogue; by default a cell for each particle.
    initial_redshift : float, optional
        Of `initial`, if its attrs do not tell; 0 for one extrapolated to today.
    device : {"auto", "cpu", "cuda"}
    chunk : int, optional
        Side of a chunk [LR cells]; chosen from the mesh by default.
    force : bool
        Warn, instead of raising, where the fields and the model card, or LR and the initial
        conditions, disagree.

    Raises
    ------
    InputError
        On every rank, now or when the fields are computed: boxes or Nmesh that do not match,
        fields that are negative, not finite, or of a wrong mean, other phases, a wrong model.
    """

    def __init__(
        self,
        lr,
        initial,
        model=None,
        Nmesh=None,
        initial_redshift=None,
        device="auto",
        chunk=None,
        force=False,
    ):
        self.comm = comm = lr.comm
        self.force = force
        node = node_ranks(comm)
        with agreement(comm):
            if MPI.Comm.Compare(comm, initial.comm) not in (MPI.IDENT, MPI.CONGRUENT):
                raise InputError(
                    f"LR is shared by {comm.size} ranks, the initial conditions by "
                    f"{initial.comm.size}: open both with one communicator"
                )
            self.network, self.card = _load(model or DEFAULT_MODEL)
            universe = Universe.of(lr.attrs, "BoxSize", "a", "Omega0")
            start = _start(initial.attrs, initial_redshift)
            N, box = _sizes(lr, initial, Nmesh, universe.BoxSize, start.BoxSize), universe.BoxSize
            self._check_fit(box / N, universe)
            self.growth = growth_factor(start.a, universe.Omega0)
            self.grid = default_grid(N, comm.size) if chunk is None else ChunkGrid(N, chunk)
            self.grid.blocks(comm.size)
            self.device = choose_device(device, *node)
            identity = fingerprint(self.network, self.card)
        options = dict(Nmesh=Nmesh, chunk=chunk, force=force, initial_redshift=initial_redshift)
        require_same(comm, model=identity, device=self.device.type, **options, **universe.attrs)
        require_same(comm, **start.attrs)
        if self.card.caution and comm.rank == 0:
            logger.warning("%s: %s", self.card.name, self.card.caution)
        self.lr, self.initial = lr, initial
        self.lattice = LagrangianLattice(N, box)
        origin = 0.0 if isinstance(lr, CatalogSource) else -0.5
        provenance = Provenance(
            origin=origin,
            model=self.card.name,
            model_hash=identity,
            card=self.card.entries,
            chunk=self.grid.side,
            versions=versions(),
        )
        self.attrs.update(Redshift=universe.redshift, **provenance.to_attrs())
        MeshSource.__init__(self, comm, 2 * N, box, "f4")

    def __repr__(self):
        return f"SRMesh(Nmesh={2 * self.grid.Nmesh}, model={self.card.name!r})"

    def _repr_html_(self):
        rows = {
            "cells": f"{2 * self.grid.Nmesh}³ in {self.lattice.BoxSize:g} Mpc/h",
            "redshift": f"{self.attrs['Redshift']:.4g}",
            "from": f"{self.lr!r} and {self.initial!r}",
            "model": f"{self.card.name} on {self.device.type}",
        }
        return html_table("SRMesh", rows | card_rows(self.card))

    def to_real_field(self) -> RealField:
        """Compute the density. Collective.

        Returns
        -------
        pmesh.pm.RealField
            (2N, 2N, 2N) float32, 1 + delta >= 0 of mean one, with ``attrs["SRMean"]``.
        """
        chunks, compute = self.prepare()
        computed = compute(chunks)
        field = self.pm.create(type="real")
        writer = _SlabWriter(field)
        total = 0
        for _ in range(max(self.comm.allgather(len(chunks)))):
            chunk, values = next(computed, (None, None))
            writer.write(chunk and 2 * np.array(chunk.start), values)
            total += 0 if chunk is None else fixed_sum(values)
        mean = self.mean(self.comm.allreduce(total))
        if self.comm.rank == 0:
            logger.info("mean density %.6f before it is normalised", mean)
        field[...] /= np.float32(mean)
        field.attrs = Provenance(mean=mean).to_attrs()
        return field

    def prepare(self) -> tuple[list[Chunk], Callable]:
        """Paint the fields and put them on this rank's blocks. Collective.

        Returns
        -------
        list of Chunk
            This rank's, of the LR lattice.
        callable
            Of chunks; yields each with its density, (2n, 2n, 2n) float32, not yet normalised.
            Several are computed at a time.
        """
        lr, initial = self.inputs()
        coarse = LatticeDomain(self.grid, self.comm, PADDING)
        fine_grid = ChunkGrid(2 * self.grid.Nmesh, 2 * self.grid.side)
        fine = LatticeDomain(fine_grid, self.comm, PADDING_HR)
        lr, initial = _on_blocks(lr, coarse), _on_blocks(initial, fine)
        network = self.network.to(self.device)
        inner = {chunk.index: chunk for chunk in fine.chunks}

        def evaluate(chunk):
            fields = coarse.cut(lr, chunk), fine.cut(initial, inner[chunk.index])
            return _evaluate(network, *fields, self.device)

        def compute(chunks):
            workers = 1 if self.device.type == "cuda" else torch.get_num_threads()
            with ThreadPoolExecutor(workers) as pool:
                flight = deque()
                for chunk in chunks:
                    flight.append((chunk, pool.submit(evaluate, chunk)))
                    if len(flight) > workers:
                        done, task = flight.popleft()
                        yield done, task.result()
                for done, task in flight:
                    yield done, task.result()

        return coarse.chunks, compute

    def mean(self, total) -> float:
        """The mean density from the `fixed_sum` of all cells; InputError if there is none."""
        mean = total / _FIXED_POINT / int(self.pm.Nmesh.prod())
        if not mean > 0:
            raise InputError(
                f"model {self.card.name} gives no density at all for these fields: it is not for "
                "them, or was not trained"
            )
        return mean

    def inputs(self) -> tuple[RealField, RealField]:
        """LR density and initial conditions, checked: two distributed pmesh fields. Collective."""
        lr, origin = lr_density(self.lr, self.grid.Nmesh)
        kmin = self.network.initial_kmin * self.lattice.cell / 2
        initial = initial_overdensity(self.initial, 2 * self.grid.Nmesh, self.growth, origin, kmin)
        if not kmin:
            r = correlation(lr, initial)
            if not r > _MATCHED:
                self._object(
                    f"LR density and initial conditions correlate by {r:.2f} on the largest "
                    f"scales, at least {_MATCHED} is wanted: start both runs from the same phases"
                )
        return lr, initial

    def _check_fit(self, cell, universe):
        problem = self.card.disagreement(cell, universe.redshift, universe.Omega0)
        if problem:
            self._object(problem)

    def _object(self, problem):
        if not self.force:
            raise InputError(f"{problem}; or force it")
        if self.comm.rank == 0:
            logger.warning("%s: going on as forced", problem)


def fixed_sum(values) -> int:
    """Sum of densities in fixed point, an int: the same in any order."""
    return int(np.rint(np.asarray(values, dtype="f8") * _FIXED_POINT).astype("i8").sum())


def _load(path):
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model {path} does not exist: give a .safetensors file")
    network, card = load_model(path)
    if card.network != "density":
        raise InputError(f"model {path} is a {card.network} network: a density one is needed")
    return network, card


def _sizes(lr, initial, Nmesh, box, other):
    """LR cells a side, if sizes and boxes [Mpc/h] of both inputs go together."""
    if isinstance(lr, CatalogSource):
        N = Nmesh or mesh_size(lr)
    else:
        N = mesh_size(lr)
        if Nmesh not in (None, N):
            raise InputError(f"Nmesh is {Nmesh} but the LR mesh has {N} cells a side: leave it out")
    M = mesh_size(initial)
    if abs(other / box - 1) > 1e-6:
        raise InputError(
            f"BoxSize of LR is {box:g} Mpc/h, of the initial conditions {other:g} Mpc/h: both "
            "must be of one box"
        )
    if M != 2 * N:
        raise InputError(
            f"the initial conditions have {M} cells a side and LR {N}: {2 * N} are needed, twice LR"
        )
    return N


def _start(attrs, z):
    """The `Universe` of the initial conditions, at redshift `z` if one is given."""
    start = Universe.of(attrs, "BoxSize")
    if z is not None:
        start = replace(start, a=Universe.of({"Redshift": z}).a)
    if start.a is None:
        raise InputError(
            "the initial conditions have no redshift: set initial.attrs['Redshift'] or give "
            "initial_redshift (0 if they are extrapolated to today)"
        )
    return start


def _on_blocks(field, domain):
    """A distributed mesh on a rank's padded block, (1, X, Y, Z) float32. Collective."""
    axes = [np.arange(s, s + n) for s, n in zip(field.start, field.shape, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.asarray(field.value, dtype="f4").reshape(-1, 1)
    return domain.exchange(cells, values)


@torch.inference_mode()
def _evaluate(network, lr, initial, device):
    """The HR density of a chunk from its padded fields (1, ...), (2n, 2n, 2n) float32."""
    lr, initial = (
        torch.from_numpy(np.ascontiguousarray(x))[None].to(device) for x in (lr, initial)
    )
    with one_thread():
        return network(lr, initial)[0, 0].float().cpu().numpy()


class _SlabWriter:
    """Puts chunks into a distributed pmesh field, wherever its cells are."""

    def __init__(self, field):
        self.field, self.comm = field, field.pm.comm
        self.slabs = self.comm.allgather((np.array(field.start), np.array(field.shape)))

    def write(self, start, values):
        """Write a cuboid (X, Y, Z) of cells from global cell `start` on; None for nothing.

        Collective.
        """
        pieces = [None] * self.comm.size
        if values is not None:
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
