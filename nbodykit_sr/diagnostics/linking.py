"""Friends-of-friends by nbodykit, one slab of the box after the other: its memory is that of a slab.

A slab is linked together with the particles one linking length beyond its upper face, so every link
lies within a slab. A particle beyond the face is in a group of its own slab too: the two are one.
"""

import logging

import numpy as np
from mpi4py import MPI
from nbodykit.algorithms.fof import fof
from nbodykit.lab import ArrayCatalog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..lattice import wrap

SLAB = 2**22  # particles of a slab on a rank, about
BINS = 4096  # of the histogram that tells where to cut

logger = logging.getLogger("nbodykit_sr.diagnostics")


def link(
    position, box, linking_length, nmin, comm, slab=SLAB
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Friends-of-friends groups of a periodic box. Collective.

    Parameters
    ----------
    position : (n, 3) float64
        This rank's, comoving [Mpc/h]; no rank may be without particles.
    box : float
        [Mpc/h].
    linking_length : float
        [Mpc/h].
    nmin : int
        The fewest particles of a group, inclusive.
    slab : int
        Particles that each rank takes at a time, about.

    Returns
    -------
    row : (m,) int64
        Which particles of this rank are in groups, ascending.
    group : (m,) int64
        The group of each, as row of `length`.
    length : (g,) int64
        Particles of each group, the largest first and of equal ones that with the first particle;
        the same on every rank.
    """
    height = wrap(position[:, 2], box, position.dtype)
    edges = _edges(height, box, 2 * linking_length, slab, comm)
    number = len(edges) - 1
    reach = linking_length * (1 + 1e-6)  # rounding must not lose a link
    beyond = [np.flatnonzero((height - edge) % box < reach) for edge in edges[1:]]
    if number == 1:  # the slab is the box, and periodic itself
        reach, beyond = 0.0, [np.zeros(0, dtype="i8")]
    shared = np.zeros(len(height), dtype=bool)
    shared[np.concatenate(beyond)] = True
    rows, keys, ghosts, first = [], [], [], 0
    for i, low in enumerate(edges[:-1]):
        own = np.flatnonzero((height >= low) & (height < edges[i + 1]))
        row = np.concatenate([own, beyond[i]])
        place = position[row].astype("f8")
        place[:, 2] = (height[row] - low) % box
        depth = box if number == 1 else edges[i + 1] - low + 3 * reach
        source = ArrayCatalog({"Position": place}, comm=comm, BoxSize=[box, box, depth])
        key = fof(source, linking_length, comm, True, 1, logger) + first
        first += comm.allreduce(len(row))
        del place, source
        key, ghost = np.split(key, [len(own)])
        open_groups = _union(np.concatenate([key[shared[own]], ghost]), comm)
        keep = _among(key, open_groups) | (_sizes(key, comm) >= nmin)
        rows.append(own[keep])
        keys.append(key[keep])
        ghosts.append(ghost)
    row, key = np.concatenate(rows), np.concatenate(keys)
    order = np.argsort(row)
    row, key = row[order], key[order]
    at = np.searchsorted(row, np.concatenate(beyond))
    key = _join(key, np.stack([key[at], np.concatenate(ghosts)]), comm)
    before = sum(comm.allgather(len(position))[: comm.rank])
    group, length = _largest_first(row + before, key, nmin, comm)
    return row[group >= 0], group[group >= 0], length


def _edges(height, box, least, slab, comm):
    """Faces of slabs that hold as many particles each, and are `least` thick."""
    number = -(-comm.allreduce(len(height)) // (slab * comm.size))
    count = comm.allreduce(np.histogram(height, BINS, (0, box))[0])
    share = np.concatenate([[0], np.cumsum(count)]) / count.sum()
    edges = [0.0]
    for face in np.interp(np.arange(1, number) / number, share, np.linspace(0, box, BINS + 1)):
        if min(face - edges[-1], box - face) > least:
            edges.append(float(face))
    return [*edges, box]


def _union(keys, comm):
    """The distinct keys of all ranks, ascending."""
    return np.unique(np.concatenate(comm.allgather(np.unique(keys))))


def _among(keys, known):
    """Which keys are among the known, which ascend."""
    if not len(known):
        return np.zeros(len(keys), dtype=bool)
    return known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys


def _sizes(keys, comm):
    """On how many particles of all ranks each of these keys is; every key is counted by one rank."""
    known, inverse, count = np.unique(keys, return_inverse=True, return_counts=True)
    counter = known % comm.size
    mine = [counter == rank for rank in range(comm.size)]
    asked, part = (comm.alltoall([one[where] for where in mine]) for one in (known, count))
    _, at = np.unique(np.concatenate(asked), return_inverse=True)
    total = np.bincount(at, np.concatenate(part)).astype("i8")[at]
    answers = comm.alltoall(np.split(total, np.cumsum([len(one) for one in asked])[:-1]))
    for where, answer in zip(mine, answers, strict=True):
        count[where] = answer
    return count[inverse]


def _join(key, pairs, comm):
    """Keys with one for all that pairs of them, (2, n), make one."""
    known = _union(pairs.ravel(), comm)
    if not len(known):
        return key
    edges = np.searchsorted(known, np.unique(pairs, axis=1))
    edges = np.concatenate(comm.allgather(edges), axis=1)
    graph = coo_array((np.ones(edges.shape[1]), tuple(edges)), shape=(len(known),) * 2)
    _, joined = connected_components(graph, directed=False)
    _, first = np.unique(joined, return_index=True)
    found = _among(key, known)
    key[found] = known[first[joined[np.searchsorted(known, key[found])]]]
    return key


def _largest_first(particle, key, nmin, comm):
    """Group of each particle, -1 in those below `nmin`, and their lengths, of keys of whole groups.

    `particle` counts them over all ranks: it orders groups of equal length.
    """
    known = _union(key, comm)
    group = np.searchsorted(known, key)
    length = comm.allreduce(np.bincount(group, minlength=len(known)))
    first = np.full(len(known), np.iinfo("i8").max)
    np.minimum.at(first, group, particle)
    comm.Allreduce(MPI.IN_PLACE, first, MPI.MIN)
    order = np.lexsort((first, -length))
    order = order[: np.count_nonzero(length >= nmin)]
    rank = np.full(len(known), -1)
    rank[order] = np.arange(len(order))
    return rank[group], length[order]
