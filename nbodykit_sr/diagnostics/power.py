"""Power spectra: real space, redshift space, and the comparison of two fields mode by mode."""

import numpy as np
from nbodykit.base.catalog import CatalogSource
from nbodykit.lab import FFTPower

from ..universe import Universe
from .fields import complex_field
from .statistic import Statistic

WAVENUMBER, POWER = "h/Mpc", "(Mpc/h)^3"


def power_spectrum(source, Nmesh=None, kmax=None) -> Statistic:
    """Matter power spectrum, and dimensionless k^3 P / 2 pi^2 (Li et al. 2021, Eq. 1, Fig. 3).

    Cloud-in-cell on the mesh without deconvolution, as in the paper: two catalogues are
    comparable on one mesh. No shot noise is taken off: particles that come from a lattice are
    no Poisson sample. Bins are one fundamental mode wide, centred on its multiples.

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
    k, power, modes = cross_power(field, kmax=kmax)
    error = power * np.sqrt(2 / modes)
    scale = k**3 / (2 * np.pi**2)
    return Statistic(
        "power spectrum",
        {"k": k, "power": power, "dimensionless": scale * power, "modes": modes},
        {"k": WAVENUMBER, "power": POWER},
        {"power": error, "dimensionless": scale * error},
        _attrs(field),
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
    k, power, modes = cross_power(fields[0], kmax=kmax)
    _, base, _ = cross_power(fields[1], kmax=kmax)
    _, cross, _ = cross_power(*fields, kmax)
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
    return Statistic("comparison", columns, {"k": WAVENUMBER}, errors, _attrs(fields[0]))


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
    los = np.eye(3, dtype=int)[axis].tolist()
    # nbodykit's bins of mu cover [-1, 1]: twice as many, folded about 0 below
    result = FFTPower(
        field, mode="2d", Nmu=2 * wedges, los=los, poles=list(poles), **_bins(field, kmax)
    )
    filled = result.poles["modes"] > 0
    modes = result.poles["modes"][filled]
    powers = {f"power_{ell}": result.poles[f"power_{ell}"].real[filled] for ell in poles}
    isotropic = np.abs(powers[f"power_{poles[0]}"])
    attrs = {**_attrs(field), "axis": axis}
    multipoles = Statistic(
        "multipoles",
        {"k": result.poles["k"][filled], **powers, "modes": modes},
        {"k": WAVENUMBER, **{name: POWER for name in powers}},
        {f"power_{ell}": isotropic * np.sqrt(2 * (2 * ell + 1) / modes) for ell in poles},
        attrs,
    )
    weight = result.power["modes"][filled]
    count = _fold(weight)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = {
            "k": _fold(weight * np.nan_to_num(result.power["k"][filled])) / count,
            "mu": _fold(weight * np.abs(np.nan_to_num(result.power["mu"][filled]))) / count,
            "power": _fold(weight * np.nan_to_num(result.power["power"].real[filled])) / count,
        }
        error = mean["power"] * np.sqrt(2 / count)
    return multipoles, Statistic(
        "wedges",
        {**mean, "modes": count},
        {"k": WAVENUMBER, "power": POWER},
        {"power": error},
        attrs,
    )


def redshift_space_power(
    catalog, Nmesh, kmax=None, axis=2, wedges=3
) -> tuple[Statistic, Statistic]:
    """`line_of_sight_power` in redshift space (Ni et al. 2021), by the distant observer.

    Parameters
    ----------
    catalog : CatalogSource
        With Velocity, peculiar [km/s], and attrs Omega0, OmegaLambda, Redshift or Time.
    """
    moved = with_redshift_position(catalog, axis)
    field = complex_field(moved, Nmesh, "RedshiftPosition")
    return line_of_sight_power(field, axis, None, kmax, wedges)


def with_redshift_position(catalog, axis=2) -> CatalogSource:
    """A copy of the catalogue with the column RedshiftPosition, comoving [Mpc/h].

    Positions moved along one axis by v (1 + z) / H(z).
    """
    universe = Universe.of(catalog.attrs, "a", "Omega0", "OmegaLambda")
    shift = np.eye(3)[axis] / (universe.a * universe.hubble)  # [Mpc/h per km/s]
    moved = catalog.copy()
    moved["RedshiftPosition"] = catalog["Position"] + catalog["Velocity"] * shift
    return moved


def cross_power(first, second=None, kmax=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean k, cross power of two ComplexFields and number of modes, in bins that have modes."""
    other = None if second is None or second is first else second
    result = FFTPower(first, mode="1d", second=other, **_bins(first, kmax)).power
    filled = result["modes"] > 0
    return result["k"][filled], result["power"].real[filled], result["modes"][filled]


def _bins(field, kmax):
    """Edges half way between multiples of the fundamental mode: no mode lies on one."""
    fundamental = 2 * np.pi / field.BoxSize[0]
    nyquist = np.pi * field.Nmesh[0] / field.BoxSize[0]
    kmax = nyquist if kmax is None else min(kmax, nyquist)
    # nbodykit's edges are arange(kmin, kmax, dk): the half keeps the last whole bin
    return {"dk": fundamental, "kmin": fundamental / 2, "kmax": kmax + 0.51 * fundamental}


def _fold(values):
    """Sum of the bins of mu and -mu, from mu = 0 outwards; values (number of k, bins)."""
    half = values.shape[1] // 2
    return values[:, half:] + values[:, :half][:, ::-1]


def _attrs(field):
    return {"Nmesh": int(field.Nmesh[0]), "BoxSize": float(field.BoxSize[0]), "painting": "cic"}
