"""The layouts in which catalogues of particles are written: names, units, number formats, header."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..physics.matter import MASS, particle_mass
from ..physics.universe import Universe
from ..provenance import NAMES
from .blocks import BlockFile
from .gadget_files import GadgetFiles
from .rows import RowFiles


@dataclass(frozen=True)
class Layout:
    """How a catalogue is laid out on the disk.

    Attributes
    ----------
    name : str
        Name of the layout, see ``generate --layout``.
    prefix : str
        Folder or group of the columns.
    columns : dict
        Position, Velocity and ID to their name there and the number format of a row.
    attributes : callable
        ``attributes(attrs, size, raw)`` gives the attributes of the Header, from those of a
        catalogue, its number of particles, and the header of the snapshot it was made from.
    length : float
        1 Mpc/h in the unit of length.
    comoving : bool
        Velocities are divided by the root of the scale factor, as in Gadget.
    hdf5 : subclass of GadgetFiles, or None
        Class of the HDF5 files; None for a BigFile.
    """

    name: str
    prefix: str
    columns: dict[str, tuple]
    attributes: Callable[[dict, int, dict], dict]
    length: float = 1.0
    comoving: bool = False
    hdf5: type[GadgetFiles] | None = None

    def block(self, name: str) -> str:
        """Path of a column's block or dataset."""
        return self.prefix + self.columns[name][0]

    def dtype(self, name: str) -> np.dtype:
        """Number format of a row of a column."""
        return np.dtype(self.columns[name][1])

    def particle_bytes(self, names: tuple[str, ...]) -> int:
        """Bytes of a particle with these columns."""
        return sum(self.dtype(name).itemsize for name in names)

    def stored(self, name: str, values: np.ndarray, a: float | None) -> np.ndarray:
        """Rows of a column, comoving [Mpc/h] or peculiar [km/s], in the layout's units at scale factor a."""
        if name == "Position" and self.length != 1:
            return values * self.length
        if name == "Velocity" and self.comoving:
            return values / np.float64(a) ** 0.5
        return values

    def files(self, folder: str, names: tuple[str, ...], size: int, header: dict) -> RowFiles:
        """The files of a catalogue of `size` particles, with these columns and this header."""
        columns = {self.block(name): self.dtype(name) for name in names}
        if self.hdf5:
            return self.hdf5(folder, columns, size, header)
        return BlockFile(folder, columns, size)


def nbodykit_header(attrs: dict, size: int, raw: dict) -> dict:
    """The attributes of the catalogue as they are."""
    return plain(attrs)


def mpgadget_header(attrs: dict, size: int, raw: dict) -> dict:
    """A Header in MP-Gadget's units and types; every number an array.

    Parameters
    ----------
    attrs : dict
        Attributes of a catalogue: box, time, cosmology, and those that `matter.particle_mass` reads.
    size : int
        Its particles.
    raw : dict
        Header of the input; its attributes are kept unless the catalogue sets them.
    """
    header = {
        name: value if isinstance(value, str) else np.ravel(value)
        for name, value in raw.items()
        if name not in NAMES.values()
    }
    counts = np.array([0, size, 0, 0, 0, 0], dtype="u8")
    masses = np.zeros(6)
    masses[1] = particle_mass(attrs, size) / MASS
    universe = Universe.of(attrs, "BoxSize", "a", "Omega0", "OmegaLambda", "OmegaBaryon", "h")
    values = {name: np.ravel(value)[:1] for name, value in universe.attrs.items()}
    header.update(
        BoxSize=values["BoxSize"] * 1000,
        Time=values["Time"],
        TimeIC=np.ravel(raw.get("TimeIC", values["Time"])),
        TotNumPart=counts,
        TotNumPartInit=counts,
        MassTable=masses,
        Omega0=values["Omega0"],
        OmegaLambda=values["OmegaLambda"],
        OmegaBaryon=values["OmegaBaryon"],
        HubbleParam=values["HubbleParam"],
        UnitLength_in_cm=np.array([3.085678e21]),
        UnitMass_in_g=np.array([1.989e43]),
        UnitVelocity_in_cm_per_s=np.array([1e5]),
        UsePeculiarVelocity=np.array([1], dtype="i4"),
    )
    header.update(_mpgadget_energies(universe, header))
    # MP-Gadget's own is that of the file's velocity convention
    if "RSDFactor" not in header or not np.ravel(raw.get("UsePeculiarVelocity", 0))[0]:
        header["RSDFactor"] = 1 / (values["Time"] * universe.hubble) * 1000
    return header


def _mpgadget_energies(universe, header):
    """Dark energy that is no constant, radiation and neutrinos, by MP-Gadget's names."""
    energies = {}
    if (universe.w0, universe.wa) != (-1, 0):
        energies = {"OmegaLambda": 0.0, "OmegaFld": universe.OmegaLambda}
        energies |= {"W0_Fld": universe.w0, "WA_Fld": universe.wa}
    if universe.Omega_r and "CMBTemperature" not in header:
        energies["OmegaUR"] = universe.Omega_r
    if universe.m_nu:
        energies["m_nu"] = universe.m_nu
    return {name: np.ravel(np.asarray(value, "f8")) for name, value in energies.items()}


def gadget_header(attrs: dict, size: int, raw: dict) -> dict:
    """A Header of Gadget-4's, with cosmology and units where all of its readers find them."""
    values = mpgadget_header(attrs, size, {})
    values["OmegaLambda"] = np.ravel(attrs["OmegaLambda"])
    scalars = ("BoxSize", "Time", "Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam")
    rare = {name: attrs[name] for name in ("w0", "wa", "Omega_r", "m_nu") if name in attrs}
    units = ("UnitLength_in_cm", "UnitMass_in_g", "UnitVelocity_in_cm_per_s")
    return {
        "NumPart_Total": values["TotNumPart"],
        "MassTable": values["MassTable"],
        "Redshift": 1 / values["Time"][0] - 1,
        **{name: values[name][0] for name in (*scalars, *units)},
        **rare,
    }


def plain(attrs: dict) -> dict:
    """Attributes as BigFile takes them, without those that are None."""
    return {
        name: value if isinstance(value, str) else np.asarray(value)
        for name, value in attrs.items()
        if value is not None
    }


NBODYKIT = Layout(
    name="nbodykit",
    prefix="",
    columns={"Position": ("Position", "3f4"), "Velocity": ("Velocity", "3f4"), "ID": ("ID", "u8")},
    attributes=nbodykit_header,
)
MPGADGET = replace(
    NBODYKIT,
    name="mp-gadget",
    prefix="1/",
    columns={**NBODYKIT.columns, "Position": ("Position", "3f8")},
    attributes=mpgadget_header,
    length=1000.0,
)
GADGET_HDF5 = Layout(
    name="gadget-hdf5",
    prefix="PartType1/",
    columns={
        "Position": ("Coordinates", "3f8"),
        "Velocity": ("Velocities", "3f4"),
        "ID": ("ParticleIDs", "u8"),
    },
    attributes=gadget_header,
    length=1000.0,
    comoving=True,
    hdf5=GadgetFiles,
)
LAYOUTS = {layout.name: layout for layout in (NBODYKIT, MPGADGET, GADGET_HDF5)}
