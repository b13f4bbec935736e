"""Expansion and growth where space is curved or dark energy is no constant, by integrals of our own."""

import numpy as np
import pytest
from nbodykit.cosmology import Cosmology
from scipy.integrate import quad, solve_ivp

from nbodykit_sr.diagnostics.overdensity import threshold_densities
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.layout import gadget_header, mpgadget_header
from nbodykit_sr.physics.background import Background, growth_factor, growth_rate, hubble
from nbodykit_sr.physics.normalization import Normalization
from nbodykit_sr.physics.universe import RHO_CRITICAL, Universe

W0WA = dict(w0=-0.8, wa=-0.3)
CASES = {
    "w0": Background(0.3, 0.7, w0=-0.8),
    "w0, wa": Background(0.3, 0.7, **W0WA),
    "phantom": Background(0.28, 0.72, w0=-1.2, wa=0.4),
    "open": Background(0.3, 0.6),
    "closed": Background(0.3, 0.8),
    "matter alone": Background(0.3, 0.0),
    "curved, w0, wa": Background(0.3, 0.6, **W0WA),
    "radiation": Background(0.2814, 0.7186, Omega_r=8.6e-5),
}


def expansion(universe, a):
    """(H / H0)^2, term by term."""
    dark = universe.Omega_de * a ** (-3 * (1 + universe.w0 + universe.wa))
    dark *= np.exp(-3 * universe.wa * (1 - a))
    curved = 1 - universe.Omega_m - universe.Omega_de
    return dark + universe.Omega_m / a**3 + curved / a**2 + universe.Omega_r / a**4


def growing(universe, times):
    """D and f at times, the last of them 1, by D'' + (2 + dln H / dln a) D' = 3/2 Omega_m(a) D."""

    def slope(x, y):
        a, step = np.exp(x), 1e-5
        up, down = (expansion(universe, a * np.exp(s)) for s in (step, -step))
        friction = 2 + np.log(up / down) / (4 * step)
        pull = 1.5 * universe.Omega_m / a**3 / expansion(universe, a)
        return [y[1], pull * y[0] - friction * y[1]]

    a = 1e-5
    ratio = universe.Omega_r / universe.Omega_m / a  # radiation to matter; Meszaros 1974
    start = [1 + 2 / 3 * ratio, 1.0]
    times = np.log(times)
    found = solve_ivp(slope, (np.log(a), 0), start, t_eval=times, rtol=1e-9, atol=1e-12)
    return found.y[0] / found.y[0][-1], found.y[1] / found.y[0]


@pytest.mark.parametrize("universe", CASES.values(), ids=CASES.keys())
def test_expansion_and_growth(universe):
    times = np.array([0.02, 0.2, 1 / 3, 0.7, 1.0])
    growth, rate = growing(universe, times)
    rel = 1e-4 if universe.Omega_r else 1e-6  # radiation is taken off dark energy, or added
    for a, D, f in zip(times, growth, rate):
        assert universe.hubble(a) == pytest.approx(100 * np.sqrt(expansion(universe, a)), rel=rel)
        assert universe.growth(a) == pytest.approx(D, rel=rel)
        assert universe.rate(a) == pytest.approx(f, rel=rel)


def test_lcdm_is_what_it_was():
    """Closed forms, to the last bit, and CLASS is the same where it takes over."""
    for universe in (Background(0.3), Background(0.3, 0.7), Background(0.2814, 0.7186)):
        assert universe.is_flat_lcdm
        for a in (0.01, 1 / 3, 1.0):
            assert universe.hubble(a) == hubble(a, universe.Omega_m, universe.Omega_de)
            assert universe.growth(a) == growth_factor(a, universe.Omega_m)
            assert universe.rate(a) == growth_rate(a, universe.Omega_m)
    for a in (0.01, 1 / 3, 0.9):
        near = Background(0.3, 0.7, w0=-1 + 1e-9)
        assert near.hubble(a) == pytest.approx(hubble(a, 0.3), rel=1e-7)
        assert near.growth(a) == pytest.approx(growth_factor(a, 0.3), rel=1e-7)
        assert near.rate(a) == pytest.approx(growth_rate(a, 0.3), rel=1e-7)


def test_massive_neutrinos():
    """Their density today is m / 93.14 eV / h^2, before it was that of radiation; growth is slower."""
    masses, h = (0.1, 0.1, 0.2), 0.7
    universe = Background(0.3, 0.7, m_nu=masses, h=h)
    today = 0.4 / 93.14 / h**2
    assert universe.neutrinos == pytest.approx(today)

    def energy(a):  # of a Fermi-Dirac gas of 1.9518 K, over that of today's at rest
        kT = 8.617333e-5 * 0.71611 * 2.7255
        total = sum(
            quad(lambda q, m=mass: q**2 * np.hypot(q * kT / a, m) / (np.exp(q) + 1), 0, 40)[0]
            for mass in masses
        )
        rest = sum(masses) * quad(lambda q: q**2 / (np.exp(q) + 1), 0, 40)[0]
        return today * total / rest / a**3

    for a in (0.01, 1 / 3, 1.0):
        square = (0.3 - today) / a**3 + 0.7 + energy(a)
        assert universe.hubble(a) == pytest.approx(100 * np.sqrt(square), rel=3e-4)
    part = today / 0.3
    # deep in matter, what clusters grows as a^p with p (2 p + 1) = 3 (1 - part)
    slower = (np.sqrt(25 - 24 * part) - 1) / 4
    assert universe.rate(0.1) == pytest.approx(slower, rel=2e-3)
    assert growth_factor(0.1, 0.3) < universe.growth(0.1)


def test_the_boltzmann_code_of_nbodykit_agrees():
    attrs = dict(
        Omega0=0.3, OmegaBaryon=0.05, HubbleParam=0.7, Time=1 / 3, m_nu=[0.06, 0, 0], **W0WA
    )
    universe = Universe.of({**attrs, "OmegaLambda": 0.65})
    code = Cosmology(**universe.boltzmann)
    assert code.Omega0_m == pytest.approx(0.3, rel=1e-4) and code.Omega0_k == pytest.approx(0.05)
    assert (code.w0_fld, code.wa_fld, list(code.m_ncdm)) == (-0.8, -0.3, [0.06])
    for z in (0.0, 1.0, 2.0):  # it has radiation besides
        then = Universe.of({**attrs, "OmegaLambda": 0.65, "Time": 1 / (1 + z)})
        assert then.hubble == pytest.approx(100 * code.efunc(z), rel=1e-3)
        assert then.growth == pytest.approx(code.scale_independent_growth_factor(z), rel=2e-3)


def test_attributes_and_back():
    attrs = dict(Omega0=0.3, OmegaLambda=0.7, Time=0.5, Omega_r=8e-5, m_nu=[0.1, 0.0], **W0WA)
    universe = Universe.of(attrs)
    assert (universe.w0, universe.wa, universe.Omega_r, universe.m_nu) == (-0.8, -0.3, 8e-5, (0.1,))
    assert Universe.of(universe.attrs) == universe
    plain = Universe.of(dict(Omega0=0.3, OmegaLambda=0.7, Time=0.5, w0=-1, wa=0, Omega_r=0, m_nu=0))
    assert not {"w0", "wa", "Omega_r", "m_nu"} & set(plain.attrs)
    for change in (
        dict(w0=-7),
        dict(wa=[1, 2]),
        dict(m_nu=[-0.1]),
        dict(m_nu=["?"]),
        dict(Omega_r=1),
    ):
        with pytest.raises(InputError, match=next(iter(change))):
            Universe.of(attrs | change)
    with pytest.raises(InputError, match="HubbleParam is absent"):
        _ = universe.hubble


def test_masses_of_overdensities_know_dark_energy():
    attrs = dict(Omega0=0.3, OmegaLambda=0.7, Redshift=1.0, w0=-0.8)
    square = 0.3 * 8 + 0.7 * 2**0.6
    found = threshold_densities(Universe.of(attrs))
    assert found["200m"] == pytest.approx(200 * 0.3 * RHO_CRITICAL)
    assert found["200c"] == pytest.approx(200 * square / 8 * RHO_CRITICAL, rel=1e-4)
    x = 0.3 * 8 / square - 1
    virial = 18 * np.pi**2 + 82 * x - 39 * x**2
    assert found["vir"] == pytest.approx(virial * square / 8 * RHO_CRITICAL, rel=1e-4)


def test_velocity_units_follow_linear_theory():
    """A network sees the displacement in its own unit, and the velocities that belong to it."""
    assert Universe.of(dict(Omega0=0.3, OmegaLambda=0.7, Time=0.5, Omega_r=8e-5)).pace == 1
    universe = Universe.of(dict(Omega0=0.3, OmegaLambda=0.7, Time=0.5, w0=-0.8))
    units = Normalization(0.3, 6.0, universe.pace)
    assert units.displacement(0.5) == Normalization(0.3).displacement(0.5)
    assert units.velocity(0.5) / units.displacement(0.5) == pytest.approx(universe.linear_rate)
    assert 0.99 < universe.pace < 0.995  # H is 4% higher, growth slower


def test_headers_that_are_written_tell_it():
    attrs = dict(Omega0=0.3, OmegaLambda=0.7, OmegaBaryon=0.05, HubbleParam=0.7, Time=0.5, **W0WA)
    attrs = {**attrs, "BoxSize": [25.0] * 3, "m_nu": np.array([0.1]), "Omega_r": 8e-5}
    header = mpgadget_header(attrs, 8, {})
    for name, value in dict(OmegaLambda=0, OmegaFld=0.7, W0_Fld=-0.8, WA_Fld=-0.3).items():
        assert header[name] == [value]
    assert header["RSDFactor"] == pytest.approx(1000 / (0.5 * Universe.of(attrs).hubble))
    header = gadget_header(attrs, 8, {})
    assert (header["OmegaLambda"], header["w0"], header["wa"]) == (0.7, -0.8, -0.3)


def test_a_universe_that_class_refuses_is_one_line():
    with pytest.raises(
        InputError, match="no universe is like .*w0=-0.1, wa=3.0.*: Your choice"
    ) as caught:
        Background(0.3, 0.7, w0=-0.1, wa=3.0).growth(0.5)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="Time is 1.5: beyond today"):
        Background(0.3, 0.7, w0=-0.8).hubble(1.5)
