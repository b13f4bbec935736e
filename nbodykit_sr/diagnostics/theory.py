"""Theory's power spectrum, by CLASS and halofit, and halo mass functions, by colossus.

They allow to judge a catalogue without HR too, if the box is large enough to be typical.
"""

import numpy as np
from colossus.cosmology import cosmology as colossus
from colossus.lss.mass_function import massFunction
from nbodykit.cosmology import Cosmology, HalofitPower, LinearPower

from ..errors import InputError
from ..physics.universe import Universe
from .statistic import Statistic

# Side of a box that halofit is compared with [Mpc/h]: smaller ones lack modes that matter. At 25
# Mpc/h and z = 2 HR itself has 0.64 of its power at k = 1 to 2 h/Mpc.
SMALLEST = 80.0
LARGEST_K = 100.0  # of CLASS [h/Mpc]: with less it finds no halofit at z = 4, and says nothing
FEWEST = 1.0  # a bin of mass is given only if the smallest box is expected to have so many halos
SAMPLES = 16  # of a mass function in one bin
FLAT = 1e-3  # Omega0 + OmegaLambda differ from 1 by less
DIRECTIONS = 400  # that the mesh's window is averaged over

# Functions of colossus and the mass each is for: FOF, linked as here, or within 200 mean densities
FUNCTIONS = {
    "watson13": ("fof", {}),
    "tinker08": ("200m", {}),
    "bocquet16": ("200m", {"hydro": False}),
}


def primordial(attrs, sigma8=None, n_s=None) -> Universe:
    """The flat `Universe` of a catalogue whose sigma8 and n_s are given, or are in its attrs.

    InputError if a value is missing or impossible, or the universe is not flat.
    """
    given = {"sigma8": sigma8, "n_s": n_s}
    attrs = {**attrs, **{name: value for name, value in given.items() if value is not None}}
    universe = Universe.of(attrs, "a", "Omega0", "OmegaBaryon", "h", *given)
    matter, vacuum = universe.Omega0, universe.OmegaLambda
    if vacuum is not None and abs(1 - matter - vacuum) > FLAT:
        raise InputError(f"Omega0 + OmegaLambda is {matter + vacuum:g}: a flat universe is needed")
    return universe


def theory_power(universe, k, Nmesh=None, BoxSize=None) -> Statistic:
    """Linear power by CLASS and non-linear power by halofit (Takahashi et al. 2012).

    Parameters
    ----------
    universe : Universe
        Of `primordial`.
    k : (n,) array
        [h/Mpc].
    Nmesh, BoxSize : int, float
        If given, of the mesh that particles were painted on by cloud-in-cell [Mpc/h]: powers are
        lowered by its window, as those of `power_spectrum` are.

    Returns
    -------
    Statistic
        Columns k, linear, power, dimensionless (of the latter).
    """
    cosmology = Cosmology(
        **universe.boltzmann, n_s=universe.n_s, P_k_max=max(LARGEST_K, 1.2 * float(np.max(k)))
    ).match(sigma8=universe.sigma8)
    window = 1.0 if Nmesh is None else mesh_window(k * BoxSize / Nmesh)
    linear, power = (
        spectrum(cosmology, universe.redshift)(k) * window
        for spectrum in (LinearPower, HalofitPower)
    )
    return Statistic(
        "power in theory",
        {"k": k, "linear": linear, "power": power, "dimensionless": k**3 * power / (2 * np.pi**2)},
        {"k": "h/Mpc", "linear": "(Mpc/h)^3", "power": "(Mpc/h)^3"},
    )


def theory_mass_function(universe, edges, volume) -> Statistic:
    """Halo mass functions of the literature, as means over bins of mass.

    Parameters
    ----------
    universe : Universe
        Of `primordial`.
    edges : (n + 1,) array
        [Msun/h].
    volume : float
        Volume of the box [(Mpc/h)^3]; bins in which fewer than one halo is expected are NaN.

    Returns
    -------
    Statistic
        Columns mass (geometric centre), and dn / dlog10 M of Watson et al. 2013 for FOF halos
        (watson13), of Tinker et al. 2008 and Bocquet et al. 2016 for masses within 200 mean
        densities (tinker08, bocquet16) [(h/Mpc)^3].
    """
    edges = np.asarray(edges, dtype=float)
    width = np.diff(np.log10(edges))
    inside = (np.arange(SAMPLES) + 0.5) / SAMPLES
    masses = 10 ** (np.log10(edges[:-1, None]) + inside * width[:, None])
    columns = {"mass": np.sqrt(edges[1:] * edges[:-1])}
    constant = (universe.w0, universe.wa) == (-1, 0)
    fluid = {} if constant else {"de_model": "w0wa", "w0": universe.w0, "wa": universe.wa}
    before = colossus.current_cosmo  # colossus has one cosmology for all: give it back
    try:
        colossus.setCosmology(
            "nbodykit_sr",
            flat=True,
            H0=100 * universe.h,
            Om0=universe.Omega0,
            Ob0=universe.OmegaBaryon,
            sigma8=universe.sigma8,
            ns=universe.n_s,
            relspecies=False,
            persistence="",
            **fluid,
        )
        for model, (mdef, options) in FUNCTIONS.items():
            density = np.log(10) * massFunction(
                masses.ravel(), universe.redshift, "M", "dndlnM", mdef, model, **options
            )
            density = density.reshape(masses.shape).mean(axis=1)
            columns[model] = np.where(density * width * volume >= FEWEST, density, np.nan)
    finally:
        colossus.setCurrent(before)
    units = {"mass": "Msun/h", **dict.fromkeys(FUNCTIONS, "(h/Mpc)^3")}
    return Statistic("halo mass function in theory", columns, units, {}, {"edges": edges.tolist()})


def mesh_window(phase) -> np.ndarray:
    """Part of the power that cloud-in-cell leaves at k times the cell, mean over directions."""
    index = np.arange(DIRECTIONS) + 0.5  # points of a Fibonacci spiral on the sphere
    z, turn = 1 - 2 * index / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * index
    ring = np.sqrt(1 - z**2)
    direction = np.stack([ring * np.cos(turn), ring * np.sin(turn), z])  # (3, directions)
    window = np.sinc(np.multiply.outer(np.asarray(phase), direction) / (2 * np.pi)) ** 4
    return window.prod(axis=-2).mean(axis=-1)
