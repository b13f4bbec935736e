"""Halos one by one: which halos of two catalogues of the same phases are the same, and how alike.

Two halos are partners by the Lagrangian sites that they share. Small scales are invented, so small
halos differ: how far SR can agree with HR is shown by how far two SR realisations agree.
"""

import numpy as np
from mpi4py import MPI

from ..errors import InputError, agreement
from ..lattice import LagrangianLattice, cube_root, nearest_image, particle_ids
from ..particles import find_numbering
from . import drawing
from .diagnostic import Diagnostic, of_halos, row
from .fields import batches
from .halos import deal
from .mass_function import bins, mean_in_bins
from .statistic import Statistic, ratio

MERIT = 0.25  # shared^2 / (length length): as if each shared half of its sites with the other


def halo_sites(halos, catalog) -> tuple[np.ndarray, np.ndarray]:
    """Lagrangian sites of all particles in halos, dealt to the ranks by site. Collective.

    Parameters
    ----------
    halos : Halos
    catalog : CatalogSource
        Catalogue of the halos, with ID in any numbering that `find_numbering` knows.

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
        ids = particle_ids(halos.particles["ID"])
        ends = np.array([2**62, 0])
        for (every,) in batches(catalog, "ID"):
            every = particle_ids(every)
            ends = np.array([min(ends[0], every.min()), max(ends[1], every.max())])
    first, last = comm.allreduce(ends[0], MPI.MIN), comm.allreduce(ends[1], MPI.MAX)
    position = halos.particles["Position"]
    numbering = find_numbering(comm, corner, int(first), int(last), ids, position)
    site = np.ravel_multi_index(numbering.site(corner, ids).T, (corner.Nmesh,) * 3)
    owner = site * comm.size // size
    halo = deal(halos.index[halos.owner], owner, comm)
    site = deal(site, owner, comm)
    order = np.argsort(site)
    return site[order], halo[order]


def partners(length, sites, other_length, other_sites, comm) -> tuple[np.ndarray, np.ndarray]:
    """Each halo's partner in another catalogue of the same lattice. Collective.

    Two halos are partners if each has, among all halos that share sites with it, its largest merit in
    the other; merit = shared^2 / (length other_length) (Knebe et al. 2013), if it is at least 1/4.

    Parameters
    ----------
    length, other_length : (n,), (o,) int64
        `Halos.length` of both.
    sites, other_sites : tuple
        Results of `halo_sites` for both.

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
        Their `halo_table`.
    partner, shared : (n,) int64
        Results of `partners`.
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
    which, found = bins(halos, edges), partner >= 0
    number, mate = len(edges) - 1, partner[found]
    count = np.bincount(which[which >= 0], minlength=number)
    masses = other.length[mate] * other.particle_mass / halos.mass[found]
    offset = other_table["centre"][mate] - table["centre"][found]
    values = {
        "shared": shared[found] / halos.length[found],
        "mass_ratio": masses,
        "offset": np.linalg.norm(nearest_image(offset, halos.attrs["BoxSize"]), axis=1),
        "log": np.log(masses),
    }
    means = {name: mean_in_bins(which[found], one, number) for name, one in values.items()}
    _, error, pairs = means.pop("log")
    with np.errstate(divide="ignore", invalid="ignore"):
        matched = pairs / count
        scatter = error * np.sqrt(pairs)
        errors = {
            "matched": np.sqrt(matched * (1 - matched) / count),
            "mass_scatter": scatter / np.sqrt(2 * (pairs - 1)),
        }
    return Statistic(
        "halo matching",
        {
            "mass": np.sqrt(edges[1:] * edges[:-1]),
            "count": count,
            "matched": matched,
            **{name: one[0] for name, one in means.items()},
            "mass_scatter": scatter,
        },
        {"mass": "Msun/h", "offset": "Mpc/h"},
        {**{name: one[1] for name, one in means.items()}, **errors},
        {
            "edges": edges.tolist(),
            "merit": MERIT,
            "matched": float(found.mean()) if len(found) else None,
            "particle_mass": halos.particle_mass,
        },
    )


class Matching(Diagnostic):
    """SR's halos with HR's, and with those of the first SR of their box: the noise floor."""

    part = "halos"
    name, title = "halo_matching", "Halos one by one"
    shows = ("matching HR", "matching SR")
    needs_halos = True
    of_lr = False
    criteria = {
        "partners": of_halos(
            "Halos with a partner, of what noise allows", "matching ratio", "matched"
        )
    }

    def inside(self, subject, results) -> dict:
        if "ID" not in subject.catalog:
            return {}
        try:
            subject.sites = halo_sites(subject.halos, subject.catalog)
        except InputError as error:
            results.note(f"Halos of {subject.kind} are not matched: {error}.", subject)
            return {}
        found = {}
        for other in subject.before if subject.kind == "SR" else ():
            if other.sites is None:
                continue
            if other.halos.particle_mass * (1 + 1e-6) < subject.halos.particle_mass:
                results.note("SR and HR have different lattices: their halos are not matched.")
                continue
            pairs = partners(
                other.halos.length,
                other.sites,
                subject.halos.length,
                subject.sites,
                subject.catalog.comm,
            )
            found[f"matching {other.kind}"] = matching_by_mass(
                other.halos, other.table, subject.halos, subject.table, *pairs, subject.edges
            )
        return found

    def finish(self, results, catalogs) -> None:
        floors = {one.attrs["box"]: one for one in results["SR"].get("matching SR", [])}
        for one in results["SR"].get("matching HR", []):
            box = one.attrs["box"]
            if box in floors:
                both = ratio(one, floors[box], ["matched"], ["mass"])
                results.add("SR", "matching ratio", both, box)

    def rows(self, results) -> list:
        rows = []
        for kind, others, meaning in (
            ("HR", "SR", ""),
            ("SR", "another SR", "The noise floor: no more can be asked of SR and HR"),
        ):
            shares = [one.attrs["matched"] for one in results["SR"].get(f"matching {kind}", ())]
            if shares and None not in shares:  # None of a catalogue without halos
                quantity = f"Share of {kind}'s halos with a partner in {others}"
                rows.append(row(quantity, shares, meaning))
        return rows

    def caption(self, results) -> str:
        caption = (
            "Halos with the same phases, matched by the Lagrangian sites that they share: "
            "share of halos with a partner, scatter of the partners' masses, and distance of "
            "their centres. Small halos differ by the noise: no more can be asked than two "
            f"realisations of SR share with each other.{results.scatter}"
        )
        return caption

    def draw(self, results) -> "drawing.Figure":
        columns = {
            "matched": "share with a partner",
            "mass_scatter": r"scatter of $\ln M$",
            "offset": "distance of centres [Mpc/$h$]",
        }
        names = {"SR": "matching HR", "HR": "matching SR"}  # whose colours they are drawn in
        found = {kind: dict(results.items(name)) for kind, name in names.items()}
        statistics = {kind: one["SR"] for kind, one in found.items() if one}
        labels = {"SR": "SR with HR", "HR": "SR with another SR"}
        return drawing.against_mass(columns, statistics, labels)


def _best(key, merit, number):
    """For each key the row with the largest merit, the first of equals; -1 for none."""
    order = np.lexsort((np.arange(len(key)), -merit, key))
    keys, first = np.unique(key[order], return_index=True)
    best = np.full(number, -1)
    best[keys] = order[first]
    return best
