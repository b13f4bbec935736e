"""The 48 elements of the octahedral group, on positions and on vector components alike."""

from itertools import permutations, product

import numpy as np

ELEMENTS = [
    (permutation, flips)
    for permutation in permutations(range(3))
    for flips in product((False, True), repeat=3)
]


def transform(field, element) -> np.ndarray:
    """Rotate or reflect a lattice field.

    Parameters
    ----------
    field : (C, N, N, N) array
        C a multiple of 3: vectors, whose components transform too; any other: scalars.
    element : (permutation, flips)
        One of `ELEMENTS`: axis i of the result is axis ``permutation[i]`` of the field, then
        reversed if ``flips[i]``.

    Returns
    -------
    (C, N, N, N) array, contiguous
    """
    permutation, flips = element
    channels = field.shape[0]
    out = field.transpose(0, *(1 + axis for axis in permutation))
    out = np.flip(out, [1 + axis for axis in range(3) if flips[axis]])
    if channels % 3 == 0:
        order = [3 * (c // 3) + permutation[c % 3] for c in range(channels)]
        sign = np.where(flips, -1, 1)[np.arange(channels) % 3].astype(field.dtype)
        out = out[order] * sign[:, None, None, None]
    return np.ascontiguousarray(out)


def periodic_crop(field, start, size) -> np.ndarray:
    """A cuboid of `size` (3) sites of a periodic field (C, N, N, N), from site `start` (3) on."""
    index = [np.arange(s, s + n) % field.shape[1] for s, n in zip(start, size, strict=True)]
    # row by row, so that a memory map reads only what is needed
    return np.ascontiguousarray(field[:, index[0]][:, :, index[1]][:, :, :, index[2]])
