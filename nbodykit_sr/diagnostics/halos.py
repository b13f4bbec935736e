"""Friends-of-friends halos by nbodykit, each whole on one rank, and their mass function."""

from dataclasses import dataclass

import numpy as np
from nbodykit.lab import ArrayCatalog

from ..universe import RHO_CRITICAL, Universe
from .fields import pieces, read, spread
from .linking import link
from .statistic import Statistic

MEMBERS = ("Position", "Velocity", "ID")  # columns that halos keep
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
    members : dict of str to (m, ...) ndarray
        Columns of those particles, halo after halo: Position, comoving [Mpc/h], and where the
        catalogue has them Velocity, peculiar [km/s], and ID.
    centre : (3,) float64 or None
        Centre of mass of the largest halo, comoving [Mpc/h].
    attrs : dict
        linking_length, in mean separations; separation, that mean [Mpc/h]; nmin; BoxSize.
    """

    length: np.ndarray
    particle_mass: float
    index: np.ndarray
    members: dict
    centre: np.ndarray | None
    attrs: dict

    @property
    def mass(self) -> np.ndarray:
        """(n,) float64 [Msun/h]."""
        return self.length * self.particle_mass


def particle_mass(catalog) -> float:
    """Mass of a particle that stands for all matter, Omega0 rho_c V / N [Msun/h].

    In runs with gas the dark matter alone is linked, and stands for the gas it has along.
    """
    universe = Universe.of(catalog.attrs, "BoxSize", "Omega0")
    return universe.Omega0 * RHO_CRITICAL * universe.BoxSize**3 / catalog.csize


def find_halos(catalog, linking_length=0.2, nmin=32) -> Halos:
    """Link a catalogue by friends-of-friends. Collective.

    Parameters
    ----------
    linking_length : float
        In mean separations.
    nmin : int
        The fewest particles of a halo, inclusive.
    """
    box = Universe.of(catalog.attrs, "BoxSize").BoxSize
    comm = catalog.comm
    mass = particle_mass(catalog)
    linking = min(comm.size, max(1, catalog.csize // PARTICLES_PER_RANK))
    separation = box / catalog.csize ** (1 / 3)
    source = _on_first_ranks(catalog, linking)
    row = halo = length = np.zeros(0, dtype="i8")
    if source is not None:
        position = read(source, "Position")
        row, halo, length = link(position, box, linking_length * separation, nmin, source.comm)
        del position
    length = comm.bcast(length)
    number = len(length)
    # halos are dealt to the ranks in turn, the largest first
    target = halo % comm.size
    order = np.argsort(deal(halo, target, comm), kind="stable")
    members = {}
    for name in MEMBERS:
        if name in catalog:
            empty = np.zeros((0, *catalog[name].shape[1:]), dtype=catalog[name].dtype)
            rows = empty if source is None else _select(source, name, row)
            members[name] = deal(rows, target, comm)[order]
    if source is not None and source.comm is not comm:
        source.comm.Free()
    centre = None
    if number:
        if comm.rank == 0:
            largest = members["Position"][: length[0]]
            offset = largest - largest[0]
            offset -= box * np.rint(offset / box)
            centre = (largest[0] + offset.mean(axis=0)) % box
        centre = comm.bcast(centre)
    return Halos(
        length,
        mass,
        np.arange(comm.rank, number, comm.size),
        members,
        centre,
        {
            "linking_length": linking_length,
            "separation": separation,
            "nmin": nmin,
            "BoxSize": box,
        },
    )


def mass_edges(particle_mass, largest, nmin=32, width=0.25) -> np.ndarray:
    """Logarithmic bins for halos of at least `nmin` particles [Msun/h].

    The first edge is half a particle below `nmin`, so that no halo lies on it.
    """
    first = np.log10((nmin - 0.5) * particle_mass)
    number = max(1, int(np.ceil((np.log10(max(largest, 10**first)) - first) / width + 1e-9)))
    return 10 ** (first + width * np.arange(number + 1))


def mass_function(halos, edges=None) -> Statistic:
    """Halo mass function dn / dlog10 M (Li et al. 2021, Fig. 4), with Poisson errors.

    Parameters
    ----------
    halos : Halos
    edges : (n + 1,) array
        Bin edges [Msun/h]. Bins below `nmin` particles are NaN, as nothing is known there.

    Returns
    -------
    Statistic
        Columns mass (geometric centre of the bin), dn_dlogM, count; attrs edges, total,
        at_least (numbers of halos of so many particles), largest and particle_mass [Msun/h].
    """
    nmin = halos.attrs["nmin"]
    if edges is None:
        edges = mass_edges(halos.particle_mass, halos.mass.max(initial=0), nmin)
    edges = np.asarray(edges, dtype=float)
    count = np.histogram(halos.mass, edges)[0]
    density = 1 / (np.diff(np.log10(edges)) * halos.attrs["BoxSize"] ** 3)
    density = np.where(resolved(halos, edges), density, np.nan)
    return Statistic(
        "halo mass function",
        {"mass": np.sqrt(edges[:-1] * edges[1:]), "dn_dlogM": count * density, "count": count},
        {"mass": "Msun/h", "dn_dlogM": "(h/Mpc)^3"},
        {"dn_dlogM": np.sqrt(count) * density, "count": np.sqrt(count)},
        {
            "edges": edges.tolist(),
            "total": int(len(halos.length)),
            "at_least": {
                str(least): int((halos.length >= least).sum())
                for least in sorted({nmin, 100, 1000})
                if least >= nmin
            },
            "largest": float(halos.mass.max(initial=0)),
            "particle_mass": halos.particle_mass,
            **halos.attrs,
        },
    )


def resolved(halos, edges) -> np.ndarray:
    """Which bins of mass hold halos of at least `nmin` particles only, (n,) bool."""
    return edges[:-1] * (1 + 1e-9) > (halos.attrs["nmin"] - 0.5) * halos.particle_mass


def bins(halos, edges) -> np.ndarray:
    """Bin of mass of every halo, (n,) int64; -1 outside, and in bins below `nmin` particles."""
    which = np.searchsorted(edges, halos.mass, "right") - 1
    known = resolved(halos, edges)
    inside = (which >= 0) & (which < len(edges) - 1)
    return np.where(inside & known[np.clip(which, 0, len(known) - 1)], which, -1)


def mean_and_error(number, total, square) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error from sums of powers 0, 1, 2."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / number
        variance = np.maximum(square / number - mean**2, 0) * number / (number - 1)
        return mean, np.sqrt(variance / number)


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
        for name in MEMBERS
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
    for (rows,) in pieces(catalog, name):
        here = slice(*np.searchsorted(row, [start, start + len(rows)]))
        kept.append(rows[row[here] - start])
        start += len(rows)
    return np.concatenate(kept)


def _to_first_ranks(array, ranks, comm):
    """Rows spread evenly over the first `ranks` ranks, in order; none on the others."""
    if ranks == comm.size:
        return spread(array, comm)
    gathered = comm.gather(array)
    parts = None
    if comm.rank == 0:
        parts = np.array_split(np.concatenate(gathered), ranks)
        parts += [array[:0]] * (comm.size - ranks)
    return comm.scatter(parts)
