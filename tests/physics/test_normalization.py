"""Growth-scaled units."""

import numpy as np
import pytest

from nbodykit_sr.errors import InputError
from nbodykit_sr.physics.normalization import Normalization


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
