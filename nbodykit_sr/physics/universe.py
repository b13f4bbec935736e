"""The universe of a catalogue or mesh: box, time and cosmology, read once from its attributes.

Everything that needs BoxSize, a redshift or Omega0 takes it from here, so that the same
attributes are understood, or refused, in the same words everywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError, one_line
from .background import Background, growth_factor, growth_rate, hubble

__all__ = ["RHO_CRITICAL", "Universe", "growth_factor", "growth_rate", "hubble"]

RHO_CRITICAL = 2.77536627e11  # critical density today [h^2 Msun / Mpc^3]

# Largest relative difference of the scale factors that Time and Redshift tell
_SAME_TIME = 1e-3

# Scale factors that a simulation can have, from long before its initial conditions
_TIMES = (1e-4, 2.0)


# What few universes have, and its limits
_RARE = {"w0": (-3, 0), "wa": (-5, 5), "Omega_r": (0, 0.1)}


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
        Densities today: all matter, massive neutrinos among it; dark energy; baryons.
    h : float or None
        Hubble constant today [100 km/s/Mpc].
    sigma8, n_s : float or None
        Linear power spectrum today: rms in spheres of 8 Mpc/h, and spectral index.
    w0, wa : float
        Equation of state of dark energy, w = w0 + (1 - a) wa.
    Omega_r : float
        Density today of photons and massless neutrinos, if the expansion includes them.
    m_nu : tuple of float
        Masses of massive neutrinos [eV].
    """

    BoxSize: float | None = None
    a: float | None = None
    Omega0: float | None = None
    OmegaLambda: float | None = None
    OmegaBaryon: float | None = None
    h: float | None = None
    sigma8: float | None = None
    n_s: float | None = None
    w0: float = -1.0
    wa: float = 0.0
    Omega_r: float = 0.0
    m_nu: tuple[float, ...] = ()

    @classmethod
    def of(cls, attrs, *needed: str) -> "Universe":
        """Read the attributes of a catalogue or mesh. Not collective.

        Parameters
        ----------
        attrs : dict
            Attributes of an nbodykit source: BoxSize (3) [Mpc/h]; Time (the scale factor) or Redshift, or
            what nbodykit's LinearMesh keeps of its power spectrum; Omega0, OmegaLambda,
            OmegaBaryon, HubbleParam; sigma8, n_s; w0, wa, Omega_r, m_nu.
        needed : str
            Fields of `Universe` that must be there.

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
            m_nu=_masses(attrs),
            **{
                name: _number(attrs, name, *limits)
                for name, limits in _RARE.items()
                if name in attrs
            },
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
        """Redshift of the scale factor."""
        return None if self.a is None else 1 / self.a - 1

    @property
    def hubble(self) -> float:
        """H(a) [h km/s/Mpc], in a flat universe where OmegaLambda is not known."""
        a, background = self._moment
        return background.hubble(a)

    @property
    def critical_density(self) -> float:
        """Critical density at the scale factor, per comoving volume [h^2 Msun / Mpc^3]."""
        a, background = self._moment
        return RHO_CRITICAL * (background.hubble(a) / 100) ** 2 * a**3

    @property
    def linear_rate(self) -> float:
        """Peculiar velocity of a displacement in linear theory, a H f [km/s per Mpc/h]."""
        a, background = self._moment
        return a * background.hubble(a) * background.rate(a)

    @property
    def growth(self) -> float:
        """Linear growth factor, 1 at a = 1."""
        a, background = self._moment
        return background.growth(a)

    @property
    def without_radiation(self) -> "Universe":
        """The same universe without radiation, as the training runs are; still flat if it was flat."""
        if not self.Omega_r:
            return self
        flat = self.Omega0 is not None and not self._background.curvature
        dark = None if flat else self.OmegaLambda
        return replace(self, Omega_r=0.0, OmegaLambda=dark)

    @property
    def pace(self) -> float:
        """Linear velocities over those of flat LCDM of the same matter, both without radiation."""
        _, background = self.without_radiation._moment
        if background.is_flat_lcdm:
            return 1.0
        plain = Universe(a=self.a, Omega0=self.Omega0)
        return self.without_radiation.linear_rate / plain.linear_rate

    @property
    def boltzmann(self) -> dict:
        """Arguments of nbodykit's Cosmology, which has a radiation of its own."""
        if self.Omega0 is None or self.h is None:
            raise InputError("Omega0 or HubbleParam is absent, and a cosmology needs both")
        background = self._background
        baryons = self.OmegaBaryon or 0.0
        given = {
            "h": self.h,
            "Omega0_b": baryons,
            "Omega0_cdm": self.Omega0 - baryons - background.neutrinos,
            "m_ncdm": list(self.m_nu),
        }
        if background.curvature:
            given["Omega0_k"] = background.curvature
        if (self.w0, self.wa) != (-1, 0):
            given |= {"w0_fld": self.w0, "wa_fld": self.wa}
        return given

    @property
    def _background(self):
        """The `Background`, where Omega0 is known."""
        dark = (self.OmegaLambda, self.w0, self.wa)
        return Background(self.Omega0, *dark, self.Omega_r, self.m_nu, self.h)

    @property
    def _moment(self):
        if self.a is None or self.Omega0 is None:
            raise InputError("Redshift or Omega0 is absent, and H(a) and growth need both")
        return self.a, self._background

    @property
    def attrs(self) -> dict:
        """The known fields as attributes that `of` reads."""
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
            "w0": self.w0 if (self.w0, self.wa) != (-1, 0) else None,
            "wa": self.wa if (self.w0, self.wa) != (-1, 0) else None,
            "Omega_r": self.Omega_r or None,
            "m_nu": np.array(self.m_nu) if self.m_nu else None,
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
    times = {}
    for name in ("Time", "Redshift", "plin.redshift"):
        value = _number(attrs, name)
        if value is None or (name == "plin.redshift" and times):
            continue
        a = value if name == "Time" else 1 / (1 + value) if value > -1 else np.inf
        if not _TIMES[0] <= a <= _TIMES[1]:
            raise InputError(
                f"{name} is {value:g}: a scale factor from {_TIMES[0]:g} to {_TIMES[1]:g}, or the "
                "redshift of one, is needed"
            )
        times[name] = a
    a = next(iter(times.values()), None)
    if len(times) > 1 and abs(times["Redshift"] / a - 1) > _SAME_TIME:
        raise InputError(
            f"Time is {a:.6g}, the scale factor of redshift {1 / a - 1:.6g}, but Redshift is "
            f"{1 / times['Redshift'] - 1:.6g}: correct one of the attributes, or remove it"
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


def _masses(attrs):
    """Masses of neutrinos [eV], those above zero."""
    values = _floats(attrs, "m_nu").ravel() if "m_nu" in attrs else np.zeros(0)
    if not (np.isfinite(values) & (values >= 0) & (values < 10)).all():
        shown = one_line(values.tolist(), 80)
        raise InputError(f"m_nu is {shown}: masses of neutrinos from 0 to 10 eV are needed")
    return tuple(float(mass) for mass in values if mass)


def _floats(attrs, name):
    try:
        values = np.asarray(attrs[name])
    except ValueError:  # lists within lists, of several lengths
        values = np.array("")
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name} is {one_line(repr(attrs[name]), 80)}: numbers are needed")
    return values.astype("f8")
