"""Writers of other codes' snapshots, for tests of their readers: one box, as each code would keep it."""

import h5py
import numpy as np

from nbodykit_sr.io.formats import read_header
from nbodykit_sr.lattice import LagrangianLattice

SOLAR_MASS = 1.98841e33  # g
MPC = 3.08567758149e24  # cm


class Box:
    """All particles of a snapshot, in nbodykit's units, with the numbering of IDs to choose.

    Parameters
    ----------
    path : str
        A BigFile.
    numbering : callable, optional
        Of sites (n, 3) and Nmesh; MP-Gadget's IDs by default.
    """

    def __init__(self, path, numbering=None):
        header = read_header(path)
        self.attrs, self.size = header.attrs, header.size
        self.position, self.velocity, self.ids = (
            header.rows(name, 0, header.size) for name in ("Position", "Velocity", "ID")
        )
        if numbering is not None:
            Nmesh = round(self.size ** (1 / 3))
            self.ids = numbering(LagrangianLattice(Nmesh, 1.0).site(self.ids), Nmesh)
        self.box, self.a = float(self.attrs["BoxSize"][0]), self.attrs["Time"]
        self.h, self.mass = self.attrs["HubbleParam"], self.attrs["ParticleMass"]

    def cuts(self, files):
        """Uneven shares of the particles for so many files; with more than two one is empty."""
        edges = np.linspace(0, 1, files + 1) ** 2 * self.size
        edges[1] = 0 if files > 2 else edges[1]
        return [slice(*map(int, pair)) for pair in zip(edges, edges[1:])]

    def gadget_hdf5(self, path, files=1, units=True, gas=None, **compression):
        """HDF5 as Gadget-2 to 4 and AREPO write it, kpc/h; lengths in Mpc/h without `units`."""
        length = 1000 if units else 1
        header = {
            "BoxSize": self.box * length,
            "MassTable": np.array([0, self.mass, 0, 0, 0, 0]),
            "Time": self.a,
            "Redshift": 1 / self.a - 1,
            "Omega0": self.attrs["Omega0"],
            "OmegaLambda": self.attrs["OmegaLambda"],
            "HubbleParam": self.h,
            "NumFilesPerSnapshot": files,
            "NumPart_Total": _sixfold(self.size if gas is None else [gas.size, self.size]),
            "NumPart_Total_HighWord": np.zeros(6, "u4"),
        }
        if units:
            header["UnitLength_in_cm"] = 3.085678e21
            header["UnitMass_in_g"] = 1.989e43
            header["UnitVelocity_in_cm_per_s"] = 1e5
        for number, rows in enumerate(self.cuts(files)):
            name = f"{path}.hdf5" if files == 1 else f"{path}.{number}.hdf5"
            with h5py.File(name, "w") as file:
                kinds = {1: (self, rows)}
                if gas is not None and number == 0:
                    kinds[0] = (gas, slice(None))
                counts = [0] * 6
                for kind, (one, part) in kinds.items():
                    counts[kind] = len(one.ids[part])
                    if not counts[kind]:
                        continue
                    group = file.create_group(f"PartType{kind}")
                    position = (one.position[part] * length).astype("f4" if units else "f8")
                    group.create_dataset("Coordinates", data=position, **compression)
                    group.create_dataset(
                        "Velocities", data=one.velocity[part] / np.sqrt(self.a), **compression
                    )
                    group.create_dataset("ParticleIDs", data=one.ids[part], **compression)
                file.create_group("Header").attrs.update(
                    header, NumPart_ThisFile=np.array(counts, "u4")
                )

    def gadget4(self, path):
        """Gadget-4: cosmology and units in Parameters, masses particle by particle, Mpc/h."""
        self.gadget_hdf5(path, units=False)
        with h5py.File(f"{path}.hdf5", "a") as file:
            header, parameters = file["Header"].attrs, file.create_group("Parameters").attrs
            for name in ("Omega0", "OmegaLambda", "HubbleParam"):
                parameters[name] = header[name]
                del header[name]
            del header["NumPart_Total_HighWord"]
            header["MassTable"] = np.zeros(2)
            header["NumPart_Total"] = np.array([0, self.size], "u8")
            header["NumPart_ThisFile"] = np.array([0, self.size], "u8")
            parameters["UnitLength_in_cm"] = 3.085678e24
            parameters["UnitMass_in_g"], parameters["UnitVelocity_in_cm_per_s"] = 1.989e43, 1e5
            parameters["OmegaBaryon"] = self.attrs["OmegaBaryon"]
            file["PartType1"]["Masses"] = np.full(self.size, self.mass)

    def gadget4_integers(self, path, bits):
        """Gadget-4 with OUTPUT_COORDINATES_AS_INTEGERS."""
        self.gadget4(path)
        with h5py.File(f"{path}.hdf5", "a") as file:
            del file["PartType1/Coordinates"]
            whole = np.floor(self.position / self.box * 2.0**bits)
            file["PartType1/Coordinates"] = whole.astype(f"u{bits // 8}")

    def eagle(self, path):
        """EAGLE: Time is the age, units in a group of their own, names in the singular."""
        self.gadget_hdf5(path)
        with h5py.File(f"{path}.hdf5", "a") as file:
            header, units = file["Header"].attrs, file.create_group("Units").attrs
            header["Time"], header["ExpansionFactor"] = 3.23, self.a
            for name in [name for name in header if name.startswith("Unit")]:
                units[name] = header[name]
                del header[name]
            file.move("PartType1/Velocities", "PartType1/Velocity")

    def swift(self, path, files=1):
        """SWIFT: comoving Mpc and Msun without h, peculiar velocities, arrays of one everywhere.

        Of several files, a virtual file `path`.hdf5 shows all.
        """
        length = 1 / self.h
        names = [f"{path}.hdf5"]
        if files > 1:
            names = [f"{path}.{number}.hdf5" for number in range(files)]
        counts = []
        for name, rows in zip(names, self.cuts(files)):
            with h5py.File(name, "w") as file:
                counts.append(len(self.ids[rows]))
                self._swift_header(file, counts[-1], files)
                group = file.create_group("PartType1")
                group["Coordinates"] = self.position[rows] * length
                group["Velocities"] = self.velocity[rows]
                group["ParticleIDs"] = self.ids[rows].astype("i8")
                group["Masses"] = np.full(counts[-1], self.mass / self.h, "f4")
                file["DMParticles"] = h5py.SoftLink("/PartType1")
        if files > 1:
            with h5py.File(f"{path}.hdf5", "w") as file:
                self._swift_header(file, self.size, 1)
                group = file.create_group("PartType1")
                for column in ("Coordinates", "Velocities", "ParticleIDs", "Masses"):
                    with h5py.File(names[-1]) as last:
                        kind, shape = (
                            last["PartType1"][column].dtype,
                            last["PartType1"][column].shape,
                        )
                    layout = h5py.VirtualLayout((self.size, *shape[1:]), kind)
                    first = 0
                    for name, count in zip(names, counts):
                        if count:
                            layout[first : first + count] = h5py.VirtualSource(
                                name.split("/")[-1], f"PartType1/{column}", (count, *shape[1:])
                            )
                        first += count
                    group.create_virtual_dataset(column, layout)

    def _swift_header(self, file, count, files):
        file.create_group("Header").attrs.update(
            {
                "Code": np.bytes_("SWIFT"),
                "BoxSize": np.full(3, self.box / self.h),
                "NumPart_ThisFile": np.array([0, count, 0, 0, 0, 0, 0]),
                "NumPart_Total": np.array([0, self.size, 0, 0, 0, 0, 0], "u4"),
                "NumPart_Total_HighWord": np.zeros(7, "u4"),
                "MassTable": np.zeros(7),
                "NumFilesPerSnapshot": np.array([files]),
                "Redshift": np.array([1 / self.a - 1]),
                "Scale-factor": np.array([self.a]),
                "Time": np.array([0.0034]),  # the age, in internal units
            }
        )
        file.create_group("Cosmology").attrs.update(
            {
                "Omega_m": np.array([self.attrs["Omega0"]]),
                "Omega_b": np.array([self.attrs["OmegaBaryon"]]),
                "Omega_lambda": np.array([self.attrs["OmegaLambda"]]),
                "h": np.array([self.h]),
                "Scale-factor": np.array([self.a]),
            }
        )
        file.create_group("Units").attrs.update(
            {
                "Unit length in cgs (U_L)": np.array([MPC]),
                "Unit mass in cgs (U_M)": np.array([1e10 * SOLAR_MASS]),
                "Unit time in cgs (U_t)": np.array([MPC / 1e5]),
            }
        )

    def gadget_binary(self, path, files=1, format2=False, order="<", gadget4=False, total=True):
        """Gadget's binary, kpc/h; with the header of Gadget-4, or without the total of particles."""
        for number, rows in enumerate(self.cuts(files)):
            count = len(self.ids[rows])
            kind = np.dtype(_GADGET4_HEADER if gadget4 else _BINARY_HEADER).newbyteorder(order)
            header = np.zeros((), kind)
            header["Npart"][1], header["Nall"][1] = count, self.size * total
            header["Massarr"][1] = self.mass
            header["Time"], header["Redshift"] = self.a, 1 / self.a - 1
            header["NumFiles"], header["BoxSize"] = files, self.box * 1000
            if not gadget4:
                for name in ("Omega0", "OmegaLambda", "HubbleParam"):
                    header[name] = self.attrs[name]
            blocks = [
                ("HEAD", header.tobytes().ljust(0 if gadget4 else 256, b"\0")),
                ("POS ", (self.position[rows] * 1000).astype(order + "f4").tobytes()),
                ("VEL ", (self.velocity[rows] / np.sqrt(self.a)).astype(order + "f4").tobytes()),
                ("ID  ", self.ids[rows].astype(order + ("u8" if gadget4 else "u4")).tobytes()),
            ]
            with open(path if files == 1 else f"{path}.{number}", "wb") as file:
                for name, content in blocks:
                    if format2:
                        text = name.encode() + np.array(len(content) + 8, order + "i4").tobytes()
                        _record(file, text, order)
                    _record(file, content, order)

    def parameters(self, folder):
        """What Gadget writes beside its snapshots."""
        told = {name: self.attrs[name] for name in ("Omega0", "OmegaLambda", "OmegaBaryon")}
        told |= {"HubbleParam": self.h, "BoxSize": self.box * 1000, "OutputDir": "./out/"}
        text = "".join(f"{name:<36}{value}\n" for name, value in told.items())
        (folder / "parameters-usedvalues").write_text(text)


_BINARY_HEADER = [
    ("Npart", "u4", 6),
    ("Massarr", "f8", 6),
    ("Time", "f8"),
    ("Redshift", "f8"),
    ("flags", "i4", 2),
    ("Nall", "u4", 6),
    ("FlagCooling", "i4"),
    ("NumFiles", "i4"),
    ("BoxSize", "f8"),
    ("Omega0", "f8"),
    ("OmegaLambda", "f8"),
    ("HubbleParam", "f8"),
]


_GADGET4_HEADER = [
    ("Npart", "u8", 6),
    ("Nall", "u8", 6),
    ("Massarr", "f8", 6),
    ("Time", "f8"),
    ("Redshift", "f8"),
    ("BoxSize", "f8"),
    ("NumFiles", "i4"),
    ("trees", "i4", 5),
]


def _record(file, content, order):
    length = np.array(len(content), order + "i4").tobytes()
    file.write(length + content + length)


def _sixfold(counts):
    """NumPart_Total for dark matter, or for gas and dark matter."""
    counts = np.atleast_1d(counts)
    total = np.zeros(6, "u4")
    total[1 if len(counts) == 1 else slice(0, 2)] = counts if len(counts) > 1 else counts[0]
    return total


def x_slowest(base=1, step=1):
    """A numbering in C order."""
    return lambda site, N: ((site[:, 0] * N + site[:, 1]) * N + site[:, 2]) * step + base


def z_slowest(base=1, step=1):
    """A numbering in Fortran order."""
    return lambda site, N: ((site[:, 2] * N + site[:, 1]) * N + site[:, 0]) * step + base
