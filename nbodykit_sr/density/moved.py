"""The initial conditions where their matter is now: moved with the particles of an LR run.

Matter moves some 6 to 10 Mpc/h until z = 0, and a network that sees 12 Mpc/h around a cell cannot know
which part of the initial conditions has come there. So each site of the HR lattice takes its linear
overdensity along LR's displacement, interpolated between the particles of LR, and is painted on HR's mesh.
"""

import numpy as np
from nbodykit.base.catalog import CatalogSource
from pmesh.pm import ParticleMesh, RealField

from ..catalog import SRCatalog
from ..errors import InputError, agreement
from .painting import mesh_size, shifted

# Smoothing lengths of the overdensities that are moved by default [HR cells]
LENGTHS = (0.0, 1.0, 2.0)

# Parts of a cell that positions are rounded to, and of one that overdensities are: sums of their
# products are exact in float64, in any order
_PLACE, _GRAIN = 2**10, 2**8


def moved_overdensity(lr, initial, lengths=LENGTHS, chunk=None) -> list[RealField]:
    """The linear overdensity moved with the particles of LR, smoothed on each of `lengths` before.

    Collective.

    Parameters
    ----------
    lr : nbodykit CatalogSource
        The evolved LR run, from a lattice.
    initial : pmesh.pm.RealField
        Linear overdensity on HR's mesh, its first point in the corner of the box.
    lengths : sequence of float
        Lengths of the Gaussians exp(-r^2 / 2 length^2) [HR cells].
    chunk : int, optional
        LR sites a side that are interpolated at a time: see `SRCatalog`.

    Returns
    -------
    list of pmesh.pm.RealField
        For each length the sum of the overdensities that come into a cell, of mean zero.

    Raises
    ------
    InputError
        On every rank: LR has no particles, or HR's mesh is no multiple of their lattice.
    """
    Nmesh = int(initial.Nmesh[0])
    with agreement(lr.comm):
        if not isinstance(lr, CatalogSource):
            raise InputError(
                "LR is a mesh of its density, and this model moves the initial conditions with LR's "
                "particles: give its snapshot, or choose another model, such as density_z0"
            )
        factor, rest = divmod(Nmesh, mesh_size(lr))
        if rest:
            raise InputError(
                f"HR's mesh has {Nmesh} cells a side and LR {mesh_size(lr)}^3 particles: this model "
                "wants a whole number of cells for each particle: leave Nmesh out, or choose another "
                "model, such as density_z0"
            )
    tracers = SRCatalog(lr, model="interpolate", factor=factor, chunk=chunk, dtype="float32")
    position, ids = tracers.compute(tracers["Position"], tracers["ID"])
    # in cells, so that what is rounded stays so
    pm = ParticleMesh(initial.Nmesh, float(Nmesh), dtype="f8", comm=lr.comm)
    place = np.rint(position.astype("f8") * (Nmesh * _PLACE / tracers.lattice.BoxSize)) / _PLACE
    site = tracers.lattice.site(ids).astype("f8")
    here, there = (pm.decompose(one, smoothing=1) for one in (place, site))
    field = pm.create(type="real")
    field[...] = initial.value
    modes, found = field.r2c(), []
    for length in lengths:

        def smooth(w, v, length=length):
            square = sum(wi**2 for wi in w)
            return shifted(tracers.lattice.offset)(w, v) * np.exp(-(length**2) * square / 2)

        smoothed = modes.apply(smooth, kind="circular").c2r()
        carried = smoothed.readout(site, resampler="nnb", layout=there)
        carried = np.rint(carried * _GRAIN) / _GRAIN
        found.append(pm.paint(place, mass=carried, resampler="cic", layout=here))
    return found
