"""Every halo of a catalogue: centres, velocities, spherical-overdensity masses, walls that cut it."""

from dataclasses import replace

import numpy as np

from ..physics.universe import Universe
from .centres import centre_particles
from .fields import nearest_image, selected
from .halos import deal, find_halos
from .overdensity import spheres, threshold_densities
from .walls import cut_halos


def find_groups(catalog, linking_length=0.2, nmin=32, times=None) -> tuple[dict, dict]:
    """Friends-of-friends groups and their particles, largest group first. Collective.

    Parameters
    ----------
    catalog : CatalogSource
        As for `find_halos`, and in attrs Time or Redshift.
    linking_length : float
        In mean separations.
    nmin : int
        The fewest particles of a group, inclusive.
    times : callable, optional
        Scale factors at which groups with these centres, (n, 3), are seen, where they are several.

    Returns
    -------
    groups : dict of arrays
        This rank's share, consecutive over the ranks: GroupID, from 1; Length; Mass [Msun/h];
        MassCenter, the centre of mass, and Center, the particle of `centre_particles`, (n, 3)
        comoving [Mpc/h]; Mass200m, Mass200c, MassVir, of `spheres` about Center [Msun/h]; with
        Velocity also MassCenterVelocity and CenterVelocity, that particle's, peculiar [km/s]; with
        ID also MinID; of a part of a box, where it can be told, Cut, of `cut_halos`. Masses stand
        for all matter.
    particles : dict of arrays
        Particles of these groups, one group after the other: Position, GroupID, and where the
        catalogue has them Velocity and ID.
    """
    universe = Universe.of(catalog.attrs, "BoxSize", "Omega0", *([] if times else ["a"]))
    comm, box, catalog = catalog.comm, universe.BoxSize, selected(catalog)
    halos = find_halos(catalog, linking_length, nmin)
    particles = halos.particles
    count, start, halo = halos.count, halos.first, halos.owner
    offset = nearest_image(particles["Position"] - particles["Position"][start][halo], box)
    centre = centre_particles(halos)
    groups = {
        "GroupID": halos.index + 1,
        "Length": count,
        "Mass": count * halos.particle_mass,
        "MassCenter": (particles["Position"][start] + halos.means(offset)) % box,
        "Center": particles["Position"][centre] % box,
    }
    if "Velocity" in particles:
        groups["MassCenterVelocity"] = halos.means(particles["Velocity"])
        groups["CenterVelocity"] = particles["Velocity"][centre]
    if "ID" in particles:
        groups["MinID"] = np.minimum.reduceat(particles["ID"], start) if len(start) else start
    moments = times(groups["Center"]) if times else [universe.a]
    thresholds = [list(threshold_densities(replace(universe, a=a)).values()) for a in moments]
    masses, _ = spheres(halos, catalog, groups["Center"], np.reshape(thresholds, (-1, 3)))
    for name, mass in zip(("Mass200m", "Mass200c", "MassVir"), masses.T, strict=True):
        groups[name] = mass
    cut = cut_halos(halos, catalog) if halos.attrs["share"] < 1 else None
    if cut is not None:
        groups["Cut"] = cut[halos.index]
    number = max(len(halos.length), 1)
    particles["GroupID"] = groups["GroupID"][halo]
    return _in_order(groups, number, comm), _in_order(particles, number, comm)


def _in_order(columns, number, comm):
    """Rows by GroupID, consecutive over the ranks, each group whole on one."""
    target = (columns["GroupID"] - 1) * comm.size // number
    columns = {name: deal(values, target, comm) for name, values in columns.items()}
    order = np.argsort(columns["GroupID"], kind="stable")
    return {name: values[order] for name, values in columns.items()}
