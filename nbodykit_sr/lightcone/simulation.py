"""Snapshots of one simulation at several times: that they are of one, and what is between them."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

import numpy as np

from ..errors import InputError
from ..lattice import LagrangianLattice
from ..particles import LatticeParticles
from ..physics.universe import Universe
from ..weights import choose

# Two snapshots are of different times where their scale factors differ by more than this part
SAME_TIME = 1e-3

# LR displacements of one simulation correlate by 0.92 from the initial conditions to z = 0, those of
# others by at most 0.46 in boxes of 25 Mpc/h (10 pairs), measured; at so many sites
_SAME_PHASES, _SAMPLE = 0.7, 4096


@dataclass(frozen=True)
class Moment:
    """What a series is judged by.

    Attributes
    ----------
    name : str
        Of the snapshot, for messages.
    universe : Universe
    lattice : LagrangianLattice
    channels : int
        6 with velocities, else 3.
    sample : (n, 3) array
        Displacements at the same few sites [Mpc/h].
    """

    name: str
    universe: Universe
    lattice: LagrangianLattice
    channels: int
    sample: np.ndarray

    @classmethod
    def of(cls, particles: LatticeParticles, name: str) -> "Moment":
        """That of a snapshot. Collective."""
        catalog, lattice = particles.catalog, particles.lattice
        site = lattice.id(particles.site, base=0).astype("i8")
        some = site % max(lattice.size // _SAMPLE, 1) == 0
        parts = catalog.comm.allgather((site[some], particles.displacement[some]))
        site, sample = (np.concatenate(part) for part in zip(*parts, strict=True))
        channels = 6 if "Velocity" in catalog.columns else 3
        return cls(name, particles.universe, lattice, channels, sample[np.argsort(site)])

    @property
    def redshift(self) -> str:
        """In words."""
        return f"z = {self.universe.redshift:.4g}"


def check_same(early: Moment, late: Moment) -> None:
    """Refuse two snapshots, the next to each other in time, that are not of one simulation.

    Raises
    ------
    InputError
    """
    for name, tolerance in (("BoxSize", 1e-6), ("Nmesh", 0), ("offset", 0.01), ("Omega0", 1e-4)):
        one, other = (
            getattr(moment.universe if name == "Omega0" else moment.lattice, name)
            for moment in (early, late)
        )
        if abs(one - other) > tolerance * max(one, 1):
            raise InputError(
                f"{name} is {one:g} in {early.name} but {other:g} in {late.name}: a series is of one "
                "simulation"
            )
    if late.universe.a / early.universe.a - 1 < SAME_TIME:
        raise InputError(
            f"{early.name} and {late.name} are both of {late.redshift}: a series has each time once"
        )
    alike = _alike(early.sample, late.sample)
    if not alike > _SAME_PHASES:
        raise InputError(
            f"displacements of the same IDs in {early.name} and {late.name} correlate by {alike:.2f}, "
            f"in one simulation above {_SAME_PHASES}: they are of other phases, or numbered otherwise"
        )


def _alike(one, other):
    """How displacements at the same sites correlate; 1 where they are the same, such as none."""
    if one.shape != other.shape:
        return 0.0
    if np.array_equal(one, other):
        return 1.0
    size = np.sqrt((one**2).sum() * (other**2).sum())
    return (one * other).sum() / size if size else 0.0


def common_model(moments) -> str:
    """Name of the shipped model that fits all of them.

    Raises
    ------
    InputError
        If none does.
    """
    redshifts = [moment.universe.redshift for moment in moments]
    channels = min(moment.channels for moment in moments)
    return choose(moments[0].lattice.cell, redshifts, channels).stem


def bracketing(sources, cone) -> list:
    """The snapshots, of those in order of time, that a cone lies between.

    Raises
    ------
    InputError
        If it reaches beyond them.
    """
    a = np.array([Universe.of(source.attrs).a for source in sources])
    first, last = cone.times
    earliest, latest = (f"z = {1 / x - 1 + 0.0:.4g}" for x in (a[0], a[-1]))
    if first < a[0] * (1 - SAME_TIME):
        raise InputError(
            f"zmax is {cone.zmax:g} but the earliest snapshot is of {earliest}: add one of z >= "
            f"{cone.zmax:g}, or lower zmax"
        )
    if last > a[-1] * (1 + SAME_TIME):
        raise InputError(
            f"zmin is {cone.zmin:g} but the latest snapshot is of {latest}: add one of z <= "
            f"{cone.zmin:g}, or raise zmin"
        )
    if len(a) < 2:
        raise InputError("1 snapshot: a cone lies between the times of two or more")
    begin = max(np.searchsorted(a, first, side="right") - 1, 0)
    end = min(np.searchsorted(a, last), len(a) - 1)
    begin = min(begin, end - 1)
    return sources[begin : end + 1]


@dataclass(frozen=True, eq=False)
class Interpolated:
    """LR fields at any time between snapshots, linear in the growth factor, on a rank's block.

    Velocities are interpolated in units of linear theory's for a displacement, a H f, so that the
    growing mode is exact.

    Attributes
    ----------
    times : list of float
        Scale factors of the snapshots, the earliest first.
    growth : callable
        Linear growth factor of a scale factor.
    fields : list of LatticeField
        Displacement [Mpc/h], and velocity in these units [Mpc/h].
    corners : list of dict
        For each snapshot and chunk, by index: corners (2, 3) of the cuboid in which the particles of
        the chunk and those around it lie, not wrapped [Mpc/h].
    """

    times: list
    growth: Callable
    fields: list
    corners: list

    @classmethod
    def of(cls, particles, fields, growth) -> "Interpolated":
        """From `LatticeParticles` and `LatticeField` at each time; the fields' data are changed."""
        for one, field in zip(particles, fields, strict=True):
            field.data[3:] /= np.float32(one.universe.linear_rate)
        corners = [
            {chunk.index: _corners(field, chunk) for chunk in field.domain.chunks}
            for field in fields
        ]
        return cls([one.universe.a for one in particles], growth, fields, corners)

    def at(self, chunk, a) -> np.ndarray:
        """The fields on a chunk with its padding, (C, n + 2 padding, ...) float32."""
        return self._between(a, [field.padded(chunk) for field in self.fields]).astype("f4")

    def bounds(self, chunk, a) -> np.ndarray:
        """Corners (2, 3) of a cuboid that holds the particles of a chunk and around it [Mpc/h]."""
        return self._between(a, [corners[chunk.index] for corners in self.corners])

    def _between(self, a, values):
        late = int(np.clip(np.searchsorted(self.times, a), 1, len(self.times) - 1))
        times = self.times[late - 1 : late + 1]
        if a in times:
            part = times.index(a)
        else:
            first, now, last = self.growth([times[0], a, times[1]])
            part = (now - first) / (last - first)
        part = values[0].dtype.type(part)
        return (1 - part) * values[late - 1] + part * values[late]


class LatestPhases:
    """Phases that keep those of the latest chunk: it is wanted at several times in a row."""

    def __init__(self, phases):
        self.phases, self.lock, self.latest = phases, Lock(), (None, None)

    def fields(self, start, shape, layers) -> list:
        """See `Phases.fields`."""
        with self.lock:
            if self.latest[0] != (start, shape):
                self.latest = (start, shape), self.phases.fields(start, shape, layers)
            return self.latest[1]


@dataclass(frozen=True)
class GrownPhases:
    """Phases at another time: in linear theory psi grows as D."""

    phases: LatestPhases
    growth: float

    def fields(self, start, shape, layers) -> list:
        """See `Phases.fields`."""
        return [self.growth * psi for psi in self.phases.fields(start, shape, layers)]


def _corners(field, chunk):
    """Of the cuboid around the particles of a chunk and one site around it."""
    padding = field.domain.padding
    inner = slice(padding - 1, 1 - padding if padding > 1 else None)
    position = field.padded(chunk)[:3, inner, inner, inner].astype("f8")
    for axis, (start, n) in enumerate(zip(chunk.start, chunk.shape)):
        along = field.lattice.site_position(np.arange(start - 1, start + n + 1))
        position[axis] += along.reshape([-1 if i == axis else 1 for i in range(3)])
    position = position.reshape(3, -1)
    return np.stack([position.min(axis=1), position.max(axis=1)])
