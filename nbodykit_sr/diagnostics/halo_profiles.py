"""Density profiles of halos, stacked in bins of mass."""

import numpy as np

from ..lattice import nearest_image
from ..physics.universe import Universe
from . import drawing
from .diagnostic import Diagnostic
from .mass_function import bins, mean_in_bins
from .statistic import Statistic

SCALED_RADII = np.geomspace(0.03, 2, 13)  # shells, in R200 of each halo, ...
RADII = np.geomspace(0.01, 2, 15)  # ... and in Mpc/h
SHOWN = 3  # bins of mass that are drawn


def density_profiles(halos, table, edges, radii, catalog, scaled=False) -> Statistic:
    """Stacked density profiles in bins of mass. Collective.

    Parameters
    ----------
    edges : (n + 1,) array
        Bins of mass [Msun/h].
    radii : (m + 1,) array
        Edges of the shells [Mpc/h], or in units of each halo's r200 if `scaled`.
    catalog : CatalogSource
        Catalogue of the halos.

    Returns
    -------
    Statistic
        Columns mass, radius (geometric centres) and density, in critical ones, each (n, m);
        errors of the mean over halos.
    """
    halo, density = halos.owner, Universe.of(catalog.attrs, "a", "Omega0").critical_density
    unit = table["r200"][halos.index] if scaled else np.ones(len(halos.index))
    offset = halos.particles["Position"] - table["centre"][halos.index][halo]
    offset = nearest_image(offset, halos.attrs["BoxSize"])
    shell = np.searchsorted(radii, np.linalg.norm(offset, axis=1) / unit[halo], "right") - 1
    number = len(radii) - 1
    inside = (shell >= 0) & (shell < number) & np.isfinite(unit)[halo]
    found = np.bincount(halo[inside] * number + shell[inside], minlength=len(unit) * number)
    volume = 4 * np.pi / 3 * np.diff(radii**3) * unit[:, None] ** 3
    profile = found.reshape(-1, number) * halos.particle_mass / volume / density
    which = np.where(np.isfinite(unit), bins(halos, edges)[halos.index], -1)
    mean, error, _ = mean_in_bins(which, profile, len(edges) - 1, catalog.comm)
    centres = [np.sqrt(one[1:] * one[:-1]) for one in (edges, radii)]
    mass, radius = np.meshgrid(*centres, indexing="ij")
    return Statistic(
        "density profiles",
        {"mass": mass, "radius": radius, "density": mean},
        {"mass": "Msun/h", "radius": "R200" if scaled else "Mpc/h", "density": "rho_c"},
        {"density": error},
        {"edges": edges.tolist(), "radii": radii.tolist()},
    )


class Profiles(Diagnostic):
    """Stacked profiles, in R200 and in Mpc/h."""

    part = "halos"
    name, title = "halo_profiles", "Density profiles"
    shows = ("profiles",)
    needs_halos = True

    def inside(self, subject, results) -> dict:
        halos = subject.halos, subject.table, subject.edges
        return {
            "profiles": density_profiles(*halos, RADII, subject.catalog),
            "scaled profiles": density_profiles(*halos, SCALED_RADII, subject.catalog, scaled=True),
        }

    def caption(self, results) -> str:
        bands = "standard deviation of catalogues" if results.scatter else "errors of the mean"
        caption = (
            "Stacked density of the particles in halos, in critical densities, against the radius "
            "in units of each halo's R200 (top) and in Mpc/h (bottom), for bins of mass. Bands: "
            f"{bands}."
        )
        return caption

    def draw(self, results) -> "drawing.Figure":
        filled = dict(results.items("scaled profiles"))
        best = filled.get("HR", filled["SR"])
        shown = np.flatnonzero(np.isfinite(best["density"]).any(axis=1))
        shown = shown[np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(int)]
        figure, axes = drawing.panels(2, max(len(shown), 1), 8.4, 5.2, sharex="row", sharey="row")
        labels = {"scaled profiles": "$r/R_{200}$", "profiles": "$r$ [Mpc/$h$]"}
        for row, (name, label) in zip(axes, labels.items(), strict=True):
            for axis, which in zip(row, shown, strict=False):
                for kind, measured in results.items(name):
                    _draw_profile(axis, measured, which, kind)
                axis.set(xscale="log", yscale="log", xlabel=label)
                drawing.log_ticks(axis)
            row[0].set_ylabel(r"$\rho/\rho_{\rm c}$")
        for axis, which in zip(axes[0], shown, strict=False):
            low, high = np.log10(best.attrs["edges"][which : which + 2])
            axis.set_title(rf"$10^{{{low:.1f}}}$ to $10^{{{high:.1f}}}\,M_\odot/h$")
        drawing.legends(axes[0, -1:])
        return figure


def _draw_profile(axis, measured, which, kind):
    """Draw the profile of one bin of mass, with its error band."""
    density, error = measured["density"][which], measured.errors["density"][which]
    seen, look = density > 0, drawing.STYLE[kind]
    radius, density, error = measured["radius"][which][seen], density[seen], error[seen]
    axis.plot(radius, density, **look, label=kind)
    low = np.maximum(density - error, density / 10)
    axis.fill_between(radius, low, density + error, color=look["color"], alpha=0.2, lw=0)
