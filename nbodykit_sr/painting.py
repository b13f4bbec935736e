"""The input fields of the density emulator: LR density and HR initial conditions on their meshes.

An LR cell covers eight HR cells, so for the network the points of the LR mesh lie in the middle
of eight points of the HR mesh. nbodykit paints a mesh of any Nmesh with its first point in the
corner of the box; the LR density is therefore painted with its points a quarter of an LR cell up.
"""

import numpy as np
from nbodykit.base.catalog import CatalogSource
from nbodykit.lab import ArrayCatalog
from pmesh.pm import ParticleMesh, RealField

from .errors import InputError, agreement
from .lattice import cube_root
from .particles import find_lattice, read_columns
from .universe import Universe

# First points of the meshes, in cells of their own
LR_ORIGIN, HR_ORIGIN = 0.25, 0.0

# Positions are rounded to this part of a cell before they are painted. Cloud-in-cell weights are
# then sums of powers of two that float64 adds without rounding, in any order: a density does not
# depend on how many ranks painted it.
_FRACTION = 2**12

_MEAN_TOLERANCE = 1e-3


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
        cells = np.rint(cells * _FRACTION) / _FRACTION % Nmesh
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

    Returns
    -------
    pmesh.pm.RealField

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
            field = field.apply(_shift(origin, kmin), kind="circular", out=Ellipsis)
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
    """Correlation coefficient of two fields averaged over ``side**3`` parts of the box. Collective.

    Parameters
    ----------
    density, initial : pmesh.pm.RealField
        On meshes of the same box, of any Nmesh.
    """
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
    shift = _shift(origin - lattice.offset, kmin)
    field = total.apply(shift, kind="circular", out=Ellipsis).c2r(out=Ellipsis)
    return _in_box(field, lattice.BoxSize)


def _in_box(field, BoxSize):
    """A field made in units of the cell as one of a box of BoxSize [Mpc/h]."""
    pm = ParticleMesh(field.Nmesh, BoxSize, dtype=field.pm.dtype, comm=field.pm.comm)
    out = pm.create(type="real")
    out[...] = field.value
    return out


def _shift(origin, kmin):
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
