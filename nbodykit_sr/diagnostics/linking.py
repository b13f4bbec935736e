"""Friends-of-friends as nbodykit's, by its tree, kdcount, one slab of the box after the other: the memory
is that of a slab.

A slab is linked together with the particles one linking length beyond its upper face, so every link
lies within a slab. A particle beyond the face is in a group of its own slab too: the two are one.
"""

import numpy as np
from kdcount import KDTree
from mpi4py import MPI
from nbodykit.algorithms.fof import _fof_merge
from nbodykit.utils import split_size_3d
from pmesh.domain import GridND
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..lattice import wrap

SLAB = 2**22  # particles of a slab on a rank, about
BINS = 4096  # of the histogram that tells where to cut
CELL = 5  # linking lengths, of the cells by which particles are sorted: the tree is then fast


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
    number = -(-comm.allreduce(len(height)) // (slab * comm.size))
    edges = even_faces(height, box, number, 2 * linking_length, comm)
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
        place = position[row].astype("f8", copy=False)
        place[:, 2] = (height[row] - low) % box
        depth = box if number == 1 else edges[i + 1] - low + 3 * reach
        key = _friends(place, np.array([box, box, depth]), linking_length, comm) + first
        first += comm.allreduce(len(row))
        del place
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


def _friends(place, size, linking_length, comm):
    """The group of each particle in a periodic cuboid: the number of its first one. Collective.

    Parameters
    ----------
    place : (n, 3) float64
        This rank's, from 0 to `size`, (3,) [Mpc/h].
    linking_length : float
        [Mpc/h].

    Returns
    -------
    (n,) int64
        Particles are numbered from 0 over all ranks.
    """
    faces = [
        even_faces(along, box, number, 2 * linking_length, comm)
        for along, box, number in zip(place.T, size, split_size_3d(comm.size), strict=True)
    ]
    layout = GridND(faces, comm=comm).decompose(place, smoothing=linking_length)
    number = sum(comm.allgather(len(place))[: comm.rank]) + np.arange(len(place))
    number, near = layout.exchange(number), layout.exchange(place) % size
    cells = np.maximum(size // (CELL * linking_length), 1).astype("i8")
    cell = np.minimum((near * (cells / size)).astype("i8"), cells - 1)
    order = np.argsort(np.ravel_multi_index(cell.T, cells))
    near, number = near[order], number[order]
    group = np.arange(len(near))
    if len(near):
        group = KDTree(near, size).root.fof(linking_length)
    first = np.full(len(near), np.iinfo("i8").max)
    np.minimum.at(first, group, number)
    key = np.empty_like(first)
    key[order] = first[group]
    return _fof_merge(layout, key, comm)


def even_faces(along, box, number, least, comm) -> list[float]:
    """Faces of slabs of a box that hold as many particles each. Collective.

    Parameters
    ----------
    along : (n,) array
        Where this rank's particles are along an axis, from 0 to `box` [Mpc/h].
    box : float
        [Mpc/h].
    number : int
        Of slabs; fewer where they would be thinner than `least` [Mpc/h].
    """
    count = comm.allreduce(np.histogram(along, BINS, (0, box))[0])
    share = np.concatenate([[0], np.cumsum(count)]) / max(count.sum(), 1)
    faces = [0.0]
    for face in np.interp(np.arange(1, number) / number, share, np.linspace(0, box, BINS + 1)):
        if min(face - faces[-1], box - face) > least:
            faces.append(float(face))
    return [*faces, float(box)]


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
