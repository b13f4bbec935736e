"""HDF5 snapshots of Gadget-2, 3 and 4, AREPO, EAGLE and GIZMO."""

import numpy as np

from .hdf5 import HDF5Header, attributes_of, first_mass, particles
from .header import GADGET_MASS, in_mpc, length_from_density, refuse_cone
from .parts import named


class GadgetHeader(HDF5Header):
    """Comoving lengths over h, masses over h, peculiar velocities over sqrt(a)."""

    @classmethod
    def read(cls, path, files, dataset=None) -> "GadgetHeader":
        """Read and check the headers of all files; on one rank."""
        # EAGLE keeps units in Units, Gadget-4 cosmology and units in Parameters
        raw = attributes_of(named(path, files), "Units", "Parameters", "Header")
        refuse_cone(path, raw)
        a = raw.scale_factor()
        kind, where = particles(path, files, dataset, raw)
        mass = raw.of_type("MassTable", kind) or first_mass(where)
        length, mass, velocity = gadget_units(path, raw, mass, sum(where["counts"]))
        return cls.of(path, raw, where, length, velocity * np.sqrt(a), a, mass)


def gadget_units(path, raw, mass, number) -> tuple[float, float, float]:
    """Units of a snapshot, from its header or, if that has none, from the matter density.

    Returns
    -------
    length, mass, velocity : float
        Unit of length [Mpc/h]; mass of a particle [1e10 Msun/h], from `mass` in the file's units; unit of
        velocity [km/s].
    """
    if "UnitLength_In_CGS" in raw:
        # GIZMO's are what a number of the file is in cm and g: its 1 kpc/h is 3.09e21 cm / h
        h, names = raw.positive("HubbleParam"), ("Length_In_CGS", "Mass_In_CGS", "Velocity_In_CGS")
    else:
        h, names = 1.0, ("Length_in_cm", "Mass_in_g", "Velocity_in_cm_per_s")
    unit_length, unit_mass, unit_velocity = (f"Unit{name}" for name in names)
    velocity = raw.positive(unit_velocity, default=1e5) / 1e5
    if unit_length in raw:
        length = in_mpc(raw.positive(unit_length) * h)
        mass *= raw.positive(unit_mass, default=GADGET_MASS / h) * h / GADGET_MASS
    else:
        length = length_from_density(path, raw.number("BoxSize"), mass, number, raw.matter())
    return length, mass, velocity
