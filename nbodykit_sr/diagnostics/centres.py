"""The centre of a halo: the particle at the minimum of its gravitational potential, as in SUBFIND.

A bridge joins friends-of-friends halos, and a clump far from the main halo may be the densest, but
the deepest potential is that of the largest mass.
"""

import numpy as np
from scipy.spatial.distance import cdist

from ..lattice import nearest_image

MANY = 512  # particles whose potential is summed pair by pair
SOFTENING = 0.1  # of pairs, in mean separations


def centre_particles(halos) -> np.ndarray:
    """Which particle is the centre of each halo of this rank: rows of `halos.particles`, (h,) int64."""
    box, softening = halos.attrs["BoxSize"], SOFTENING * halos.attrs["separation"]
    centre = halos.first
    for halo, (first, number) in enumerate(zip(halos.first, halos.count, strict=True)):
        position = halos.particles["Position"][first : first + number].astype("f8")
        centre[halo] += deepest(nearest_image(position - position[0], box), softening)
    return centre


def deepest(position, softening) -> int:
    """The particle where the potential of particles of one mass, (n, 3), not periodic, is lowest.

    Of more than `MANY` particles first that of an even sample of them, then that of a sample of
    the quarter of them nearest to it, and so on to the last few, all of them. Softening is
    Plummer's, in the same unit.
    """
    near = np.arange(len(position))
    while True:
        sample = near[:: -(-len(near) // MANY)]
        lowest = sample[np.argmin(_potential(position[sample], softening))]
        if len(near) <= MANY:
            return int(lowest)
        away = ((position[near] - position[lowest]) ** 2).sum(axis=1)
        near = np.sort(near[np.argpartition(away, len(near) // 4)[: len(near) // 4]])


def _potential(position, softening):
    """Of particles of unit mass and G = 1, but for a constant, (n,)."""
    square = cdist(position, position, "sqeuclidean")
    return -(1 / np.sqrt(square + softening**2)).sum(axis=1)
