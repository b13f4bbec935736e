"""Two points in configuration space: correlation function and pairwise velocities.

Pairs of particles are counted by a kd-tree on subsamples, the same Lagrangian sites of every
catalogue. Each octave of separations has a subsample of its own that holds about as many pairs.
"""

import numpy as np
from scipy.spatial import cKDTree

from ..lattice import nearest_image, particle_ids, wrap
from ..physics.universe import Universe
from ..selection import scrambled
from . import drawing
from .diagnostic import Criterion, Diagnostic, Ratio
from .fields import batches, whole
from .statistic import Statistic

CLOSEST = 0.05  # separation, comoving [Mpc/h]
BINS = 3  # in an octave
PAIRS = 2e6  # aimed at in an octave
LARGEST = 400_000  # particles of a subsample, about


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
    box, catalog = Universe.of(catalog.attrs, "BoxSize").BoxSize, whole(catalog)
    comm = catalog.comm
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
        # each pair counts from both its ends
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


class Pairs(Diagnostic):
    """Correlation function and pairwise velocities."""

    part = "pairs"
    name, title = "pairs", "Pairs"
    shows = ("pairs",)
    step = "pairs"
    ratios = {"pairs ratio": Ratio("pairs", ["xi", "v12", "sigma12"], "r")}
    criteria = {
        name: Criterion(title, "pairs ratio", name, "r", "Mpc/h", downwards=True)
        for name, title in (
            ("xi", "Correlation function"),
            ("v12", "Mean pairwise velocity"),
            ("sigma12", "Pairwise velocity dispersion"),
        )
    }

    def measure(self, subject, results) -> dict:
        return {"pairs": pair_statistics(subject.catalog)}

    def caption(self, results) -> str:
        caption = (
            "Correlation function, mean radial velocity of pairs (negative where they approach) "
            "and its dispersion, from pairs of the same Lagrangian sites in all catalogues."
        )
        return caption + (results.scatter or " Bands: errors of the number of pairs.")

    def draw(self, results) -> "drawing.Figure":
        figure, axes = drawing.panels(1, 3, 9, 3)
        columns = {
            "xi": r"$\xi$",
            "v12": "mean pairwise velocity [km/s]",
            "sigma12": "pairwise velocity dispersion [km/s]",
        }
        for axis, (name, label) in zip(axes[0], columns.items(), strict=True):
            for kind, measured in results.items("pairs"):
                if name in measured.columns:
                    seen = measured["xi"] > 0 if name == "xi" else measured["pairs"] > 1
                    drawing.band(axis, measured, "r", name, kind, seen=seen)
            axis.set(xscale="log", xlabel="$r$ [Mpc/$h$]", ylabel=label)
            drawing.log_ticks(axis)
            axis.set_visible(axis.has_data())
        axes[0, 0].set_yscale("log")
        drawing.legends(axes[0, :1])
        return figure


def _subsample(catalog, number):
    """Positions and velocities of about so many sites, the same on every rank, in random order."""
    names = ["Position"]
    names += [name for name in ("ID", "Velocity") if name in catalog]
    share = min(1.0, number / catalog.csize)
    first = sum(catalog.comm.allgather(catalog.size)[: catalog.comm.rank])
    taken = []
    for piece in batches(catalog, *names):
        columns = dict(zip(names, piece, strict=True))
        rows = first + np.arange(len(piece[0]))
        first += len(piece[0])
        key = scrambled(particle_ids(columns["ID"] if "ID" in columns else rows).astype("u8"))
        keep = key < np.uint64(share * (2**64 - 2**12))
        taken.append([key[keep], *(columns[name][keep] for name in names if name != "ID")])
    every = [piece for many in catalog.comm.allgather(taken) for piece in many]
    key, position, *velocity = (np.concatenate(one) for one in zip(*every, strict=True))
    order = np.argsort(key)
    return position[order], velocity[0][order].astype("f8") if velocity else None


def _count(position, velocity, edges, box, comm):
    """This rank's share of the ordered pairs, and sums of v and v^2, (3, bins).

    Each pair is met once: among the rank's own particles, or with those of the half of the other
    ranks that comes after it, in a ring.
    """
    position = wrap(position, box, position.dtype)
    ahead = (np.arange(len(position)) - comm.rank) % comm.size
    mine = np.flatnonzero(ahead == 0)
    # of two ranks that are opposite each other the first has their pairs
    other = np.flatnonzero((ahead > 0) & (2 * ahead < comm.size + (2 * comm.rank < comm.size)))
    tree = cKDTree(position[mine], boxsize=box)
    pairs = mine[tree.query_pairs(edges[-1], output_type="ndarray")].T
    if len(other):
        near = tree.sparse_distance_matrix(
            cKDTree(position[other], boxsize=box), edges[-1], output_type="ndarray"
        )
        pairs = np.concatenate([pairs, [mine[near["i"]], other[near["j"]]]], axis=1)
    one, two = pairs
    offset = nearest_image(position[two] - position[one], box)
    distance = np.sqrt(np.einsum("ij,ij->i", offset, offset))
    bins = np.searchsorted(edges, distance, "right")
    sums = np.zeros((3, len(edges) - 1))
    sums[0] = np.bincount(bins, minlength=len(edges) + 1)[1:-1]
    if velocity is not None:
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # of a pair in one place, which is in no bin
            speed = np.einsum("ij,ij->i", velocity[two] - velocity[one], offset) / distance
        for power in (1, 2):
            sums[power] = np.bincount(bins, speed**power, len(edges) + 1)[1:-1]
    return 2 * sums
