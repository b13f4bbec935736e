"""Elements shared by the figures of a report: colours, bands, points, axes."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # those who measure and do not draw need no matplotlib
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all; line styles tell them apart in print
STYLE = {
    "HR": {"color": "black", "ls": "-", "lw": 2.6},
    "SR": {"color": "#D55E00", "ls": "-", "lw": 1.6},
    "LR": {"color": "#0072B2", "ls": "--", "lw": 1.4},
}
RC: dict = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False}
CLOSE = 0.1  # half width of the band that guides the eye in ratios


def shades(of) -> "Colormap":
    """Dark to light for "matter" or "halos": as light as each other, and of another hue."""
    from matplotlib import colormaps

    return colormaps[{"matter": "Blues_r", "halos": "Oranges_r"}[of]]


def panels(rows, columns, width, height, **options) -> tuple["Figure", np.ndarray]:
    """A figure of so many inches, and its axes, (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def stack(heights) -> tuple["Figure", np.ndarray]:
    """Panels above each other with one x axis."""
    number, height = len(heights), 1.8 + 1.1 * sum(heights)
    figure, axes = panels(number, 1, 6, height, sharex=True, height_ratios=heights)
    return figure, axes[:, 0]


def curves(axis, results, name, x, y, draw, **options) -> None:
    """A column of a statistic, of all kinds that have it."""
    for kind, statistic in results.items(name):
        if y in statistic.columns:
            draw(axis, statistic, x, y, kind, **options)


def with_ratio(results, name, ratio, x, y, labels, draw) -> "Figure":
    """A column y of a statistic against x, of all kinds; below it, where there is HR, its ratio to HR's.

    `labels` are those of the axes, `draw` is `band` or `points`.
    """
    below = bool(results.items(ratio))
    figure, axes = stack((2, 1) if below else (2,))
    axes[0].set(xscale="log", yscale="log", ylabel=labels[1])
    curves(axes[0], results, name, x, y, draw)
    if below:
        curves(axes[1], results, ratio, x, y, draw, reference="HR")
        axes[1].set(ylabel="ratio to HR", ylim=(0, 2))
        guide(axes[1])
    axes[-1].set_xlabel(labels[0])
    legends(axes)
    return figure


def against_mass(columns, statistics, labels=None) -> "Figure":
    """A panel of points for each column, {name: label}, of the statistics of halos of each kind."""
    rows = -(-len(columns) // 3)
    figure, axes = panels(rows, 3, 8.4, 2.6 * rows)
    for axis, (name, label) in zip(axes.ravel(), columns.items(), strict=True):
        for kind, statistic in statistics.items():
            if name in statistic.columns:
                title = (labels or {}).get(kind, kind)
                points(axis, statistic, "mass", name, kind, label=title)
        axis.set(xscale="log", ylabel=label, xlabel=r"$M_{\rm FOF}$ [$M_\odot/h$]")
    legends(axes[0, :1])
    return figure


def band(axis, statistic, x, y, kind, reference=None, seen=slice(None)) -> None:
    """A line with its 1-sigma band."""
    label = kind if reference is None else f"{kind}/{reference}"
    x, value = statistic[x][seen], statistic[y][seen]
    axis.plot(x, value, **STYLE[kind], label=label)
    if y in statistic.errors:
        error = statistic.errors[y][seen]
        colour = STYLE[kind]["color"]
        axis.fill_between(x, value - error, value + error, color=colour, alpha=0.2, lw=0)


def points(axis, statistic, x, y, kind, reference=None, shift=0.015, label=None) -> None:
    """Points with error bars; kinds a little beside each other, on a logarithmic axis no zeros."""
    label = label or (kind if reference is None else f"{kind}/{reference}")
    good = np.isfinite(statistic[y]) & ((statistic[y] != 0) | (axis.get_yscale() != "log"))
    if not good.any():
        return
    at = statistic[x][good] * (1 + shift * list(STYLE).index(kind))
    error = statistic.errors[y][good] if y in statistic.errors else None
    style = {**STYLE[kind], "marker": {"HR": "o", "SR": "s", "LR": "^"}[kind], "ms": 3.5}
    axis.errorbar(at, statistic[y][good], error, capsize=2, label=label, **style)


def expected(axis, results, name, x, labels) -> None:
    """Draw theory's expectation as thin grey lines, with a label for each column."""
    for statistic in results["theory"].get(name, []):
        for (column, label), style in zip(labels.items(), ("-", "--", ":")):
            if np.isfinite(statistic[column]).any():
                axis.plot(
                    statistic[x],
                    statistic[column],
                    color="0.5",
                    lw=1,
                    ls=style,
                    label=label,
                    zorder=0,
                )


def guide(axis) -> None:
    axis.axhspan(1 - CLOSE, 1 + CLOSE, color="0.93", zorder=0)
    axis.axhline(1, color="0.6", lw=0.8, zorder=1)


def resolved(results, kind, k) -> np.ndarray:
    """Wavenumbers that a kind resolves: LR those below the Nyquist one of its lattice."""
    return k <= results.lr_nyquist if kind == "LR" else np.ones(len(k), bool)


def log_ticks(axis) -> None:
    """Plain numbers at 1, 2, 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def nyquist(axes, results) -> None:
    """Where the LR lattice ends."""
    if results.lr_nyquist is None:
        return
    for axis in axes:
        axis.axvline(results.lr_nyquist, color="0.6", lw=0.8, ls=":")
    axes[0].annotate(
        " LR Nyquist", (results.lr_nyquist, 0.03), xycoords=("data", "axes fraction"), fontsize=7
    )


def legends(axes) -> None:
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
