"""Projected density with halos, as in Figs 1, 2 and 5 of Li et al. 2021: the painting."""

from dataclasses import dataclass

import numpy as np
from pmesh.pm import ParticleMesh
from scipy.ndimage import gaussian_filter

from ..universe import Universe
from .fields import pieces

MARGIN = 8  # a zoom is painted one part in so many wider on each side, for the smoothing


@dataclass(frozen=True)
class Picture:
    """Particles of a slab projected along z; the same on every rank.

    Attributes
    ----------
    count, halo : (n, n) float64
        Particles, and those in halos, per pixel, by cloud-in-cell; x is the first index.
    mean : float
        Particles per pixel of a uniform slab.
    centre : (3,) float64
        Comoving [Mpc/h].
    width, depth : float
        Across and along the line of sight, comoving [Mpc/h].
    periodic : bool
        Whether it shows the whole box.
    """

    count: np.ndarray
    halo: np.ndarray
    mean: float
    centre: np.ndarray
    width: float
    depth: float
    periodic: bool

    def smoothed(self, minimum=16) -> tuple[np.ndarray, np.ndarray]:
        """Projected density in units of the mean, and the share of it in halos, (n, n) each.

        Every pixel is smoothed by the narrowest Gaussian that holds `minimum` particles, so that
        LR and HR are shown by one rule.
        """
        mode = "wrap" if self.periodic else "nearest"
        n = len(self.count)
        density, halo = np.zeros((n, n)), np.zeros((n, n))
        missing = np.ones((n, n), bool)
        sigma, narrower = 0.7, None
        while missing.any() and sigma < n / 3:
            level = [
                gaussian_filter(one, sigma, mode=mode, truncate=3)
                for one in (self.count, self.halo)
            ]
            inside = level[0] * 4 * np.pi * sigma**2
            take = missing & (inside >= minimum)
            if narrower is not None:
                # between two widths both are mixed, so that no contour of the choice shows
                share = np.log(minimum / np.maximum(narrower[1], 1e-9)[take])
                share /= np.log(inside[take] / np.maximum(narrower[1], 1e-9)[take])
                share = np.clip(share, 0, 1)
                density[take] = share * level[0][take] + (1 - share) * narrower[0][0][take]
                halo[take] = share * level[1][take] + (1 - share) * narrower[0][1][take]
            else:
                density[take], halo[take] = level[0][take], level[1][take]
            missing &= ~take
            narrower, sigma = (level, inside), sigma * 1.7
        density[missing], halo[missing] = narrower[0][0][missing], narrower[0][1][missing]
        if not self.periodic:
            inner = slice(n // (MARGIN + 2), n - n // (MARGIN + 2))
            density, halo = density[inner, inner], halo[inner, inner]
        share = halo / np.maximum(density, 1e-12)
        return density / self.mean, np.clip(share, 0, 1)


def picture(catalog, halos, centre, width, depth, pixels=400) -> Picture:
    """Paint a slab around `centre`. Collective.

    Parameters
    ----------
    catalog : CatalogSource
    halos : Halos
        Of the catalogue.
    centre : (3,) array
        Comoving [Mpc/h].
    width, depth : float
        Up to the box [Mpc/h].
    pixels : int
        A side.

    Returns
    -------
    Picture
    """
    box = Universe.of(catalog.attrs, "BoxSize").BoxSize
    whole = width >= box
    margin = 0 if whole else pixels // MARGIN
    painted = box if whole else width * (pixels + 2 * margin) / pixels
    size = pixels + 2 * margin

    def project(parts):
        found = [np.zeros((0, 2))]
        for position in parts:
            offset = position - centre
            offset -= box * np.rint(offset / box)
            near = np.abs(offset[:, 2]) <= depth / 2
            near &= (np.abs(offset[:, :2]) <= painted / 2).all(axis=1)
            found.append(offset[near, :2] + painted / 2)
        return _project(np.concatenate(found), painted, size, catalog.comm)

    count = project(position for (position,) in pieces(catalog, "Position"))
    halo = project([halos.members["Position"]])
    mean = catalog.csize * painted**2 * depth / box**3 / size**2
    return Picture(count, halo, mean, np.asarray(centre), float(width), float(depth), whole)


def _project(position, width, pixels, comm):
    """Cloud-in-cell on a plane."""
    plane = ParticleMesh(BoxSize=[width] * 2, Nmesh=[pixels] * 2, dtype="f8", comm=comm)
    layout = plane.decompose(position)
    return plane.paint(position, layout=layout).preview()
