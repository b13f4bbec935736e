"""Is a header read in the right units? The matter density and linear theory say so."""

import logging
from typing import TypeVar

import numpy as np

from ...errors import InputError
from ...lattice import LagrangianLattice, cube_root, particle_ids
from ...physics.universe import RHO_CRITICAL, Universe
from .header import SnapshotHeader

Header = TypeVar("Header", bound=SnapshotHeader)

logger = logging.getLogger("nbodykit_sr.io")

# A box of kpc/h read as one of Mpc/h, or the other way round, has 1e9 or 1e-9 of its matter; a part of
# its particles, or stars alone, may be few, but there is no more matter than all
_DENSITIES = (1e-8, 10.0)

# Velocities are 0.99 (z = 99) to 1.13 (z = 0) times those of linear theory, measured: beyond the inner
# bounds something is odd (a length times h is 0.7), beyond the outer ones units are wrong
_SPEEDS = (0.1, 0.8, 2.0, 10.0)

# So many rows, in so many pieces of the file, tell about velocities
_ROWS, _PIECES = 2**15, 16

# Displacements of more than this part of what they would be by chance are of no lattice
_CHANCE = 0.5


def fitting(path, readings: dict[str, Header]) -> Header:
    """The first reading of a snapshot that fits the matter density and linear theory. Not collective.

    Readings are the snapshot with different assumptions of its units, by a description of them. InputError
    if none fits: the message says what is wrong with each.
    """
    problems = []
    for name, header in readings.items():
        wrong, odd = misfit(header)
        if not wrong:
            if odd:
                logger.warning("snapshot %s, its units taken to be %s: %s", path, name, odd)
            return header
        problems.append(f"in {name} {wrong}")
    raise InputError(
        f"the units of snapshot {path} cannot be right: {'; '.join(problems)}: correct its Header, where "
        "UnitLength_in_cm, UnitMass_in_g and UnitVelocity_in_cm_per_s say what they are"
    )


def misfit(header) -> tuple[str | None, str | None]:
    """Reasons against a header's units, from the matter density and linear theory: one that proves
    them wrong and one that makes them doubtful, each None if there is none."""
    universe = Universe.of(header.attrs, "BoxSize", "a", "Omega0")
    box, mass = float(header.attrs["BoxSize"][0]), header.attrs.get("ParticleMass")
    if mass is not None:
        whole = header.attrs["Omega0"] * RHO_CRITICAL * box**3
        density = 1e10 * float(mass) * header.size / whole
        if not _DENSITIES[0] < density < _DENSITIES[1]:
            return (
                f"{header.size} particles of {1e10 * float(mass):.3g} Msun/h in a box of "
                f"{box:g} Mpc/h hold {density:.2g} times the matter that Omega0 = "
                f"{universe.Omega0:g} gives"
            ), None
    motion = _motion(header, box)
    if motion is None:
        return None, None
    speed, displacement = motion
    linear = universe.linear_rate * displacement
    problem = (
        f"Velocity is {speed:.3g} km/s, but linear theory gives {linear:.3g} km/s for displacements of "
        f"{displacement:.3g} Mpc/h"
    )
    lowest, low, high, highest = _SPEEDS
    if not lowest * linear < speed < highest * linear:
        return problem, None
    return None, None if low * linear < speed < high * linear else problem


def _motion(header, box):
    """Medians of velocity [km/s] and displacement [Mpc/h] of a sample, or None if it is of no lattice.

    Medians, since a few damaged values are for others to find.
    """
    if not {"Position", "Velocity", "ID"} <= set(header.columns):
        return None
    try:
        Nmesh = cube_root(header.size)
        position, velocity, ids = (_sample(header, name) for name in ("Position", "Velocity", "ID"))
        ids = particle_ids(ids)
    except InputError:  # no cube of particles, or unreadable: said where it matters
        return None
    lattice = LagrangianLattice(Nmesh, box)
    first = 1 if ids.min() < lattice.size else lattice.size + 1  # or they go on after the gas
    step = 2 if ids.max() - first > 1.5 * lattice.size else 1
    site = lattice.site((ids - first) // step % lattice.size, 0)
    with np.errstate(all="ignore"):
        away = [_lengths(lattice.displacement(order, position)) for order in (site, site[:, ::-1])]
        displacement = min(np.median(lengths) for lengths in away)
        speed = np.median(_lengths(velocity))
    chance = box / 2  # about, in three dimensions
    if not 0 < displacement < _CHANCE * chance or not np.isfinite(speed):
        return None
    return float(speed), float(displacement)


def _lengths(vectors):
    """Of vectors (n, 3), less their mean, which a lattice's place in its cells is part of."""
    return np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1)


def _sample(header, name):
    """Some rows of a column, from all over the file."""
    count = min(header.size, _ROWS) // _PIECES or header.size
    starts = np.linspace(0, header.size - count, _PIECES).astype(int)
    return np.concatenate([header.rows(name, start, start + count) for start in np.unique(starts)])
