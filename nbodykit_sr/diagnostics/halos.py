"""Friends-of-friends halos by nbodykit, each whole on one rank."""

from dataclasses import dataclass

import numpy as np
from nbodykit.lab import ArrayCatalog

from ..errors import InputError
from ..physics import matter
from ..physics.universe import Universe
from .fields import batches, read, selected
from .linking import link

COLUMNS = ("Position", "Velocity", "ID")  # columns that halos keep
PARTICLES_PER_RANK = 4096  # below this many, fewer ranks link: an empty one would break FOF


@dataclass(frozen=True)
class Halos:
    """Friends-of-friends groups of a catalogue.

    Attributes
    ----------
    length : (n,) int64
        Particles in each, largest first; the same on every rank.
    particle_mass : float
        [Msun/h].
    index : (h,) int64
        Which of them, as rows of `length`, have their particles on this rank, all of them.
    particles : dict of str to (m, ...) ndarray
        Columns of those particles, halo after halo: Position, comoving [Mpc/h], and where the
        catalogue has them Velocity, peculiar [km/s], and ID.
    attrs : dict
        linking_length, in mean separations; separation, that mean [Mpc/h]; nmin; BoxSize; share, of
        the matter of the box, that the catalogue's particles stand for.
    """

    length: np.ndarray
    particle_mass: float
    index: np.ndarray
    particles: dict
    attrs: dict

    @property
    def mass(self) -> np.ndarray:
        """(n,) float64 [Msun/h]."""
        return self.length * self.particle_mass

    @property
    def count(self) -> np.ndarray:
        """Particles of each halo of this rank, (h,) int64."""
        return self.length[self.index]

    @property
    def first(self) -> np.ndarray:
        """Row of `particles` where each halo of this rank begins, (h,) int64."""
        return np.cumsum(self.count) - self.count

    @property
    def owner(self) -> np.ndarray:
        """Which halo of this rank each row of `particles` is in, (m,) int64."""
        return np.repeat(np.arange(len(self.index)), self.count)

    def means(self, values) -> np.ndarray:
        """Means over the particles of each halo of this rank, (h, 3) float64."""
        sums = [np.bincount(self.owner, values[:, i], len(self.index)) for i in range(3)]
        return np.stack(sums, axis=1) / self.count[:, None]


def particle_mass(catalog) -> float:
    """Mass of all matter that a particle stands for [Msun/h]: `matter.particle_mass`.

    In runs with gas the dark matter alone is linked, and stands for the gas it has along.
    """
    return matter.particle_mass(catalog.attrs, catalog.csize)


def find_halos(catalog, linking_length=0.2, nmin=32) -> Halos:
    """Link a catalogue by friends-of-friends. Collective.

    Particles that Selection leaves out are not linked. Of a part of a box, separation and masses
    are those of the whole; see `cut_halos` for what its walls cut.

    Parameters
    ----------
    catalog : CatalogSource
        With Position, and in attrs BoxSize, Omega0, and what `matter.particle_mass` reads.
    linking_length : float
        In mean separations.
    nmin : int
        The fewest particles of a halo, inclusive.

    Raises
    ------
    InputError
        On every rank: no particles, or particles of several weights.
    """
    box = Universe.of(catalog.attrs, "BoxSize").BoxSize
    comm, catalog = catalog.comm, selected(catalog)
    if not catalog.csize:
        raise InputError("the catalogue has no particles: none can be linked")
    mass = particle_mass(catalog)
    linking = min(comm.size, max(1, catalog.csize // PARTICLES_PER_RANK))
    separation = matter.mean_separation(catalog.attrs, catalog.csize)
    source = _on_first_ranks(catalog, linking)
    row = halo = length = np.zeros(0, dtype="i8")
    if source is not None:
        position = read(source, "Position")
        row, halo, length = link(position, box, linking_length * separation, nmin, source.comm)
        del position
    length = comm.bcast(length)
    # halos are dealt to the ranks in turn, the largest first
    target = halo % comm.size
    order = np.argsort(deal(halo, target, comm), kind="stable")
    particles = {}
    for name in COLUMNS:
        if name in catalog:
            empty = np.zeros((0, *catalog[name].shape[1:]), dtype=catalog[name].dtype)
            rows = empty if source is None else _select(source, name, row)
            particles[name] = deal(rows, target, comm)[order]
    if source is not None and source.comm is not comm:
        source.comm.Free()
    return Halos(
        length,
        mass,
        np.arange(comm.rank, len(length), comm.size),
        particles,
        {
            "linking_length": linking_length,
            "separation": separation,
            "nmin": nmin,
            "BoxSize": box,
            "share": matter.share(catalog.attrs, catalog.csize),
        },
    )


def deal(array, target, comm) -> np.ndarray:
    """Rows sent to the ranks in `target`, (rows,); their global order is kept on each."""
    return np.concatenate(comm.alltoall([array[target == rank] for rank in range(comm.size)]))


def _on_first_ranks(catalog, ranks):
    """The catalogue with particles on each of the first `ranks` ranks; None on the others.

    It is read where and when it is needed if it has them already, and else moved, evenly and in
    its order, to a communicator of its own.
    """
    comm = catalog.comm
    if ranks == comm.size and min(comm.allgather(catalog.size)):
        source = catalog.copy()
        source["Position"] = source["Position"].astype("f8")
        return source
    columns = {
        name: _to_first_ranks(read(catalog, name), ranks, comm)
        for name in COLUMNS
        if name in catalog
    }
    group = comm.Split(int(comm.rank >= ranks), comm.rank)
    if comm.rank >= ranks:
        group.Free()
        return None
    columns["Position"] = columns["Position"].astype("f8", copy=False)
    return ArrayCatalog(columns, comm=group, BoxSize=catalog.attrs["BoxSize"])


def _select(catalog, name, row):
    """Rows of a column of this rank, ascending ones, read piece by piece."""
    kept, start = [], 0
    for (rows,) in batches(catalog, name):
        here = slice(*np.searchsorted(row, [start, start + len(rows)]))
        kept.append(rows[row[here] - start])
        start += len(rows)
    return np.concatenate(kept)


def _to_first_ranks(array, ranks, comm):
    """Rows spread evenly over the first `ranks` ranks, in order; none on the others."""
    counts = comm.allgather(len(array))
    row = sum(counts[: comm.rank]) + np.arange(len(array))
    return deal(array, row * ranks // sum(counts), comm)
