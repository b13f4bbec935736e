"""Spherical-overdensity masses of halos, by a kd-tree of all particles."""

import numpy as np
from mpi4py import MPI
from pmesh.domain import GridND
from scipy.spatial import cKDTree

from ..lattice import wrap
from ..physics.universe import RHO_CRITICAL, Universe
from .fields import nearest_image, read

# So few particles do not tell where a sphere gets thinner
CORE = 16

# Spheres are looked for up to so many radii of the largest sphere expected
WIDEST = 2.0


def virial_overdensity(Omega_m) -> float:
    """Density of a virialised sphere in critical ones (Bryan & Norman 1998, Eq. 6).

    Omega_m is the matter density parameter at the redshift in question, of a flat universe.
    """
    x = Omega_m - 1
    return 18 * np.pi**2 + 82 * x - 39 * x**2


def threshold_densities(universe: Universe) -> dict[str, float]:
    """Densities that define M200m, M200c and Mvir, by "200m" ... [Msun/h / (comoving Mpc/h)^3]."""
    matter, critical = universe.Omega0 * RHO_CRITICAL, universe.critical_density
    virial = virial_overdensity(matter / critical)
    return {"200m": 200 * matter, "200c": 200 * critical, "vir": virial * critical}


def spheres(halos, catalog, centre, densities) -> tuple[np.ndarray, np.ndarray]:
    """Masses of the spheres about centres of halos whose mean density is each of `densities`.

    From the innermost `CORE` particles outwards, a sphere ends where it first gets thinner than
    that; where these are thinner already, further in. All particles count, whatever halo they are
    in. Collective.

    Parameters
    ----------
    halos : Halos
    catalog : CatalogSource
        That of the halos.
    centre : (h, 3) array
        Of this rank's halos, comoving [Mpc/h].
    densities : (d,) or (h, d) array
        The same for all halos, or those of each [Msun/h / (comoving Mpc/h)^3].

    Returns
    -------
    mass : (h, d) float64
        [Msun/h]; NaN where a sphere would be wider than twice that of the largest halo.
    half : (h, d) float64
        Radius that holds half of it, comoving [Mpc/h].
    """
    comm, box = catalog.comm, halos.attrs["BoxSize"]
    densities = np.asarray(densities, dtype="f8")
    densities = np.broadcast_to(densities, (len(centre), densities.shape[-1]))
    expected = _radius(halos.mass[halos.index], densities.min(axis=1))
    largest = comm.allreduce(float(expected.max(initial=0)), op=MPI.MAX)
    limit = min(WIDEST * largest, 0.49 * box)
    # not GridND.uniform, which knows no boxes below 1
    grid = GridND([np.linspace(0, box, comm.size + 1), [0, box], [0, box]], comm=comm)
    position = read(catalog, "Position")
    nearby = wrap(grid.decompose(position, smoothing=limit).exchange(position).astype("f8"), box)
    tree = cKDTree(
        nearby, boxsize=box, compact_nodes=False, balanced_tree=False
    )  # built once, fast
    route = grid.decompose(centre, smoothing=0)
    found = [
        _masses(tree, where, halos.particle_mass, dense, radius, limit)
        for where, dense, radius in zip(*map(route.exchange, (centre, densities, expected)))
    ]
    found = route.gather(np.reshape(found, (-1, 2 * densities.shape[1])), mode="any")
    mass, half = np.split(found, 2, axis=1)
    return mass, half


def _masses(tree, centre, particle_mass, densities, radius, limit):
    while True:
        radius = min(1.3 * radius, limit)
        away = tree.data[tree.query_ball_point(centre, radius)] - centre
        away = nearest_image(away, tree.boxsize[:3])
        distance = np.sort(np.linalg.norm(away, axis=1))
        number = np.arange(1, len(distance) + 1)
        dense = distance <= _radius(number * particle_mass, densities[:, None])
        count = np.array([_edge(row) for row in dense])
        if (count <= len(distance)).all() or radius == limit:
            half = distance[np.minimum(count + 1, len(distance)) // 2 - 1]
            return np.where(count <= len(distance), [count * particle_mass, half], np.nan)


def _edge(dense):
    """Particles in a sphere, from whether each sphere that ends at a particle is dense enough.

    One more than there are where the last one still is.
    """
    if len(dense) >= CORE and not dense[CORE - 1]:
        return int(np.flatnonzero(dense[:CORE])[-1]) + 1
    thin = np.flatnonzero(~dense[CORE:])
    return CORE + int(thin[0]) if len(thin) else len(dense) + 1


def _radius(mass, density):
    """Of a sphere of this mass and mean density."""
    return np.cbrt(3 * mass / (4 * np.pi * density))
