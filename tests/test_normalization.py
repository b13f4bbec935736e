"""Growth-scaled units."""

import numpy as np
import pytest
from nbodykit.cosmology import LinearPower, Planck15
from scipy.integrate import quad

from nbodykit_sr.errors import InputError
from nbodykit_sr.normalization import Normalization, growth_factor, growth_rate, hubble


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


def test_units_of_the_public_weights():
    public = Normalization(Omega_m=0.31)
    assert public.displacement(1.0) == pytest.approx(6.0)
    assert public.velocity(1.0) == pytest.approx(313.42, rel=1e-4)
    assert public.displacement(1 / 3) == pytest.approx(2.51127, rel=1e-5)
    assert public.velocity(1 / 3) == pytest.approx(241.30, rel=1e-4)
    np.testing.assert_allclose(public.units(1.0, 6), [6, 6, 6] + 3 * [public.velocity(1.0)])


def test_senseless_units_are_refused():
    with pytest.raises(InputError, match="Omega_m is 0"):
        Normalization(0.0)
