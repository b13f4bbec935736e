"""The cosmology in a header, by the attribute names of any code; unknown attributes are reported."""

import logging
import re

import numpy as np

from ...physics.background import Background, photon_density

logger = logging.getLogger("nbodykit_sr.io")

# Names of the equation of state of dark energy: ours, MP-Gadget's, SWIFT's
_W0, _WA = ("w0", "W0_Fld", "w0_fld", "w_0"), ("wa", "WA_Fld", "wa_fld", "w_a")
_FLUID = ("OmegaFld", "Omega_fld")  # MP-Gadget's, beside OmegaLambda = 0
_MASSES = ("MNue", "MNum", "MNut")  # MP-Gadget's three neutrinos [eV]

# What attributes of cosmology are called, by any code
_COSMOLOGY = re.compile(
    r"omega|^w_?[0ap]?$|^w_?[0ap]_|_fld$|dark_?energy|neutrino|nu_?(ev|mass|frac)|^(m|n|t|deg)_?nu|"
    r"^n_(ur|eff)|cmb|^fr_?0|modified_?gravity",
    re.I,
)
_KNOWN = {
    *("Omega0", "Omega_Matter", "Omega_m", "OmegaM", "Om0", "OmegaLambda", "Omega_Lambda"),
    *("Omega_lambda", "OmegaBaryon", "Omega_Baryon", "Omega_b", "Omega_r", "Omega_Radiation"),
    *(*_W0, *_WA, *_FLUID, *_MASSES, "m_nu", "M_nu_eV", "deg_nu", "OmegaUR", "CMBTemperature"),
    # follow from these, or say how they are meant
    *("OmegaK", "Omega_k", "Omega_cdm", "Omega_g", "Omega_ur", "Omega_nu", "Omega_nu_0", "w"),
    *("N_eff", "N_nu", "N_ur", "T_nu_0 [eV]", "T_nu_0 [internal units]", "deg_nu_tot"),
    *("T_CMB_0 [K]", "T_CMB_0 [internal units]", "class_radiation_convention"),
}

# A neutrino species without mass, in photons' densities: temperature 1.00328 (4/11)^(1/3)
_SPECIES = 7 / 8 * (4 / 11) ** (4 / 3) * 1.00328**4

# Largest relative difference of H(a) from the one that a code says it had
_SAME = 1e-3


def cosmology_of(raw, a) -> dict:
    """Attributes of the universe of a snapshot, as `Universe.of` reads them.

    Warns, by the logger, of attributes that are not understood, and where H(a) is not the one that
    the code had (MP-Gadget says by RSDFactor, SWIFT by its own H).

    Parameters
    ----------
    raw : RawHeader
    a : float
        Scale factor.

    Returns
    -------
    dict
        Omega0, OmegaLambda (dark energy of any kind; flat where not given), OmegaBaryon,
        HubbleParam; where they are not those of LCDM without radiation also w0, wa, Omega_r
        (photons and massless neutrinos) and m_nu [eV].

    Raises
    ------
    InputError
        No matter density or Hubble constant, or values that are no numbers.
    """
    h = raw.number("HubbleParam", "h") if "HubbleParam" in raw or "h" in raw else None
    # SWIFT's matter is that of baryons and cold matter
    Omega0 = raw.matter() + raw.number("Omega_nu_0", default=0.0)
    dark = raw.number("OmegaLambda", "Omega_Lambda", "Omega_lambda", default=1 - Omega0)
    fluid = raw.number(*_FLUID, default=0.0)
    w0, wa = raw.number(*_W0, default=-1.0), raw.number(*_WA, default=0.0)
    if any(name in raw for name in _FLUID) and not fluid:
        w0, wa = -1.0, 0.0  # MP-Gadget's Lambda, beside a fluid that is not there
    masses, massless = _neutrinos(raw)
    made_of = Background(Omega0, fluid or dark, w0, wa, 0.0, masses, h)
    radiation, hubble = _radiation(raw, a, made_of, massless), raw.hubble(a)
    unknown = [name for name, value in raw.items() if _is_unknown(name, value)]
    if fluid and dark:
        unknown.append("OmegaLambda beside OmegaFld")
    if unknown:
        logger.warning(
            "the Header of %s tells of %s: not understood, and left out of expansion and growth",
            raw.path,
            ", ".join(unknown),
        )
    ours = Background(Omega0, fluid or dark, w0, wa, radiation, masses, h).hubble(a)
    if hubble is not None and abs(ours / hubble - 1) > _SAME:
        logger.warning(
            "the Header of %s says that H(a) is %.5g h km/s/Mpc, but as it is understood it is %.5g: "
            "something of its cosmology is not known",
            raw.path,
            hubble,
            ours,
        )
    found = {"Omega0": Omega0, "OmegaLambda": fluid or dark}
    if h is not None:
        found["HubbleParam"] = h
    found["OmegaBaryon"] = raw.number("OmegaBaryon", "Omega_Baryon", "Omega_b", default=0.0)
    if (w0, wa) != (-1, 0):
        found |= {"w0": w0, "wa": wa}
    if radiation:
        found["Omega_r"] = radiation
    if masses:
        found["m_nu"] = np.array(masses)
    return found


def _is_unknown(name, value):
    """Whether an attribute is about cosmology, has a value, and is not read here."""
    if name in _KNOWN or not _COSMOLOGY.search(name):
        return False
    values = np.ravel(np.asarray(value))
    return values.dtype.kind in "iufb" and bool(values.any())


def _neutrinos(raw):
    """Masses of those that have one [eV], and how many of MP-Gadget's three have none."""
    if "m_nu" in raw:
        masses, degeneracy = raw.numbers("m_nu"), [1]
    elif "M_nu_eV" in raw:
        masses, degeneracy = raw.numbers("M_nu_eV"), raw.numbers("deg_nu", default=1.0)
    else:
        masses, degeneracy = [raw.number(name, default=0.0) for name in _MASSES], [1]
    number = np.rint(np.resize(degeneracy, len(masses))).astype(int)
    masses = np.repeat(masses, number)
    return tuple(float(mass) for mass in masses if mass > 0), int(np.count_nonzero(masses == 0))


def _radiation(raw, a, made_of, massless):
    """Density parameter of photons and massless neutrinos today, where the header has them in H."""
    if any(name in raw for name in ("Omega_r", "Omega_Radiation")):
        return raw.number("Omega_r", "Omega_Radiation")
    extra = raw.number("OmegaUR", default=0.0)
    temperature, hubble = raw.number("CMBTemperature", default=0.0), raw.hubble(a)
    if not temperature or hubble is None:
        return extra
    # MP-Gadget tells the temperature also where radiation is not in H: that says which
    photons = photon_density(temperature, made_of.h) * (1 + massless * _SPECIES)
    excess = (hubble / 100) ** 2 - (made_of.hubble(a) / 100) ** 2 - extra / a**4
    closed = raw.number("class_radiation_convention", default=0.0)
    return extra + (photons if excess > photons * (1 / a**4 - bool(closed) / a**2) / 2 else 0.0)
