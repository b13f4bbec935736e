"""Bispectrum by fast Fourier transforms over MPI.

With delta_k the coefficients of delta(x) = sum_k delta_k exp(i k x), and I_s(x) the field that
keeps only the modes of shell s, the sum over closed triangles is a mean over the mesh,

    sum delta_k1 delta_k2 delta_k3 = < I_1 I_2 I_3 >,

and the number of triangles is the same with all delta_k set to one. The product of three shells
must not alias: their outer radii together stay below the number of cells a side times the
fundamental mode. Any mesh that fine gives the same sum, so each triangle has the smallest.
"""

from dataclasses import replace
from itertools import chain

import numpy as np
from scipy.fft import irfftn, next_fast_len

from ..errors import InputError
from . import drawing
from .diagnostic import Criterion, Diagnostic, Ratio
from .fields import complex_field, particle_mesh
from .modes import low_modes, moment, multiplied, restricted, shell_sums, squares, unity
from .statistic import Statistic

ALONE = 128  # cells a side of a mesh that every rank has whole, and transforms alone


def bispectrum(source, triangles, Nmesh=None, closed=None) -> Statistic:
    """Bispectrum averaged over triangles of wavenumber shells. Collective.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    triangles : (n, 3, 2) array
        Lower and upper wavenumber of the three shells [h/Mpc]; lower <= k < upper.
    closed : (n,) array, optional
        Column `triangles` of another field of this box, which is the same: half of the work.

    Returns
    -------
    Statistic
        Columns k1, k2, k3 (mean of the modes in a shell), bispectrum, reduced
        Q = B / (P1 P2 + P2 P3 + P3 P1), triangles (their number, with signs and order). Errors
        of a Gaussian field: var B = s V P1 P2 P3 / triangles, s = 6, 2, 1 for three, two, no
        equal shells. Shells that close no triangle give NaN.

    Raises
    ------
    InputError
        If the mesh is too coarse for a triangle.
    """
    triangles = np.asarray(triangles, dtype=float).reshape(-1, 3, 2)
    field = complex_field(source, Nmesh)
    box, finest = float(field.BoxSize[0]), int(field.Nmesh[0])
    unit = 2 * np.pi / box
    if len(triangles) and (worst := triangles[:, :, 1].sum(axis=1).max()) >= finest * unit:
        raise InputError(
            f"a triangle reaches k1 + k2 + k3 = {worst:.3g} h/Mpc; a mesh of {finest} "
            f"holds {finest * unit:.3g}: use a finer mesh or a smaller kmax"
        )
    # of a shell in whole wavenumbers; a mode on an edge is rounded
    keys = [[tuple((shell / unit) ** 2 * (1 - 1e-9)) for shell in one] for one in triangles]
    shells = _shells(field, set(chain.from_iterable(keys)))
    totals = np.empty(len(keys))
    counts = np.empty(len(keys)) if closed is None else np.nan_to_num(closed)
    meshes = [min(_cells(one), finest) for one in keys]
    for cells in sorted(set(meshes)):
        mesh, which = _Mesh(field, cells), np.flatnonzero(np.array(meshes) == cells)
        totals[which] = mesh.means([keys[i] for i in which])
        if closed is None:
            counts[which] = mesh.means([keys[i] for i in which], count=True)
    rows, volume = [], box**3
    for key, total, count in zip(keys, totals, counts, strict=True):
        size, sides = zip(*(shells[one] for one in key), strict=True)
        powers = volume * np.array(sides)
        pairs = powers[0] * powers[1] + powers[1] * powers[2] + powers[2] * powers[0]
        symmetry = {1: 6, 2: 2, 3: 1}[len(set(key))]
        with np.errstate(divide="ignore", invalid="ignore"):
            number = np.float64(round(count)) if count > 0.5 else np.nan
            value = volume**2 * total / number
            error = np.sqrt(symmetry * volume * np.prod(powers) / number)
        rows.append((*(unit * k for k in size), value, value / pairs, number, error, error / pairs))
    names = ("k1", "k2", "k3", "bispectrum", "reduced", "triangles", "error", "reduced_error")
    table = dict(zip(names, np.array(rows).reshape(-1, len(names)).T, strict=True))
    errors = {"bispectrum": table.pop("error"), "reduced": table.pop("reduced_error")}
    units = {"k1": "h/Mpc", "k2": "h/Mpc", "k3": "h/Mpc", "bispectrum": "(Mpc/h)^6"}
    return Statistic("bispectrum", table, units, errors, {"Nmesh": finest, "volume": volume})


def angle_triangles(k1, k2, width, number=10) -> tuple[np.ndarray, np.ndarray]:
    """Shells around k1 and k2 [h/Mpc] and, against the angle theta between them, k3.

    k3^2 = k1^2 + k2^2 + 2 k1 k2 cos(theta); Kodi Ramanah et al. 2020 take 0.15 and 0.25.

    Returns
    -------
    theta : (number,) array
        In radians, midpoints of equal bins of [0, pi].
    triangles : (number, 3, 2) array
    """
    theta = (np.arange(number) + 0.5) * np.pi / number
    k3 = np.sqrt(k1**2 + k2**2 + 2 * k1 * k2 * np.cos(theta))
    centres = np.stack([np.full(number, k1), np.full(number, k2), k3], axis=-1)
    lower = np.maximum(centres - width / 2, width / 2)
    return theta, np.stack([lower, lower + width], axis=-1)


def equilateral_triangles(kmin, kmax, number=10) -> np.ndarray:
    """Logarithmic shells from kmin to kmax [h/Mpc], each taken three times."""
    edges = np.geomspace(kmin, kmax, number + 1)
    shells = np.stack([edges[:-1], edges[1:]], axis=-1)
    return np.repeat(shells[:, None], 3, axis=1)


class Bispectrum(Diagnostic):
    """Of triangles with two fixed sides, and of equilateral ones (Kodi Ramanah et al. 2020)."""

    part = "bispectrum"
    name, title = "bispectrum", "Bispectrum"
    shows = ("bispectrum angle",)
    step = "bispectrum"
    of_lr = False
    ratios = {"bispectrum ratio": Ratio("bispectrum equilateral", ["bispectrum"], "k1")}
    criteria = {
        "bispectrum": Criterion(
            "Equilateral bispectrum", "bispectrum ratio", "bispectrum", "k1", "h/Mpc"
        )
    }

    def measure(self, subject, results) -> dict:
        settings, fundamental = results.settings, 2 * np.pi / subject.delta.BoxSize[0]
        theta, triangles = angle_triangles(settings.k1, settings.k2, fundamental)
        name = "bispectrum angle"
        angles = bispectrum(subject.delta, triangles, closed=_closed(results, name, subject.delta))
        angles = replace(
            angles,
            columns={"theta": theta, **angles.columns},
            units={**angles.units, "theta": "rad"},
            attrs={**angles.attrs, "k1": settings.k1, "k2": settings.k2},
        )
        # three shells must not alias: see bispectrum
        limit = min(settings.kmax, 0.99 * settings.Nmesh / 3 * fundamental)
        if limit <= 2.5 * fundamental:
            results.note("The mesh is too coarse for equilateral triangles.", subject)
            return {name: angles}
        other = "bispectrum equilateral"
        shells = equilateral_triangles(1.5 * fundamental, limit)
        sides = bispectrum(subject.delta, shells, closed=_closed(results, other, subject.delta))
        return {name: angles, other: sides}

    def caption(self, results) -> str:
        caption = (
            "Reduced bispectrum of triangles with two fixed sides against the angle θ between "
            "them (Kodi Ramanah et al. 2020), and of equilateral ones."
        )
        return caption + (results.scatter or " Bars: errors of a Gaussian field.")

    def draw(self, results) -> "drawing.Figure":
        columns = (("bispectrum angle", "theta"), ("bispectrum equilateral", "k1"))
        heights = (2, 1.2) if results["HR"] else (2,)
        figure, axes = drawing.panels(
            len(heights), 2, 7.4, 1.6 + sum(heights), sharex="col", height_ratios=heights
        )
        for (top, *below), (name, x) in zip(axes.T, columns, strict=True):
            drawing.curves(top, results, name, x, "reduced", drawing.points, shift=0)
            measured = dict(results.items(name))
            for axis in below:
                if measured:
                    with np.errstate(divide="ignore", invalid="ignore"):
                        value = measured["SR"]["bispectrum"] / measured["HR"]["bispectrum"]
                    axis.plot(measured["HR"][x], value, **drawing.STYLE["SR"], marker="s", ms=3.5)
                axis.set(ylabel="$B$, ratio to HR", ylim=(0, 2))
                drawing.guide(axis)
        attrs = results.items("bispectrum angle")[0][1].attrs
        axes[0, 0].set(title=rf"$k_1={attrs['k1']:.2g}$, $k_2={attrs['k2']:.2g}$ $h$/Mpc")
        axes[0, 0].set(ylabel=r"$Q=B/(P_1P_2+P_2P_3+P_3P_1)$", xlim=(0, np.pi))
        axes[-1, 0].set(xlabel=r"$\theta$ [rad]")
        axes[0, 1].set(title=r"equilateral", ylabel="$Q$", xscale="log")
        axes[-1, 1].set(xlabel=r"$k$ [$h$/Mpc]")
        drawing.log_ticks(axes[-1, 1])
        axes[0, 0].legend()
        return figure


def _closed(results, name, delta):
    """Numbers of triangles, if they were counted for another catalogue in a box of this volume."""
    volume = float(np.prod(delta.BoxSize))
    known = [one for names in results.statistics.values() for one in names.get(name, ())]
    return next((one["triangles"] for one in known if one.attrs["volume"] == volume), None)


def _inside(square, key):
    """Which n^2 lie in a shell."""
    return (square >= key[0]) & (square < key[1]) & (square > 0)


def _shells(field, keys):
    """Mean |n| and mean |delta_k|^2 of the modes in each shell; NaN where it has none."""
    every = squares(field)
    limit = min(int(max((upper for _, upper in keys), default=0)) + 1, len(every) - 1)
    number, total = shell_sums(
        [field], np.where(every > limit, 0, every), limit, unity, moment(0, 0)
    )
    square, found = np.arange(1, limit + 1), {}
    for key in keys:
        inside = _inside(square, key)
        count, size = number[inside], np.sqrt(square[inside])
        with np.errstate(invalid="ignore"):
            found[key] = (count @ size / count.sum(), total[inside].sum() / count.sum())
    return found


def _cells(key):
    """Cells a side of the smallest good mesh on which the product of three shells does not alias."""
    outer = np.sqrt([upper for _, upper in key])
    least = int(max(outer.sum(), 2 * outer.max())) + 2
    return 2 * next_fast_len(-(-least // 2), real=True)


class _Mesh:
    """The modes of a field on a mesh of `cells` a side, and means of products of shells.

    A mesh of up to `ALONE` cells a side is whole on every rank, and the ranks share the products.
    """

    def __init__(self, field, cells):
        self.cells, self.comm = cells, field.pm.comm
        self.alone = cells <= ALONE
        if self.alone:
            largest = cells // 2 - 1
            n = np.rint(np.fft.fftfreq(2 * largest + 1, 1 / (2 * largest + 1))).astype("i8")
            self.modes = np.zeros((cells, cells, cells // 2 + 1), dtype="c16")
            self.modes[np.ix_(n, n, n[: largest + 1])] = low_modes(field, largest)
        elif cells < field.Nmesh[0]:
            self.modes = restricted(field, particle_mesh(cells, float(field.BoxSize[0]), self.comm))
        else:
            self.modes = field

    def means(self, keys, count=False) -> np.ndarray:
        """For each triangle the mean of I1 I2 I3, or of the same with modes of one. Collective."""
        comm, totals = self.comm, np.zeros(len(keys))
        for i, key in enumerate(keys):
            if not self.alone or i % comm.size == comm.rank:
                fields = {one: self._field(one, count) for one in key}
                three = (fields[one] for one in key)
                totals[i] = sum(float((a * b * c).sum()) for a, b, c in zip(*three))
        return comm.allreduce(totals) / self.cells**3

    def _field(self, key, count):
        """The field of the modes in a shell, an array."""
        modes = self.modes
        if self.alone:
            n = np.rint(np.fft.fftfreq(self.cells, 1 / self.cells)).astype("i8")
            square = n[:, None, None] ** 2 + n[:, None] ** 2 + n[: self.cells // 2 + 1] ** 2
            kept = np.where(_inside(square, key), 1.0 if count else modes, 0)
            return irfftn(kept, (self.cells,) * 3, norm="forward")
        if count:
            modes = modes.pm.create(type=type(modes), value=1.0)
        return multiplied(modes, _inside(squares(modes), key)).value
