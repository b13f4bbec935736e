"""From a catalogue to a rank's padded block of the Lagrangian lattice."""

import logging
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from mpi4py import MPI
from pmesh.domain import Layout

from .errors import InputError, agreement, one_line
from .lattice import LagrangianLattice, cube_root, particle_ids
from .universe import Universe

logger = logging.getLogger(__name__)

# Mean displacements are summed as integers of this many to a cell: the sum, and with it every
# output bit, is then the same for any number of ranks.
_FIXED_POINT = 2**20

# Measured offsets this close [cells] to a known convention are taken to be it.
_OFFSET_TOLERANCE = 2e-3

# Where a particle is displaced further than this, in boxes, half a box is too near to tell
# which periodic image it came from.
_REACH = 0.45

# Even at z = 0, in the calmest hundredth of the sites the displacement bends by less than this
# [cells]: 0.06 at z = 4 to 0.15 at z = 0 measured, but 0.26 and more without a lattice.
_BEND = 0.2


@dataclass(frozen=True)
class LatticeDomain:
    """A rank's block of chunks, and its surroundings.

    Attributes
    ----------
    grid : ChunkGrid
    comm : mpi4py.MPI.Comm
    padding : int
        Lattice sites around the primary block on each side.
    """

    grid: object
    comm: object
    padding: int

    @property
    def chunks(self):
        """The rank's own chunks."""
        return self.grid.chunks(self.grid.blocks(self.comm.size)[self.comm.rank])

    def primary(self, rank):
        """First site and shape of a rank's primary block, in global sites."""
        block = self.grid.blocks(self.comm.size)[rank]
        start = [rows[first] * self.grid.side for rows, (first, _) in zip(self.grid.rows, block)]
        shape = [w[first:last].sum() for w, (first, last) in zip(self.grid.widths, block)]
        return np.array(start), np.array(shape)

    def padded(self, rank):
        """First site and shape of a rank's padded block; the first site may be negative."""
        start, shape = self.primary(rank)
        return start - self.padding, shape + 2 * self.padding

    def exchange(self, site, values):
        """Bring every rank the values on its padded block.

        The padding may be wider than blocks, and the block with its padding wider than the
        box: sites then appear several times, once for each periodic image.

        Parameters
        ----------
        site : (n, 3) int64
            Sites of this rank's values, in [0, Nmesh). All ranks together: each site once.
        values : (n, C) float32

        Returns
        -------
        (C, X, Y, Z) float32
            On the padded block.

        Raises
        ------
        InputError
            On every rank, if a site of a block has no value or more than one.
        """
        N = self.grid.Nmesh
        # A rank gets a site once, however many images of it its padded block holds. Axis by axis,
        # as whole tables of sites would set the peak of memory in large boxes.
        indices, counts = [], np.zeros(self.comm.size, dtype="i4")
        for rank in range(self.comm.size):
            inside = np.ones(len(site), dtype=bool)
            for axis, (first, n) in enumerate(zip(*self.padded(rank), strict=True)):
                inside &= (site[:, axis] - first) % N < min(n, N)
            indices.append(np.flatnonzero(inside))
            counts[rank] = len(indices[-1])
        if self.comm.size > 1 or counts[0] < len(site):
            layout = Layout(self.comm, len(site), counts, np.concatenate(indices))
            site, values = layout.exchange(site, values)
        del indices

        start, shape = self.padded(self.comm.rank)
        unique = np.minimum(shape, N)
        local = np.zeros(len(site), dtype="i8")
        for axis in range(3):
            local *= unique[axis]
            local += (site[:, axis] - start[axis]) % N
        with agreement(self.comm):
            filled = np.bincount(local, minlength=np.prod(unique))
            if (filled != 1).any():
                worst = int(np.flatnonzero(filled != 1)[0])
                where = (np.unravel_index(worst, unique) + start) % N
                raise InputError(
                    f"{(filled == 0).sum()} lattice sites have no particle and {(filled > 1).sum()} have "
                    f"several, the first at site {tuple(int(i) for i in where)}: IDs are missing or repeated"
                )
        field = np.empty((values.shape[1], np.prod(unique)), dtype="f4")
        for component, column in zip(field, values.T, strict=True):
            component[local] = column
        field = field.reshape(-1, *unique)
        if (shape > N).any():
            field = field[np.ix_(np.arange(len(field)), *(np.arange(n) % N for n in shape))]
        return field


@dataclass(frozen=True)
class LatticeField:
    """A rank's padded block of a vector field on the Lagrangian lattice.

    Attributes
    ----------
    lattice : LagrangianLattice
    domain : LatticeDomain
    data : (3 or 6, X, Y, Z) float32
        Displacement, comoving [Mpc/h]; then peculiar velocity [km/s]. On the padded block.
    largest : float
        Largest displacement along an axis anywhere in the box, comoving [Mpc/h].
    """

    lattice: LagrangianLattice
    domain: LatticeDomain
    data: np.ndarray
    largest: float

    def padded(self, chunk):
        """The field on a chunk with its padding, (C, n + 2 padding, ...) view."""
        start, _ = self.domain.primary(self.domain.comm.rank)
        local = (np.array(chunk.start) - start) % self.lattice.Nmesh
        width = np.array(chunk.shape) + 2 * self.domain.padding
        return self.data[(slice(None), *(slice(i, i + n) for i, n in zip(local, width)))]


def find_lattice(catalog):
    """The Lagrangian lattice of a catalogue, from its IDs and its mean displacement.

    Collective.

    Parameters
    ----------
    catalog : nbodykit CatalogSource
        With Position [Mpc/h] and ID, and BoxSize in attrs.

    Returns
    -------
    lattice : LagrangianLattice
    site : (n, 3) int64
        Sites of this rank's particles.
    displacement : (n, 3) float64
        Their displacements, comoving [Mpc/h].

    Raises
    ------
    InputError
        On every rank, if the particles do not come from a lattice.
    """
    comm = catalog.comm
    with agreement(comm):
        universe = Universe.of(catalog.attrs, "BoxSize")
        box, Nmesh = universe.BoxSize, cube_root(catalog.csize)
        for name in ("Position", "ID"):
            if name not in catalog.columns:
                raise InputError(
                    f"the snapshot has no {name}: the Lagrangian lattice needs Position and ID"
                )
    with agreement(comm):
        position, ids = _compute(catalog, "Position", "ID")
        ids = particle_ids(ids)
        _check_finite("Position", position)
        if len(position) and (abs(position - box / 2) > box * 0.501).any():
            raise InputError(
                f"Position runs from {position.min():g} to {position.max():g} Mpc/h in a box of "
                f"{box:g} Mpc/h: check the units of the snapshot"
            )
    corner = LagrangianLattice(Nmesh, box, 0.0)
    site = _sites(comm, corner, ids, position)
    offset = _offset(comm, corner, corner.displacement(site, position), universe)
    lattice = LagrangianLattice(Nmesh, box, offset)
    return lattice, site, lattice.displacement(site, position)


def lattice_field(catalog, domain, velocity, found=None):
    """Displacement (and velocity) of a catalogue on a rank's padded block.

    Collective; the particles are exchanged once.

    Parameters
    ----------
    catalog : nbodykit CatalogSource
    domain : LatticeDomain
    velocity : bool
        With peculiar velocities [km/s] as channels 3 to 5.
    found : tuple, optional
        What `find_lattice` returned, if it was called before.

    Returns
    -------
    LatticeField

    Raises
    ------
    InputError
        On every rank: missing or repeated IDs, values that are not finite, displacements near
        half a box, no lattice (glass initial conditions), no Velocity where it is wanted.
    """
    comm = catalog.comm
    lattice, site, displacement = found or find_lattice(catalog)
    values = [displacement.astype("f4")]
    with agreement(comm):
        if velocity:
            if "Velocity" not in catalog.columns:
                raise InputError(
                    "the snapshot has no Velocity: a 6-channel model needs it; use a 3-channel model"
                )
            values.append(np.asarray(_compute(catalog, "Velocity")[0], dtype="f4"))
            _check_finite("Velocity", values[1])
    largest = comm.allreduce(float(abs(displacement).max(initial=0)), op=MPI.MAX)
    field = domain.exchange(site, np.concatenate(values, axis=1))
    if largest > _REACH * lattice.BoxSize:
        raise InputError(
            f"a particle lies {largest:.4g} Mpc/h from its lattice site in a box of {lattice.BoxSize:g} "
            f"Mpc/h: beyond {_REACH:g} boxes its periodic image is uncertain, or its ID does not "
            "number the lattice (glass initial conditions?)"
        )
    _check_smooth(comm, lattice, field[:3])
    return LatticeField(lattice, domain, field, largest)


def node_ranks(comm):
    """This rank among those of its node, and their number. Collective."""
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        return local.rank, local.size
    finally:
        local.Free()


def _compute(catalog, *names):
    try:
        computed = catalog.compute(*(catalog[name] for name in names))
        return computed if len(names) > 1 else [computed]
    except InputError:
        raise
    except Exception as error:
        line = one_line(error)
        raise InputError(f"{' or '.join(names)} cannot be read: {line}") from error


def _check_finite(name, values):
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise InputError(
            f"{name} is not finite for {bad.sum()} particles, the first {values[bad][0].tolist()}: "
            "the snapshot is damaged"
        )


def _sites(comm, corner, ids, position):
    """Sites of particles, (n, 3) int64, however their code numbers a lattice.

    Codes count from 0 or 1, or go on after the gas, or give the gas every second number; x or z is
    the slowest axis. The right order of the axes leaves the smallest displacements.
    """
    base = comm.allreduce(int(ids.min()) if len(ids) else 2**62, op=MPI.MIN)
    last = comm.allreduce(int(ids.max()) if len(ids) else -1, op=MPI.MAX)
    step, rest = divmod(last - base, max(corner.size - 1, 1))
    if comm.allreduce(int(((ids - base) % max(step, 1)).any())) or rest or step > 2:
        raise InputError(
            f"ID runs from {base} to {last}: {corner.Nmesh}^3 particles of a lattice have {corner.size} "
            "consecutive IDs, or every second one; some are missing or repeated, or the particles do not "
            "come from a lattice"
        )
    step = max(step, 1)
    site = corner.site(ids, base, step)
    # mean square distance along each axis (rows) from each digit of the ID, the slowest first [cells]
    square = np.zeros((3, 3))
    for i, j in product(range(3), range(3)):
        away = position[:, i] / corner.cell - site[:, j]
        away -= corner.Nmesh * np.rint(away / corner.Nmesh)
        square[i, j] = away @ away
    square = comm.allreduce(square) / corner.size
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
        logger.info("IDs from %d in steps of %d, %s slowest", base, step, slowest)
    return site[:, orders[best]]


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
    conventions = {
        f"{name}{shift_name}": start + shift
        for name, start in (("cell corners", 0.0), ("cell centres", 0.5))
        for shift_name, shift in (
            ("", 0.0),
            (", shifted by the gas", 0.5 * baryons),
            (", gas", -0.5 * (1 - baryons)),
        )
    }
    name, nearest = min(conventions.items(), key=lambda item: abs(item[1] - offset))
    if abs(nearest - offset) < _OFFSET_TOLERANCE:
        offset = nearest
    else:
        name = "no known convention"
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
