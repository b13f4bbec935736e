"""Spherical voids, found from large to small (Banerjee & Dalal 2016, section on void finding).

For each radius, from the largest: smooth the density by a top-hat; of the voxels below the
threshold, the lowest becomes the centre of a void unless its sphere would overlap an earlier
void; then the next lowest. The order is made the same for any number of ranks: densities are
compared on a grain far above rounding, ties go to the lower voxel index, and distances are
integers of voxels.
"""

from itertools import product

import numpy as np
from nbodykit.lab import ArrayCatalog

from ..errors import InputError
from . import drawing
from .diagnostic import Criterion, Diagnostic, Ratio, row
from .fields import complex_field, top_hat
from .statistic import Statistic

GRAIN = 1e-8  # of 1 + delta: far above the rounding of an FFT, far below any physics
BATCH = 4096  # candidates a rank shows to the others at a time, about
PART = 2**17  # voxels that are marked at a time


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
    cell, found, taken = box / Nmesh, {}, None
    for step, radius in enumerate(radii):
        smooth = top_hat(field, radius)
        if taken is None:
            taken = _Taken(smooth.start, smooth.value.shape, radii / cell, Nmesh)
        centres, grades = _lowest_first(smooth, threshold, step, taken, comm)
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


class Voids(Diagnostic):
    """Number of spherical voids against their radius."""

    part = "voids"
    name, title = "voids", "Voids"
    shows = ("voids",)
    step = "voids"
    of_lr = False
    ratios = {"void ratio": Ratio("voids", ["dn_dlnR"], "radius")}
    criteria = {
        "voids": Criterion("Number of voids", "void ratio", "dn_dlnR", "radius", "Mpc/h", True)
    }

    def measure(self, subject, results) -> dict:
        radii = void_radii(results.settings.zooms[0], results.settings.Nmesh)
        voids = find_voids(subject.delta, radii, results.settings.void_threshold)
        return {"voids": void_size_function(voids)}

    def rows(self, results) -> list:
        many = results["SR"].get("voids", [])
        if not many:
            return []
        against = results.references("voids", lambda one: one.attrs["total"])
        quantity = "Voids in SR" + (" / in HR" if results["HR"] else "")
        return [row(quantity, [one.attrs["total"] for one in many], digits=0, against=against)]

    def caption(self, results) -> str:
        caption = (
            "Number density of spherical, non-overlapping voids whose mean density contrast is "
            f"below {results.settings.void_threshold} (finder of Banerjee & Dalal 2016)."
        )
        return caption + (results.scatter or " Bars: Poisson errors.")

    def draw(self, results) -> "drawing.Figure":
        labels = r"$R$ [Mpc/$h$]", r"$dn/d\ln R$ [$h^3$ Mpc$^{-3}$]"
        figure = drawing.with_ratio(
            results, "voids", "void ratio", "radius", "dn_dlnR", labels, drawing.points
        )
        drawing.log_ticks(figure.axes[-1])
        return figure


class _Taken:
    """How far voids reach on a rank's part of the mesh, from `start`, of a `shape`, in voxels.

    `radii` are those tried, descending, in voxels.
    """

    def __init__(self, start, shape, radii, Nmesh):
        self.index = [np.arange(first, first + n) for first, n in zip(start, shape, strict=True)]
        self.radii, self.Nmesh = radii, Nmesh
        # of each voxel, how many of the radii are too large for a void about it
        self.steps = np.zeros(tuple(shape), dtype=np.min_scalar_type(len(radii)))

    def free(self, voxel, step) -> np.ndarray:
        """Which voxels, (n, 3) of this part, may be centres of voids of the radius of this step."""
        place = tuple(at - index[0] for at, index in zip(voxel.T, self.index))
        return self.steps[place] <= step

    def add(self, centre, step) -> None:
        """A void of the radius of this step: no other may overlap it."""
        bounds = ((self.radii + self.radii[step]) * (1 - 1e-9)) ** 2  # descend
        near = np.arange(int(bounds[step]) + 2)
        steps = np.searchsorted(-bounds, -near).astype(self.steps.dtype)
        runs = []
        for index, at in zip(self.index, centre, strict=True):
            square = _periodic(index - at, self.Nmesh) ** 2
            here = np.flatnonzero(square < bounds[step])
            ends = np.flatnonzero(np.diff(here) > 1) + 1
            runs.append([(square[one], one) for one in np.split(here, ends) if len(one)])
        for (x, i), (y, j), (z, k) in product(*runs):
            plane = y[:, None] + z
            rows = max(1, PART // plane.size)
            for first in range(0, len(x), rows):
                square = x[first : first + rows, None, None] + plane
                rows_here = slice(i[first], i[first] + len(square))
                part = self.steps[rows_here, j[0] : j[-1] + 1, k[0] : k[-1] + 1]
                np.maximum(part, steps[np.minimum(square, near[-1])], out=part)


def _lowest_first(smooth, threshold, step, taken, comm):
    """Greedy choice over all ranks of the lowest voxels of which none is taken by a void.

    Every round each rank shows its lowest few; all walk the merged list as far as it is complete.
    """
    shape = (int(smooth.Nmesh[0]),) * 3
    low = np.nonzero((smooth.value < 1 + threshold) & (taken.steps <= step))
    grade = np.rint(smooth.value[low] / GRAIN).astype("i8")
    flat = np.ravel_multi_index([at + first for at, first in zip(low, smooth.start)], shape)
    key, size = np.sort(grade * np.prod(shape) + flat), np.prod(shape)  # by grade, then by index
    del low, grade, flat
    bound = (2 * taken.radii[step] * (1 - 1e-9)) ** 2
    chosen, grades, first = [np.zeros((0, 3), int)], [np.zeros(0, int)], 0
    while True:
        shown, stop = [], first
        while stop < len(key) and sum(map(len, shown)) < BATCH:
            piece = key[stop : stop + BATCH]
            voxel = np.stack(np.unravel_index(piece % size, shape), axis=-1)
            shown.append(piece[taken.free(voxel, step)])
            stop += len(piece)
        more = key[stop - 1] if stop < len(key) else None
        every = comm.allgather((np.concatenate([key[:0], *shown]), more))
        merged = np.sort(np.concatenate([one for one, _ in every]))
        ends = [last for _, last in every if last is not None]  # beyond these more may come
        if ends:
            merged = merged[merged <= min(ends)]
            first = np.searchsorted(key, min(ends), side="right")
        voxel = np.stack(np.unravel_index(merged % size, shape), axis=-1)
        while len(merged):
            chosen.append(voxel[:1])
            grades.append(merged[:1] // size)
            taken.add(voxel[0], step)
            apart = (_periodic(voxel - voxel[0], shape[0]) ** 2).sum(axis=-1) >= bound
            merged, voxel = merged[apart], voxel[apart]
        if not ends:
            return np.concatenate(chosen), np.concatenate(grades)


def _periodic(difference, Nmesh):
    """Distance in voxels along an axis, integer."""
    difference = np.abs(difference)
    return np.minimum(difference, Nmesh - difference)
