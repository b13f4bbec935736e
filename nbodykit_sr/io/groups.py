"""Halo products as BigFile, in MP-Gadget's group layout and units."""

import logging
import os

import numpy as np
from nbodykit.lab import BigFileCatalog

from ..errors import InputError
from .atomic import readable
from .blocks import write_header, write_rows
from .checks import attributes
from .formats.header import RawHeader, catalogue_attrs
from .halos import ConeHalos, Halos
from .layout import mpgadget_header
from .snapshot import cosmology

logger = logging.getLogger(__name__)

KPC, MASS = 1e3, 1e-10  # of Mpc/h and Msun/h, in MP-Gadget's units

# Units of the columns of an opened catalogue, written so that nbodykit saves them with it
UNITS = {"UnitLength_in_cm": 3.085678e24, "UnitVelocity_in_cm_per_s": 1e5, "UsePeculiarVelocity": 1}

# Columns that an observer measures of a group on a light cone
SEEN = ("RA", "DEC", "Redshift", "RedshiftObserved")

# Columns of a group or of its particles: block, number format, factor to MP-Gadget's units
GROUPS = {
    "GroupID": ("GroupID", "u4", 1),
    "Mass": ("Mass", "f4", MASS),
    "MassCenter": ("MassCenterPosition", "f8", KPC),
    "MassCenterVelocity": ("MassCenterVelocity", "f4", 1),
    "MinID": ("MinID", "u8", 1),
    "Center": ("CenterPosition", "f8", KPC),
    "CenterVelocity": ("CenterVelocity", "f4", 1),
    "Mass200m": ("Mass200m", "f4", MASS),
    "Mass200c": ("Mass200c", "f4", MASS),
    "MassVir": ("MassVir", "f4", MASS),
    "Cut": ("Cut", "u4", 1),
    **{name: (name, "f8", 1) for name in ("Aemit", *SEEN)},
}
MEMBERS = {
    "GroupID": ("GroupID", "u4", 1),
    "Position": ("Position", "f8", KPC),
    "Velocity": ("Velocity", "f4", 1),
    "ID": ("ID", "u8", 1),
}


def write_groups(folder, source, groups, members, attrs) -> None:
    """Write groups and their particles, of `find_groups`, into a folder of `staged`. Collective.

    `source` is the snapshot or light cone that they were found in, `attrs` are added to the Header.
    InputError on every rank, if the disk does not take it.
    """
    comm, folder = source.comm, os.fspath(folder)
    by_type = np.zeros((len(groups["GroupID"]), 6))
    by_type[:, 1] = 1
    rows = {
        "FOFGroups": {
            "LengthByType": (by_type * groups["Length"][:, None]).astype("u4"),
            "MassByType": (by_type * groups["Mass"][:, None] * MASS).astype("f4"),
            **_converted(GROUPS, groups),
        },
        "1": _converted(MEMBERS, members),
    }
    inside = np.zeros(6, "u8")
    inside[1] = comm.allreduce(len(members["GroupID"]))
    number = comm.allreduce(len(groups["GroupID"]))
    header = _header(source)
    header.update(NumFOFGroupsTotal=np.array([number], "u8"), NumPartInGroupTotal=inside, **attrs)
    for prefix, blocks in rows.items():
        write_rows(folder, {f"{prefix}/{name}": rows for name, rows in blocks.items()}, comm)
    write_header(folder, header, comm)


def _header(source):
    """Attributes of the Header, in MP-Gadget's units; of a light cone those of the cone."""
    if "ConeObserver" not in source.attrs:
        return mpgadget_header(source.attrs, source.csize, source.header.raw)
    attrs = {name: value for name, value in source.attrs.items() if value is not None}
    return attrs | {
        "UnitLength_in_cm": np.array([UNITS["UnitLength_in_cm"] / KPC]),
        "UnitMass_in_g": np.array([1.989e43]),
        "UnitVelocity_in_cm_per_s": np.array([1e5]),
        "UsePeculiarVelocity": np.array([1], dtype="i4"),
    }


def _converted(table, columns):
    """Rows in MP-Gadget's units and number formats."""
    return {
        block: (columns[name] * factor if factor != 1 else columns[name]).astype(dtype)
        for name, (block, dtype, factor) in table.items()
        if name in columns
    }


def open_halos(path, comm=None, mdef="vir") -> Halos:
    """Halos that `nbodykit-sr halos` found, as an nbodykit HaloCatalog.

    Parameters
    ----------
    path : str
    comm : mpi4py.MPI.Comm, optional
    mdef : {"200m", "200c", "vir", "fof"}
        Which mass; nbodykit knows no radii of friends-of-friends groups and takes them for "vir".

    Returns
    -------
    Halos, or ConeHalos of a light cone
        Position (of the centre) [comoving Mpc/h], Velocity (of the centre of mass; NaN
        where the particles had none) [peculiar km/s], Mass, MassVir [Msun/h]; on a light cone also
        Aemit, RA, DEC [deg], Redshift, RedshiftObserved and Cut. Its `populate` takes nbodykit's HOD models.

    Raises
    ------
    InputError
        If there are no halos there.
    """
    masses = {"200m": "Mass200m", "200c": "Mass200c", "vir": "MassVir", "fof": "Mass"}
    if mdef not in masses:
        raise InputError(f"mdef is {mdef!r}: one of {', '.join(masses)} is needed")
    path = os.fspath(path)
    with readable(path):
        raw = RawHeader(path, attributes(os.path.join(path, "Header")))
        if "NumFOFGroupsTotal" not in raw:
            raise InputError(f"{path} holds no halos: make them with nbodykit-sr halos")
    catalog = BigFileCatalog(path, dataset="FOFGroups/", header="Header", comm=comm)
    cone = "ConeObserver" in raw
    attrs = dict(raw) if cone else _of_box(path, raw)
    catalog.attrs.clear()  # of the units of the file, and of its particles
    catalog.attrs.update(attrs, **UNITS)
    catalog["Position"] = catalog["CenterPosition"] / KPC
    catalog["Velocity"] = _velocity(catalog)
    catalog["HaloMass"] = catalog[masses[mdef]].reshape(-1) / MASS
    mdef = "vir" if mdef == "fof" else mdef
    redshift = _median(catalog, "Redshift") if cone else attrs["Redshift"]
    kind = ConeHalos if cone else Halos
    halos = kind(catalog, cosmology(catalog.attrs), redshift, mdef=mdef, mass="HaloMass")
    halos["MassVir"] = catalog["MassVir"].reshape(-1) / MASS
    for name in ("Aemit", *SEEN, "Cut") if cone else ():
        if name in catalog:
            halos[name] = catalog[name].reshape(-1)
    return halos


def _of_box(path, raw):
    """Attributes of the halos of a box."""
    return catalogue_attrs(path, raw, raw.numbers("BoxSize") / KPC, raw.scale_factor())


def _median(catalog, name):
    """Median of a column over all ranks; 0 if it has no rows."""
    values = np.concatenate(catalog.comm.allgather(catalog[name].compute()))
    return float(np.median(values)) if len(values) else 0.0


def _velocity(catalog):
    """Velocities of groups, (n, 3) [km/s]; NaN where the file has none."""
    if "MassCenterVelocity" in catalog.columns:
        return catalog["MassCenterVelocity"]
    if catalog.comm.rank == 0:
        logger.warning(
            "the halos have no velocities: Velocity is NaN, theirs and of galaxies in them"
        )
    return np.full((catalog.size, 3), np.nan, dtype="f4")
