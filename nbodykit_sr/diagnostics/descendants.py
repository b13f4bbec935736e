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
    ids, group = (deal(early[name], early["ID"] % comm.size, comm) for name in ("ID", "GroupID"))
    found, later = (deal(late[name], late["ID"] % comm.size, comm) for name in ("ID", "GroupID"))
    order = np.argsort(found)
    found, later = found[order], later[order]
    place = np.searchsorted(found, ids)
    inside = place < len(found)
    inside[inside] = found[place[inside]] == ids[inside]
    links = np.zeros((len(ids), 2), dtype="i8")
    links[:, 0], links[inside, 1] = group, later[place[inside]]
    links, counts = np.unique(links, axis=0, return_counts=True)
    links, counts = (np.concatenate(comm.allgather(one)) for one in (links, counts))
    links, which = np.unique(links, axis=0, return_inverse=True)
    counts = np.bincount(which.reshape(-1), counts).astype("i8")
    early_group, late_group = links.T
    number = int(early_group.max(initial=0))
    length = np.bincount(early_group, counts, number + 1).astype("i8")[1:]
    descendant, most = np.zeros(number, dtype="i8"), np.zeros(number, dtype="i8")
    # ascending counts, so that the largest stays; of equal ones the larger halo, of lower GroupID
    order = np.lexsort((-late_group, counts))
    order = order[late_group[order] > 0]
    descendant[early_group[order] - 1] = late_group[order]
    most[early_group[order] - 1] = counts[order]
    share = most / np.maximum(length, 1)
    return {
        "GroupID": 1 + np.arange(number),
        "Length": length,
        "Descendant": descendant,
        "Share": share,
    }
