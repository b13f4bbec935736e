"""The figures of a report: drawing only, by matplotlib, on one rank."""

import numpy as np
from matplotlib.figure import Figure

from .drawing import (
    HALOS,
    MATTER,
    STYLE,
    band,
    expected,
    guide,
    legends,
    log_ticks,
    nyquist,
    points,
    resolved,
    stack,
    with_ratio,
)


def pictures(columns) -> Figure:
    """Projected log density, halo particles in orange; a zoom in every row (Figs 1 and 2).

    Parameters
    ----------
    columns : dict of str to list of Picture
        Title of a column to its pictures, the widest first.
    """
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(2.5 * len(columns) + 0.1, 2.5 * rows + 0.2), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for row in range(rows):
        ready = [images[row].smoothed() for images in columns.values()]
        # the scale of the last columns, the resolved ones, goes for all
        scale = np.log10(
            np.maximum(np.concatenate([one[0].ravel() for one in ready[1:] or ready]), 1e-3)
        )
        low, high = np.percentile(scale, [0.5, 99.9])
        for axis, (title, images), (density, halo) in zip(
            axes[row], columns.items(), ready, strict=True
        ):
            shade = (np.log10(np.maximum(density, 1e-3)) - low) / max(high - low, 1e-9)
            share = halo[..., None]
            rgb = (1 - share) * MATTER(shade)[..., :3] + share * HALOS(shade)[..., :3]
            axis.imshow(rgb.transpose(1, 0, 2), origin="lower", extent=(0, 1, 0, 1))
            axis.set(xticks=[], yticks=[])
            if row == 0:
                axis.set_title(title)
            shown = images[row]
            _scale_bar(axis, shown.width)
            if row + 1 < rows:
                _frame(axis, shown, images[row + 1])
    return figure


def power(results) -> Figure:
    """Dimensionless power, transfer function and cross-correlation (Fig. 3)."""
    reference = results.reference
    figure, axes = stack((2, 1.2, 1.2) if reference else (2,))
    for kind, one in results.items("power"):
        band(axes[0], one, "k", "dimensionless", kind, seen=resolved(results, kind, one["k"]))
    expected(axes[0], results, "power", "k", {"dimensionless": "halofit"})
    axes[0].set(xscale="log", yscale="log", ylabel=r"$k^3P/2\pi^2$")
    axes[-1].set(xlabel=r"$k$ [$h$/Mpc]")
    if reference:
        for kind, one in results.items("comparison"):
            seen = resolved(results, kind, one["k"])
            band(axes[1], one, "k", "transfer", kind, reference, seen)
            band(axes[2], one, "k", "correlation", kind, reference, seen)
        axes[1].set(ylabel=rf"$\sqrt{{P/P_{{\rm {reference}}}}}$", ylim=(0, 1.5))
        axes[2].set(ylabel="correlation $r$", ylim=(0, 1.05))
        guide(axes[1])
    log_ticks(axes[-1])
    nyquist(axes, results)
    legends(axes[:2])
    return figure


def redshift_space(results) -> Figure:
    """Multipoles and wedges in redshift space (Ni et al. 2021)."""
    wedges = dict(results.items("wedges"))
    reference = wedges.get(results.reference)
    panels = 1 if reference is None else 2
    figure = Figure(figsize=(3.8 * panels, 3.4), layout="constrained")
    left, *right = figure.subplots(1, panels, squeeze=False)[0]
    for kind, one in results.items("multipoles"):
        seen = resolved(results, kind, one["k"])
        k = one["k"][seen]
        for ell, style in ((0, "-"), (2, ":")):
            value = np.abs(k**3 / (2 * np.pi**2) * one[f"power_{ell}"][seen])
            left.plot(k, value, **{**STYLE[kind], "ls": style}, label=rf"{kind}, $\ell={ell}$")
    left.set(xscale="log", yscale="log", xlabel=r"$k$ [$h$/Mpc]", ylabel=r"$k^3|P_\ell|/2\pi^2$")
    log_ticks(left)
    left.legend(ncols=2)
    for axis in right:
        _wedges(axis, wedges["SR"], reference, results)
    return figure


def _wedges(axis, measured, reference, results):
    """Ratio of P(k, mu) in each bin of mu."""
    number = reference["power"].shape[1]
    for i in range(number):
        seen = resolved(results, results.reference, reference["k"][:, i])
        with np.errstate(divide="ignore", invalid="ignore"):
            value = measured["power"][:, i] / reference["power"][:, i]
        colour = MATTER((i + 0.6) / (number + 0.6))
        label = rf"${i / number:.2f}<\mu<{(i + 1) / number:.2f}$"
        axis.plot(reference["k"][seen, i], value[seen], color=colour, label=label)
    axis.set(xscale="log", ylim=(0, 2), xlabel=r"$k$ [$h$/Mpc]")
    axis.set_ylabel(rf"$P(k,\mu)$, ratio SR/{results.reference}")
    log_ticks(axis)
    guide(axis)
    axis.legend()


def two_points(results) -> Figure:
    """Correlation function, pairwise velocities, and bias of halos."""
    figure = Figure(figsize=(7.4, 5.6), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    for kind, one in results.items("pairs"):
        seen = one["xi"] > 0
        band(axes[0], one, "r", "xi", kind, seen=seen)
        for axis, name in zip(axes[1:], ("v12", "sigma12")):
            if name in one.columns:
                band(axis, one, "r", name, kind, seen=one["pairs"] > 1)
    axes[0].set(ylabel=r"$\xi$", yscale="log")
    axes[1].set(ylabel="mean pairwise velocity [km/s]")
    axes[2].set(ylabel="pairwise velocity dispersion [km/s]")
    for axis in axes[:3]:
        axis.set(xscale="log", xlabel="$r$ [Mpc/$h$]")
        log_ticks(axis)
    for kind, one in results.items("bias"):
        points(axes[3], one, "particles", "bias", kind)
    axes[3].set(xscale="log", xlabel="particles of a halo, at least", ylabel="bias")
    legends(axes[:1])
    return figure


def halo_mass_function(results) -> Figure:
    """Halo mass function and its ratio (Fig. 4)."""
    figure, axes = with_ratio(results, "halo ratio", "mass", "dn_dlogM", points)
    for kind, one in results.items("halos"):
        points(axes[0], one, "mass", "dn_dlogM", kind)
    names = {"watson13": "Watson+13 (FOF)", "tinker08": "Tinker+08", "bocquet16": "Bocquet+16"}
    expected(axes[0], results, "halos", "mass", names)
    axes[0].set(xscale="log", yscale="log", ylabel=r"$dn/d\log_{10}M$ [$h^3$ Mpc$^{-3}$]")
    axes[-1].set_xlabel(r"$M_{\rm FOF}$ [$M_\odot/h$]")
    legends(axes)
    return figure


def density_pdf(results) -> Figure:
    """PDF of the density in spheres (Kodi Ramanah et al. 2020, Fig. 3)."""
    figure, axes = with_ratio(results, "pdf ratio", "density", "pdf", band)
    shown, top = [], 0
    for kind, one in results.items("pdf"):
        band(axes[0], one, "density", "pdf", kind, seen=one["pdf"] > 0)
        top = max(top, one["pdf"].max())
        shown.append(one["density"][one["pdf"] > 1e-3 * one["pdf"].max()])
    limits = min(one.min() for one in shown) / 1.2, max(one.max() for one in shown) * 1.2
    axes[0].set(xscale="log", yscale="log", xlim=limits, ylim=(3e-4 * top, 2 * top))
    axes[0].set_ylabel(r"$dP/d\log_{10}(1+\delta_R)$")
    axes[-1].set_xlabel(r"$1+\delta_R$")
    log_ticks(axes[-1])
    legends(axes)
    return figure


def bispectrum(results) -> Figure:
    """Bispectrum against angle, and of equilateral triangles (Kodi Ramanah et al. 2020)."""
    columns = (("bispectrum angle", "theta"), ("bispectrum equilateral", "k1"))
    heights = (2, 1.2) if "HR" in results.statistics else (2,)
    figure = Figure(figsize=(7.4, 1.6 + sum(heights)), layout="constrained")
    axes = figure.subplots(len(heights), 2, sharex="col", height_ratios=heights, squeeze=False)
    for (top, *below), (name, x) in zip(axes.T, columns, strict=True):
        measured = dict(results.items(name))
        for kind, one in measured.items():
            points(top, one, x, "reduced", kind, shift=0)
        for axis in below:
            if measured:
                with np.errstate(divide="ignore", invalid="ignore"):
                    value = measured["SR"]["bispectrum"] / measured["HR"]["bispectrum"]
                axis.plot(measured["HR"][x], value, **STYLE["SR"], marker="s", ms=3.5)
            axis.set(ylabel="$B$, ratio to HR", ylim=(0, 2))
            guide(axis)
    attrs = results.items("bispectrum angle")[0][1].attrs
    axes[0, 0].set(title=rf"$k_1={attrs['k1']:.2g}$, $k_2={attrs['k2']:.2g}$ $h$/Mpc")
    axes[0, 0].set(ylabel=r"$Q=B/(P_1P_2+P_2P_3+P_3P_1)$", xlim=(0, np.pi))
    axes[-1, 0].set(xlabel=r"$\theta$ [rad]")
    axes[0, 1].set(title=r"equilateral", ylabel="$Q$", xscale="log")
    axes[-1, 1].set(xlabel=r"$k$ [$h$/Mpc]")
    log_ticks(axes[-1, 1])
    axes[0, 0].legend()
    return figure


def void_size_function(results) -> Figure:
    """Number of voids against radius, and its ratio."""
    figure, axes = with_ratio(results, "void ratio", "radius", "dn_dlnR", points)
    for kind, one in results.items("voids"):
        points(axes[0], one, "radius", "dn_dlnR", kind)
    axes[0].set(xscale="log", yscale="log", ylabel=r"$dn/d\ln R$ [$h^3$ Mpc$^{-3}$]")
    axes[-1].set_xlabel(r"$R$ [Mpc/$h$]")
    log_ticks(axes[-1])
    legends(axes)
    return figure


def seams(results) -> Figure:
    """Jumps by place in a chunk, and quadrupoles about the three axes."""
    jumps = dict(results.items("jumps"))
    figure = Figure(figsize=(7.4, 3.2) if jumps else (4.2, 3.2), layout="constrained")
    axes = figure.subplots(1, 2 if jumps else 1, squeeze=False)[0]
    for kind, one in jumps.items():
        points(axes[0], one, "place", "rms", kind, shift=0)
    if jumps:
        chunk = next(iter(jumps.values())).attrs["chunk"]
        axes[0].axvline(chunk, color="0.6", lw=1, ls="--")
        axes[0].set(xlabel="site in the chunk (dashed: its face)", ylabel="rms jump [Mpc/$h$]")
        axes[0].set_ylim(0, 1.15 * max(one["rms"].max() for one in jumps.values()))
        axes[0].legend(loc="lower left")
    axis, many = axes[-1], dict(results.items("quadrupoles"))
    k, error = many["SR"]["k"], results["SR"]["quadrupoles"][0].errors["x"]
    axis.fill_between(k, -2 * error, 2 * error, color="0.9", label=r"$2\sigma$, Gaussian")
    for name, colour in (("x", "#0072B2"), ("y", "#009E73"), ("z", "#CC79A7")):
        axis.plot(k, many["SR"][name], color=colour, lw=1.2, label=f"SR, {name}")
        if "HR" in many:
            axis.plot(k, many["HR"][name], color=colour, lw=1, ls=":")
    limit = np.nanpercentile(np.abs([many["SR"][name] for name in "xyz"]), 90)
    axis.set(xscale="log", xlabel=r"$k$ [$h$/Mpc]", ylabel=r"$P_2/P_0$, real space")
    axis.set_ylim(-2 * limit, 2 * limit)
    log_ticks(axis)
    axis.legend(ncols=2)
    return figure


def _scale_bar(axis, width):
    """A white bar of a round length, at the lower left."""
    length = 0.3 * width
    unit = 10 ** np.floor(np.log10(length))
    length = unit * max(step for step in (1, 2, 5) if step * unit <= length * (1 + 1e-9))
    axis.plot([0.05, 0.05 + length / width], [0.06, 0.06], color="white", lw=2)
    axis.text(0.05, 0.08, f"{length:g} Mpc/$h$", color="white", fontsize=7)


def _frame(axis, shown, inner):
    """The outline of the next zoom."""
    half = inner.width / shown.width / 2
    corners = np.array([-half, half])
    x, y = 0.5 + corners, 0.5 + corners
    axis.plot(x[[0, 1, 1, 0, 0]], y[[0, 0, 1, 1, 0]], color="white", lw=0.8)
