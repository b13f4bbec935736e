"""Halos of a light cone: linked without periodic walls, and seen each at its own time."""

import numpy as np

from ..errors import InputError
from ..io.halos import MARGIN
from ..lightcone.cone import Cone
from ..physics.distance import Expansion, observed
from ..physics.matter import mean_separation
from ..physics.universe import RHO_CRITICAL, Universe
from .fields import batches
from .groups import find_groups


def find_cone_groups(catalog, linking_length=0.2, nmin=32) -> tuple[dict, dict]:
    """Friends-of-friends groups of a light cone and their particles. Collective.

    The linking length is comoving, in mean separations of the lattice on which the particles were
    made. Particles of a group are seen at slightly different times, as its light crosses it.

    Parameters
    ----------
    catalog : CatalogSource
        A cone, of `open_cone` or `SRLightCone`.
    linking_length : float
        In mean separations.
    nmin : int
        The fewest particles of a group, inclusive.

    Returns
    -------
    groups, particles : dict of arrays
        Those of `find_groups`, positions from the observer, Mass200c and MassVir by the densities of
        the time at which the group is seen. And of each group Aemit, that time; RA, DEC [deg],
        Redshift and with velocities RedshiftObserved of its Center; Cut, whether it may go on
        beyond the cone: a particle of it is within a linking length of an edge, or its centre within
        the radius of Mass200m.

    Raises
    ------
    InputError
        On every rank: no particles, no light cone, particles of several weights.
    """
    cone, universe = Cone.of(catalog.attrs), Universe.of(catalog.attrs, "Omega0")
    if not catalog.csize:
        raise InputError("the cone has no particles: none can be linked")
    if "ParticleMass" not in catalog.attrs:
        raise InputError(
            "ParticleMass is absent from the cone's attributes: open it with open_cone"
        )
    expansion = Expansion.of(universe, cone.times[0])
    far, near = expansion.distance(np.array(cone.times)).tolist()
    cube, corner = _in_cube(catalog, linking_length)
    reach = linking_length * mean_separation(cube.attrs, cube.csize)

    def times(place):
        return expansion.scale_factor(np.linalg.norm(place + corner, axis=1))

    groups, particles = find_groups(cube, linking_length, nmin, times)
    for columns, name in ((groups, "Center"), (groups, "MassCenter"), (particles, "Position")):
        columns[name] = columns[name] + corner
    groups["Aemit"] = expansion.scale_factor(np.linalg.norm(groups["Center"], axis=1))
    groups |= observed(groups["Center"], groups["Aemit"], groups.get("MassCenterVelocity"))
    groups["Cut"] = _cut(groups, particles, lambda place: cone.depth(place, near, far), reach)
    radius = np.cbrt(groups["Mass200m"] * 3 / (800 * np.pi * universe.Omega0 * RHO_CRITICAL))
    groups["Cut"] |= cone.depth(groups["Center"], near, far) < radius
    return groups, particles


def _cut(groups, particles, depth, reach):
    """Whether a particle of each group is so near to an edge of the cone."""
    first = np.cumsum(groups["Length"]) - groups["Length"]
    depths = depth(particles["Position"])
    return (np.minimum.reduceat(depths, first) if len(first) else depths) < reach


def _in_cube(catalog, linking_length):
    """The particles in a periodic cube whose walls nothing reaches, and its corner, (3,) [Mpc/h]."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for (position,) in batches(catalog, "Position"):
        low = np.minimum(low, position.min(axis=0))
        high = np.maximum(high, position.max(axis=0))
    low = np.min(catalog.comm.allgather(low), axis=0)
    high = np.max(catalog.comm.allgather(high), axis=0)
    attrs = {**Universe.of(catalog.attrs).attrs, "ParticleMass": catalog.attrs["ParticleMass"]}
    cube = catalog.copy()
    cube.attrs.clear()
    cube.attrs.update(attrs | {"BoxSize": np.ones(3)})
    margin = MARGIN + linking_length * mean_separation(cube.attrs, cube.csize)
    side = float((high - low).max()) + 2 * margin
    cube.attrs["BoxSize"] = np.full(3, side)
    cube["Position"] = catalog["Position"] - (low - margin)
    return cube, low - margin
