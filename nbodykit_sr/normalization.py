"""Growth-scaled units: what a network sees is of order one at any redshift.

Displacement is divided by ``length * D(z)`` and velocity by the linear velocity of that
displacement, so a linear field looks the same to the network at every redshift.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import hyp2f1

from .errors import InputError


def growth_factor(a, Omega_m):
    """Linear growth factor D of flat LCDM (matter and a cosmological constant), 1 at a = 1."""
    return a * _growth(a, Omega_m) / _growth(1.0, Omega_m)


def growth_rate(a, Omega_m):
    """f = dln D / dln a of flat LCDM."""
    x = _ratio(a, Omega_m)
    slope = 2 / 11 * hyp2f1(4 / 3, 2, 17 / 6, x)  # of the hypergeometric function in growth_factor
    return 1 + 3 * x * slope / hyp2f1(1 / 3, 1, 11 / 6, x)


def hubble(a, Omega_m):
    """H(a) of flat LCDM [h km/s/Mpc]."""
    return 100 * np.sqrt(Omega_m / a**3 + 1 - Omega_m)


def _ratio(a, Omega_m):
    return -(1 - Omega_m) / Omega_m * a**3


def _growth(a, Omega_m):
    return hyp2f1(1 / 3, 1, 11 / 6, _ratio(a, Omega_m))


@dataclass(frozen=True)
class Normalization:
    """The units a model was trained in.

    Attributes
    ----------
    Omega_m : float
        Of the cosmology the model was trained in, not of the snapshot: the public weights
        were made with 0.31 whatever they are used on.
    length : float
        The displacement that is 1 at z = 0, comoving [Mpc/h].
    """

    Omega_m: float
    length: float = 6.0

    def __post_init__(self):
        if not 0 < self.Omega_m <= 1:
            raise InputError(f"Omega_m is {self.Omega_m}: a matter density in (0, 1] is needed")
        if not 0 < self.length < np.inf:
            raise InputError(f"normalisation length is {self.length}: a length in Mpc/h is needed")

    def displacement(self, a):
        """Unit of displacement at scale factor `a`, comoving [Mpc/h]."""
        return self.length * growth_factor(a, self.Omega_m)

    def velocity(self, a):
        """Unit of velocity at scale factor `a`, peculiar [km/s]."""
        rate = hubble(a, self.Omega_m) * growth_rate(a, self.Omega_m)
        return self.displacement(a) * rate * a

    def units(self, a, channels):
        """Units of the first `channels` channels: displacement x, y, z, velocity x, y, z."""
        return np.repeat([self.displacement(a), self.velocity(a)], 3)[:channels]
