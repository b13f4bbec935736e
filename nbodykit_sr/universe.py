"""The universe of a catalogue or mesh: box, time and cosmology, read once from its attributes.

Everything that needs BoxSize, a redshift or Omega0 takes it from here, so that the same
attributes are understood, or refused, in the same words everywhere.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import hyp2f1

from .errors import InputError, one_line

RHO_CRITICAL = 2.77536627e11  # critical density today [h^2 Msun / Mpc^3]

# Largest relative difference of the scale factors that Time and Redshift tell
_SAME_TIME = 1e-3

# Scale factors that a simulation can have, from long before its initial conditions
_TIMES = (1e-4, 2.0)


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


def _ratio(a, Omega_m):
    return -(1 - Omega_m) / Omega_m * a**3


def _growth(a, Omega_m):
    return hyp2f1(1 / 3, 1, 11 / 6, _ratio(a, Omega_m))


@dataclass(frozen=True)
class Universe:
    """Box, time and cosmology of a catalogue or mesh. What its attributes do not tell is None.

    Attributes
    ----------
    BoxSize : float or None
        Side of the periodic cube, comoving [Mpc/h].
    a : float or None
        Scale factor.
    Omega0, OmegaLambda, OmegaBaryon : float or None
        Of today: all matter, the cosmological constant, baryons.
    h : float or None
        Hubble constant today [100 km/s/Mpc].
    sigma8, n_s : float or None
        Of the linear power spectrum today: rms in spheres of 8 Mpc/h, and spectral index.
    """

    BoxSize: float | None = None
    a: float | None = None
    Omega0: float | None = None
    OmegaLambda: float | None = None
    OmegaBaryon: float | None = None
    h: float | None = None
    sigma8: float | None = None
    n_s: float | None = None

    @classmethod
    def of(cls, attrs, *needed: str) -> "Universe":
        """Read the attributes of a catalogue or mesh. Not collective.

        Parameters
        ----------
        attrs : dict
            Of an nbodykit source: BoxSize (3) [Mpc/h]; Time (the scale factor) or Redshift, or
            what nbodykit's LinearMesh keeps of its power spectrum; Omega0, OmegaLambda,
            OmegaBaryon, HubbleParam; sigma8, n_s.
        needed : str
            Fields of `Universe` that must be told.

        Raises
        ------
        InputError
            BoxSize not of length 3 or no cube, Time and Redshift that disagree, numbers that no
            universe has, something needed that is absent.
        """
        universe = cls(
            BoxSize=_box(attrs),
            a=_scale_factor(attrs),
            Omega0=_number(attrs, "Omega0", 0.01, 1),
            OmegaLambda=_number(attrs, "OmegaLambda", 0, 1),
            OmegaBaryon=_number(attrs, "OmegaBaryon", 0, 1),
            h=_number(attrs, "HubbleParam", 0.1, 2),
            sigma8=_number(attrs, "sigma8", 0.1, 2),
            n_s=_number(attrs, "n_s", 0.5, 1.5),
        )
        names = {"a": "Redshift", "h": "HubbleParam"}
        for field in needed:
            if getattr(universe, field) is None:
                name = names.get(field, field)
                raise InputError(
                    f"{name} is absent: set attrs[{name!r}], or open the snapshot with open_snapshot"
                )
        return universe

    @property
    def redshift(self) -> float | None:
        """Of the scale factor."""
        return None if self.a is None else 1 / self.a - 1

    @property
    def hubble(self) -> float:
        """H(a) [h km/s/Mpc], in a flat universe where OmegaLambda is not known."""
        return hubble(*self._background, self.OmegaLambda)

    @property
    def critical_density(self) -> float:
        """That of the scale factor, per comoving volume [h^2 Msun / Mpc^3]."""
        a, _ = self._background
        return RHO_CRITICAL * (self.hubble / 100) ** 2 * a**3

    @property
    def linear_rate(self) -> float:
        """Peculiar velocity of a displacement in linear theory, a H f [km/s per Mpc/h]."""
        a, Omega0 = self._background
        return a * self.hubble * growth_rate(a, Omega0)

    @property
    def growth(self) -> float:
        """Linear growth factor, 1 at a = 1."""
        return growth_factor(*self._background)

    @property
    def _background(self) -> tuple[float, float]:
        if self.a is None or self.Omega0 is None:
            raise InputError("Redshift or Omega0 is absent, and H(a) and growth need both")
        return self.a, self.Omega0

    @property
    def attrs(self) -> dict:
        """What is known, as attributes that `of` reads."""
        known = {
            "Omega0": self.Omega0,
            "OmegaLambda": self.OmegaLambda,
            "OmegaBaryon": self.OmegaBaryon,
            "HubbleParam": self.h,
            "BoxSize": None if self.BoxSize is None else np.full(3, self.BoxSize),
            "Time": self.a,
            "Redshift": self.redshift,
            "sigma8": self.sigma8,
            "n_s": self.n_s,
        }
        return {name: value for name, value in known.items() if value is not None}


def _box(attrs):
    if "BoxSize" not in attrs:
        return None
    box = _floats(attrs, "BoxSize")
    if box.shape != (3,):
        raise InputError(
            f"BoxSize has length {box.size}: nbodykit needs three lengths [Mpc/h]; set "
            "attrs['BoxSize'], or open the snapshot with open_snapshot"
        )
    if not (np.isfinite(box).all() and (box > 0).all() and (box == box[0]).all()):
        shown = f"{box[0]:g}" if (box == box[0]).all() else box.tolist()
        raise InputError(f"BoxSize is {shown}: a cubic box of positive side [Mpc/h] is needed")
    return float(box[0])


def _scale_factor(attrs):
    """From Time or Redshift, which must agree; where both are silent, from a LinearMesh."""
    told = {}
    for name in ("Time", "Redshift", "plin.redshift"):
        value = _number(attrs, name)
        if value is None or (name == "plin.redshift" and told):
            continue
        a = value if name == "Time" else 1 / (1 + value) if value > -1 else np.inf
        if not _TIMES[0] <= a <= _TIMES[1]:
            raise InputError(
                f"{name} is {value:g}: a scale factor from {_TIMES[0]:g} to {_TIMES[1]:g}, or the "
                "redshift of one, is needed"
            )
        told[name] = a
    a = next(iter(told.values()), None)
    if len(told) > 1 and abs(told["Redshift"] / a - 1) > _SAME_TIME:
        raise InputError(
            f"Time is {a:.6g}, the scale factor of redshift {1 / a - 1:.6g}, but Redshift is "
            f"{1 / told['Redshift'] - 1:.6g}: correct one of the attributes, or remove it"
        )
    return a


def _number(attrs, name, low=-np.inf, high=np.inf):
    """An attribute from `low` to `high`, or None if it is absent."""
    if name not in attrs:
        return None
    values = _floats(attrs, name).ravel()
    if len(values) != 1 or not (np.isfinite(values[0]) and low <= values[0] <= high):
        shown = f"{values[0]:g}" if len(values) == 1 else one_line(values.tolist(), 80)
        limits = f" from {low:g} to {high:g}" if np.isfinite(low) else ""
        raise InputError(f"{name} is {shown}: a number{limits} is needed")
    return float(values[0])


def _floats(attrs, name):
    try:
        values = np.asarray(attrs[name])
    except ValueError:  # lists within lists, of several lengths
        values = np.array("")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name} is {one_line(repr(attrs[name]), 80)}: numbers are needed")
    return values.astype("f8")
