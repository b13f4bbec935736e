"""What the figures of a report share: colours, bands, points, axes."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# Okabe and Ito's colours, told apart by all; line styles tell them apart in print
STYLE = {
    "HR": {"color": "black", "ls": "-", "lw": 2.6},
    "SR": {"color": "#D55E00", "ls": "-", "lw": 1.6},
    "LR": {"color": "#0072B2", "ls": "--", "lw": 1.4},
}
RC: dict = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False}
CLOSE = 0.1  # half width of the band that guides the eye in ratios


def lab_map(name, hue, chroma=45.0) -> ListedColormap:
    """A map of one hue whose CIELAB lightness grows evenly from dark to light.

    Two of them have the same lightness everywhere: hue is free to say something else.
    """
    lightness = np.linspace(4, 97, 256)
    colour = chroma * np.sin(np.pi * lightness / 100) ** 0.7
    a, b = colour * np.cos(np.radians(hue)), colour * np.sin(np.radians(hue))
    fy = (lightness + 16) / 116
    f = np.stack([fy + a / 500, fy, fy - b / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9505, 1.0, 1.089]
    matrix = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = np.clip(xyz @ np.transpose(matrix), 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return ListedColormap(rgb, name)


MATTER, HALOS = lab_map("matter", 265.0), lab_map("halos", 68.0, 70.0)


def stack(heights) -> tuple[Figure, np.ndarray]:
    """Panels above each other with one x axis."""
    figure = Figure(figsize=(6, 1.8 + 1.1 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    return figure, axes[:, 0]


def with_ratio(results, name, x, y, draw) -> tuple[Figure, np.ndarray]:
    """A panel to draw in; below it, where there is HR, the ratio to it."""
    ratios = results.items(name)
    figure, axes = stack((2, 1) if ratios else (2,))
    for kind, one in ratios:
        draw(axes[1], one, x, y, kind, "HR")
    if ratios:
        axes[1].set(ylabel="ratio to HR", ylim=(0, 2))
        guide(axes[1])
    return figure, axes


def band(axis, one, x, y, kind, reference=None, seen=slice(None)) -> None:
    """A line with its 1-sigma band."""
    label = kind if reference is None else f"{kind}/{reference}"
    x, value = one[x][seen], one[y][seen]
    axis.plot(x, value, **STYLE[kind], label=label)
    if y in one.errors:
        error = one.errors[y][seen]
        colour = STYLE[kind]["color"]
        axis.fill_between(x, value - error, value + error, color=colour, alpha=0.2, lw=0)


def points(axis, one, x, y, kind, reference=None, shift=0.015, label=None, zero=False) -> None:
    """Points with error bars; kinds a little beside each other, zeros left out unless `zero`."""
    label = label or (kind if reference is None else f"{kind}/{reference}")
    good = np.isfinite(one[y]) & ((one[y] != 0) | (reference is not None) | zero)
    if not good.any():
        return
    at = one[x][good] * (1 + shift * list(STYLE).index(kind))
    error = one.errors[y][good] if y in one.errors else None
    style = {**STYLE[kind], "marker": {"HR": "o", "SR": "s", "LR": "^"}[kind], "ms": 3.5}
    axis.errorbar(at, one[y][good], error, capsize=2, label=label, **style)


def expected(axis, results, name, x, labels) -> None:
    """What theory expects, as thin grey lines: a label for each column drawn."""
    for one in results.statistics.get("theory", {}).get(name, []):
        for (column, label), style in zip(labels.items(), ("-", "--", ":")):
            if np.isfinite(one[column]).any():
                axis.plot(one[x], one[column], color="0.5", lw=1, ls=style, label=label, zorder=0)


def guide(axis) -> None:
    axis.axhspan(1 - CLOSE, 1 + CLOSE, color="0.93", zorder=0)
    axis.axhline(1, color="0.6", lw=0.8, zorder=1)


def resolved(results, kind, k) -> np.ndarray:
    """Wavenumbers that a kind resolves: LR those below the Nyquist one of its lattice."""
    return k <= results.lr_nyquist if kind == "LR" else np.ones(len(k), bool)


def log_ticks(axis) -> None:
    """Plain numbers at 1, 2, 5 of each decade."""
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
