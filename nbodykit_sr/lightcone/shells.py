"""Maps of the sky: particles of a light cone counted in pixels of HEALPix, shell by shell."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

# Sides of HEALPix that are made: beyond, a map has 1e10 pixels
_SIDES = [2**n for n in range(15)]


@dataclass(frozen=True, eq=False)
class Shells:
    """Counts in pixels of shells between distances; they do not depend on the order of particles.

    Attributes
    ----------
    nside : int
        Pixels along a side of HEALPix's base pixels; ring ordering, longitude RA, latitude DEC.
    redshifts, distances : (n + 1,) arrays
        Edges of the shells, ascending; comoving [Mpc/h].
    counts : (n, 12 nside^2) uint32 array
    """

    nside: int
    redshifts: np.ndarray
    distances: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, nside, shells, cone, expansion) -> "Shells":
        """Empty maps of a cone.

        Parameters
        ----------
        nside : int
        shells : int or sequence of float
            So many of equal thickness in comoving distance, or the redshifts of their edges.
        cone : Cone
        expansion : Expansion

        Raises
        ------
        InputError
        """
        _healpy()
        if nside not in _SIDES:
            raise InputError(
                f"maps are of nside {nside}: a power of 2 up to {_SIDES[-1]} is needed, such as 1024"
            )
        first, last = cone.times
        table = 1 / np.linspace(last, first, 10_000) - 1
        if np.ndim(shells):
            redshifts = np.array(shells, dtype="f8")
            inside = cone.zmin <= redshifts.min() and redshifts.max() <= cone.zmax
            if len(redshifts) < 2 or not inside or (np.diff(redshifts) <= 0).any():
                raise InputError(
                    f"shells are {shells}: a number of them, or ascending redshifts of their edges from "
                    f"{cone.zmin:g} to {cone.zmax:g} are needed"
                )
        else:
            if shells < 1:
                raise InputError(f"shells is {shells}: one or more are needed")
            distances = expansion.distance(1 / (1 + table))
            edges = np.linspace(distances[0], distances[-1], shells + 1)
            redshifts = np.interp(edges, distances, table)
            redshifts[[0, -1]] = cone.zmin, cone.zmax
        distances = expansion.distance(1 / (1 + redshifts))
        counts = np.zeros((len(redshifts) - 1, 12 * nside**2), dtype="u4")
        return cls(int(nside), redshifts, distances, counts)

    def add(self, columns) -> None:
        """Count particles with Position, from the observer [Mpc/h]. Not collective."""
        position = columns["Position"]
        distance = np.sqrt((position**2).sum(axis=1))
        shell = np.searchsorted(self.distances, distance, side="right") - 1
        inside = (shell >= 0) & (shell < len(self.counts)) & (distance > 0)
        pixel = _healpy().vec2pix(self.nside, *position[inside].T)
        np.add.at(self.counts, (shell[inside], pixel), 1)

    def reduce(self, comm) -> None:
        """Bring rank 0 what all ranks counted. Collective."""
        for counts in self.counts:
            total = comm.reduce(counts)
            if comm.rank == 0:
                counts[:] = total

    def write(self, folder, mass, attrs) -> None:
        """Write ``shell.N.fits``, from the observer outwards, for `healpy.read_map`. Not collective.

        Column COUNTS (field 0), and MASS (field 1) [Msun/h]; edges stand in the header.

        Parameters
        ----------
        folder : path
        mass : float
            Of a particle [Msun/h].
        attrs : dict
            Text and numbers, by names that FITS takes.
        """
        os.makedirs(folder, exist_ok=True)
        for number, counts in enumerate(self.counts):
            edges = {"ZMIN": self.redshifts, "RMIN": self.distances}
            header: dict[str, Any] = {name: float(edge[number]) for name, edge in edges.items()}
            header["ZMAX"], header["RMAX"] = (float(edge[number + 1]) for edge in edges.values())
            _healpy().write_map(
                os.path.join(folder, f"shell.{number}.fits"),
                [counts.astype("i4"), counts * mass],
                dtype=["i4", "f8"],
                column_names=["COUNTS", "MASS"],
                column_units=["", "Msun/h"],
                coord="C",
                extra_header=list((header | attrs).items()),
                overwrite=True,  # of a run that was killed in this step
            )


def _healpy():
    try:
        import healpy
    except ImportError:
        raise InputError(
            "maps need healpy, which is not installed: pip install 'nbodykit_sr[maps]'"
        ) from None
    return healpy
