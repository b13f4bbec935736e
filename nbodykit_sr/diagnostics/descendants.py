"""Links between the halos of two times, from the particles that they share."""

import numpy as np
from mpi4py import MPI

from .halos import deal


def descendants(early: dict, late: dict, comm: MPI.Comm) -> dict:
    """For each halo the later one that has most of its particles, and what part of them. Collective.

    Parameters
    ----------
    early, late : dict of arrays
        Members of the halos of two times, of `find_groups`: ID and GroupID. Particles are the same
        where their IDs are: of one simulation, or of super-resolved snapshots of one seed.
    comm : mpi4py.MPI.Comm

    Returns
    -------
    dict of arrays
        A row for each early halo, by GroupID from 1, the same on every rank: GroupID; Length;
        Descendant, the GroupID of the late one, 0 where none has a particle of it; Share, the part
        of the halo's particles that is in it.
    """
    early_group, late_group, counts, length, _ = _shared(early, late, comm)
    descendant, most = _largest(early_group, late_group, counts, len(length))
    return {
        "GroupID": 1 + np.arange(len(length)),
        "Length": length,
        "Descendant": descendant,
        "Share": most / np.maximum(length, 1),
    }


def progenitors(early: dict, late: dict, comm: MPI.Comm) -> dict:
    """For each halo its main progenitor: of those that became it, the one it has most from. Collective.

    A halo became the one that has most of its particles, its descendant. Called for each pair of
    neighbours in a series of snapshots, the main branches of merger trees.

    Parameters
    ----------
    early, late : dict of arrays
        As for `descendants`.
    comm : mpi4py.MPI.Comm

    Returns
    -------
    dict of arrays
        A row for each late halo, by GroupID from 1, the same on every rank: GroupID; Length;
        Progenitor, the GroupID of the early one, 0 where none became it; Share, the part of the
        late halo's particles that was in it; Number of halos that became it.
    """
    early_group, late_group, counts, before, length = _shared(early, late, comm)
    descendant, _ = _largest(early_group, late_group, counts, len(before))
    became = descendant[early_group - 1] == late_group
    early_group, late_group, counts = early_group[became], late_group[became], counts[became]
    progenitor, most = _largest(late_group, early_group, counts, len(length))
    return {
        "GroupID": 1 + np.arange(len(length)),
        "Length": length,
        "Progenitor": progenitor,
        "Share": most / np.maximum(length, 1),
        "Number": np.bincount(late_group, minlength=len(length) + 1)[1:],
    }


def _shared(early, late, comm):
    """Pairs of an early and a late halo, how many particles they share, and the lengths of both."""
    ids, group = (deal(early[name], early["ID"] % comm.size, comm) for name in ("ID", "GroupID"))
    found, later = (deal(late[name], late["ID"] % comm.size, comm) for name in ("ID", "GroupID"))
    order = np.argsort(found)
    found, later = found[order], later[order]
    place = np.searchsorted(found, ids)
    inside = place < len(found)
    inside[inside] = found[place[inside]] == ids[inside]
    links = np.stack([group[inside], later[place[inside]]], axis=1).astype("i8")
    links, counts = np.unique(links, axis=0, return_counts=True)
    links, counts = (np.concatenate(comm.allgather(one)) for one in (links, counts))
    links, which = np.unique(links, axis=0, return_inverse=True)
    counts = np.bincount(which.reshape(-1), counts).astype("i8")
    return *links.T, counts, _lengths(group, comm), _lengths(later, comm)


def _lengths(group, comm):
    """Particles of the groups 1, 2, ..., from every rank's particles."""
    number = comm.allreduce(int(group.max(initial=0)), op=MPI.MAX)
    return comm.allreduce(np.bincount(group.astype("i8"), minlength=number + 1))[1:]


def _largest(of, to, counts, number):
    """For each group from 1 to `number`, the group that shares most particles with it, or 0; and how many."""
    partner, most = np.zeros(number, dtype="i8"), np.zeros(number, dtype="i8")
    # in ascending order, so that the largest count stays; of equal counts the lower GroupID
    order = np.lexsort((-to, counts))
    partner[of[order] - 1] = to[order]
    most[of[order] - 1] = counts[order]
    return partner, most
