"""Box, time and cosmology, read once: growth, expansion, and attributes that are refused."""

import numpy as np
import pytest
from nbodykit.cosmology import Cosmology, LinearPower, Planck15
from nbodykit.lab import ArrayCatalog, LinearMesh
from scipy.integrate import quad

from nbodykit_sr import InputError, SRCatalog, SRMesh, open_snapshot
from nbodykit_sr.density.painting import paint
from nbodykit_sr.diagnostics import find_halos, power_spectrum
from nbodykit_sr.particles import find_lattice
from nbodykit_sr.physics.universe import Universe, growth_factor, growth_rate, hubble

WHOLE = dict(BoxSize=[25.0] * 3, Redshift=2.0, Omega0=0.28, OmegaLambda=0.72, HubbleParam=0.7)


@pytest.mark.parametrize("Omega_m", [0.1, 0.2814, 0.31, 1.0])
def test_growth_is_the_integral_of_the_growing_mode(Omega_m):
    def mode(a):
        return hubble(a, Omega_m) * quad(lambda x: (x * hubble(x, Omega_m)) ** -3, 0, a)[0]

    for a in (0.02, 0.2, 1 / 3, 0.7):
        assert growth_factor(a, Omega_m) == pytest.approx(mode(a) / mode(1.0), rel=1e-6)


@pytest.mark.parametrize("a", [0.02, 0.2, 0.5, 1.0])
def test_growth_rate_is_the_slope_of_growth(a):
    step = 1e-5
    slope = np.log(growth_factor(a * (1 + step), 0.3) / growth_factor(a * (1 - step), 0.3)) / (
        2 * step
    )
    assert growth_rate(a, 0.3) == pytest.approx(slope, rel=1e-6)


def test_growth_agrees_with_the_boltzmann_code():
    linear = LinearPower(Planck15, redshift=0.0, transfer="EisensteinHu")
    today = linear(0.1)
    linear.redshift = 2.0
    ratio = np.sqrt(linear(0.1) / today)
    assert growth_factor(1 / 3, Planck15.Om0) == pytest.approx(ratio, rel=5e-3)  # it has radiation


def test_expansion_agrees_with_the_boltzmann_code():
    code = Cosmology(h=0.7, Omega0_b=0.05, Omega0_cdm=0.25, m_ncdm=[], Omega_k=0.1)
    for z in (0.0, 0.5, 2.0):
        ours = hubble(1 / (1 + z), code.Om0, 1 - code.Om0 - 0.1)
        assert ours == pytest.approx(100 * code.efunc(z), rel=1e-3)  # it has radiation
    assert hubble(0.3, 0.28) == hubble(0.3, 0.28, 1 - 0.28)


def test_what_attributes_tell():
    for a in (dict(Time=1 / 3), dict(Redshift=np.array([2.0])), dict(Time=[1 / 3], Redshift=2)):
        universe = Universe.of({"BoxSize": (25, 25, 25), "Omega0": [0.28], **a}, "BoxSize", "a")
        assert (universe.BoxSize, universe.Omega0) == (25.0, 0.28)
        assert universe.a == pytest.approx(1 / 3) and universe.redshift == pytest.approx(2)
        assert universe.growth == growth_factor(universe.a, 0.28)
        assert universe.hubble == hubble(universe.a, 0.28)
        assert universe.OmegaLambda is None and universe.h is None
        assert Universe.of(universe.attrs) == universe
    linear = LinearMesh(LinearPower(Planck15, 9.0, "EisensteinHu"), BoxSize=10.0, Nmesh=4)
    assert Universe.of(linear.attrs, "BoxSize").redshift == pytest.approx(9)


REFUSED = [
    (dict(BoxSize=None), "BoxSize is None: numbers"),
    (dict(BoxSize=25.0), "BoxSize has length 1: nbodykit needs three lengths"),
    (dict(BoxSize=np.array([25.0])), "BoxSize has length 1"),
    (dict(BoxSize=[25.0, 25.0, 50.0]), "a cubic box"),
    (dict(BoxSize=[-25.0] * 3), "BoxSize is -25: a cubic box of positive side"),
    (dict(BoxSize=[np.nan] * 3), "BoxSize is .*nan"),
    (dict(Time=0.5), "Time is 0.5, the scale factor of redshift 1, but Redshift is 2"),
    (dict(Time=None), "Time is None: numbers"),
    (dict(Time="abc"), "Time is 'abc': numbers"),
    (dict(Time=[0.2, 0.3]), "Time is .0.2, 0.3.: a number"),
    (dict(Time=0), "Time is 0: a scale factor"),
    (dict(Redshift=-1), "Redshift is -1: a scale factor .* or the redshift of one"),
    (dict(Redshift=np.inf), "Redshift is inf: a number"),
    (dict(Redshift=1j), "Redshift is 1j: numbers"),
    (dict(Omega0=-0.3), "Omega0 is -0.3: a number from 0.01 to 1"),
    (dict(Omega0=np.nan), "Omega0 is nan: a number from 0.01 to 1"),
    (dict(HubbleParam=70), "HubbleParam is 70: a number from 0.1 to 2"),
]


@pytest.mark.parametrize("change, message", REFUSED)
def test_attributes_that_no_universe_has(change, message):
    with pytest.raises(InputError, match=message):
        Universe.of(WHOLE | change)


@pytest.mark.parametrize("name", ["BoxSize", "Redshift", "Omega0", "HubbleParam"])
def test_what_is_needed_and_absent(name):
    attrs = {other: value for other, value in WHOLE.items() if other != name}
    Universe.of(attrs)
    with pytest.raises(InputError, match=f"{name} is absent: set attrs"):
        Universe.of(attrs, "BoxSize", "a", "Omega0", "h")


USERS = {
    "catalog": lambda source: SRCatalog(source, model="interpolate", factor=2),
    "mesh": lambda source: SRMesh(source, source, Nmesh=4, force=True),
    "painting": lambda source: paint(source, 8),
    "domain": find_lattice,
    "halos": find_halos,
    "power": lambda source: power_spectrum(source, 8),
}


@pytest.mark.mpi
@pytest.mark.parametrize("user", USERS.values(), ids=USERS.keys())
def test_every_reader_refuses_in_the_same_words(comm, data, user):
    snapshot = open_snapshot(data / "lr16_25_z2", comm)
    rows = {name: snapshot[name] for name in ("Position", "Velocity", "ID")}
    for change, message in REFUSED:
        source = ArrayCatalog(rows, comm=comm, **WHOLE | change)
        with pytest.raises(InputError, match=message):
            user(source)
