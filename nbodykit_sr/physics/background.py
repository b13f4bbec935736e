"""How a homogeneous universe expands, and how structure grows in it by linear theory.

Flat LCDM without radiation, which most simulations are of, has closed forms. Curvature, dark energy
with an equation of state, radiation and massive neutrinos go through CLASS (Blas et al. 2011).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import hyp2f1

from ..errors import InputError, one_line

# Densities whose sum is this near to 1 are those of a flat universe; some codes let radiation add to
# that sum and others do not, which is allowed for too
_FLAT = 1e-6

# CLASS starts in the radiation era: what it is given where a universe has none
_FAINT = 1e-10

# Massive neutrinos today: their mass for a density h^2 = 1 [eV], and the temperature [K] that goes
# with it
_EV, _NEUTRINOS = 93.14, 0.71611 * 2.7255

# Temperature of a black body that holds the critical density of h = 1 [K]
_BLACK_BODY = 2.7255 * 2.47282e-5**-0.25


def growth_factor(a: float, Omega_m: float) -> float:
    """Linear growth factor D of flat LCDM (matter and a cosmological constant), 1 at a = 1."""
    return a * _growth(a, Omega_m) / _growth(1.0, Omega_m)


def growth_rate(a: float, Omega_m: float) -> float:
    """f = dln D / dln a of flat LCDM."""
    x = _ratio(a, Omega_m)
    slope = 2 / 11 * hyp2f1(4 / 3, 2, 17 / 6, x)  # of the hypergeometric function in growth_factor
    return 1 + 3 * x * slope / hyp2f1(1 / 3, 1, 11 / 6, x)


def hubble(a: float, Omega_m: float, Omega_Lambda: float | None = None) -> float:
    """H(a) of LCDM without radiation [h km/s/Mpc]; flat if `Omega_Lambda` is not given."""
    curvature = 0.0 if Omega_Lambda is None else 1 - Omega_m - Omega_Lambda
    return 100 * np.sqrt(Omega_m / a**3 + 1 - Omega_m + curvature * (1 / a**2 - 1))


def photon_density(temperature: float, h: float) -> float:
    """Density parameter of a black body of this temperature [K]."""
    return (temperature / _BLACK_BODY) ** 4 / h**2


def _ratio(a, Omega_m):
    return -(1 - Omega_m) / Omega_m * a**3


def _growth(a, Omega_m):
    return hyp2f1(1 / 3, 1, 11 / 6, _ratio(a, Omega_m))


@dataclass(frozen=True)
class Background:
    """Densities of a universe today."""

    Omega_m: float  # all matter, massive neutrinos among it
    Omega_de: float | None = None  # dark energy; None: what a flat universe has
    w0: float = -1.0  # equation of state of dark energy, w = w0 + (1 - a) wa
    wa: float = 0.0
    Omega_r: float = 0.0  # photons and massless neutrinos
    m_nu: tuple[float, ...] = ()  # masses of the massive neutrinos [eV]
    h: float | None = None  # Hubble constant [100 km/s/Mpc], which massive neutrinos need

    @property
    def curvature(self) -> float:
        """Density parameter of the curvature today, 0 where it is not more than rounding."""
        rest = 0.0 if self.Omega_de is None else 1 - self.Omega_m - self.Omega_de
        return 0.0 if abs(rest) <= _FLAT + 2 * self.Omega_r else rest

    @property
    def neutrinos(self) -> float:
        """Density parameter of massive neutrinos today."""
        return sum(self.m_nu) / (_EV * self.h**2) if self.m_nu and self.h else 0.0

    @property
    def is_flat_lcdm(self) -> bool:
        """Are matter and a cosmological constant all there is, in flat space?"""
        return self._is_lcdm and not self.curvature

    def hubble(self, a: float) -> float:
        """H(a) [h km/s/Mpc]."""
        if self._is_lcdm:
            return hubble(a, self.Omega_m, self.Omega_de)
        solution = self._boltzmann(a)
        return 100 * float(solution.hubble_function(1 / a - 1) / solution.hubble_function(0.0))

    def growth(self, a: float) -> float:
        """Linear growth factor, 1 at a = 1; with massive neutrinos that of all other matter."""
        if self.is_flat_lcdm:
            return growth_factor(a, self.Omega_m)
        return float(self._boltzmann(a).scale_independent_growth_factor(1 / a - 1))

    def rate(self, a: float) -> float:
        """f = dln D / dln a."""
        if self.is_flat_lcdm:
            return growth_rate(a, self.Omega_m)
        return float(self._boltzmann(a).scale_independent_growth_rate(1 / a - 1))

    @property
    def _is_lcdm(self):
        return (self.w0, self.wa, self.Omega_r, self.m_nu) == (-1, 0, 0, ())

    def _boltzmann(self, a):
        if a > 1:
            raise InputError(
                f"Time is {a:g}: beyond today expansion and growth are known of flat LCDM alone"
            )
        return _boltzmann(self)


@lru_cache(maxsize=32)
def _boltzmann(background):
    """CLASS's background of a universe; InputError where it has none."""
    from classylss.binding import Background as Solution  # its start takes a while
    from classylss.binding import ClassEngine

    h = background.h or 0.7
    photons = background.Omega_r or _FAINT
    given = {
        "h": h,
        "Omega_g": photons,
        "N_ur": 0.0,
        # of baryons and cold matter the sum alone matters
        "Omega_b": 0.1 * background.Omega_m,
        "Omega_cdm": 0.9 * background.Omega_m - background.neutrinos,
        "Omega_k": background.curvature,
    }
    if (background.w0, background.wa) != (-1, 0):
        given |= {"Omega_Lambda": 0.0, "w0_fld": background.w0, "wa_fld": background.wa}
    if background.m_nu:
        if background.h is None:
            raise InputError("HubbleParam is absent, and massive neutrinos need it")
        temperature = _BLACK_BODY * (photons * h**2) ** 0.25
        given |= {
            "N_ncdm": len(background.m_nu),
            "m_ncdm": ", ".join(map(repr, background.m_nu)),
            "T_ncdm": ", ".join([repr(_NEUTRINOS / temperature)] * len(background.m_nu)),
        }
    try:
        return Solution(ClassEngine(given))
    except Exception as error:
        reason = one_line(error, 400).rpartition("; ")[2]
        raise InputError(f"no universe is like {background}: {reason}") from None
