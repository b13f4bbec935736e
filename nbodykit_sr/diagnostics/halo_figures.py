"""Figures of halos: what they are like inside, and one by one."""

import numpy as np
from matplotlib.figure import Figure

from .drawing import STYLE, guide, legends, log_ticks, points

SHOWN = 3  # bins of mass whose profiles are drawn
RADII = (("r20", "20 %"), ("r50", "50 %"), ("r80", "80 %"))
STRUCTURE = (
    ("concentration", "concentration $c_{200}$"),
    ("dispersion", r"$\sigma_{\rm 1D}$ [km/s]"),
    ("axis", "$c/a$"),
    ("core_2", "share of the core"),
    ("pieces_2", "pieces beside the core"),
    ("r200", "$R_{200}$ [Mpc/$h$]"),
)
MATCHING = (
    ("matched", "share with a partner"),
    ("mass_scatter", r"scatter of $\ln M$"),
    ("offset", "distance of centres [Mpc/$h$]"),
)


def halo_radii(results) -> Figure:
    """Radii that hold 20, 50 and 80 % of a halo's particles, and their ratios to HR's."""
    kinds = results.items("structure")
    reference = dict(kinds).get("HR")
    heights = (2, 1) if reference else (2,)
    figure = Figure(figsize=(8.4, 1.4 + 1.1 * sum(heights)), layout="constrained")
    axes = figure.subplots(
        len(heights), 3, sharex=True, sharey="row", height_ratios=heights, squeeze=False
    )
    for column, (name, label) in zip(axes.T, RADII, strict=True):
        for kind, one in kinds:
            points(column[0], one, "mass", name, kind)
        column[0].set(title=f"radius of {label} of the particles", xscale="log", yscale="log")
        if reference:
            for kind, one in results.items("structure ratio"):
                points(column[1], one, "mass", name, kind, "HR")
            guide(column[1])
        column[-1].set_xlabel(r"$M_{\rm FOF}$ [$M_\odot/h$]")
    axes[0, 0].set_ylabel("$r$ [Mpc/$h$]")
    if reference:
        axes[1, 0].set(ylabel="ratio to HR", ylim=(0, 3))
    legends(axes[0, :1])
    return figure


def halo_profiles(results) -> Figure:
    """Stacked density profiles in bins of mass, in units of R200 and in Mpc/h."""
    rows = (("scaled profiles", "$r/R_{200}$"), ("profiles", "$r$ [Mpc/$h$]"))
    filled = results.items("scaled profiles")
    best = dict(filled).get("HR", dict(filled)["SR"])
    shown = np.flatnonzero(np.isfinite(best["density"]).any(axis=1))
    shown = shown[np.linspace(0, len(shown) - 1, min(SHOWN, len(shown))).astype(int)]
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots(2, max(len(shown), 1), sharey="row", sharex="row", squeeze=False)
    for row, (name, label) in zip(axes, rows, strict=True):
        for axis, which in zip(row, shown, strict=False):
            for kind, one in results.items(name):
                density, error = one["density"][which], one.errors["density"][which]
                seen = density > 0
                radius, density, error = one["radius"][which][seen], density[seen], error[seen]
                axis.plot(radius, density, **STYLE[kind], label=kind)
                low, high = np.maximum(density - error, density / 10), density + error
                axis.fill_between(radius, low, high, color=STYLE[kind]["color"], alpha=0.2, lw=0)
            axis.set(xscale="log", yscale="log", xlabel=label)
            log_ticks(axis)
        row[0].set_ylabel(r"$\rho/\rho_{\rm c}$")
    edges = best.attrs["edges"]
    for axis, which in zip(axes[0], shown, strict=False):
        low, high = np.log10(edges[which : which + 2])
        axis.set_title(rf"$10^{{{low:.1f}}}$ to $10^{{{high:.1f}}}\,M_\odot/h$")
    legends(axes[0, -1:])
    return figure


def halo_structure(results) -> Figure:
    """Concentration, motions, shapes and pieces against mass."""
    return _panels(STRUCTURE, results.items("structure"), log=("dispersion", "r200"))


def halo_matching(results) -> Figure:
    """SR's halos and their partners in HR, and in another SR: no better can be asked for."""
    drawn = (("SR", "matching HR", "SR with HR"), ("HR", "matching SR", "SR with another SR"))
    found = [(kind, results.items(name), label) for kind, name, label in drawn]
    kinds = [(kind, many[0][1]) for kind, many, _ in found if many]
    return _panels(MATCHING, kinds, labels={kind: label for kind, _, label in found})


def _panels(columns, kinds, log=(), labels=None):
    """A panel of points with errors for each column of the statistics."""
    across = 3
    figure = Figure(figsize=(8.4, 2.6 * -(-len(columns) // across)), layout="constrained")
    axes = figure.subplots(-(-len(columns) // across), across, squeeze=False).ravel()
    for axis, (name, label) in zip(axes, columns, strict=True):
        for kind, one in kinds:
            if name in one.columns:
                points(
                    axis, one, "mass", name, kind, label=(labels or {}).get(kind, kind), zero=True
                )
        axis.set(xscale="log", ylabel=label, xlabel=r"$M_{\rm FOF}$ [$M_\odot/h$]")
        if name in log and axis.has_data():
            axis.set_yscale("log")
    legends(axes[:1])
    return figure
