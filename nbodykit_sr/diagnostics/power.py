"""Power spectra, and the comparison of two fields mode by mode.

Equal to nbodykit's `FFTPower`; one pass over the modes gives all that is wanted of them.
"""

import math

import numpy as np
from nbodykit.base.catalog import CatalogSource

from ..provenance import Provenance
from . import drawing
from .diagnostic import Criterion, Diagnostic, row, theory_rows
from .fields import complex_field
from .modes import k_sums, moment
from .statistic import Statistic

WAVENUMBER, POWER = "h/Mpc", "(Mpc/h)^3"
OCTAVES = ((0.5, 1), (1, 2), (2, 4), (4, 8))  # of k [h/Mpc] in which power is held against theory's


def power_spectrum(source, Nmesh=None, kmax=None) -> Statistic:
    """Matter power spectrum, and dimensionless k^3 P / 2 pi^2 (Li et al. 2021, Eq. 1, Fig. 3).

    Cloud-in-cell on the mesh without deconvolution, as in the paper: two catalogues are
    comparable on one mesh. Particles that come from a lattice are no Poisson sample, and no shot
    noise is taken off but that of a subsample (SRSubsample), drawn at random of them. Bins are one
    fundamental mode wide, centred on its multiples.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    Nmesh : int
        Cells a side of the mesh for a catalogue.
    kmax : float
        Largest wavenumber [h/Mpc]; the Nyquist one of the mesh if None.

    Returns
    -------
    Statistic
        Columns k, power, dimensionless, modes; errors of a Gaussian field, P sqrt(2 / modes).
    """
    field = complex_field(source, Nmesh)
    k, modes, square = k_sums([field], kmax, moment(0, 0))
    power = float(np.prod(field.BoxSize)) * square / modes
    error = power * np.sqrt(2 / modes)
    power = power - thinning_noise(source, field, kmax)
    scale = k**3 / (2 * np.pi**2)
    return Statistic(
        "power spectrum",
        {"k": k, "power": power, "dimensionless": scale * power, "modes": modes},
        {"k": WAVENUMBER, "power": POWER},
        {"power": error, "dimensionless": scale * error},
        mesh_attrs(field),
    )


def comparison(source, reference, Nmesh=None, kmax=None) -> Statistic:
    """Two density fields compared mode by mode, as functions of k.

    Returns
    -------
    Statistic
        Columns k; ratio P / P_ref; transfer = sqrt(P / P_ref); correlation, the
        cross-correlation coefficient r = P_cross / sqrt(P P_ref); modes. Errors of Gaussian
        fields that share phases as r tells: ratio sqrt(4 (1 - r^2) / modes), (1 - r^2) /
        sqrt(modes) of r.
    """
    fields = complex_field(source, Nmesh), complex_field(reference, Nmesh)
    terms = (_product(one, other) for one, other in ((0, 0), (1, 1), (0, 1)))
    k, modes, *sums = k_sums(fields, kmax, *terms)
    power, base, cross = float(np.prod(fields[0].BoxSize)) * np.array(sums) / modes
    power = power - thinning_noise(source, fields[0], kmax)
    base = base - thinning_noise(reference, fields[1], kmax)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "k": k,
            "ratio": power / base,
            "transfer": np.sqrt(power / base),
            "correlation": cross / np.sqrt(power * base),
            "modes": modes,
        }
        apart = np.maximum(1 - columns["correlation"] ** 2, 0)
        relative = np.sqrt(4 * apart / modes)
    errors = {
        "ratio": columns["ratio"] * relative,
        "transfer": columns["transfer"] * relative / 2,
        "correlation": apart / np.sqrt(modes),
    }
    return Statistic("comparison", columns, {"k": WAVENUMBER}, errors, mesh_attrs(fields[0]))


def thinning_noise(source, field, kmax=None) -> np.ndarray | float:
    """Power that a random subsample adds to that of all particles, in the bins of `k_bins`.

    For a subsample of N particles, a part s of all, it is (1 - s) V / N; cloud-in-cell lowers it towards
    the Nyquist wavenumber of the mesh (Jing 2005, Eq. 20). Collective.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
        The noise is 0 unless it is the catalogue of a subsample.
    field : pmesh.pm.ComplexField
        Transform of the density on the mesh.
    """
    part = None
    if isinstance(source, CatalogSource):
        part = Provenance.from_attrs(source.attrs).subsample
    if part is None:
        return 0.0

    def painted(n, n2, values):
        return math.prod(1 - 2 / 3 * np.sin(np.pi / field.Nmesh[0] * one) ** 2 for one in n)

    _, modes, window = k_sums([field], kmax, painted)
    return float(np.prod(field.BoxSize)) * (1 - part) / source.csize * window / modes


def mesh_attrs(field) -> dict:
    """How a field was painted."""
    return {"Nmesh": int(field.Nmesh[0]), "BoxSize": float(field.BoxSize[0]), "painting": "cic"}


class Power(Diagnostic):
    """Power, transfer function and correlation of phases (Li et al. 2021, Fig. 3)."""

    part = "power"
    name, title = "power", "Power spectrum"
    shows = ("power",)
    compares = True
    criteria = {
        "power": Criterion("Power spectrum", "comparison", "ratio", "k", "h/Mpc"),
        "correlation": Criterion(
            "Correlation of phases", "comparison", "correlation", "k", "h/Mpc"
        ),
    }

    def measure(self, subject, results) -> dict:
        kmax = results.settings.kmax
        found = {"power": power_spectrum(subject.delta, kmax=kmax)}
        if subject.reference is not None:
            if results.reference == "LR":  # beyond its lattice LR says nothing
                kmax = min(kmax, results.lr_nyquist)
            found["comparison"] = comparison(subject.delta, subject.reference, kmax=kmax)
        return found

    def rows(self, results) -> list:
        rows, many = [], results["SR"].get("comparison", [])
        apart = [one["k"][one["correlation"] < 0.5][:1] for one in many]
        if apart and all(map(len, apart)):
            quantity = f"k where SR and {results.reference} decorrelate (r = 0.5) [h/Mpc]"
            meaning = "Beyond the LR Nyquist wavenumber phases are invented: r must fall"
            rows.append(row(quantity, [float(one[0]) for one in apart], meaning))
        for one in results["theory"].get("power", []):
            for low, high in OCTAVES:
                inside = (one["k"] >= low) & (one["k"] < high)
                if high > one["k"][-1] or not inside.any():
                    continue
                shares = {
                    kind: np.mean(many["power"][inside] / one["power"][inside])
                    for kind, many in results.items("power")
                    if kind != "LR" or high <= results.lr_nyquist
                }
                rows += theory_rows(f"P over halofit's, k = {low:g}-{high:g} h/Mpc", shares)
        return rows

    def caption(self, results) -> str:
        single = " Bands: errors of a Gaussian field with as many modes."
        caption = (
            f"Top: dimensionless matter power spectrum, cloud-in-cell on {results.settings.Nmesh}³ "
            "cells without deconvolution (Li et al. 2021, Eq. 1 and Fig. 3); it bends down near "
            f"the mesh's Nyquist wavenumber for all alike.{results.scatter or single}"
        )
        if "power" in results["theory"]:
            caption += (
                " Grey: halofit (Takahashi et al. 2012) of CLASS's linear power, through the "
                "window of the mesh."
            )
        if results.reference:
            caption += (
                f" Middle: transfer function against {results.reference}; grey: within 10 %. "
                "Bottom: cross-correlation coefficient, 1 where the phases agree. LR is drawn up "
                "to the Nyquist wavenumber of its lattice."
            )
        return caption

    def draw(self, results) -> "drawing.Figure":
        reference = results.reference
        figure, axes = drawing.stack((2, 1.2, 1.2) if reference else (2,))
        for kind, measured in results.items("power"):
            seen = drawing.resolved(results, kind, measured["k"])
            drawing.band(axes[0], measured, "k", "dimensionless", kind, seen=seen)
        drawing.expected(axes[0], results, "power", "k", {"dimensionless": "halofit"})
        axes[0].set(xscale="log", yscale="log", ylabel=r"$k^3P/2\pi^2$")
        axes[-1].set(xlabel=r"$k$ [$h$/Mpc]")
        if reference:
            for kind, measured in results.items("comparison"):
                seen = drawing.resolved(results, kind, measured["k"])
                for axis, column in zip(axes[1:], ("transfer", "correlation"), strict=True):
                    drawing.band(axis, measured, "k", column, kind, reference, seen)
            axes[1].set(ylabel=rf"$\sqrt{{P/P_{{\rm {reference}}}}}$", ylim=(0, 1.5))
            axes[2].set(ylabel="correlation $r$", ylim=(0, 1.05))
            drawing.guide(axes[1])
        drawing.log_ticks(axes[-1])
        drawing.nyquist(axes, results)
        drawing.legends(axes[:2])
        return figure


def _product(one, other):
    """A term of `shell_sums`: the real part of delta_k times the conjugate of another field's."""

    def term(n, n2, values):
        a, b = values[one], values[other]
        return a.real * b.real + a.imag * b.imag

    return term
