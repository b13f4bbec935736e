"""An HR density painted from SR particles of the user's own initial conditions, chunk by chunk.

Cloud-in-cell as `painting.paint` has it: of positions rounded to 1/4096 cell the weights are whole
numbers of 4096^-3, and sums of integers are the same in any order, on any number of ranks.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
from jaxtyping import Float, Float32, Int64
from nbodykit.base.catalog import CatalogSource
from nbodykit.lab import ArrayCatalog
from pmesh.domain import Layout

from ..catalog import SRCatalog
from ..chunks import Chunk, ChunkGrid
from ..errors import InputError, agreement
from ..io.writer import WrongValues
from ..lattice import LagrangianLattice, cuboid
from ..particles import find_lattice
from ..preparation import AUTO
from ..provenance import Provenance
from .painting import FRACTION, HR_ORIGIN, mesh_size, shifted
from .writer import PaintedWriter

DEFAULT_MODEL = "phases"

# Particles painted at a time: float64 adds as many weights of up to FRACTION**3 without rounding
_AT_A_TIME = 2**16

# An overdensity on a mesh becomes particles of this part of LR's scale factor
_EARLY = 0.1


class ParticleDensity:
    """The density of an `SRCatalog` whose particles are not kept; one way of `SRMesh`.

    Parameters
    ----------
    inputs : Inputs
    model, device, dtype, chunk, factor
        See `SRMesh`.

    Attributes
    ----------
    sr : SRCatalog
    card : ModelCard
    device : torch.device
    chunk : int
        Side of a chunk [LR sites].
    provenance : Provenance
    """

    def __init__(self, inputs, model=None, device="auto", dtype=AUTO, chunk=None, factor=2):
        self.comm, self.box, self.Nmesh = inputs.comm, inputs.universe.BoxSize, 2 * inputs.Nmesh
        with agreement(self.comm):
            if not isinstance(inputs.lr, CatalogSource):
                raise InputError(
                    "LR is a mesh of its density, and particles are made from particles: give its "
                    "snapshot, or make the density by the network"
                )
        inputs.fields()  # they are held against each other
        self.sr = sr = SRCatalog(
            inputs.lr,
            model=model or DEFAULT_MODEL,
            device=device,
            dtype=dtype,
            chunk=chunk,
            factor=factor,
            force=inputs.force,
            phases=_initial_particles(inputs),
        )
        self.card, self.device, self.chunk = sr.card, sr.inference.device, sr.grid.side
        made = Provenance.from_attrs(sr.attrs)
        names = (
            "seed",
            "model",
            "model_hash",
            "card",
            "factor",
            "chunk",
            "dtype",
            "power",
            "versions",
        )
        self.provenance = Provenance(
            origin=HR_ORIGIN, **{name: getattr(made, name) for name in names}
        )

    def prepare(self) -> tuple[list[Chunk], Callable]:
        """This rank's chunks of the LR lattice, and a function: ``compute(chunks)`` yields (chunk, `painted`
        particles) for each of them."""

        def compute(chunks):
            for chunk, columns in self.sr.stream(chunks):
                position = columns["Position"]
                if not np.isfinite(position).all():
                    raise WrongValues(f"chunk {chunk.index} has positions that are not finite")
                yield chunk, painted(position, self.box, self.Nmesh)

        return self.sr.chunks, compute

    def writer(self, path, header, identity) -> PaintedWriter:
        """The writer of the density's chunks to a file."""
        layers = ChunkGrid(self.Nmesh, min(2 * self.chunk, self.Nmesh))
        chunks = int(np.prod(self.sr.grid.counts))
        return PaintedWriter(path, self.comm, layers, header, identity, chunks, self.density)

    def gather(self, field) -> "_Sum":
        """The object whose `add` adds chunks up in a distributed field. Collective."""
        return _Sum(field, self.density)

    def density(self, total: Int64[np.ndarray, "*cells"]) -> Float32[np.ndarray, "*cells"]:
        """1 + delta from the sums of `painted` over all chunks."""
        mean = self.sr.csize / self.Nmesh**3
        return (total / FRACTION**3 / mean).astype("f4")


def painted(position: Float[np.ndarray, "n 3"], BoxSize, Nmesh) -> Int64[np.ndarray, "m 2"]:
    """Paint particles on a mesh by cloud-in-cell, with weights that are whole numbers.

    Positions are comoving [Mpc/h], finite; the first of the Nmesh cells a side has its point in the corner
    of the box. Gives flat numbers of the cells that are reached, rising, and their weights [FRACTION**-3
    particles].
    """
    at = np.rint(position.T.astype("f8") * (Nmesh / BoxSize) * FRACTION).astype("i8")
    at %= Nmesh * FRACTION
    node, along = at // FRACTION, (at % FRACTION).astype("f8")
    # in a cuboid around the first of them, across the edges of the box
    middle = node[:, :1] - Nmesh // 2
    node = (node - middle) % Nmesh
    low = node.min(axis=1, keepdims=True)
    shape = tuple(np.ptp(node, axis=1) + 2)
    first, steps = np.ravel_multi_index(node - low, shape), (shape[1] * shape[2], shape[2], 1)
    total = np.zeros(np.prod(shape), dtype="i8")
    for start in range(0, len(position), _AT_A_TIME):
        some = slice(start, start + _AT_A_TIME)
        shares, part = np.stack([FRACTION - along[:, some], along[:, some]]), np.zeros(len(total))
        for corner in product((0, 1), repeat=3):
            x, y, z = (shares[up, axis] for axis, up in enumerate(corner))
            part += np.bincount(first[some] + np.dot(corner, steps), x * y * z, len(total))
        total += part.astype("i8")
    filled = np.flatnonzero(total)
    cell = (np.stack(np.unravel_index(filled, shape)) + low + middle) % Nmesh
    cell, where = np.unique(np.ravel_multi_index(cell, 3 * (Nmesh,)), return_inverse=True)
    out = np.zeros((len(cell), 2), dtype="i8")
    out[:, 0] = cell
    np.add.at(out[:, 1], where, total[filled])
    return out


def _initial_particles(inputs):
    """The initial conditions as particles displaced from a lattice, with their redshift. Collective."""
    initial, start = inputs.initial, inputs.start
    if not isinstance(initial, CatalogSource):
        return _displaced(inputs)
    dated = initial.copy()
    dated.attrs.update(Time=start.a, Redshift=start.redshift)
    return dated


def _displaced(inputs):
    """Particles of linear theory that have the overdensity of a mesh, at an early time. Collective."""
    M, box = mesh_size(inputs.initial), inputs.universe.BoxSize
    early = replace(inputs.universe, a=_EARLY * inputs.universe.a)
    growth = early.growth / replace(early, a=inputs.start.a).growth
    # sites as SR's are, see `OwnPhases`
    coarse = find_lattice(inputs.lr).lattice
    with agreement(inputs.comm):
        if M % coarse.Nmesh:
            raise InputError(
                f"the initial conditions have {M} cells a side and LR {coarse.Nmesh}^3 particles: a "
                "power of two times as many a side are needed"
            )
    lattice = LagrangianLattice(M, box, coarse.refine(M // coarse.Nmesh).offset % 1)
    modes = inputs.initial.compute(mode="complex")
    modes = modes.apply(shifted(lattice.offset), kind="circular")
    moved = []
    for axis in range(3):

        def displacement(w, v, axis=axis):
            square = sum(wi**2 for wi in w)
            return v * (1j * w[axis] / np.where(square == 0, 1, square)) * growth * lattice.cell

        moved.append(modes.apply(displacement, kind="circular").c2r())
    site = cuboid(moved[0].start, moved[0].shape)
    moved = np.stack([np.asarray(one.value).ravel() for one in moved], axis=1)
    columns = {"Position": lattice.position(site, moved), "ID": lattice.id(site)}
    particles = ArrayCatalog(columns, comm=inputs.comm)
    universe = replace(inputs.start, a=early.a, Omega0=inputs.start.Omega0 or early.Omega0)
    particles.attrs.update(universe.attrs)
    return particles


class _Sum:
    """Adds up `painted` chunks in a distributed pmesh field, on whichever rank a cell lies."""

    def __init__(self, field, density):
        self.field, self.comm, self.density = field, field.pm.comm, density
        self.Nmesh = int(field.Nmesh[0])
        self.total = np.zeros(field.shape, dtype="i8")
        self.owner = np.empty((self.Nmesh, self.Nmesh), dtype="i4")  # of columns along z
        for rank, where in enumerate(self.comm.allgather(field.slices[:2])):
            self.owner[where] = rank

    def add(self, chunk, rows):
        """Add a `painted` chunk, or nothing for None. Collective."""
        rows = np.zeros((0, 2), dtype="i8") if chunk is None else rows
        owner = self.owner.reshape(-1)[rows[:, 0] // self.Nmesh]
        counts = np.bincount(owner, minlength=self.comm.size).astype("i4")
        layout = Layout(self.comm, len(rows), counts, np.argsort(owner, kind="stable"))
        cell, part = layout.exchange(rows).T
        local = np.unravel_index(cell, 3 * (self.Nmesh,))
        np.add.at(self.total, tuple(x - s for x, s in zip(local, self.field.start)), part)

    def finish(self):
        """Put the density into the field; gives its mean."""
        self.field[...] = self.density(self.total)
        return 1.0
