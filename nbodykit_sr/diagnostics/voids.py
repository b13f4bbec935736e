"""Spherical voids, found from large to small (Banerjee & Dalal 2016, section on void finding).

For each radius, from the largest: smooth the density by a top-hat; of the voxels below the
threshold, the lowest becomes the centre of a void unless its sphere would overlap an earlier
void; then the next lowest. The order is made the same for any number of ranks: densities are
compared on a grain far above rounding, ties go to the lower voxel index, and distances are
integers of voxels.
"""

import numpy as np
from nbodykit.lab import ArrayCatalog
from scipy.spatial import cKDTree

from ..errors import InputError
from .fields import complex_field, top_hat
from .statistic import Statistic

GRAIN = 1e-8  # of 1 + delta: far above the rounding of an FFT, far below any physics
BATCH = 4096  # candidates a rank shows to the others at a time


def find_voids(source, radii, threshold=-0.7, Nmesh=None) -> ArrayCatalog:
    """Non-overlapping spherical voids. Collective.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    radii : (n,) array
        Radii to try, comoving [Mpc/h]; each below half the box.
    threshold : float
        Mean delta inside a void is below this.

    Returns
    -------
    ArrayCatalog
        Position, Radius [Mpc/h] and Delta (the mean inside), in the order found, spread over the
        ranks; attrs radii, threshold, BoxSize.
    """
    field = complex_field(source, Nmesh)
    comm, Nmesh = field.pm.comm, int(field.Nmesh[0])
    box = float(field.BoxSize[0])
    radii = np.sort(np.unique(np.asarray(radii, dtype=float)))[::-1]
    if not len(radii) or radii[0] >= box / 2 or radii[-1] <= 0:
        raise InputError(f"void radii are {radii}: between 0 and half the box, {box / 2} Mpc/h")
    cell = box / Nmesh
    found = {}
    for radius in radii:
        smooth = top_hat(field, radius)
        index = np.stack(np.nonzero(smooth.value < 1 + threshold), axis=-1)
        grade = np.rint(smooth.value[tuple(index.T)] / GRAIN).astype("i8")
        index = index + np.asarray(smooth.start)
        for earlier, (centres, _) in found.items():
            clear = _apart(index, centres, (radius + earlier) / cell, Nmesh)
            index, grade = index[clear], grade[clear]
        centres, grades = _lowest_first(index, grade, 2 * radius / cell, Nmesh, comm)
        if len(centres):
            found[radius] = centres, grades
    centres = np.concatenate([np.zeros((0, 3), int), *(one for one, _ in found.values())])
    grades = np.concatenate([np.zeros(0, int), *(one for _, one in found.values())])
    sizes = np.repeat(list(found), [len(one) for one, _ in found.values()])
    share = slice(*(len(sizes) * np.array([comm.rank, comm.rank + 1]) // comm.size))
    data = {
        "Position": (centres * cell)[share],
        "Radius": np.asarray(sizes, dtype=float)[share],
        "Delta": (grades * GRAIN - 1)[share],
    }
    attrs = {"BoxSize": [box] * 3, "radii": radii, "threshold": threshold}
    return ArrayCatalog(data, comm=comm, **attrs)


def void_radii(BoxSize, Nmesh, number=12) -> np.ndarray:
    """Logarithmic radii from two mesh cells to a quarter of the box [Mpc/h]."""
    return np.geomspace(2 * BoxSize / Nmesh, BoxSize / 4, number)


def void_size_function(voids) -> Statistic:
    """Number density of voids dn / dlnR, with Poisson errors. Collective.

    Parameters
    ----------
    voids : ArrayCatalog
        From `find_voids`; bins are centred on its radii.

    Returns
    -------
    Statistic
        Columns radius, dn_dlnR, count.
    """
    comm = voids.comm
    tried = np.sort(np.asarray(voids.attrs["radii"], dtype=float))
    local = voids.compute(voids["Radius"])
    count = comm.allreduce(np.bincount(np.searchsorted(tried, local), minlength=len(tried)))
    logs = np.log(tried)
    middle = (logs[1:] + logs[:-1]) / 2
    if len(tried) > 1:  # the outer bins are as wide on either side of their radius
        outer = 2 * logs[0] - middle[0], 2 * logs[-1] - middle[-1]
        width = np.diff(np.concatenate([outer[:1], middle, outer[1:]]))
    else:
        width = np.ones(1)
    density = 1 / (width * float(np.prod(voids.attrs["BoxSize"])))
    return Statistic(
        "void size function",
        {"radius": tried, "dn_dlnR": count * density, "count": count},
        {"radius": "Mpc/h", "dn_dlnR": "(h/Mpc)^3"},
        {"dn_dlnR": np.sqrt(count) * density, "count": np.sqrt(count)},
        {"threshold": float(voids.attrs["threshold"]), "total": int(count.sum())},
    )


def _lowest_first(index, grade, apart, Nmesh, comm):
    """Greedy choice over all ranks of the lowest candidates that are `apart` voxels apart.

    Every round each rank shows its lowest few; all walk the merged list as far as it is
    complete, and strike out what the new centres cover.
    """
    flat = np.ravel_multi_index(tuple(index.T), (Nmesh,) * 3) if len(index) else index[:, 0]
    order = np.lexsort((flat, grade))
    index, key = index[order], np.stack([grade[order], flat[order]], axis=-1)
    chosen, grades = [np.zeros((0, 3), int)], [np.zeros(0, int)]
    while True:
        shown = comm.allgather((index[:BATCH], key[:BATCH], len(key) > BATCH))
        merged = np.concatenate([one[0] for one in shown])
        if not len(merged):
            return np.concatenate(chosen), np.concatenate(grades)
        keys = np.concatenate([one[1] for one in shown])
        ends = [tuple(one[1][-1]) for one in shown if one[2]]  # beyond these more may come
        order = np.lexsort(keys.T[::-1])
        merged, keys = merged[order], keys[order]
        if ends:
            complete = _not_after(keys, min(ends))
            merged, keys = merged[complete], keys[complete]
        alive, new = np.ones(len(merged), bool), []
        for i in range(len(merged)):
            if alive[i]:
                new.append(i)
                alive[i:] &= _square(merged[i:] - merged[i], Nmesh) >= (apart * (1 - 1e-9)) ** 2
        chosen.append(merged[new])
        grades.append(keys[new, 0])
        keep = _apart(index, merged[new], apart, Nmesh) & ~_not_after(key, keys[-1])
        index, key = index[keep], key[keep]


def _not_after(keys, last):
    """Which (grade, flat index) are not after `last` in their order."""
    return (keys[:, 0] < last[0]) | ((keys[:, 0] == last[0]) & (keys[:, 1] <= last[1]))


def _apart(index, centres, distance, Nmesh):
    """Which voxels are at least `distance` voxels from all centres, periodically."""
    if not len(index) or not len(centres):
        return np.ones(len(index), bool)
    bound = distance * (1 - 1e-9)
    nearest, _ = cKDTree(centres, boxsize=Nmesh).query(index, distance_upper_bound=bound)
    return ~np.isfinite(nearest)


def _square(difference, Nmesh):
    """Squared periodic distance in voxels, integer."""
    difference = np.abs(difference)
    return (np.minimum(difference, Nmesh - difference) ** 2).sum(axis=-1)
