"""Theory against formulas of its own: CLASS, halofit and colossus never saw each other."""

from dataclasses import replace

import numpy as np
import pytest
from colossus.cosmology import cosmology as colossus
from nbodykit.lab import ArrayCatalog
from scipy.integrate import simpson

from nbodykit_sr.diagnostics import power_spectrum
from nbodykit_sr.diagnostics.theory import (
    mesh_window,
    primordial,
    theory_mass_function,
    theory_power,
)
from nbodykit_sr.errors import InputError

ATTRS = {
    "Omega0": 0.2814,
    "OmegaBaryon": 0.0464,
    "OmegaLambda": 0.7186,
    "HubbleParam": 0.697,
    "Redshift": 2.0,
}
GIVEN = {"sigma8": 0.82, "n_s": 0.971}
MATTER = 0.2814 * 2.77536627e11  # h^2 Msun / Mpc^3


@pytest.fixture(scope="module")
def power():
    """At z = 2, from far outside any box to far inside halos."""
    return theory_power(primordial(ATTRS, **GIVEN), np.geomspace(1e-4, 40, 2000))


def sigma(power, radius):
    """rms of linear density in spheres."""
    k = power["k"]
    x = np.multiply.outer(radius, k)
    window = 3 * (np.sin(x) - x * np.cos(x)) / x**3
    return np.sqrt(simpson(window**2 * power["linear"] * k**3 / (2 * np.pi**2), x=np.log(k)))


def test_halofit_leaves_linear_theory_where_gravity_does(power):
    k, boost = power["k"], power["power"] / power["linear"]
    np.testing.assert_allclose(boost[(k > 1e-3) & (k < 0.03)], 1, atol=0.01)
    assert (boost[k > 1] > 1.5).all()


def test_linear_power_has_the_growth_of_heaths_integral(power):
    """And so sigma8, which is told for z = 0."""
    a = np.linspace(1e-4, 1, 4000)
    growth = []
    for last in (1 / 3, 1.0):
        x = a[a <= last + 1e-9]
        hubble = np.sqrt(0.2814 / x**3 + 0.7186)
        growth.append(hubble[-1] * simpson(1 / (x * hubble) ** 3, x=x))
    assert sigma(power, 8.0) == pytest.approx(0.82 * growth[0] / growth[1], rel=5e-3)


def test_dark_energy_that_is_no_constant_has_halos_earlier():
    """Of the same sigma8 today, w0 = -0.8 has those at z = 2 that belong to its slower growth."""
    lcdm, fluid = primordial(ATTRS, **GIVEN), primordial({**ATTRS, "w0": -0.8}, **GIVEN)
    more = fluid.growth / lcdm.growth
    assert more > 1.01
    brighter = replace(lcdm, sigma8=lcdm.sigma8 * more)  # the same field at z = 2
    edges = np.geomspace(1e12, 1e13, 4)
    halos, same = (theory_mass_function(u, edges, 1e6)["tinker08"] for u in (fluid, brighter))
    np.testing.assert_allclose(halos, same, rtol=0.01)


def test_mass_functions_against_tinkers_formula(power):
    """Tinker et al. 2008, Eqs 2 to 8 for 200 mean densities, with sigma(M) of CLASS."""
    found = theory_mass_function(primordial(ATTRS, **GIVEN), np.geomspace(1e11, 1e13, 9), 100.0**3)
    mass = found["mass"]
    alpha = 10 ** -((0.75 / np.log10(200 / 75)) ** 1.2)
    high, a, b = 0.186 * 3**-0.14, 1.47 * 3**-0.06, 2.57 * 3**-alpha
    here, there = (sigma(power, np.cbrt(3 * m / (4 * np.pi * MATTER))) for m in (mass, 1.01 * mass))
    slope = np.log(here / there) / np.log(1.01)
    expected = high * ((here / b) ** -a + 1) * np.exp(-1.19 / here**2)
    expected *= np.log(10) * MATTER / mass * slope
    np.testing.assert_allclose(found["tinker08"], expected, rtol=0.06)
    for name in ("bocquet16", "watson13"):  # by others, of other halos
        np.testing.assert_allclose(found[name], found["tinker08"], rtol=0.5)


def test_bins_that_the_box_cannot_fill_are_left_out_and_colossus_is_left_alone():
    before = colossus.setCosmology("planck18", persistence="")
    found = theory_mass_function(primordial(ATTRS, **GIVEN), np.geomspace(1e10, 1e15, 13), 25.0**3)
    assert colossus.getCurrent() is before
    assert np.isfinite(found["tinker08"][0]) and np.isnan(found["tinker08"][-1])


def test_what_is_not_known_is_not_guessed():
    assert primordial({**ATTRS, **GIVEN}) == primordial(ATTRS, **GIVEN)
    for missing in GIVEN:
        with pytest.raises(InputError, match=missing):
            primordial(ATTRS, **{**GIVEN, missing: None})
    with pytest.raises(InputError, match="flat"):
        primordial({**ATTRS, "OmegaLambda": 0.9}, **GIVEN)


def test_the_window_is_that_of_painting():
    """A wave along an axis or a diagonal, painted as particles, keeps the window's share."""
    q = (np.stack(np.meshgrid(*[np.arange(64)] * 3), -1).reshape(-1, 3) + 0.5) / 4
    for mode in ([3, 0, 0], [2, 2, 1]):
        k = 2 * np.pi / 16 * np.array(mode)
        moved = q - 1e-3 * np.sin(q @ k)[:, None] * k / (k @ k)
        catalog = ArrayCatalog({"Position": moved % 16}, BoxSize=[16.0] * 3)
        fine, coarse = (power_spectrum(catalog, mesh)["power"][2] for mesh in (64, 16))
        assert coarse / fine == pytest.approx(mesh_window(3 * 2 * np.pi / 16), rel=0.05)
