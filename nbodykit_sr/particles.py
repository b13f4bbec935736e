"""Particles of a catalogue on their Lagrangian lattice, for the ID conventions of any code."""

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource

from .domain import LatticeDomain, LatticeField
from .errors import InputError, agreement, one_line
from .lattice import FARTHEST, LagrangianLattice, cube_root, nearest_image, particle_ids, periodic
from .physics.universe import Universe

logger = logging.getLogger(__name__)

# Mean displacements are summed as integers of this many to a cell: the sum, and with it every
# output bit, is then the same for any number of ranks.
_FIXED_POINT = 2**20

# Measured offsets this close [cells] to a known convention are taken to be it.
_OFFSET_TOLERANCE = 2e-3

# SWIFT gives gas the displacements of the dark matter it splits it from: the two patterns, half a
# cell apart, attract each other, and the species move so far together [cells]: .016 at z = 2
# measured, each in proportion to the mass of the other.
_DRIFT = 0.05

# Even at z = 0, in the calmest hundredth of the sites the displacement bends by less than this
# [cells]: 0.06 at z = 4 to 0.15 at z = 0 measured, but 0.26 and more without a lattice.
_BEND = 0.2

# Two ranks whose first particles are the same, so many of them, hold the same particles
_SAMPLE = 1024

# Velocities are 0.99 (z = 99) to 1.5 (z = 0) times those of linear theory, measured; a factor
# beyond this is one of units.
_SPEEDS = 10


@dataclass(frozen=True)
class LatticeParticles:
    """A rank's particles of a catalogue, each at its site of the Lagrangian lattice."""

    catalog: CatalogSource
    universe: Universe
    lattice: LagrangianLattice
    site: np.ndarray  # (n, 3) int64, of this rank's particles
    displacement: np.ndarray  # (n, 3) float64, of the same, comoving [Mpc/h]

    def renumbered(self, shift) -> "LatticeParticles":
        """The same particles with their sites `shift` further along each axis."""
        return replace(self, site=(self.site + shift) % self.lattice.Nmesh)

    def field(self, domain: LatticeDomain, velocity: bool) -> LatticeField:
        """Displacement (and peculiar velocity [km/s], as channels 3 to 5) on a rank's padded block.

        Collective; the particles are exchanged once.

        Raises
        ------
        InputError
            On every rank: missing or repeated IDs, values that are not finite, displacements near
            half a box, velocities in other units, no lattice (glass initial conditions), no
            Velocity where it is wanted.
        """
        comm, lattice = self.catalog.comm, self.lattice
        values = [self.displacement.astype("f4")]
        with agreement(comm):
            if velocity:
                if "Velocity" not in self.catalog.columns:
                    raise InputError(
                        "the snapshot has no Velocity: a 6-channel model needs it; use a 3-channel model"
                    )
                values.append(read_columns(self.catalog, "Velocity")[0].astype("f4"))
        if velocity:
            self._check_velocity(values[1])
        largest = comm.allreduce(float(abs(self.displacement).max(initial=0)), op=MPI.MAX)
        field = domain.exchange(self.site, np.concatenate(values, axis=1))
        if largest > FARTHEST * lattice.BoxSize:
            raise InputError(
                f"a particle lies {largest:.4g} Mpc/h from its lattice site in a box of "
                f"{lattice.BoxSize:g} Mpc/h: beyond {FARTHEST:g} boxes its periodic image is uncertain, or "
                "its ID does not number the lattice (glass initial conditions?)"
            )
        _check_smooth(comm, lattice, field[:3])
        return LatticeField(lattice, domain, field, largest)

    def _check_velocity(self, velocity):
        """Refuse velocities that linear theory puts in other units, where time is known."""
        if self.universe.a is None or self.universe.Omega0 is None:
            return
        squares = [float((x.astype("f8") ** 2).sum()) for x in (velocity, self.displacement)]
        fast, far = np.sqrt(self.catalog.comm.allreduce(np.array(squares)) / self.lattice.size)
        linear = self.universe.linear_rate * far
        if not linear / _SPEEDS <= fast <= _SPEEDS * linear:
            raise InputError(
                f"Velocity is {fast:.3g} km/s rms but linear theory gives {linear:.3g} km/s for "
                f"displacements of {far:.3g} Mpc/h: check its units, peculiar km/s are needed"
            )


def find_lattice(catalog: CatalogSource) -> LatticeParticles:
    """Put particles on their Lagrangian lattice, found from their IDs and mean displacement. Collective.

    The catalogue has Position [Mpc/h] and ID, and BoxSize in attrs. InputError on every rank, if its
    particles do not come from a lattice.
    """
    comm = catalog.comm
    check_shared(catalog)
    with agreement(comm):
        universe = Universe.of(catalog.attrs, "BoxSize")
        box, Nmesh = universe.BoxSize, cube_root(catalog.csize)
        for name in ("Position", "ID"):
            if name not in catalog.columns:
                raise InputError(
                    f"the snapshot has no {name}: the Lagrangian lattice needs Position and ID"
                )
    with agreement(comm):
        position, ids = read_columns(catalog, "Position", "ID")
        ids = particle_ids(ids)
        position = periodic(position, box)
    corner = LagrangianLattice(Nmesh, box, 0.0)
    last = comm.allreduce(int(ids.max()) if len(ids) else -1, op=MPI.MAX)
    first = comm.allreduce(int(ids.min()) if len(ids) else 2**62, op=MPI.MIN)
    site = find_numbering(comm, corner, first, last, ids, position).site(corner, ids)
    offset = _offset(comm, corner, corner.displacement(site, position), universe)
    lattice = LagrangianLattice(Nmesh, box, offset)
    return LatticeParticles(catalog, universe, lattice, site, lattice.displacement(site, position))


def check_shared(catalog: CatalogSource) -> None:
    """Refuse a catalogue if every rank holds the same particles: InputError on all. Collective."""
    comm, some = catalog.comm, None
    if comm.size == 1:
        return
    with suppress(Exception):  # whoever reads all of it says so
        some = np.asarray(catalog["Position"][:_SAMPLE].compute()).tobytes()
    first = comm.allgather((catalog.size, some))
    if some and first.count(first[0]) == comm.size:
        raise InputError(
            f"all {comm.size} ranks hold the same {catalog.size} particles: give each a part of its own, "
            "such as array[comm.rank :: comm.size], or name the snapshot's path"
        )


def read_columns(catalog: CatalogSource, *names: str) -> list:
    """Columns of this rank's particles, computed together and checked. Not collective.

    InputError for columns that are unreadable, vectors that are not finite floats (n, 3), a Selection.
    """
    wanted = [*names, "Selection"]  # nbodykit gives every catalogue one, true by default
    try:
        *columns, selected = catalog.compute(*(catalog[name] for name in wanted))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{' or '.join(names)} cannot be read: {one_line(error)}") from error
    if not np.all(selected):
        raise InputError(
            f"Selection leaves out {np.sum(~np.asarray(selected, bool))} particles: all of them are "
            "needed; delete it, and select from the result"
        )
    for name, values in zip(names, columns, strict=True):
        if name == "ID":
            continue
        if values.dtype.kind != "f" or values.shape[1:] != (3,):
            raise InputError(
                f"{name} is {values.dtype} of shape {values.shape}: floating-point numbers of shape "
                "(n, 3) are needed"
            )
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            raise InputError(
                f"{name} is not finite for {bad.sum()} particles, the first "
                f"{values[bad][0].tolist()}: the snapshot is damaged"
            )
    return columns


@dataclass(frozen=True)
class Numbering:
    """How a code numbers the sites of a lattice by particle IDs."""

    base: int  # the lowest ID
    step: int  # from an ID to the next
    order: tuple  # along x, y, z: which digit of the ID in base Nmesh, the slowest first

    def site(self, corner: LagrangianLattice, ids: np.ndarray) -> np.ndarray:
        """Sites of particles, (n, 3) int64."""
        return corner.site(ids, self.base, self.step)[:, self.order]


def find_numbering(comm, corner, first, last, ids, position) -> Numbering:
    """How the particles of a catalogue are numbered. Collective.

    Codes count from 0 or 1, or go on after the gas, or give the gas every second number; x or z is
    the slowest axis. The right order of the axes leaves the smallest displacements.

    `corner` is the lattice with offset 0, `first` and `last` are the extreme IDs of all particles, and `ids`
    and positions, comoving [Mpc/h], those of this rank or some of them. InputError on every rank, if the IDs
    do not number a lattice.
    """
    step, rest = divmod(last - first, max(corner.size - 1, 1))
    if comm.allreduce(int(((ids - first) % max(step, 1)).any())) or rest or step > 2:
        raise InputError(
            f"ID runs from {first} to {last}: {corner.Nmesh}^3 particles of a lattice have {corner.size} "
            "consecutive IDs, or every second one; some are missing or repeated, or the particles do not "
            "come from a lattice"
        )
    step = max(step, 1)
    site = corner.site(ids, first, step)
    # mean square distance along each axis (rows) from each digit of the ID, the slowest first [cells]
    square = np.zeros((3, 3))
    for i, j in product(range(3), range(3)):
        away = nearest_image(position[:, i] / corner.cell - site[:, j], corner.Nmesh)
        square[i, j] = away @ away
    square = comm.allreduce(square) / max(comm.allreduce(len(ids)), 1)
    orders = list(permutations(range(3)))  # of the digits, along x, y, z
    rms = [np.sqrt(square[range(3), order].sum() / 3) for order in orders]
    best, chance = int(np.argmin(rms)), corner.Nmesh / np.sqrt(12)
    if rms[best] > 0.9 * chance:
        raise InputError(
            "the IDs do not number a lattice, whichever of the axes is slowest or fastest: displacements "
            f"would be {rms[best]:.3g} cells rms, by chance they are {chance:.3g}; the initial conditions "
            "were a glass, or the IDs do not go with these positions"
        )
    if comm.rank == 0:
        slowest = "xyz"[orders[best].index(0)]
        logger.info("IDs from %d in steps of %d, %s slowest", first, step, slowest)
    return Numbering(first, step, orders[best])


def _offset(comm, corner, displacement, universe):
    """Where in its cell a site lies, from the mean displacement over a corner lattice."""
    fixed = np.rint(displacement / corner.cell * _FIXED_POINT).astype("i8").sum(axis=0)
    mean = comm.allreduce(fixed) / _FIXED_POINT / corner.size
    offset = float(mean.mean())
    if abs(mean - offset).max() > 0.02:
        raise InputError(
            f"the mean displacement is {np.round(mean, 4).tolist()} cells along x, y, z: particles of a "
            "lattice are shifted alike along all axes; the IDs do not number a lattice"
        )
    baryons = (universe.OmegaBaryon or 0) / (universe.Omega0 or 1)
    shifts = [("", 0.0, 0.0)]
    if baryons:
        shifts.append((", shifted by the gas", 0.5 * baryons, baryons))
        shifts.append((", gas", -0.5 * (1 - baryons), 1 - baryons))
    conventions = [
        (start + shift, f"{name}{shift_name}", _OFFSET_TOLERANCE + _DRIFT * other)
        for name, start in (("cell corners", 0.0), ("cell centres", 0.5))
        for shift_name, shift, other in shifts
    ]
    near = [one for one in conventions if abs(one[0] - offset) < one[2]]
    unknown = (offset, "no known convention", 0.0)
    offset, name, _ = min(near, key=lambda one: abs(one[0] - offset), default=unknown)
    if comm.rank == 0:
        logger.info("lattice of %d^3 sites, offset %.5f cells (%s)", corner.Nmesh, offset, name)
    return offset


def _check_smooth(comm, lattice, displacement):
    """Refuse displacements that bend everywhere: there was no lattice, or not this one."""
    calm = total = 0
    for axis in (1, 2, 3):
        if displacement.shape[axis] >= 3:
            bend = np.sqrt((np.diff(displacement, 2, axis=axis) ** 2).sum(axis=0)) / lattice.cell
            calm, total = calm + int((bend < _BEND).sum()), total + bend.size
    calm, total = comm.allreduce(calm), comm.allreduce(total)
    if calm < 0.01 * total:
        raise InputError(
            f"the displacement is smooth at {calm / total:.2%} of the sites: a run from a lattice has over "
            "1%; the initial conditions were a glass, or the IDs do not number the lattice"
        )
