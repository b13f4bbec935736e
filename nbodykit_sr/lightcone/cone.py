"""Geometry of a light cone: which replicas of the box reach it, and where world lines cross it.

The observer sees a particle where its comoving distance is that which light travels to her: at the
scale factor a with |x(a) - o| = chi(a). Replicas are Lagrangian: particle q of replica n is at
q + n BoxSize + displacement(a), which is not wrapped, so that each particle crosses once.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ..errors import InputError, one_line
from ..physics.distance import Expansion

# Two golden ratios: no short vector of replicas lies near it
AXIS = (1.0, 1.618, 2.618)

SKIES = ("full", "octant")

# Newton's steps to the crossing: from a secant, each squares the error
_STEPS = 3

# Replicas of which it is looked whether structure repeats along a line of sight: so far along an axis
_REPEATS = 12


@dataclass(frozen=True)
class Cone:
    """The part of space and time that is seen.

    Attributes
    ----------
    zmin, zmax : float
        Cosmological redshifts.
    observer : three floats
        Comoving [Mpc/h], in the box of replica (0, 0, 0) or anywhere else.
    angle : float or None
        Largest angle between a line of sight and the axis [deg].
    axis : three floats
        Its length does not matter.
    sky : {"full", "octant"} or None
        Instead of an angle: everything, or x, y, z > 0 from the observer.
    """

    zmin: float
    zmax: float
    observer: tuple = (0.0, 0.0, 0.0)
    angle: float | None = None
    axis: tuple = AXIS
    sky: str | None = None

    def __post_init__(self):
        if not 0 <= self.zmin < self.zmax < np.inf:
            raise InputError(
                f"the cone runs from z = {self.zmin:g} to {self.zmax:g}: 0 <= zmin < zmax is needed"
            )
        for name in ("observer", "axis"):
            vector = np.asarray(getattr(self, name), dtype="f8").ravel()
            if vector.shape != (3,) or not np.isfinite(vector).all():
                raise InputError(f"{name} is {getattr(self, name)}: three numbers are needed")
            object.__setattr__(self, name, tuple(vector.tolist()))
        if not any(self.axis):
            raise InputError("axis is 0, 0, 0: a direction is needed")
        if (self.angle is None) == (self.sky is None):
            raise InputError(
                f"angle is {self.angle} and sky {self.sky}: give an angle from the axis [deg], or the "
                f"sky, {' or '.join(SKIES)}"
            )
        if self.angle is not None and not 0 < self.angle <= 180:
            raise InputError(f"angle is {self.angle:g} deg: above 0 and up to 180 are needed")
        if self.sky not in (None, *SKIES):
            raise InputError(f"sky is {self.sky!r}: {' or '.join(SKIES)} is needed")

    @classmethod
    def of(cls, attrs) -> "Cone":
        """That of a catalogue's attributes; InputError if they tell of none."""
        try:
            sky, (zmin, zmax) = str(attrs["ConeSky"]), np.ravel(attrs["ConeRedshifts"]).tolist()
            angle = float(np.ravel(attrs["ConeAngle"])[0]) if sky == "cone" else None
            observer, axis = attrs["ConeObserver"], attrs["ConeAxis"]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"the attributes tell of no light cone, {one_line(repr(error))}: open one that "
                "nbodykit-sr lightcone made"
            ) from None
        return cls(zmin, zmax, observer, angle, axis, None if sky == "cone" else sky)

    @property
    def direction(self) -> np.ndarray:
        """Unit vector of the axis, (3,)."""
        return np.array(self.axis) / np.linalg.norm(self.axis)

    @property
    def opening(self) -> float:
        """Largest angle from the axis [rad]."""
        return np.pi if self.angle is None else np.radians(self.angle)

    @property
    def solid_angle(self) -> float:
        """Of the sky that is seen [sr]."""
        if self.sky == "octant":
            return np.pi / 2
        return 2 * np.pi * (1 - np.cos(self.opening))

    @property
    def times(self) -> tuple[float, float]:
        """First and last scale factor."""
        return 1 / (1 + self.zmax), 1 / (1 + self.zmin)

    def sees(self, position, distance) -> np.ndarray:
        """Whether positions (n, 3), of these distances from the observer, are in the sky, (n,) bool."""
        if self.sky == "octant":
            return (position > 0).all(axis=1)
        if self.opening == np.pi:
            return np.ones(len(position), dtype=bool)
        return position @ self.direction >= np.cos(self.opening) * distance

    def depth(self, position, near, far) -> np.ndarray:
        """How far within the cone positions (n, 3) are from its nearest edge, (n,) [Mpc/h].

        `near` and `far` are the distances at which it begins and ends [Mpc/h]; it has no edge at the
        observer.
        """
        distance = np.sqrt((position**2).sum(axis=1))
        edges = [far - distance, distance - near if near > 0 else np.full(len(distance), np.inf)]
        if self.sky == "octant":
            edges.append(position.min(axis=1))
        elif self.opening < np.pi:
            cosine = position @ self.direction / np.maximum(distance, 1e-30)
            away = self.opening - np.arccos(np.clip(cosine, -1, 1))
            edges.append(distance * np.sin(np.minimum(away, np.pi / 2)))
        return np.min(edges, axis=0)

    def replicas(self, low, high, near, far, box) -> np.ndarray:
        """Replicas of which a cuboid may reach a shell of the cone.

        Parameters
        ----------
        low, high : (3,) arrays
            Corners of the cuboid in replica (0, 0, 0), comoving [Mpc/h]; not wrapped.
        near, far : float
            Distances between which the shell lies [Mpc/h].
        box : float
            Side of a replica [Mpc/h].

        Returns
        -------
        (m, 3) int64 array
            In order, the first number slowest. None is left out; some may not reach it.
        """
        low, high = low - self.observer, high - self.observer
        reach = far * self._extent
        first = np.ceil((reach[0] - high) / box).astype("i8")
        last = np.floor((reach[1] - low) / box).astype("i8")
        axes = [np.arange(i, j + 1) for i, j in zip(first, last)]
        n = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        low, high = low + n * box, high + n * box
        nearest = np.maximum(np.maximum(low, -high), 0)
        farthest = np.maximum(abs(low), abs(high))
        reached = ((nearest**2).sum(axis=1) <= far**2) & ((farthest**2).sum(axis=1) >= near**2)
        if self.sky == "octant":
            reached &= (high > 0).all(axis=1)
        elif self.opening < np.pi:
            reached &= self._near_axis((low + high) / 2, np.linalg.norm(high[:1] - low[:1]) / 2)
        return n[reached]

    @property
    def _extent(self):
        """Corners of the cuboid that holds the cone to distance 1."""
        if self.sky == "octant":
            return np.array([np.zeros(3), np.ones(3)])
        from_axis = np.arccos(self.direction)
        up = np.cos(np.maximum(from_axis - self.opening, 0))
        down = np.cos(np.maximum(np.pi - from_axis - self.opening, 0))
        return np.array([-np.maximum(down, 0), np.maximum(up, 0)])

    def _near_axis(self, centre, radius):
        """Whether spheres around (m, 3) centres may reach into the cone."""
        distance = np.linalg.norm(centre, axis=1)
        around = distance <= radius  # the observer is inside
        distance = np.where(around, radius, distance)
        away = np.arccos(np.clip(centre @ self.direction / distance, -1, 1))
        return around | (away - np.arcsin(radius / distance) <= self.opening + 1e-9)

    def repeat(self, depth, box) -> tuple | None:
        """The shortest vector of replicas along a line of sight of this depth [Mpc/h], or None.

        Along it the same structures are seen again.
        """
        largest = min(int(depth / box), _REPEATS)
        found = []
        for vector in product(range(-largest, largest + 1), repeat=3):
            length = np.linalg.norm(vector)
            if 0 < length <= depth / box:
                across = self.sky == "octant" and min(vector) < 0
                if not across and vector @ self.direction >= np.cos(self.opening) * length - 1e-12:
                    found.append((length, tuple(-x for x in vector)))
        return tuple(-x for x in min(found)[1]) if found else None


@dataclass(frozen=True, eq=False)
class WorldLines:
    """Some particles at both ends of an interval: IDs (n,), sites (n, 3) [Mpc/h], fields (n, C)."""

    ids: np.ndarray
    site: np.ndarray
    early: np.ndarray
    late: np.ndarray

    @property
    def fields(self) -> tuple:
        """At both ends."""
        return self.early, self.late

    @property
    def positions(self) -> tuple:
        """At both ends, in replica (0, 0, 0), not wrapped."""
        return self.site + self.early[:, :3], self.site + self.late[:, :3]

    @property
    def bounds(self) -> tuple:
        """Corners of the cuboid that holds them all in between."""
        ends = self.positions
        low, high = ([extreme(x, axis=0) for x in ends] for extreme in (np.min, np.max))
        return np.minimum(*low), np.maximum(*high)


def crossings(start, end, times, expansion: Expansion) -> tuple[np.ndarray, np.ndarray]:
    """When world lines cross the light cone: |x(a)| = chi(a), with x linear in the growth factor.

    A particle that is seen within the interval is nearer than light at its beginning, and not any
    more at its end, where the next interval begins: of several intervals in a row it crosses in one.

    Parameters
    ----------
    start, end : (n, 3) arrays
        Positions at the ends of the interval from the observer, comoving [Mpc/h].
    times : (float, float)
        Their scale factors.
    expansion : Expansion

    Returns
    -------
    which : (m,) int64
        Of the particles that cross.
    a : (m,) float64
        Scale factors.
    """
    light = expansion.distance(np.array(times))
    lead = [np.sqrt((x**2).sum(axis=1)) - chi for x, chi in zip((start, end), light)]
    which = np.flatnonzero((lead[0] < 0) & (lead[1] >= 0))
    first, last = lead[0][which], lead[1][which]
    start, path = start[which], end[which] - start[which]
    a = times[0] + (times[1] - times[0]) * -first / (last - first)
    speed = expansion.growth.derivative(), expansion.distance.derivative()
    growth = expansion.growth(np.array(times))
    for _ in range(_STEPS):
        x = start + path * ((expansion.growth(a) - growth[0]) / (growth[1] - growth[0]))[:, None]
        r = np.sqrt((x**2).sum(axis=1))
        outward = (x * path).sum(axis=1) / np.maximum(r, 1e-30) / (growth[1] - growth[0])
        slope = outward * speed[0](a) - speed[1](a)
        a = np.clip(a - (r - expansion.distance(a)) / slope, *times)
    return which, a
