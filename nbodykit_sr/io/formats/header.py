"""The header of a snapshot of any format, in nbodykit's units."""

import re
from dataclasses import dataclass, field

import numpy as np

from ...errors import InputError, one_line
from ...lattice import periodic
from ...physics.universe import RHO_CRITICAL, Universe
from ...provenance import NAMES
from .cosmology import cosmology_of

KPC = 3.085678e21  # cm
MPC = 3.085678e24  # cm
GADGET_MASS = 1.989e43  # g, Gadget's 1e10 Msun


@dataclass(frozen=True, kw_only=True)
class SnapshotHeader:
    """Header of a snapshot. A subclass for each format reads it, and the rows of the columns."""

    path: str
    dataset: str  # prefix of the columns
    columns: tuple  # columns that the snapshot has, of Position, Velocity, ID
    size: int  # number of particles
    length: float  # factor from the file's positions to comoving Mpc/h
    velocity: float  # factor from the file's velocities to peculiar km/s
    attrs: dict  # of the catalogue, see `catalogue_attrs`; of files of this package also provenance
    identity: str  # digest that differs between snapshots
    raw: dict = field(default_factory=dict)  # MP-Gadget's own header; empty for other formats

    @property
    def checksums(self) -> list[tuple[str, int, int]]:
        """(file, bytes, sum of the bytes) of each file of which the format keeps a checksum."""
        return []

    def stored_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a column as the file has them; raises InputError where it cannot be read."""
        raise NotImplementedError

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a column in nbodykit's units: Position float64, Velocity float32, ID uint64.

        Positions are in [0, BoxSize); InputError if they are far from it in the file.
        """
        values = self.stored_rows(name, start, stop)
        if name == "Position":
            return periodic(values.astype("f8") * self.length, self.attrs["BoxSize"][0])
        if name == "Velocity":
            return (values * np.float64(self.velocity)).astype("f4")
        return values.reshape(-1).astype("u8")


def catalogue_attrs(
    path: str, raw: "RawHeader", box: np.ndarray, a: float, particle_mass: float | None = None
) -> dict:
    """The attributes of a snapshot's catalogue, checked.

    Those of its box, comoving [Mpc/h], time, particle mass [1e10 Msun/h], `cosmology_of` and source; and how
    a catalogue of this package was made.
    """
    given = {
        "BoxSize": np.repeat(box, 3) if len(box) == 1 else box,
        "Time": a,
        **cosmology_of(raw, a),
    }
    attrs = {**universe_of(path, given).attrs, "source": path}
    if particle_mass is not None and np.isfinite(particle_mass) and particle_mass > 0:
        attrs["ParticleMass"] = particle_mass
    for name, value in raw.items():
        if name in NAMES.values():
            plain = isinstance(value, str) or np.size(value) != 1
            attrs[name] = value if plain else np.ravel(value)[0]
    return attrs


class RawHeader(dict):
    """Attributes of a header, name to value, of which numbers are asked for by name."""

    def __init__(self, path, values):
        super().__init__(values)
        self.path = path

    def numbers(self, *names, default=None) -> np.ndarray:
        """The values of the first of these names that is there, finite, (n,) float64.

        Raises
        ------
        InputError
            If none is there and there is no default, or the value is not finite.
        """
        found = next((name for name in names if name in self), None)
        if found is None and default is None:
            raise InputError(
                f"the Header of {self.path} has no {names[0]}: it is no cosmological snapshot"
            )
        try:
            values = np.ravel(np.asarray(default if found is None else self[found], dtype="f8"))
        except (ValueError, TypeError):
            values = np.array([np.nan])
        if not (len(values) and np.isfinite(values).all()):
            shown = one_line(self.get(found), 80)
            raise InputError(
                f"{found} in the Header of {self.path} is {shown}: a finite number is needed"
            )
        return values

    def number(self, *names, default=None) -> float:
        """The first of `numbers`."""
        return float(self.numbers(*names, default=default)[0])

    def positive(self, *names, default=None) -> float:
        """`number`, which must be above zero."""
        value = self.number(*names, default=default)
        if not value > 0:
            raise InputError(
                f"{names[0]} in the Header of {self.path} is {value:g}: a positive number is needed"
            )
        return value

    def of_type(self, name, kind) -> float:
        """The number for one particle type, from a list with one for each; 0 where it has none.

        A single number is that of the only type there is.
        """
        values = self.numbers(name, default=0.0)
        if len(values) > 1 and kind >= len(values):
            return 0.0
        return float(values[kind if len(values) > 1 else 0])

    def matter(self) -> float:
        """Omega0, the density parameter of all matter today."""
        return self.positive("Omega0", "OmegaM", "Omega_Matter", "Omega_m")

    def scale_factor(self) -> float:
        """The scale factor, or that of Redshift; they must agree.

        Codes of Gadget's kind call it Time, but where it has a name of its own Time is the age
        (EAGLE's).
        """
        own = next((name for name in ("ExpansionFactor", "ScalingFactor") if name in self), "Time")
        given = {"Time": self.number(own)} if own in self else {}
        if "Redshift" in self:
            given["Redshift"] = self.number("Redshift")
        given = given or {"Time": self.number("Time")}
        return universe_of(self.path, given).attrs["Time"]

    def hubble(self, a) -> float | None:
        """H(a) as the code itself had it [h km/s/Mpc]: by SWIFT's H, or MP-Gadget's RSDFactor."""
        if "H [internal units]" in self and "H0 [internal units]" in self:
            return 100 * self.number("H [internal units]") / self.positive("H0 [internal units]")
        if "RSDFactor" in self and "UnitLength_in_cm" in self:
            # of a velocity of the file to a distance, 1 / (a H) for peculiar ones
            factor = self.positive("RSDFactor") * self.positive("UnitLength_in_cm") / MPC
            factor /= self.positive("UnitVelocity_in_cm_per_s", default=1e5) / 1e5
            return 1 / (a * factor * (1 if self.number("UsePeculiarVelocity", default=0) else a))
        return None


def universe_of(path, given) -> Universe:
    """The `Universe` of a header's values; errors name the snapshot's path."""
    try:
        return Universe.of(given)
    except InputError as error:
        raise InputError(f"the Header of {path} cannot be used: {error}") from None


def refuse_cone(path, raw) -> None:
    """Raise InputError where a header tells of a light cone, which is no snapshot."""
    if "ConeObserver" in raw:
        raise InputError(
            f"{path} is a light cone, which has neither a box nor one time: open it with open_cone, "
            "its halos with open_halos"
        )


def in_mpc(centimetres) -> float:
    """A unit of length in Mpc.

    Codes write a kpc of four digits or of seven: a unit within 1e-3 of a power of ten of a kpc is
    that power, so that sizes do not come out as 99.99996 Mpc/h.
    """
    length = centimetres / MPC
    power = 10.0 ** round(np.log10(length))
    return power if abs(length / power - 1) < 1e-3 else length


def particle_type(path, dataset, counts) -> int:
    """The number of the wanted particle type, by default that of dark matter.

    Parameters
    ----------
    path : str
    dataset : str or None
        "1/" or "PartType1".
    counts : sequence of int
        Particles of each type.
    """
    held = {number: int(count) for number, count in enumerate(counts) if count}
    if not held:
        raise InputError(f"snapshot {path} has no particles of any type: it is empty or damaged")
    if dataset is None:
        if 1 in held or len(held) == 1:
            return 1 if 1 in held else next(iter(held))
        raise InputError(
            f"snapshot {path} has no dark matter of type 1, but particles of type and number {held}: choose "
            "one type by dataset, such as '2/'"
        )
    match = re.fullmatch(r"/?(?:PartType)?(\d)/?", dataset)
    if not match or int(match[1]) not in held:
        raise InputError(
            f"dataset is {dataset!r}: snapshot {path} has particles of type and number {held}; such as "
            f"'{next(iter(held))}/' is needed"
        )
    return int(match[1])


def density_parameter(mass, box) -> float:
    """Omega0 of matter, `mass` in all [1e10 Msun/h], in a box [Mpc/h]; inf or NaN of absurd ones."""
    with np.errstate(all="ignore"):
        return 1e10 * mass / RHO_CRITICAL / np.float64(box) ** 3


def length_from_density(path, box, mass, total, Omega0) -> float:
    """The unit of length [Mpc/h] of a header without units: kpc/h or Mpc/h, whichever gives Omega0.

    The box is in the unknown unit and has `total` particles of this mass [1e10 Msun/h]. InputError if
    neither fits: there is no more matter than all, but gas may hold a part of it, or particles be left out.
    """
    for unit in (1e-3, 1.0):
        if 1e-5 < density_parameter(mass * total, box * unit) / Omega0 < 10:
            return unit
    raise InputError(
        f"the Header of {path} has no units, and {total} particles of mass {mass:g} in a box of {box:g} "
        f"give the matter density {Omega0:g} neither in kpc/h nor in Mpc/h with 1e10 Msun/h: put "
        "UnitLength_in_cm there"
    )
