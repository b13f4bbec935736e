"""Projected density with halos, as in Figs 1, 2 and 5 of Li et al. 2021: the painting."""

from dataclasses import dataclass

import numpy as np
from pmesh.pm import ParticleMesh
from scipy.ndimage import gaussian_filter

from ..lattice import nearest_image
from ..physics.matter import mean_separation
from ..physics.universe import Universe
from . import drawing
from .diagnostic import Diagnostic
from .fields import batches, selected

SHOWN = 3  # realisations
MARGIN = 8  # a zoom is painted one part in so many wider on each side, for the smoothing


@dataclass(frozen=True)
class Picture:
    """Particles of a slab projected along z; the same on every rank."""

    count: np.ndarray  # (n, n) particles a pixel, by cloud-in-cell; x is the first index
    halo: np.ndarray  # (n, n) those in halos
    mean: float  # particles a pixel of a uniform slab
    centre: np.ndarray  # (3,) comoving [Mpc/h]
    width: float  # comoving [Mpc/h]
    depth: float  # along the line of sight, comoving [Mpc/h]
    periodic: bool  # whether it shows the whole box

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


def pictures(catalog, halos, centre, windows, pixels=400) -> list[Picture]:
    """Paint slabs around `centre`, all in one reading. Collective.

    Parameters
    ----------
    catalog : CatalogSource
    halos : Halos
        Halos of the catalogue.
    centre : (3,) array
        Comoving [Mpc/h].
    windows : list of (width, depth)
        Up to the box [Mpc/h].
    pixels : int
        A side.
    """
    box, catalog = Universe.of(catalog.attrs, "BoxSize").BoxSize, selected(catalog)
    comm, spacing = catalog.comm, mean_separation(catalog.attrs, catalog.csize)
    margins = [0 if width >= box else pixels // MARGIN for width, _ in windows]
    sizes = [pixels + 2 * margin for margin in margins]
    widths = [
        box if width >= box else width * size / pixels
        for (width, _), size in zip(windows, sizes, strict=True)
    ]

    def project(parts):
        found = [[np.zeros((0, 2))] for _ in windows]
        for position in parts:
            offset = nearest_image(position - centre, box)
            away = np.abs(offset)
            for many, painted, (_, depth) in zip(found, widths, windows, strict=True):
                near = np.flatnonzero(away[:, 2] <= depth / 2)
                near = near[(away[near, :2] <= painted / 2).all(axis=1)]
                many.append(offset[near, :2] + painted / 2)
        return [
            _project(np.concatenate(many), painted, size, comm)
            for many, painted, size in zip(found, widths, sizes, strict=True)
        ]

    counts = project(position for (position,) in batches(catalog, "Position"))
    inside = project([halos.particles["Position"]])
    return [
        Picture(
            count,
            halo,
            painted**2 * depth / spacing**3 / size**2,
            np.asarray(centre),
            float(width),
            float(depth),
            width >= box,
        )
        for count, halo, painted, size, (width, depth) in zip(
            counts, inside, widths, sizes, windows, strict=True
        )
    ]


class Pictures(Diagnostic):
    """The whole box, and zooms on the largest halo."""

    part = "pictures"
    name, title = "pictures", "What it looks like"
    shows = ("pictures",)
    needs_halos = True

    def inside(self, subject, results) -> dict:
        """Of the first box, about the largest halo of its first catalogue."""
        if subject.box > 0 or sum(other.kind == subject.kind for other in subject.before) >= SHOWN:
            return {}
        zooms = results.settings.zooms
        centres = (subject.before or [subject])[0].table["centre"]
        centre = centres[0] if len(centres) else np.full(3, zooms[0] / 2)
        # the whole box as a slab of a fifth, zooms as cubes
        windows = [(width, zooms[0] / 5 if width == zooms[0] else width) for width in zooms]
        results.pictures[subject.title] = pictures(subject.catalog, subject.halos, centre, windows)
        return {}

    def finish(self, results, catalogs) -> None:
        results.pictures = dict(
            sorted(results.pictures.items(), key=lambda one: ("LR", "HR", "SR").index(one[0][:2]))
        )

    def caption(self, results) -> str:
        zooms = ", ".join(f"{width:.3g}" for width in results.settings.zooms[1:])
        caption = (
            "Projected dark matter density, logarithmic, with particles in FOF halos in orange "
            "(lightness is density alone); as Figs 1, 2 and 5 of Li et al. 2021. Top: a slab a "
            "fifth of the box deep, centred on the most massive halo of "
            f"{'HR' if 'HR' in results.pictures else 'SR'}. Below: cubes of {zooms} Mpc/h, the "
            "frame in the picture above. Each pixel is averaged over its nearest 16 particles "
            "or so."
        )
        return caption

    def draw(self, results) -> "drawing.Figure":
        """Particles in halos in orange; a zoom in every row."""
        columns = results.pictures
        number = len(next(iter(columns.values())))
        figure, axes = drawing.panels(
            number, len(columns), 2.5 * len(columns) + 0.1, 2.5 * number + 0.2
        )
        for row, shown in zip(axes, zip(*columns.values(), strict=True), strict=True):
            ready = [one.smoothed() for one in shown]
            # the scale of the last columns, the resolved ones, goes for all
            scale = np.concatenate([density.ravel() for density, _ in ready[1:] or ready])
            low, high = np.percentile(np.log10(np.maximum(scale, 1e-3)), [0.5, 99.9])
            for axis, one, (density, halo) in zip(row, shown, ready, strict=True):
                shade = (np.log10(np.maximum(density, 1e-3)) - low) / max(high - low, 1e-9)
                matter, halos = (drawing.shades(of)(shade)[..., :3] for of in ("matter", "halos"))
                rgb = matter + halo[..., None] * (halos - matter)
                axis.imshow(rgb.transpose(1, 0, 2), origin="lower", extent=(0, 1, 0, 1))
                axis.set(xticks=[], yticks=[])
                _scale_bar(axis, one.width)
        for axis, title in zip(axes[0], columns, strict=True):
            axis.set_title(title)
        for i, zooms in enumerate(columns.values()):
            for axis, one, inner in zip(axes[:, i], zooms, zooms[1:]):
                _frame(axis, inner.width / one.width)
        return figure


def _scale_bar(axis, width):
    """A white bar of a round length, at the lower left."""
    length = 0.3 * width
    unit = 10 ** np.floor(np.log10(length))
    length = unit * max(step for step in (1, 2, 5) if step * unit <= length * (1 + 1e-9))
    axis.plot([0.05, 0.05 + length / width], [0.06, 0.06], color="white", lw=2)
    axis.text(0.05, 0.08, f"{length:g} Mpc/$h$", color="white", fontsize=7)


def _frame(axis, part):
    """The outline of the next zoom, which is so wide."""
    x, y = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]) * part + (1 - part) / 2
    axis.plot(x, y, color="white", lw=0.8)


def _project(position, width, pixels, comm):
    """Cloud-in-cell on a plane."""
    plane = ParticleMesh(BoxSize=[width] * 2, Nmesh=[pixels] * 2, dtype="f8", comm=comm)
    layout = plane.decompose(position)
    return plane.paint(position, layout=layout).preview()
