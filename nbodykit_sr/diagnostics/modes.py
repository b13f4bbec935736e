"""The modes of Fourier fields of a cubic box, by their whole wavenumbers, and sums over them.

A wavenumber is n = k L / 2 pi, three integers; a function of |n| is a table indexed by n^2.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.polynomial.legendre import leg2poly
from pmesh.pm import ComplexField, RealField


def wavenumbers(field) -> list[np.ndarray]:
    """The wavenumbers n of this rank's modes along x, y and z, which broadcast to its array."""
    found = []
    for index, Nmesh in zip(field.i, field.Nmesh, strict=True):
        n = np.asarray(index).astype("i8")
        found.append(np.where(n > Nmesh // 2, n - Nmesh, n))
    return found


def squares(field) -> np.ndarray:
    """Every n^2 that the modes of a field may have, and those between, (m,) int64."""
    return np.arange(3 * (int(field.Nmesh[0]) // 2) ** 2 + 1)


def planes(*fields) -> Iterator[tuple]:
    """This rank's modes of ComplexFields of one mesh, plane by plane as they lie in memory.

    Yields
    ------
    n : list of three int64 arrays, wavenumbers along x, y and z, which broadcast to the plane
    weight : float64 array, likewise: 2 where a mode stands for its conjugate too, not stored
    values : list of (m, l) complex128 arrays, views of the fields
    """
    first = fields[0]
    order = np.argsort([-stride for stride in first.value.strides], kind="stable")
    n = wavenumbers(first)
    weight = np.where((n[2] == 0) | (2 * n[2] == first.Nmesh[2]), 1.0, 2.0)
    along = [one.transpose(order) for one in (*n, weight)]
    values = [field.value.transpose(order) for field in fields]
    for i in range(len(values[0])):
        *here, weight = (one[i if len(one) > 1 else 0] for one in along)
        yield here, weight, [one[i] for one in values]


def square(n) -> np.ndarray:
    """n^2 on a plane."""
    return n[0] ** 2 + n[1] ** 2 + n[2] ** 2


def multiplied(field, table) -> RealField:
    """A ComplexField times a function of n^2, a table of all `squares`, transformed back."""
    product = field.pm.create(type=type(field))
    for n, _, (source, target) in planes(field, product):
        np.multiply(source, table[square(n)], out=target)
    return product.c2r(out=Ellipsis)


def shell_sums(fields, table, number, *terms, parts=1) -> np.ndarray:
    """Sums over the modes of fields of one mesh, in bins of |n|. Collective.

    Parameters
    ----------
    fields : sequence of ComplexField
    table : (m,) int64
        Bin of the modes for each of `squares`, from 1; modes of bin 0 are left out.
    number : int
        Number of bins.
    *terms : callables
        Functions of (n, n^2, values): wavenumbers and fields as `planes` gives them.
    parts : int
        Bins that each is cut into: the first term then says which, from 0, and is not summed.

    Returns
    -------
    (terms, number) or (terms - 1, number, parts) float64
    """
    split, size = parts > 1, (number + 1) * parts
    sums = np.zeros((len(terms) - split, size))
    for n, weight, values in planes(*fields):
        n2 = square(n)
        where = table[n2] * parts
        if split:
            where += terms[0](n, n2, values)
        where = where.ravel()
        for total, term in zip(sums, terms[split:]):
            value = weight * term(n, n2, values)
            total += np.bincount(where, np.broadcast_to(value, n2.shape).ravel(), size)
    sums = fields[0].pm.comm.allreduce(sums).reshape(-1, number + 1, parts)[:, 1:]
    return sums if split else sums[..., 0]


def k_bins(field, kmax=None) -> tuple[np.ndarray, int]:
    """Table and number of bins about multiples of the fundamental mode: no mode lies on an edge."""
    half = number = int(field.Nmesh[0]) // 2
    if kmax is not None:  # the last bin lies below it, but for rounding and half a percent
        number = min(half, int(np.ceil(kmax * field.BoxSize[0] / (2 * np.pi) + 0.01)) - 1)
    bins = np.rint(np.sqrt(squares(field))).astype("i8")
    return np.where(bins > number, 0, bins), number


def k_sums(fields, kmax, *terms) -> tuple:
    """Mean k [h/Mpc], the number of modes, and the sums of terms, in `k_bins`. Collective."""
    count, size, *sums = shell_sums(fields, *k_bins(fields[0], kmax), unity, length, *terms)
    return 2 * np.pi / fields[0].BoxSize[0] * size / count, np.rint(count).astype("i8"), *sums


def unity(n, n2, values) -> float:
    """A term of `shell_sums`: the number of modes."""
    return 1.0


def length(n, n2, values) -> np.ndarray:
    """A term of `shell_sums`: |n|."""
    return np.sqrt(n2)


def moment(axis, order) -> Callable:
    """A term of `shell_sums`: |delta_k|^2 mu^(2 order), mu the cosine to the axis."""

    def term(n, n2, values):
        power = values[0].real ** 2 + values[0].imag ** 2
        return power * (n[axis] ** 2 / np.maximum(n2, 1)) ** order if order else power

    return term


def pole(ell, moments) -> np.ndarray:
    """Multipole of even order times the number of modes, from moments of mu^2."""
    return (2 * ell + 1) * sum(
        factor * moment for factor, moment in zip(leg2poly(np.eye(ell + 1)[ell])[::2], moments)
    )


def low_modes(field, largest) -> np.ndarray:
    """Modes with every |n| up to `largest`, below Nyquist, on all ranks, ordered as by `numpy.fft`.

    (2 largest + 1, 2 largest + 1, largest + 1) complex128. Collective.
    """
    kept = np.zeros((2 * largest + 1, 2 * largest + 1, largest + 1), dtype="c16")
    n = [one.ravel() for one in wavenumbers(field)]
    mine = [np.flatnonzero(abs(one) <= largest) for one in n]
    kept[np.ix_(*(one[at] for one, at in zip(n, mine)))] = field.value[np.ix_(*mine)]
    return field.pm.comm.allreduce(kept)


def restricted(field, pm) -> ComplexField:
    """A field's modes on a coarser mesh, which must hold all that are looked at. Collective."""
    comm, coarse = field.pm.comm, pm.create(type=type(field), value=0)
    here, there = ([one.ravel() for one in wavenumbers(one)] for one in (field, coarse))
    parcels = [
        np.ascontiguousarray(field.value[_common(here, wanted)]) for wanted in comm.allgather(there)
    ]
    held = comm.allgather(here)
    for rows, parcel in zip(held, comm.alltoall(parcels), strict=True):
        coarse.value[_common(there, rows)] = parcel
    return coarse


def _common(here, there):
    """Index of the modes of one block that another has too; both have them in one order."""
    return np.ix_(*(np.flatnonzero(np.isin(*pair)) for pair in zip(here, there, strict=True)))
