"""HDF5 snapshots of Gadget-2, 3 and 4, AREPO and GIZMO."""

import numpy as np

from .hdf5 import HDF5Header, attributes_of, first_mass, particles
from .header import GADGET_MASS, in_mpc, length_from_density
from .parts import named


class GadgetHeader(HDF5Header):
    """Comoving lengths over h, masses over h, peculiar velocities over sqrt(a), Time the scale factor."""

    @classmethod
    def read(cls, path, files, dataset=None) -> "GadgetHeader":
        """Read and check the headers of all files; on one rank.

        Raises
        ------
        InputError
        """
        # Gadget-4 keeps cosmology and units in Parameters
        raw = attributes_of(named(path, files), "Parameters", "Header")
        kind, where = particles(path, files, dataset, raw)
        a = raw.scale_factor()
        mass = raw.numbers("MassTable", default=np.zeros(kind + 1))[kind] or first_mass(where)
        lengths = ("UnitLength_in_cm", "UnitLength_In_CGS")
        if any(name in raw for name in lengths):
            length = in_mpc(raw.positive(*lengths))
            mass *= raw.positive("UnitMass_in_g", "UnitMass_In_CGS", default=GADGET_MASS)
            mass /= GADGET_MASS
        else:
            box, number = raw.number("BoxSize"), sum(where["counts"])
            length = length_from_density(path, box, mass, number, raw.matter())
        velocity = raw.positive("UnitVelocity_in_cm_per_s", "UnitVelocity_In_CGS", default=1e5)
        return cls.of(path, raw, where, length, velocity / 1e5 * np.sqrt(a), a, mass)
