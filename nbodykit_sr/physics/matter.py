"""Mass of a particle: from how the particles were made, never from their number.

A region, a slice or a subsample of a box holds some of its particles, so their number is no
density. A particle of a lattice stands for the matter of its cell, of all kinds, wherever it is.
"""

import numpy as np

from ..errors import InputError
from ..provenance import Provenance
from .universe import RHO_CRITICAL, Universe

MASS = 1e10  # Msun/h, unit of the attribute ParticleMass and of Gadget's MassTable

# A share of the matter this close to all is all: constants of nature differ between codes, and
# massive neutrinos are no particles
_CLOSE = 0.02

# At least so much of the matter is dark
_DARK = 0.5


def particle_mass(attrs: dict, size: int) -> float:
    """Mass of all matter that a particle stands for [Msun/h].

    The matter of a cell of the lattice on which the particles were made, divided by the part that a
    subsample keeps. Without a lattice ParticleMass, and without that the matter of the box / size.

    Parameters
    ----------
    attrs : dict
        Attributes of a catalogue: BoxSize, Omega0, and SRNmesh, SRSubsample, ParticleMass if known.
    size : int
        Particles of the whole catalogue.
    """
    made = Provenance.from_attrs(attrs)
    if made.Nmesh is not None:
        part = 1.0 if made.subsample is None else made.subsample
        if made.Nmesh < 1 or not 0 < part <= 1:
            raise InputError(
                f"SRNmesh is {made.Nmesh} and SRSubsample {part:g}: a lattice and a part of it are needed"
            )
        return box_matter(attrs) / made.Nmesh**3 / part
    mass = _mass_of_header(attrs)
    return box_matter(attrs) / max(size, 1) if mass is None else mass


def snapshot_mass(attrs: dict, size: int) -> float:
    """`particle_mass` of the particles of one type of a snapshot file, all of them [Msun/h].

    The masses of a run with gas are those of dark matter alone, and some files keep none: the
    particles share the matter of the box, unless they weigh too little and are a part of a box.
    """
    mass = _mass_of_header(attrs)
    if Provenance.from_attrs(attrs).Nmesh is not None or mass is None:
        return particle_mass(attrs, size)
    even = box_matter(attrs) / max(size, 1)
    dark = (
        round(size ** (1 / 3)) ** 3 == size and mass > _DARK * even
    )  # beside gas, of a whole lattice
    return even if dark or mass > (1 - _CLOSE) * even else mass


def mean_separation(attrs: dict, size: int) -> float:
    """Side of the cube whose matter a particle stands for, comoving [Mpc/h]."""
    universe = Universe.of(attrs, "BoxSize", "Omega0")
    return universe.BoxSize * np.cbrt(particle_mass(attrs, size) / box_matter(attrs))


def share(attrs: dict, size: int) -> float:
    """How much of the matter of the box the particles stand for, 1 for all."""
    made = Provenance.from_attrs(attrs)
    if made.Nmesh is None and "ParticleMass" not in attrs:
        return 1.0
    part = size * particle_mass(attrs, size) / box_matter(attrs)
    # a subsample holds a random number of particles
    close = 5 / np.sqrt(max(size, 1)) if made.subsample else 0 if made.Nmesh else _CLOSE
    return 1.0 if abs(part - 1) <= close + 1e-9 else part


def require_whole(attrs: dict, size: int) -> None:
    """Raise InputError where particles are a part of a box: their number is no mean density."""
    part = share(attrs, size)
    if Provenance.from_attrs(attrs).region or part < 1:
        raise InputError(
            f"{attrs.get('source', 'the catalogue')} is only a part of its box, {part:.3g} of its matter, "
            "and densities, power and pairs need the whole: make it without a region"
        )


def box_matter(attrs: dict) -> float:
    """All matter of the box [Msun/h]."""
    universe = Universe.of(attrs, "BoxSize", "Omega0")
    return universe.Omega0 * RHO_CRITICAL * universe.BoxSize**3  # type: ignore[operator]


def _mass_of_header(attrs):
    if "ParticleMass" not in attrs:
        return None
    mass = np.ravel(attrs["ParticleMass"])
    if mass.dtype.kind not in "iuf" or len(mass) != 1 or not 0 < mass[0] < np.inf:
        raise InputError(
            f"ParticleMass is {attrs['ParticleMass']}: a positive mass [1e10 Msun/h] is needed"
        )
    return float(mass[0]) * MASS
