"""Pictures of a light cone: the fan, a slice in angle and distance, and a shell on the sky."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ..lightcone.cone import Cone
from ..physics.distance import Expansion
from .drawing import RC

# Half the thickness of the fan [rad], its bins in angle, half as many more in distance, and the
# particles that a bin should have at the mean density
_THICK, _BINS, _FULL = np.radians(0.5), (40, 480), 4

# Overdensities that are told apart, as powers of ten
_RANGE = (-1.0, 2.0)


@dataclass(frozen=True, eq=False)
class Fan:
    """Particles near a plane through the axis, counted in angle from the axis and distance."""

    plane: np.ndarray  # (3, 3), unit vectors: axis, the other of the plane, and that across it
    angles: np.ndarray  # edges of the bins [rad]
    distances: np.ndarray  # edges of the bins, comoving [Mpc/h]
    redshifts: tuple  # (float, float), of the nearest and farthest distance
    expected: np.ndarray  # particles in each bin at the mean density, NaN outside of the cone
    counts: np.ndarray

    @classmethod
    def of(cls, cone: Cone, expansion: Expansion, density: float) -> "Fan":
        """Empty, for a cone of so many particles in (Mpc/h)^3."""
        axis = np.ones(3) / np.sqrt(3) if cone.sky == "octant" else cone.direction
        other = np.cross(axis, np.eye(3)[np.argmin(abs(axis))])
        other /= np.linalg.norm(other)
        plane = np.stack([axis, other, np.cross(axis, other)])
        opening = np.arccos(1 / np.sqrt(3)) if cone.sky == "octant" else cone.opening
        near, far = expansion.distance(np.array(cone.times))[::-1]
        # within `_THICK` of the plane, as an angle
        whole = density * 2 * np.sin(_THICK) * 2 * opening * (far**3 - near**3) / 3
        bins = int(np.clip(np.sqrt(whole / _FULL / 1.5), *_BINS))
        angles = np.linspace(-opening, opening, bins + 1)
        distances = np.linspace(near, far, 3 * bins // 2 + 1)
        centre = (angles[1:] + angles[:-1])[:, None] / 2
        seen = cone.sees(np.cos(centre) * plane[0] + np.sin(centre) * plane[1], 1.0)
        part = whole / bins * np.diff(distances**3) / (far**3 - near**3)
        expected = np.where(seen[:, None], part, np.nan)
        counts = np.zeros(expected.shape, dtype="i8")
        return cls(plane, angles, distances, (cone.zmin, cone.zmax), expected, counts)

    def add(self, columns) -> None:
        """Count particles with Position, from the observer [Mpc/h]. Not collective."""
        along, other, across = self.plane @ columns["Position"].T
        distance = np.sqrt((columns["Position"] ** 2).sum(axis=1))
        near = abs(across) <= np.sin(_THICK) * distance
        angle = np.arctan2(other, along)[near]
        found, _, _ = np.histogram2d(angle, distance[near], bins=(self.angles, self.distances))
        self.counts[:] += found.astype("i8")

    def reduce(self, comm) -> None:
        """Bring rank 0 what all ranks counted. Collective."""
        total = comm.reduce(self.counts)
        if comm.rank == 0:
            self.counts[:] = total

    def draw(self, path) -> None:
        """Draw it. Not collective."""
        figure = Figure(figsize=(7, 7), layout="constrained")
        axes = figure.subplots()
        angle, distance = np.meshgrid(self.angles, self.distances, indexing="ij")
        x, y = distance * np.sin(angle), distance * np.cos(angle)
        density = np.log10(np.maximum(self.counts / self.expected, 10 ** _RANGE[0]))
        mesh = axes.pcolormesh(
            x, y, density, cmap="Blues", vmin=_RANGE[0], vmax=_RANGE[1], rasterized=True
        )
        figure.colorbar(mesh, ax=axes, shrink=0.6, label="log10 of density over the mean")
        axes.set(aspect="equal", xlabel="Mpc/h", ylabel="Mpc/h")
        axes.set_title(f"z = {self.redshifts[0]:g} to {self.redshifts[1]:g}", **_title())
        figure.savefig(path, dpi=150)


def draw_shell(counts, redshifts, path) -> None:
    """A map of HEALPix in Mollweide's projection. Not collective.

    Parameters
    ----------
    counts : (12 nside^2,) array
        Ring ordering.
    redshifts : (float, float)
    path : path
    """
    from healpy import ang2pix, get_nside

    nside = get_nside(counts)
    longitude = np.linspace(-np.pi, np.pi, 1201)
    latitude = np.linspace(-np.pi / 2, np.pi / 2, 601)
    centre = [(edges[1:] + edges[:-1]) / 2 for edges in (longitude, latitude)]
    theta, phi = np.meshgrid(np.pi / 2 - centre[1], centre[0], indexing="ij")
    seen = counts[ang2pix(nside, theta, phi % (2 * np.pi))]
    mean = max(counts[counts > 0].mean(), 1) if (counts > 0).any() else 1
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    shown = np.ma.masked_less_equal(seen, 0) / mean
    mesh = axes.pcolormesh(longitude, latitude, np.ma.log10(shown), cmap="Blues", rasterized=True)
    figure.colorbar(mesh, ax=axes, shrink=0.6, label="log10 of counts over their mean")
    axes.set_title(f"RA, DEC; z = {redshifts[0]:.3g} to {redshifts[1]:.3g}", **_title())
    axes.grid(alpha=0.2)
    figure.savefig(path, dpi=150)


def _title():
    return {"fontsize": RC["axes.titlesize"]}
