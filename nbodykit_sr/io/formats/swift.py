"""HDF5 snapshots of SWIFT: comoving lengths and masses without h, peculiar velocities."""

from ...errors import InputError
from .hdf5 import HDF5Header, attributes_of, first_mass, particles
from .header import in_mpc
from .parts import named

_SOLAR_MASS = 1.98841e33  # g, SWIFT's


class SwiftHeader(HDF5Header):
    """Units from the group Units, cosmology from the group Cosmology."""

    @classmethod
    def read(cls, path, files, dataset=None) -> "SwiftHeader":
        """Read and check the headers of all files; on one rank."""
        raw = attributes_of(named(path, files), "Units", "Cosmology", "Header")
        kind, where = particles(path, files, dataset, raw)
        share = raw.of_type("SubSampleFractions", kind)
        if raw.get("OutputType") == "SubSampled" and share < 1:
            raise InputError(
                f"snapshot {path} is a subsample (OutputType SubSampled), with {share:g} of the particles "
                f"of type {kind}: all of them are needed; give the run's FullVolume snapshot"
            )
        h, a = raw.positive("h"), raw.positive("Scale-factor")
        centimetres = raw.positive("Unit length in cgs (U_L)")
        length = in_mpc(centimetres) * h
        mass = first_mass(where) or raw.of_type("InitialMassTable", kind)
        mass *= raw.positive("Unit mass in cgs (U_M)") * h / (1e10 * _SOLAR_MASS)
        seconds = raw.positive("Unit time in cgs (U_t)")
        return cls.of(path, raw, where, length, centimetres / seconds / 1e5, a, mass)
