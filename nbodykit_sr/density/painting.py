"""The input fields of the density emulator: LR density and HR initial conditions on their meshes.

An LR cell covers eight HR cells, so for the network the points of the LR mesh lie in the middle
of eight points of the HR mesh. nbodykit paints a mesh of any Nmesh with its first point in the
corner of the box; the LR density is therefore painted with its points a quarter of an LR cell up.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource
from nbodykit.base.mesh import MeshSource
from nbodykit.lab import ArrayCatalog
from pmesh.pm import ParticleMesh, RealField

from ..errors import InputError, agreement
from ..lattice import cube_root
from ..particles import find_lattice, read_columns
from ..physics.matter import require_whole
from ..physics.universe import Universe

logger = logging.getLogger(__name__)

# First points of the meshes, in cells of their own
LR_ORIGIN, HR_ORIGIN = 0.25, 0.0

# Positions are rounded to this part of a cell before they are painted. Cloud-in-cell weights are
# then sums of powers of two that float64 adds without rounding, in any order: a density does not
# depend on how many ranks painted it.
FRACTION = 2**12

_MEAN_TOLERANCE = 1e-3

# Runs from the same phases agree better than this on the largest scales; of other phases, worse
_MATCHED = 0.3


@dataclass(frozen=True)
class Inputs:
    """LR and initial conditions that a density is emulated from, checked to fit together."""

    lr: CatalogSource | MeshSource  # see `SRMesh`
    initial: CatalogSource | MeshSource
    universe: Universe  # box, time and cosmology of LR
    start: Universe  # those of the initial conditions
    Nmesh: int  # LR cells a side; the HR mesh has twice as many
    force: bool  # warn, instead of raising, where they disagree

    @classmethod
    def of(cls, lr, initial, Nmesh=None, initial_redshift=None, force=False) -> "Inputs":
        """Read the attributes of LR and initial conditions. Not collective.

        Raises
        ------
        InputError
            A redshift or box is missing, or the two do not fit together.
        """
        universe = Universe.of(lr.attrs, "BoxSize", "a", "Omega0")
        start = _start(initial.attrs, initial_redshift)
        box, other = universe.BoxSize, start.BoxSize
        if abs(other / box - 1) > 1e-6:
            raise InputError(
                f"BoxSize of LR is {box:g} Mpc/h, of the initial conditions {other:g} Mpc/h: both "
                "must be of one box"
            )
        if isinstance(lr, CatalogSource):
            N = Nmesh or mesh_size(lr)
        else:
            N = mesh_size(lr)
            if Nmesh not in (None, N):
                raise InputError(
                    f"Nmesh is {Nmesh} but the LR mesh has {N} cells a side: leave it out"
                )
        return cls(lr, initial, universe, start, N, force)

    @property
    def comm(self) -> MPI.Comm:
        """Communicator that shares LR and initial conditions."""
        return self.lr.comm

    @property
    def cell(self) -> float:
        """LR cell, comoving [Mpc/h]."""
        return self.universe.BoxSize / self.Nmesh

    def fields(self, kmin=0.0) -> tuple[RealField, RealField]:
        """LR density and linear overdensity, which has the initial conditions' cells. Collective.

        Modes of wavenumber below `kmin` [h/Mpc] are taken out of the latter. InputError on every rank: fields
        that are no densities, or of other phases.
        """
        lr, origin = lr_density(self.lr, self.Nmesh)
        Nmesh = mesh_size(self.initial)
        growth = replace(self.universe, a=self.start.a).without_radiation.growth
        kmin *= self.universe.BoxSize / Nmesh
        initial = initial_overdensity(self.initial, Nmesh, growth, origin, kmin)
        if not kmin:
            r = correlation(lr, initial)
            if not r > _MATCHED:
                self.object(
                    f"LR density and initial conditions correlate by {r:.2f} on the largest "
                    f"scales, at least {_MATCHED} is wanted: start both runs from the same phases"
                )
        return lr, initial

    def object(self, problem) -> None:
        """Raise InputError for a disagreement, or warn of it if `force` is set."""
        if not self.force:
            raise InputError(f"{problem}; or force it")
        if self.comm.rank == 0:
            logger.warning("%s: going on as forced", problem)


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


def mesh_size(source) -> int:
    """Cells a side of a mesh, or of the mesh with a cell for each particle of a catalogue."""
    if isinstance(source, CatalogSource):
        return cube_root(source.csize)
    Nmesh = np.ravel(source.attrs["Nmesh"]).astype(int)
    if len(Nmesh) != 3 or (Nmesh != Nmesh[0]).any():
        raise InputError(f"Nmesh is {Nmesh.tolist()}: three equal numbers of cells are needed")
    return int(Nmesh[0])


def paint(catalog, Nmesh, origin=HR_ORIGIN) -> RealField:
    """Density of a catalogue by nbodykit's cloud-in-cell, the same for any number of ranks.

    Collective. Positions are rounded to 1/4096 cell, see the module's source.

    Parameters
    ----------
    catalog : nbodykit CatalogSource
        With Position and attrs["BoxSize"], comoving [Mpc/h].
    Nmesh : int
        Cells a side.
    origin : float
        Where the mesh's first point lies, in cells; nbodykit's own is 0.

    Returns
    -------
    pmesh.pm.RealField
        1 + delta, mean one, float64.
    """
    comm = catalog.comm
    with agreement(comm):
        require_whole(catalog.attrs, catalog.csize)
        if "Position" not in catalog.columns:
            raise InputError("the catalogue has no Position: a density cannot be painted")
        position = read_columns(catalog, "Position")[0].astype("f8")
        box = Universe.of(catalog.attrs, "BoxSize").BoxSize
        if len(position) and (abs(position - box / 2) > 1.5 * box).any():
            raise InputError(
                f"Position runs from {position.min():g} to {position.max():g} Mpc/h in a box of "
                f"{box:g} Mpc/h: check the units of the catalogue"
            )
        cells = position * (Nmesh / box) - origin
        cells = np.rint(cells * FRACTION) / FRACTION % Nmesh
    rounded = ArrayCatalog({"Position": cells}, BoxSize=np.full(3, float(Nmesh)), comm=comm)
    field = rounded.to_mesh(Nmesh=Nmesh, resampler="cic", dtype="f8").to_real_field()
    return _in_box(field, box)


def lr_density(source, Nmesh) -> tuple[RealField, float]:
    """LR density 1 + delta, checked. Collective.

    Parameters
    ----------
    source : nbodykit CatalogSource or MeshSource
        A catalogue is painted with `LR_ORIGIN`. A mesh is taken as it is, its first point in the
        corner of the box.
    Nmesh : int
        LR cells a side.

    Returns
    -------
    field : pmesh.pm.RealField
    origin : float
        First point of the HR mesh that goes with it, in HR cells: 0, or -0.5 for a mesh.

    Raises
    ------
    InputError
        On every rank: negative, not finite, or a mean other than one.
    """
    if isinstance(source, CatalogSource):
        return paint(source, Nmesh, LR_ORIGIN), HR_ORIGIN
    field = source.compute(mode="real")
    comm = field.pm.comm
    with agreement(comm):
        values = np.asarray(field.value)
        _check_finite("the LR density", values)
        if values.size and values.min() < 0:
            raise InputError(
                f"the LR density has {(values < 0).sum()} negative cells, the lowest "
                f"{values.min():g}: give 1 + delta painted without compensation"
            )
    mean = field.cmean()
    if abs(mean - 1) > _MEAN_TOLERANCE:
        raise InputError(f"the mean LR density is {mean:g}: give 1 + delta, of mean one")
    return field, -0.5


def initial_overdensity(source, Nmesh, growth, origin=HR_ORIGIN, kmin=0.0) -> RealField:
    """Linear overdensity of the initial conditions, extrapolated to z = 0. Collective.

    Parameters
    ----------
    source : nbodykit MeshSource or CatalogSource
        A mesh holds the overdensity delta or 1 + delta, its first point in the corner of the
        box. Of a snapshot's catalogue, whose particles must come from a lattice, the overdensity
        is minus the divergence of the displacement.
    Nmesh : int
        HR cells a side.
    growth : float
        Growth factor at the redshift of `source`, 1 at z = 0.
    origin : float
        Where the first point is wanted, in cells.
    kmin : float
        Modes of smaller wavenumber [radians per cell] are taken out.

    Raises
    ------
    InputError
        On every rank: not finite, not an overdensity, or of an amplitude that no universe has.
    """
    if isinstance(source, CatalogSource):
        field = _divergence(source, Nmesh, origin, kmin)
    else:
        field = source.compute(mode="real")
        with agreement(field.pm.comm):
            _check_finite("the initial overdensity", np.asarray(field.value))
        mean = field.cmean()
        nearest = round(mean)
        if nearest not in (0, 1) or abs(mean - nearest) > _MEAN_TOLERANCE:
            raise InputError(
                f"the mean of the initial conditions is {mean:g}: give a mesh of delta (mean zero) "
                "or 1 + delta (mean one)"
            )
        field[...] -= nearest
        if origin or kmin:
            field = field.r2c(out=Ellipsis)
            field = field.apply(shifted(origin, kmin), kind="circular", out=Ellipsis)
            field = field.c2r(out=Ellipsis)
    field[...] /= growth
    rms = float(np.sqrt((field**2).cmean()))
    if not 0.01 < rms < 100:
        raise InputError(
            f"the initial overdensity has rms {rms:.3g} when extrapolated to z = 0, of order one "
            "is wanted: check its redshift"
        )
    return field


def correlation(density, initial, side=4) -> float:
    """Correlation of two fields of one box, averaged over ``side**3`` parts of it. Collective."""
    one, other = (_average(field, side) for field in (density, initial))
    one, other = one - one.mean(), other - other.mean()
    total = np.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / total) if total > 0 else 0.0


def _average(field, side):
    """Means over the parts of the box, (side, side, side)."""
    parts = [
        np.arange(start, start + n) * side // N
        for start, n, N in zip(field.start, field.shape, field.Nmesh)
    ]
    total = np.zeros((side,) * 3)
    np.add.at(total, np.ix_(*parts), np.asarray(field.value))
    counts = [np.bincount(np.arange(N) * side // N, minlength=side) for N in field.Nmesh]
    return field.pm.comm.allreduce(total) / np.einsum("i,j,k", *counts)


def _divergence(catalog, Nmesh, origin, kmin):
    """Minus the divergence of the displacement of a catalogue, at the growth of its redshift."""
    particles = find_lattice(catalog)
    lattice = particles.lattice
    pm = ParticleMesh(Nmesh=[Nmesh] * 3, BoxSize=float(Nmesh), dtype="f8", comm=catalog.comm)
    site = particles.site.astype("f8")
    layout = pm.decompose(site)
    nodes = layout.exchange(site)
    total = 0.0
    for axis in range(3):
        # a particle on a point of the mesh gives all it has to that point: a plain assignment
        values = layout.exchange(
            np.ascontiguousarray(particles.displacement[:, axis]) / lattice.cell
        )
        field = pm.paint(nodes, mass=values, resampler="cic")

        def derivative(w, v, axis=axis):
            return v * (-1j * w[axis])

        total = total + field.r2c().apply(derivative, kind="circular", out=Ellipsis)
    shift = shifted(origin - lattice.offset, kmin)
    field = total.apply(shift, kind="circular", out=Ellipsis).c2r(out=Ellipsis)
    return _in_box(field, lattice.BoxSize)


def _in_box(field, BoxSize):
    """A field made in units of the cell as one of a box of BoxSize [Mpc/h]."""
    pm = ParticleMesh(field.Nmesh, BoxSize, dtype=field.pm.dtype, comm=field.pm.comm)
    out = pm.create(type="real")
    out[...] = field.value
    return out


def shifted(origin, kmin=0.0) -> Callable:
    """Filter of circular frequencies w: the field at points `origin` cells up, without |w| < kmin.

    The Nyquist planes, which cannot be shifted, are taken out.
    """

    def kernel(w, v):
        if origin:
            phase = 1.0
            for wi in w:
                phase = phase * np.where(abs(wi) < np.pi * (1 - 1e-9), np.exp(1j * origin * wi), 0)
            v = v * phase
        return v * (sum(wi**2 for wi in w) >= kmin**2)

    return kernel


def _check_finite(name, values):
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputError(f"{name} is not finite in {bad} cells: the mesh is damaged")
