"""The Lagrangian lattice: particle ID <-> lattice site <-> position.

Simulations started from a grid number their particles by it, so a snapshot is a vector field
(the displacement) on a periodic lattice. Everything else in the package works on such fields.
"""

from dataclasses import dataclass

import numpy as np

from .errors import InputError

# MP-Gadget keeps a generation count in the top byte of the IDs of runs with star formation
ID_BITS = 56

# Positions up to this far from the middle of the box [boxes] are periodic images
_OUTSIDE = 0.6

# Where a particle is displaced further than this [boxes], half a box is too near to tell which
# periodic image it came from
FARTHEST = 0.45


@dataclass(frozen=True)
class LagrangianLattice:
    """A cubic lattice of ``Nmesh**3`` sites in a periodic box.

    Attributes
    ----------
    Nmesh : int
        Sites on a side.
    BoxSize : float
        Comoving [Mpc/h].
    offset : float
        Where in its cell a site lies, in cells: 0 the lower corner, 0.5 the centre. Any real
        number is legal; runs with gas shift their species, and refining a corner lattice by 8
        gives -3.5.
    """

    Nmesh: int
    BoxSize: float
    offset: float = 0.5

    def __post_init__(self):
        if self.Nmesh < 1:
            raise InputError(f"Nmesh is {self.Nmesh}: a lattice needs at least one site")
        if not (np.isfinite(self.BoxSize) and self.BoxSize > 0):
            raise InputError(f"BoxSize is {self.BoxSize}: a positive length in Mpc/h is needed")

    @property
    def cell(self) -> float:
        """Lattice spacing, comoving [Mpc/h]."""
        return self.BoxSize / self.Nmesh

    @property
    def size(self) -> int:
        """Number of sites."""
        return self.Nmesh**3

    def refine(self, factor: int) -> "LagrangianLattice":
        """The lattice `factor` times finer whose sites are those of a cell-centred upsampling.

        The refined sites fill each coarse cell around its site symmetrically, so an offset o
        becomes ``0.5 - factor * (0.5 - o)`` fine cells.
        """
        return LagrangianLattice(
            self.Nmesh * factor, self.BoxSize, 0.5 - factor * (0.5 - self.offset)
        )

    def site(self, ids, base: int = 1, step: int = 1) -> np.ndarray:
        """Sites of particle IDs base, base + step, ..., (n, 3) int64; x is the slowest index."""
        flat = (np.asarray(ids).astype(np.int64) - base) // step
        return np.stack(np.unravel_index(flat, (self.Nmesh,) * 3), axis=-1)

    def id(self, site, base: int = 1) -> np.ndarray:
        """Particle IDs of sites (..., 3), uint64; sites wrap periodically."""
        i, j, k = np.moveaxis(np.asarray(site, dtype=np.int64) % self.Nmesh, -1, 0)
        return ((i * self.Nmesh + j) * self.Nmesh + k + base).astype(np.uint64)

    def site_position(self, site) -> np.ndarray:
        """Unperturbed positions of sites (..., 3), comoving [Mpc/h], not wrapped."""
        return (np.asarray(site) + self.offset) * self.cell

    def displacement(self, site, position) -> np.ndarray:
        """Periodic difference of positions and their sites, (n, 3) float64, comoving [Mpc/h].

        Right as long as no particle travelled half a box.
        """
        difference = np.asarray(position, dtype=np.float64) - self.site_position(site)
        return nearest_image(difference, self.BoxSize)

    def position(self, site, displacement, dtype=np.float64) -> np.ndarray:
        """Positions in [0, BoxSize), (..., 3) `dtype`, comoving [Mpc/h]."""
        return wrap(self.site_position(site) + displacement, self.BoxSize, dtype)


def cuboid(start, shape) -> np.ndarray:
    """Sites of a cuboid from `start` on, (n, 3) int64; x is the slowest index."""
    axes = [np.arange(first, first + n) for first, n in zip(start, shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def nearest_image(difference, period) -> np.ndarray:
    """Differences of periodic positions brought to within half a period of zero."""
    return difference - period * np.rint(difference / period)


def wrap(position, BoxSize: float, dtype=np.float64) -> np.ndarray:
    """Wrap positions into [0, BoxSize), also after the cast to `dtype`.

    A float64 just under BoxSize can become BoxSize itself as float32: then the position is 0.
    """
    wrapped = (position % BoxSize).astype(dtype, copy=False)
    wrapped[wrapped >= BoxSize] = 0
    return wrapped


def periodic(position, BoxSize: float) -> np.ndarray:
    """Positions of a code, comoving [Mpc/h], wrapped into [0, BoxSize).

    Codes keep them from 0 or around it, and may let particles drift out until they are sorted anew.
    InputError if some lie further out than a tenth of the box, as in other units. NaN stays.
    """
    if all((abs(position - centre) > _OUTSIDE * BoxSize).any() for centre in (BoxSize / 2, 0)):
        low, high = np.nanmin(position), np.nanmax(position)
        raise InputError(
            f"Position runs from {low:g} to {high:g} Mpc/h in a box of {BoxSize:g} Mpc/h: check the "
            "units of the snapshot"
        )
    return wrap(position, BoxSize)


def particle_ids(ids) -> np.ndarray:
    """Flat int64 IDs without the generation byte; InputError if they are no integers, or negative."""
    ids = np.asarray(ids).reshape(-1)
    if ids.dtype.kind not in "iu":
        raise InputError(f"ID is {ids.dtype}: integers that number a lattice are needed")
    if ids.min(initial=0) < 0:
        raise InputError(f"ID is {ids.min()} somewhere: numbers from 0 up are needed")
    ids = ids.astype(np.uint64)
    return (ids & np.uint64((1 << ID_BITS) - 1)).astype(np.int64)


def cube_root(count: int) -> int:
    """The integer whose cube is `count`; InputError if there is none."""
    root = round(count ** (1 / 3))
    if root < 1 or root**3 != count:
        raise InputError(
            f"the snapshot has {count} particles: a Lagrangian lattice needs a cube, such as "
            f"{max(root, 1)}^3 = {max(root, 1) ** 3}; open one particle type of a run started from a grid"
        )
    return root
