"""Distance that light travels, growth, and the sky coordinates that an observer at the origin measures."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline

from .universe import Universe

LIGHT = 299792.458  # [km/s]

# Knots of the tables of distance and growth, for which splines are exact to 1e-8, and the points
# between two of them at which distances are integrated
_KNOTS, _POINTS = 2048, 4


@dataclass(frozen=True)
class Expansion:
    """Distance and growth of a universe, as functions of the scale factor."""

    distance: CubicSpline  # chi(a), comoving distance that light travels from a to today [Mpc/h]
    growth: CubicSpline  # linear growth factor, 1 today
    # peculiar velocity of a displacement in linear theory, a H f [km/s per Mpc/h]
    rate: CubicSpline

    @classmethod
    def of(cls, universe: Universe, first: float) -> "Expansion":
        """Tables from scale factor `first` to today."""
        a = np.linspace(first, 1.0, _KNOTS)
        points, weights = np.polynomial.legendre.leggauss(_POINTS)
        half = np.diff(a)[:, None] / 2
        between = a[:-1, None] + half * (1 + points)
        hubble = np.array([replace(universe, a=x).hubble for x in between.ravel()])
        steps = (half * weights * LIGHT / (between**2 * hubble.reshape(between.shape))).sum(axis=1)
        distance = np.concatenate([np.cumsum(steps[::-1])[::-1], [0.0]])
        moments = [replace(universe, a=x) for x in a]
        growth = np.array([one.growth for one in moments])
        rate = np.array([one.linear_rate for one in moments])
        return cls(*(CubicSpline(a, table) for table in (distance, growth, rate)))

    def scale_factor(self, distance) -> np.ndarray:
        """Scale factor at which light from comoving distances [Mpc/h] was sent: inverse of `distance`."""
        a = self.distance.x
        guess = np.interp(distance, self.distance(a)[::-1], a[::-1])
        return guess - (self.distance(guess) - distance) / self.distance.derivative()(guess)


def observed(position, a, velocity=None) -> dict:
    """Sky coordinates and redshifts of particles, halos or galaxies on a light cone.

    Parameters
    ----------
    position : (n, 3) array
        From the observer, comoving [Mpc/h].
    a : (n,) array
        Scale factors at which they are seen.
    velocity : (n, 3) array, optional
        Peculiar [km/s].

    Returns
    -------
    dict of (n,) arrays
        RA, DEC [deg], Redshift (cosmological), and with velocities RedshiftObserved.
    """
    distance = np.maximum(np.sqrt((position**2).sum(axis=1)), 1e-30)
    found = {
        "RA": np.degrees(np.arctan2(position[:, 1], position[:, 0])) % 360,
        "DEC": np.degrees(np.arcsin(np.clip(position[:, 2] / distance, -1, 1))),
        "Redshift": 1 / a - 1,
    }
    if velocity is not None:
        away = (velocity * position).sum(axis=1) / distance
        found["RedshiftObserved"] = (1 + away / LIGHT) / a - 1
    return found
