"""Two points in configuration space: correlation function, pairwise velocities, and halo bias.

Pairs of particles are counted by a kd-tree on subsamples, the same Lagrangian sites of every
catalogue. Each octave of separations has a subsample of its own that holds about as many pairs.
"""

import numpy as np
from nbodykit.lab import ArrayCatalog
from scipy.spatial import cKDTree

from ..lattice import particle_ids
from ..universe import Universe
from .fields import complex_field, pieces
from .power import cross_power
from .statistic import Statistic

CLOSEST = 0.05  # separation, comoving [Mpc/h]
BINS = 3  # in an octave
PAIRS = 2e6  # aimed at in an octave
LARGEST = 400_000  # particles of a subsample, about
LARGE_SCALES = 4.5  # fundamental modes that bias is measured on


def pair_statistics(catalog, pairs=PAIRS) -> Statistic:
    """Correlation function, mean pairwise velocity and its dispersion. Collective.

    Parameters
    ----------
    catalog : CatalogSource
        With Position [Mpc/h], and where there are any ID, and Velocity, peculiar [km/s].
    pairs : float
        In an octave of separations, about.

    Returns
    -------
    Statistic
        Columns r (geometric centre of the bin), xi = DD / RR - 1, pairs, and with Velocity
        ``v12 = <(v2 - v1) . r / |r|>``, negative where pairs approach, and sigma12, the standard
        deviation of the same [km/s], from 0.05 Mpc/h to a quarter of the box. Errors are those of
        the number of pairs: sample variance, which catalogues of the same phases share, is not
        in them.
    """
    box, comm = Universe.of(catalog.attrs, "BoxSize").BoxSize, catalog.comm
    position, velocity = _subsample(catalog, LARGEST)
    octaves = max(1, int(np.log2(box / 4 / CLOSEST)))
    edges = CLOSEST * 2 ** (np.arange(octaves * BINS + 1) / BINS)
    sums = np.zeros((4, octaves * BINS))  # pairs, those of an unclustered sample, v, v^2
    clustering = 1.0
    for octave in reversed(range(octaves)):
        where = slice(octave * BINS, (octave + 1) * BINS)
        inner = edges[octave * BINS : (octave + 1) * BINS + 1]
        sphere = 4 * np.pi / 3 * inner[-1] ** 3 / box**3
        number = min(len(position), int(np.sqrt(2 * pairs / sphere / clustering)) + 2)
        few = None if velocity is None else velocity[:number]
        found = comm.allreduce(_count(position[:number], few, inner, box, comm))
        sums[[0, 2, 3], where] = found
        sums[1, where] = number * (number - 1) * 4 * np.pi / 3 * np.diff(inner**3) / box**3
        # one octave farther in clustering is up to four times as strong
        clustering = 4 * max(1.0, sums[0, where].sum() / sums[1, where].sum())
    count, random, first, second = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        xi = count / random - 1
        # each pair was met from both its ends
        error = (1 + xi) * np.sqrt(2 / count)
        columns = {"r": np.sqrt(edges[1:] * edges[:-1]), "xi": xi, "pairs": count / 2}
        errors = {"xi": error}
        if velocity is not None:
            mean = first / count
            sigma = np.sqrt(np.maximum(second / count - mean**2, 0))
            columns |= {"v12": mean, "sigma12": sigma}
            errors |= {"v12": sigma * np.sqrt(2 / count), "sigma12": sigma / np.sqrt(count)}
    units = {"r": "Mpc/h"} | {name: "km/s" for name in ("v12", "sigma12") if name in columns}
    return Statistic("pairs", columns, units, errors, {"subsample": len(position)})


def halo_bias(halos, table, delta_k, least) -> Statistic:
    """Bias of halos above so many particles, P_hm / P_mm on the largest scales. Collective.

    Parameters
    ----------
    halos : Halos
    table : dict
        Of `halo_table`: the centres are used.
    delta_k : pmesh.pm.ComplexField
        Of all matter.
    least : sequence of int
        Particles of the smallest halo.

    Returns
    -------
    Statistic
        Columns particles, bias, count; errors of Gaussian fields, sqrt((P_hh / P_mm - b^2) /
        modes). NaN where there is no halo.
    """
    comm, Nmesh = delta_k.pm.comm, int(delta_k.Nmesh[0])
    rows, errors = [], []
    for number in least:
        many = halos.length >= number
        rows.append([number, np.nan, many.sum()])
        errors.append(np.nan)
        if not many.any():
            continue
        centre = table["centre"][many][comm.rank :: comm.size]
        box = [halos.attrs["BoxSize"]] * 3
        tracers = complex_field(ArrayCatalog({"Position": centre}, comm=comm, BoxSize=box), Nmesh)
        limit = LARGE_SCALES * 2 * np.pi / box[0]
        powers = [
            cross_power(*fields, limit)
            for fields in ((tracers, delta_k), (delta_k, delta_k), (tracers, tracers))
        ]
        modes = powers[0][2]
        cross, matter, halo = (np.average(one[1], weights=modes) for one in powers)
        rows[-1][1] = cross / matter
        errors[-1] = np.sqrt(max(halo / matter - (cross / matter) ** 2, 0) / modes.sum())
    particles, bias, count = np.array(rows).T
    return Statistic(
        "halo bias",
        {"particles": particles, "bias": bias, "count": count},
        {},
        {"bias": errors},
        {"particle_mass": halos.particle_mass},
    )


def _subsample(catalog, number):
    """Positions and velocities of about so many sites, the same on every rank, in random order."""
    names = ["Position"]
    names += [name for name in ("ID", "Velocity") if name in catalog]
    share = min(1.0, number / catalog.csize)
    first = sum(catalog.comm.allgather(catalog.size)[: catalog.comm.rank])
    taken = []
    for piece in pieces(catalog, *names):
        columns = dict(zip(names, piece, strict=True))
        rows = first + np.arange(len(piece[0]))
        first += len(piece[0])
        key = _scramble(particle_ids(columns["ID"]) if "ID" in columns else rows)
        keep = key < np.uint64(share * (2**64 - 2**12))
        taken.append([key[keep], *(columns[name][keep] for name in names if name != "ID")])
    every = [piece for many in catalog.comm.allgather(taken) for piece in many]
    key, position, *velocity = (np.concatenate(one) for one in zip(*every, strict=True))
    order = np.argsort(key)
    return position[order], velocity[0][order].astype("f8") if velocity else None


def _scramble(number):
    """A random 64-bit number for each integer (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.asarray(number).astype("u8") + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _count(position, velocity, edges, box, comm):
    """Ordered pairs of this rank's particles with all, and sums of v and v^2, (3, bins)."""
    position = position % box
    mine = np.arange(comm.rank, len(position), comm.size)
    near = cKDTree(position[mine], boxsize=box).sparse_distance_matrix(
        cKDTree(position, boxsize=box), edges[-1], output_type="ndarray"
    )
    near = near[(near["v"] >= edges[0]) & (near["v"] < edges[-1])]
    bins = np.searchsorted(edges, near["v"], "right") - 1
    sums = np.zeros((3, len(edges) - 1))
    sums[0] = np.bincount(bins, minlength=len(edges) - 1)
    if velocity is not None:
        one, other = mine[near["i"]], near["j"]
        offset = position[other] - position[one]
        offset -= box * np.rint(offset / box)
        speed = ((velocity[other] - velocity[one]) * offset).sum(axis=1) / near["v"]
        for power in (1, 2):
            sums[power] = np.bincount(bins, speed**power, len(edges) - 1)
    return sums
