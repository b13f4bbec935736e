"""Growth-scaled units, in which the fields of a network are of order one at any redshift.

Displacement is divided by ``length * D(z)`` and velocity by the linear velocity of that
displacement, so a linear field looks the same to the network at every redshift.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .background import growth_factor, growth_rate, hubble


@dataclass(frozen=True)
class Normalization:
    """The units a model was trained in.

    Attributes
    ----------
    Omega_m : float
        Matter density of the training runs, not of the snapshot: the public weights
        were made with 0.31 whatever they are used on.
    length : float
        The displacement that is 1 at z = 0, comoving [Mpc/h].
    pace : float
        `Universe.pace` of the snapshot: the factor by which its velocities exceed those of flat LCDM,
        which all training runs have. Displacements are not scaled by it.
    """

    Omega_m: float
    length: float = 6.0
    pace: float = 1.0

    def __post_init__(self):
        if not 0 < self.Omega_m <= 1:
            raise InputError(f"Omega_m is {self.Omega_m}: a matter density in (0, 1] is needed")
        if not 0 < self.length < np.inf:
            raise InputError(f"normalisation length is {self.length}: a length in Mpc/h is needed")

    def displacement(self, a: float) -> float:
        """Unit of displacement at scale factor `a`, comoving [Mpc/h]."""
        return self.length * growth_factor(a, self.Omega_m)

    def velocity(self, a: float) -> float:
        """Unit of velocity at scale factor `a`, peculiar [km/s]."""
        rate = hubble(a, self.Omega_m) * growth_rate(a, self.Omega_m)
        return self.displacement(a) * rate * a * self.pace

    def units(self, a: float, channels: int) -> np.ndarray:
        """Units of the first `channels` channels: displacement x, y, z, velocity x, y, z."""
        return np.repeat([self.displacement(a), self.velocity(a)], 3)[:channels]
