"""Power in redshift space: multipoles, and wedges about the line of sight (Ni et al. 2021)."""

import numpy as np
from nbodykit.base.catalog import CatalogSource

from ..physics.universe import Universe
from . import drawing
from .diagnostic import Criterion, Diagnostic, Ratio
from .fields import complex_field, density_field
from .modes import k_bins, k_sums, length, moment, pole, shell_sums, unity
from .power import POWER, WAVENUMBER, mesh_attrs, thinning_noise
from .statistic import Statistic


def line_of_sight_power(
    source, axis=2, Nmesh=None, kmax=None, wedges=3, poles=(0, 2, 4)
) -> tuple[Statistic, Statistic]:
    """Power against the angle to an axis of the box: multipoles, and wedges of mu.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    axis : int
        Line of sight: 0, 1 or 2.
    wedges : int
        Equal bins of mu in [0, 1].

    Returns
    -------
    multipoles : Statistic
        Columns k, power_0, power_2, power_4, modes.
    wedges : Statistic
        Columns k, mu, power, modes, each (number of k, wedges).
    """
    field = complex_field(source, Nmesh)
    terms = (moment(axis, order) for order in range(max(poles) // 2 + 1))
    k, modes, *moments = k_sums([field], kmax, *terms)
    volume = float(np.prod(field.BoxSize))
    powers = {f"power_{ell}": volume * pole(ell, moments) / modes for ell in poles}
    isotropic = np.abs(powers[f"power_{poles[0]}"])
    noise = thinning_noise(source, field, kmax)
    if 0 in poles:
        powers["power_0"] = powers["power_0"] - noise
    attrs = {**mesh_attrs(field), "axis": axis}
    multipoles = Statistic(
        "multipoles",
        {"k": k, **powers, "modes": modes},
        {"k": WAVENUMBER, **{name: POWER for name in powers}},
        {f"power_{ell}": isotropic * np.sqrt(2 * (2 * ell + 1) / modes) for ell in poles},
        attrs,
    )

    return multipoles, _wedges(field, axis, kmax, wedges, noise)


def _wedges(field, axis, kmax, wedges, noise):
    """Power in bins of mu, the cosine to an axis, less the noise of a subsample."""

    def cosine(n, n2, values):
        return np.sqrt(n[axis] ** 2 / np.maximum(n2, 1))

    def wedge(n, n2, values):
        return np.minimum(wedges * cosine(n, n2, values), wedges - 1).astype("i8")

    terms = wedge, unity, length, cosine, moment(axis, 0)
    count, size, cosines, power = shell_sums([field], *k_bins(field, kmax), *terms, parts=wedges)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = {"k": 2 * np.pi / field.BoxSize[0] * size / count, "mu": cosines / count}
        power = float(np.prod(field.BoxSize)) * power / count
        error = power * np.sqrt(2 / count)
    power = power - np.reshape(noise, (-1, 1))
    return Statistic(
        "wedges",
        {**mean, "power": power, "modes": np.rint(count).astype("i8")},
        {"k": WAVENUMBER, "power": POWER},
        {"power": error},
        {**mesh_attrs(field), "axis": axis},
    )


def redshift_space_power(
    catalog, Nmesh, kmax=None, axis=2, wedges=3
) -> tuple[Statistic, Statistic]:
    """`line_of_sight_power` in redshift space (Ni et al. 2021): see `in_redshift_space`."""
    return line_of_sight_power(in_redshift_space(catalog, axis), axis, Nmesh, kmax, wedges)


def in_redshift_space(catalog, axis=2) -> CatalogSource:
    """A copy of the catalogue whose positions are moved along an axis by v (1 + z) / H(z)."""
    universe = Universe.of(catalog.attrs, "a", "Omega0", "OmegaLambda")
    moved = catalog.copy()
    shift = np.eye(3)[axis] / (universe.a * universe.hubble)  # [Mpc/h per km/s]
    moved["Position"] = catalog["Position"] + catalog["Velocity"] * shift
    return moved


class RedshiftSpace(Diagnostic):
    """Monopole, quadrupole and wedges in redshift space, which test the velocities."""

    part = "redshift"
    name, title = "redshift_space", "Redshift space"
    shows = ("multipoles",)
    ratios = {"multipole ratio": Ratio("multipoles", ["power_0"], "k")}
    criteria = {
        "monopole": Criterion("Redshift-space monopole", "multipole ratio", "power_0", "k", "h/Mpc")
    }

    def measure(self, subject, results) -> dict:
        if "Velocity" not in subject.catalog:
            return {}
        settings = results.settings
        moved = density_field(in_redshift_space(subject.catalog), settings.Nmesh)
        found = line_of_sight_power(moved, kmax=settings.kmax)
        return dict(zip(("multipoles", "wedges"), found, strict=True))

    def caption(self, results) -> str:
        caption = (
            "Monopole and absolute quadrupole with positions moved along z by v(1+z)/H, which "
            "tests the velocities."
        )
        if results.reference:
            caption += (
                f" Right: SR over {results.reference} in wedges of μ, the cosine to the line "
                "of sight (Ni et al. 2021); grey: within 10 %."
            )
        return caption

    def draw(self, results) -> "drawing.Figure":
        wedges = dict(results.items("wedges"))
        reference = wedges.get(results.reference)
        number = 1 if reference is None else 2
        figure, axes = drawing.panels(1, number, 3.8 * number, 3.4)
        left, *right = axes[0]
        for kind, measured in results.items("multipoles"):
            seen = drawing.resolved(results, kind, measured["k"])
            k = measured["k"][seen]
            for ell, style in ((0, "-"), (2, ":")):
                value = np.abs(k**3 / (2 * np.pi**2) * measured[f"power_{ell}"][seen])
                look = {**drawing.STYLE[kind], "ls": style}
                left.plot(k, value, **look, label=rf"{kind}, $\ell={ell}$")
        left.set(
            xscale="log", yscale="log", xlabel=r"$k$ [$h$/Mpc]", ylabel=r"$k^3|P_\ell|/2\pi^2$"
        )
        drawing.log_ticks(left)
        left.legend(ncols=2)
        for axis in right:
            _draw_wedges(axis, wedges["SR"], reference, results)
        return figure


def _draw_wedges(axis, measured, reference, results):
    """Ratio of P(k, mu) in each bin of mu."""
    number = reference["power"].shape[1]
    for i in range(number):
        seen = drawing.resolved(results, results.reference, reference["k"][:, i])
        with np.errstate(divide="ignore", invalid="ignore"):
            value = measured["power"][:, i] / reference["power"][:, i]
        colour = drawing.shades("matter")((i + 0.6) / (number + 0.6))
        label = rf"${i / number:.2f}<\mu<{(i + 1) / number:.2f}$"
        axis.plot(reference["k"][seen, i], value[seen], color=colour, label=label)
    axis.set(xscale="log", ylim=(0, 2), xlabel=r"$k$ [$h$/Mpc]")
    axis.set_ylabel(rf"$P(k,\mu)$, ratio SR/{results.reference}")
    drawing.log_ticks(axis)
    drawing.guide(axis)
    axis.legend()
