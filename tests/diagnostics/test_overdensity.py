"""Spherical-overdensity masses, against spheres whose profile is known."""

import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog

from nbodykit_sr.diagnostics.halos import Halos
from nbodykit_sr.diagnostics.overdensity import (
    spheres,
    threshold_densities,
    virial_overdensity,
)
from nbodykit_sr.physics.universe import RHO_CRITICAL, Universe

pytestmark = pytest.mark.mpi

BOX, NUMBER, RADIUS = 50.0, 20000, 2.0
CENTRES = np.array([[0.3, 49.8, 25.0], [30.0, 12.0, 8.0]])


def share(array, comm):
    return np.array_split(array, comm.size)[comm.rank]


def masses(position, box, comm, mass, centre, guess, densities):
    """`spheres` about these centres, of halos of such masses."""
    catalog = ArrayCatalog({"Position": share(position, comm)}, comm=comm, BoxSize=[box] * 3)
    length = np.rint(np.asarray(guess) / mass).astype("i8")
    index = share(np.arange(len(length)), comm)
    halos = Halos(length, mass, index, {}, {"BoxSize": box})
    return spheres(halos, catalog, share(centre, comm), densities)


def isothermal_spheres():
    """Two spheres with M(<r) proportional to r, one across the corner of the periodic box."""
    draw = np.random.default_rng(5)
    radius = RADIUS * (np.arange(NUMBER) + 0.5) / NUMBER
    direction = draw.normal(size=(2, NUMBER, 3))
    direction /= np.linalg.norm(direction, axis=2)[..., None]
    return draw.permutation((CENTRES[:, None] + direction * radius[:, None]).reshape(-1, 3) % BOX)


@pytest.mark.mpi(ranks=4)
def test_masses_of_isothermal_spheres(comm):
    """M(<r) = M r / R has mean density D at r = sqrt(3 M / (4 pi D R))."""
    mass = 1e10
    density = np.array([200.0, 500.0]) * NUMBER * mass / (BOX**3 / 20)
    low = np.full(2, 0.3 * NUMBER * mass)  # too low a guess is made up for
    found, half = masses(isothermal_spheres(), BOX, comm, mass, CENTRES, low, density)
    expected = NUMBER * mass / RADIUS * np.sqrt(3 * NUMBER * mass / (4 * np.pi * density * RADIUS))
    found = np.concatenate(comm.allgather(found))
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=1e-3)
    # M(<r) is proportional to r
    half = np.concatenate(comm.allgather(half))
    np.testing.assert_allclose(
        half, np.tile(expected / NUMBER / mass * RADIUS / 2, (2, 1)), rtol=2e-3
    )
    assert (expected < NUMBER * mass).all()


def test_a_sphere_without_an_end_is_nan(comm):
    position = np.random.default_rng(1).uniform(0, 1, (4096, 3))
    found, _ = masses(position, 1.0, comm, 1.0, CENTRES % 1, [9.0, 9], [100])
    assert np.isnan(found).all()


def test_thresholds():
    """An Einstein-de Sitter universe has one density, and the virial one of 18 pi^2."""
    found = threshold_densities(Universe(a=0.3, Omega0=1.0, OmegaLambda=0.0))
    assert found["200m"] == pytest.approx(found["200c"]) == pytest.approx(200 * RHO_CRITICAL)
    assert found["vir"] == pytest.approx(18 * np.pi**2 * RHO_CRITICAL)
    # flat LCDM today: Bryan & Norman's 101 critical densities at Omega_m = 0.3
    assert virial_overdensity(0.3) == pytest.approx(101, abs=0.5)
    lcdm = threshold_densities(Universe(a=0.5, Omega0=0.3))
    assert lcdm["200c"] == pytest.approx(200 * (0.3 + 0.7 / 8) * RHO_CRITICAL)
