"""Halos one by one: which halos of two catalogues of the same phases are the same, and how alike.

Two halos are partners by the Lagrangian sites that they share. Small scales are invented, so small
halos differ: how far SR can agree with HR is shown by how far two SR realisations agree.
"""

import numpy as np
from mpi4py import MPI

from ..errors import agreement
from ..lattice import LagrangianLattice, cube_root, particle_ids
from ..particles import find_numbering
from .fields import pieces
from .halos import bins, deal, mean_and_error
from .statistic import Statistic

MERIT = 0.25  # shared^2 / (length length): as if each shared half of its sites with the other


def halo_sites(halos, catalog) -> tuple[np.ndarray, np.ndarray]:
    """Lagrangian sites of all particles in halos, dealt to the ranks by site. Collective.

    Parameters
    ----------
    halos : Halos
    catalog : CatalogSource
        That of the halos, with ID, in any numbering that `find_numbering` knows.

    Returns
    -------
    site : (m,) int64
        This rank's, ascending: x slowest, from 0.
    halo : (m,) int64
        Row of `halos.length` that each belongs to.

    Raises
    ------
    InputError
        On every rank, if IDs do not number a lattice.
    """
    comm, size = catalog.comm, catalog.csize
    with agreement(comm):
        corner = LagrangianLattice(cube_root(size), halos.attrs["BoxSize"])
        ids = particle_ids(halos.members["ID"])
        ends = np.array([2**62, 0])
        for (every,) in pieces(catalog, "ID"):
            every = particle_ids(every)
            ends = np.array([min(ends[0], every.min()), max(ends[1], every.max())])
    first, last = comm.allreduce(ends[0], MPI.MIN), comm.allreduce(ends[1], MPI.MAX)
    position = halos.members["Position"]
    numbering = find_numbering(comm, corner, int(first), int(last), ids, position)
    site = np.ravel_multi_index(numbering.site(corner, ids).T, (corner.Nmesh,) * 3)
    owner = site * comm.size // size
    halo = deal(np.repeat(halos.index, halos.length[halos.index]), owner, comm)
    site = deal(site, owner, comm)
    order = np.argsort(site)
    return site[order], halo[order]


def partners(length, sites, other_length, other_sites, comm) -> tuple[np.ndarray, np.ndarray]:
    """Each halo's partner in another catalogue of the same lattice. Collective.

    Of all halos that share sites those are partners that are each other's best by
    merit = shared^2 / (length other_length) (Knebe et al. 2013), if it is at least 1/4.

    Parameters
    ----------
    length, other_length : (n,), (o,) int64
        `Halos.length` of both.
    sites, other_sites : tuple
        Of `halo_sites`.

    Returns
    -------
    partner : (n,) int64
        Row of the other catalogue, -1 for none; the same on every rank.
    shared : (n,) int64
        Sites shared with it.
    """
    _, i, j = np.intersect1d(sites[0], other_sites[0], assume_unique=True, return_indices=True)
    width = max(len(other_length), 1)
    pair, number = np.unique(sites[1][i] * width + other_sites[1][j], return_counts=True)
    pair, number = (np.concatenate(comm.allgather(one)) for one in (pair, number))
    pair, place = np.unique(pair, return_inverse=True)
    number = np.bincount(place, number).astype("i8") if len(pair) else number
    first, second = pair // width, pair % width
    merit = number.astype("f8") ** 2 / (length[first] * other_length[second])
    best, other_best = _best(first, merit, len(length)), _best(second, merit, len(other_length))
    mutual = np.flatnonzero((best[first] == other_best[second]) & (merit >= MERIT))
    mutual = mutual[best[first[mutual]] == mutual]
    partner, shared = np.full(len(length), -1), np.zeros(len(length), dtype="i8")
    partner[first[mutual]], shared[first[mutual]] = second[mutual], number[mutual]
    return partner, shared


def matching_by_mass(halos, table, other, other_table, partner, shared, edges) -> Statistic:
    """How many halos have a partner, and how alike the two are, in bins of mass.

    Parameters
    ----------
    halos, other : Halos
        The reference, whose masses are binned, and the catalogue that is matched with it.
    table, other_table : dict
        Of `halo_table`.
    partner, shared : (n,) int64
        Of `partners`.
    edges : (m + 1,) array
        [Msun/h].

    Returns
    -------
    Statistic
        Columns mass (geometric centre), count, matched (share with a partner), shared (mean share
        of a matched halo's sites that its partner has), mass_ratio (mean of M / M_ref),
        mass_scatter (standard deviation of ln M / M_ref), offset (mean distance of the centres
        [Mpc/h]); attrs matched, of all halos. NaN where there is none.
    """
    which, number = bins(halos, edges), len(edges) - 1
    found = partner >= 0
    inside, mate = which >= 0, partner[found]
    count = np.bincount(which[inside], minlength=number)
    ratio = other.length[mate] * other.particle_mass / halos.mass[found]
    offset = other_table["centre"][mate] - table["centre"][found]
    offset -= halos.attrs["BoxSize"] * np.rint(offset / halos.attrs["BoxSize"])
    values = {
        "shared": shared[found] / halos.length[found],
        "mass_ratio": ratio,
        "log": np.log(ratio),
        "offset": np.linalg.norm(offset, axis=1),
    }
    at = np.where(which[found] >= 0, which[found], number)  # one bin more for those outside
    sums = {
        name: [np.bincount(at, one**power, number + 1)[:-1] for power in (0, 1, 2)]
        for name, one in values.items()
    }
    means = {name: mean_and_error(*three) for name, three in sums.items()}
    pairs = sums["log"][0]
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = pairs / count
        scatter = means["log"][1] * np.sqrt(pairs)
        errors = {
            "matched": np.sqrt(matched * (1 - matched) / count),
            "mass_scatter": scatter / np.sqrt(2 * (pairs - 1)),
        }
    kept = ("shared", "mass_ratio", "offset")
    return Statistic(
        "halo matching",
        {
            "mass": np.sqrt(edges[1:] * edges[:-1]),
            "count": count,
            "matched": matched,
            **{name: means[name][0] for name in kept},
            "mass_scatter": scatter,
        },
        {"mass": "Msun/h", "offset": "Mpc/h"},
        {**{name: means[name][1] for name in kept}, **errors},
        {
            "edges": edges.tolist(),
            "merit": MERIT,
            "matched": float(found.mean()) if len(found) else None,
            "particle_mass": halos.particle_mass,
        },
    )


def _best(key, merit, number):
    """For each key the row with the largest merit, the first of equals; -1 for none."""
    order = np.lexsort((np.arange(len(key)), -merit, key))
    keys, first = np.unique(key[order], return_index=True)
    best = np.full(number, -1)
    best[keys] = order[first]
    return best
