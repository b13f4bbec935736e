"""Bispectrum by fast Fourier transforms over MPI.

With delta_k the coefficients of delta(x) = sum_k delta_k exp(i k x), and I_s(x) the field that
keeps only the modes of shell s, the sum over closed triangles is a mean over the mesh,

    sum delta_k1 delta_k2 delta_k3 = < I_1 I_2 I_3 >,

and the number of triangles is the same with all delta_k set to one. The product of three shells
must not alias: their outer radii together stay below the number of cells a side times the
fundamental mode.
"""

import numpy as np

from ..errors import InputError
from .fields import complex_field
from .statistic import Statistic


def bispectrum(source, triangles, Nmesh=None) -> Statistic:
    """Bispectrum averaged over triangles of wavenumber shells.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    triangles : (n, 3, 2) array
        Lower and upper wavenumber of the three shells [h/Mpc]; lower <= k < upper.

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
    limit = float(field.Nmesh[0]) * 2 * np.pi / field.BoxSize[0]
    if len(triangles) and (worst := triangles[:, :, 1].sum(axis=1).max()) >= limit:
        raise InputError(
            f"a triangle reaches k1 + k2 + k3 = {worst:.3g} h/Mpc; a mesh of {field.Nmesh[0]} "
            f"holds {limit:.3g}: use a finer mesh or a smaller kmax"
        )
    volume = float(np.prod(field.BoxSize))
    uses = {}
    for triangle in triangles:
        for shell in map(tuple, triangle):
            uses[shell] = uses.get(shell, 0) + 1
    shells, rows = {}, []
    for triangle in triangles:
        keys = [tuple(shell) for shell in triangle]
        for key in keys:
            if key not in shells:
                shells[key] = _Shell(field, key)
        one, two, three = (shells[key] for key in keys)
        count = (one.count * two.count * three.count).cmean()
        total = (one.delta * two.delta * three.delta).cmean()
        powers = [volume * shell.power for shell in (one, two, three)]
        pairs = powers[0] * powers[1] + powers[1] * powers[2] + powers[2] * powers[0]
        symmetry = {1: 6, 2: 2, 3: 1}[len(set(keys))]
        with np.errstate(divide="ignore", invalid="ignore"):
            closed = np.float64(round(count)) if count > 0.5 else np.nan
            value = volume**2 * total / closed
            error = np.sqrt(symmetry * volume * np.prod(powers) / closed)
            rows.append((one.k, two.k, three.k, value, value / pairs, closed, error, error / pairs))
        for key in keys:  # a shell is dropped after its last triangle
            uses[key] -= 1
            if not uses[key]:
                shells.pop(key)
    names = ("k1", "k2", "k3", "bispectrum", "reduced", "triangles", "error", "reduced_error")
    table = dict(zip(names, np.array(rows).reshape(-1, len(names)).T, strict=True))
    errors = {"bispectrum": table.pop("error"), "reduced": table.pop("reduced_error")}
    units = {"k1": "h/Mpc", "k2": "h/Mpc", "k3": "h/Mpc", "bispectrum": "(Mpc/h)^6"}
    return Statistic(
        "bispectrum", table, units, errors, {"Nmesh": int(field.Nmesh[0]), "volume": volume}
    )


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


class _Shell:
    """Fields of the modes in lower <= k < upper, their mean wavenumber and mean |delta_k|^2."""

    def __init__(self, field, bounds):
        lower, upper = (bound**2 * (1 - 1e-9) for bound in bounds)  # a mode on an edge is rounded

        def keep(k, value):
            square = sum(ki**2 for ki in k)
            return value * ((square >= lower) & (square < upper) & (square > 0))

        ones = field.pm.create(type="complex", value=1.0)
        self.delta = field.apply(keep).c2r()
        self.count = ones.apply(keep).c2r()
        number = (self.count**2).cmean()  # of modes
        number = number if number > 0.5 else np.nan
        self.power = (self.delta**2).cmean() / number
        size = ones.apply(lambda k, value: value * sum(ki**2 for ki in k) ** 0.5)
        self.k = (size.apply(keep).c2r() * self.count).cmean() / number
