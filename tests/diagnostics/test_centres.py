"""Centres of halos: minima of the potential, against sums over all pairs; and what is about them."""

from dataclasses import replace

import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog
from scipy.spatial.distance import cdist

from nbodykit_sr import open_snapshot
from nbodykit_sr.diagnostics import find_halos, halo_table, suite
from nbodykit_sr.diagnostics.centres import MANY, SOFTENING, centre_particles, deepest
from nbodykit_sr.diagnostics.groups import find_groups
from nbodykit_sr.diagnostics.overdensity import threshold_densities
from nbodykit_sr.diagnostics.results import Settings
from nbodykit_sr.physics.universe import Universe

pytestmark = pytest.mark.mpi

BOX, MAIN = 10.0, 4000


def bridged(comm):
    """A halo of a flat core across the corner of the box, and a denser clump a bridge away from it."""
    rng = np.random.default_rng(2)
    direction = rng.normal(size=(MAIN, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    main = direction * 0.6 * rng.uniform(size=(MAIN, 1)) ** 0.6
    bridge = np.linspace(0, 1.5, 60)[:, None] * [1.0, 0, 0] + rng.normal(0, 0.01, (60, 3))
    clump = [1.5, 0, 0] + rng.normal(0, 0.015, (300, 3))
    position = rng.permutation(np.concatenate([main, bridge, clump])) % BOX
    density = Universe(a=1.0, Omega0=0.3).critical_density
    mass = 300 * density * 4 * np.pi / 3 * 0.6**3 / MAIN
    attrs = {"BoxSize": [BOX] * 3, "Omega0": 0.3, "Redshift": 0.0, "ParticleMass": mass / 1e10}
    return ArrayCatalog({"Position": position[comm.rank :: comm.size]}, comm=comm, **attrs)


def test_a_dense_clump_across_a_bridge_is_no_centre(comm):
    groups, _ = find_groups(bridged(comm))
    length, centre, mass = (
        np.concatenate(comm.allgather(groups[name])) for name in ("Length", "Center", "MassVir")
    )
    assert length[0] > MAIN + 250  # one group of friends of friends
    offset = centre[0] - BOX * np.rint(centre[0] / BOX)
    assert np.linalg.norm(offset) < 0.1
    particle = find_halos(bridged(comm)).particle_mass
    assert mass[0] > 0.9 * MAIN * particle


@pytest.mark.mpi(ranks=4)
def test_the_minimum_is_that_of_all_pairs(comm, data):
    """Exactly for up to `MANY` particles, and of more one nearly as deep, at the same place."""
    halos = find_halos(open_snapshot(data / "hr64_12p5_z2", comm))
    softening = SOFTENING * halos.attrs["separation"]
    count = halos.length[halos.index]
    start = np.cumsum(count) - count
    for first, number, centre in zip(start, count, centre_particles(halos), strict=True):
        if number < 100:
            continue
        position = halos.particles["Position"][first : first + number]
        offset = position - position[0]
        offset -= 12.5 * np.rint(offset / 12.5)
        square = cdist(offset, offset, "sqeuclidean")
        potential = -(1 / np.sqrt(square + softening**2)).sum(axis=1)
        lowest = potential.argmin()
        if number <= MANY:
            assert centre == first + lowest
        else:
            assert potential[centre - first] < 0.95 * potential[lowest]
            assert np.linalg.norm(offset[centre - first] - offset[lowest]) < 0.05


def test_a_large_halo_costs_as_many_pairs_as_a_small_one():
    """Of 200,000 particles with a cusp the minimum is found within a few of them."""
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(200_000, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    position = 1.0 + direction * rng.uniform(size=(200_000, 1))
    assert np.linalg.norm(position[deepest(position, 0.01)] - 1.0) < 0.02


def test_halos_have_one_centre_and_one_mass(comm, data):
    """`halos` and `validate` say the same."""
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    groups, _ = find_groups(catalog)
    table = halo_table(find_halos(catalog), catalog)
    row = groups["GroupID"] - 1
    np.testing.assert_array_equal(table["centre"][row], groups["Center"])
    density = threshold_densities(Universe.of(catalog.attrs))["200c"]
    mass = density * 4 * np.pi / 3 * table["r200"][row] ** 3
    known = np.isfinite(mass)
    assert known.mean() > 0.7
    np.testing.assert_allclose(mass[known], groups["Mass200c"][known], rtol=1e-9)


def test_pictures_are_about_the_centre_that_halos_writes(comm, data):
    catalog = open_snapshot(data / "lr16_25_z2", comm)
    settings = replace(Settings.choose(25.0, 16**3), nmin=8, parts=("pictures",))
    picture = suite.measure([{"SR": [catalog]}], settings).pictures["SR"][0]
    groups, _ = find_groups(catalog, nmin=8)
    first = np.concatenate(comm.allgather(groups["Center"]))[0]
    np.testing.assert_array_equal(picture.centre, first)
