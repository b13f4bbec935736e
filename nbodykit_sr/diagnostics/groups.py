"""Every halo of a catalogue: centre of mass, densest particle, spherical-overdensity masses."""

import numpy as np
from scipy.spatial import cKDTree

from ..universe import Universe
from .fields import read
from .halos import deal, find_halos
from .overdensity import spherical_masses, threshold_densities

# The density of a particle is told by the distance of so many neighbours, itself included
NEIGHBOURS = 16


def find_groups(catalog, linking_length=0.2, nmin=32) -> tuple[dict, dict]:
    """Friends-of-friends groups and their particles, largest group first. Collective.

    Parameters
    ----------
    catalog : CatalogSource
        With Position, and in attrs BoxSize, Time or Redshift, Omega0.
    linking_length : float
        In mean separations.
    nmin : int
        The fewest particles of a group, inclusive.

    Returns
    -------
    groups : dict of arrays
        This rank's share, consecutive over the ranks: GroupID, from 1; Length; Mass [Msun/h];
        MassCenter, the centre of mass, and Center, the densest particle, (n, 3) comoving [Mpc/h];
        Mass200m, Mass200c, MassVir, of spheres about Center [Msun/h] (see `spherical_masses`); with
        Velocity also MassCenterVelocity and CenterVelocity, the densest particle's, peculiar [km/s];
        with ID also MinID. Masses stand for all matter.
    members : dict of arrays
        Particles of these groups, one group after the other: Position, GroupID, and where the
        catalogue has them Velocity and ID.
    """
    universe = Universe.of(catalog.attrs, "BoxSize", "a", "Omega0")
    comm, box = catalog.comm, universe.BoxSize
    halos = find_halos(catalog, linking_length, nmin)
    members = halos.members
    count = halos.length[halos.index]
    start = np.cumsum(count) - count
    halo = np.repeat(np.arange(len(count)), count)
    offset = members["Position"] - members["Position"][start][halo]
    offset -= box * np.rint(offset / box)
    densest = start + np.array(
        [_densest(offset[i : i + n]) for i, n in zip(start, count, strict=True)], dtype="i8"
    )
    groups = {
        "GroupID": halos.index + 1,
        "Length": count,
        "Mass": count * halos.particle_mass,
        "MassCenter": (members["Position"][start] + _means(offset, halo, count)) % box,
        "Center": members["Position"][densest] % box,
    }
    if "Velocity" in members:
        groups["MassCenterVelocity"] = _means(members["Velocity"], halo, count)
        groups["CenterVelocity"] = members["Velocity"][densest]
    if "ID" in members:
        groups["MinID"] = np.minimum.reduceat(members["ID"], start) if len(start) else start
    thresholds = threshold_densities(universe)
    spheres = spherical_masses(
        read(catalog, "Position"),
        box,
        comm,
        halos.particle_mass,
        groups["Center"],
        groups["Mass"],
        list(thresholds.values()),
    )
    for name, mass in zip(("Mass200m", "Mass200c", "MassVir"), spheres.T, strict=True):
        groups[name] = mass
    number = max(len(halos.length), 1)
    members["GroupID"] = groups["GroupID"][halo]
    return _in_order(groups, number, comm), _in_order(members, number, comm)


def _densest(offset):
    """Which particle of a halo has its neighbours nearest."""
    neighbour = min(NEIGHBOURS, max(len(offset) // 2, 2))
    distance, _ = cKDTree(offset).query(offset, k=[neighbour])
    return int(np.argmin(distance))


def _means(values, halo, count):
    """Mean over the particles of each halo, (n, 3) float64."""
    sums = [np.bincount(halo, values[:, axis], minlength=len(count)) for axis in range(3)]
    return np.stack(sums, axis=1) / count[:, None]


def _in_order(columns, number, comm):
    """Rows by GroupID, consecutive over the ranks, each group whole on one."""
    target = (columns["GroupID"] - 1) * comm.size // number
    columns = {name: deal(values, target, comm) for name, values in columns.items()}
    order = np.argsort(columns["GroupID"], kind="stable")
    return {name: values[order] for name, values in columns.items()}
