"""MP-Gadget snapshots, and catalogues written by this package, as nbodykit catalogues."""

import hashlib
import os
from dataclasses import dataclass

import bigfile
import dask
import dask.array as da
import numpy as np
from nbodykit import CurrentMPIComm
from nbodykit.base.catalog import CatalogSource

from ..errors import InputError, agreement, one_line
from .checks import attributes, check_block, file_sum

# Rows of a column that one dask task reads
ROWS = 2**21

_MPC_IN_CM = 3.085678e24
_MPGADGET_LENGTH = 3.085678e21  # kpc
_MPGADGET_MASS = 1.989e43  # 1e10 Msun


@dataclass(frozen=True)
class SnapshotHeader:
    """What a snapshot's header says, in nbodykit's units.

    Attributes
    ----------
    path, dataset : str
        The BigFile and the prefix of its columns: "1/" for MP-Gadget's dark matter, "" at the root.
    blocks : dict
        Column to the `BlockHeader` of its block.
    size : int
        Particles.
    length, velocity : float
        What turns the file's positions into comoving Mpc/h, its velocities into peculiar km/s.
    attrs : dict
        For the catalogue: BoxSize (3) [Mpc/h], Time, Redshift, Omega0, OmegaLambda, OmegaBaryon,
        HubbleParam, ParticleMass [1e10 Msun/h] where known; in files of this package also how
        they were made.
    """

    path: str
    dataset: str
    blocks: dict
    size: int
    length: float
    velocity: float
    attrs: dict
    raw: dict
    identity: str

    @classmethod
    def read(cls, path, dataset=None):
        """Read and check a header; on one rank, no communication.

        Raises
        ------
        InputError
        """
        path = os.fspath(path)
        _check_folder(path)
        if dataset is None:
            dataset = "" if os.path.isdir(os.path.join(path, "Position")) else "1/"
        dataset = dataset.strip("/") + "/" if dataset.strip("/") else ""
        if ".." in dataset.split("/") or dataset.startswith("/"):
            raise InputError(
                f"dataset is {dataset!r}: a folder inside the snapshot is needed, such as '1/'"
            )
        raw = attributes(os.path.join(path, "Header"))
        blocks = {}
        for name in ("Position", "Velocity", "ID"):
            folder = os.path.join(path, dataset, name)
            if os.path.isdir(folder):
                blocks[name] = check_block(folder, vector=name != "ID")
        if "Position" not in blocks:
            raise InputError(
                f"snapshot {path} has no block {dataset}Position: choose the particle type with dataset='1/'"
            )
        size = sum(blocks["Position"].rows)
        for name, block in blocks.items():
            if sum(block.rows) != size:
                raise InputError(
                    f"snapshot {path}: block {dataset}{name} has {sum(block.rows)} rows but Position has "
                    f"{size}: it is truncated"
                )
        attrs, length, velocity = _units(path, dataset, raw)
        identity = _identity(path, [f"{dataset}{name}/header" for name in blocks])
        return cls(path, dataset, blocks, size, length, velocity, attrs, raw, identity)

    @property
    def columns(self):
        """Names of the columns."""
        return tuple(self.blocks)

    def rows(self, name, start, stop):
        """Rows of a column in nbodykit's units: Position float64, Velocity float32, ID uint64."""
        try:
            with bigfile.File(self.path) as file, file[self.dataset + name] as block:
                values = block[start:stop]
        except (bigfile.Error, OSError) as error:
            line = one_line(error)
            raise InputError(
                f"block {self.dataset}{name} of {self.path} is unreadable: {line}"
            ) from None
        if name == "Position":
            return values.astype("f8") * self.length
        if name == "Velocity":
            return (values * np.float64(self.velocity)).astype("f4")
        return values.reshape(-1).astype("u8")


class SnapshotCatalog(CatalogSource):
    """A snapshot as an nbodykit catalogue; every rank reads its own slice, when it is computed.

    Columns: Position [comoving Mpc/h], Velocity [peculiar km/s], ID. Made by `open_snapshot`.
    """

    def __init__(self, header, comm):
        self.comm = comm
        self.attrs.update(header.attrs)
        self.header = header
        self._start = comm.rank * header.size // comm.size
        self._size = (comm.rank + 1) * header.size // comm.size - self._start
        CatalogSource.__init__(self, comm=comm)

    def check_sums(self):
        """Compare the bytes of all columns with the checksums in their headers. Collective.

        Raises
        ------
        InputError
            On every rank: the file that was damaged or changed.
        """
        files = [(b, n) for b in self.header.blocks.values() for n in range(len(b.rows))]
        sums = np.zeros(len(files), "u8")
        with agreement(self.comm):
            for i, (block, number) in enumerate(files):
                size = block.rows[number] * block.width
                first, last = (size * (self.comm.rank + n) // self.comm.size for n in (0, 1))
                try:
                    sums[i] = file_sum(block.file(number), first, last)
                except OSError as error:
                    raise InputError(f"{block.file(number)} is unreadable: {error}") from None
        for (block, number), total in zip(files, self.comm.allreduce(sums) % 2**32):
            if total != block.sums[number]:
                raise InputError(
                    f"{block.file(number)} has checksum {total} but its header says {block.sums[number]}: it "
                    "was damaged or changed after it was written; copy it again"
                )

    @property
    def hardcolumns(self):
        return [*self.header.columns, *CatalogSource.hardcolumns.fget(self)]

    def get_hardcolumn(self, col):
        if col not in self.header.columns:
            return CatalogSource.get_hardcolumn(self, col)
        dtype = {"Position": "f8", "Velocity": "f4", "ID": "u8"}[col]
        stop = self._start + self._size
        pieces = []
        for first in range(self._start, stop, ROWS):
            last = min(first + ROWS, stop)
            shape = (last - first,) if col == "ID" else (last - first, 3)
            rows = dask.delayed(self.header.rows, pure=True, traverse=False)(col, first, last)
            pieces.append(da.from_delayed(rows, shape, dtype))
        if not pieces:
            return da.zeros((0,) if col == "ID" else (0, 3), dtype=dtype)
        return da.concatenate(pieces)

    def __repr__(self):
        return f"SnapshotCatalog(size={self.size}, path={self.attrs['source']!r})"


def open_snapshot(path, comm=None, dataset=None):
    """Open an MP-Gadget snapshot, or a catalogue written by this package.

    Parameters
    ----------
    path : str or Path
        A BigFile folder, such as PART_008.
    comm : mpi4py.MPI.Comm, optional
        nbodykit's current communicator by default. Collective.
    dataset : str, optional
        Prefix of the columns: "1/" (dark matter) by default, or the root in nbodykit's layout.

    Returns
    -------
    SnapshotCatalog
        In nbodykit's units whatever the file's: Mpc/h, peculiar km/s, BoxSize of length 3.

    Raises
    ------
    InputError
        On every rank: no snapshot, no header, no BoxSize, blocks missing, truncated or damaged,
        an unfinished output of this package.
    """
    comm = CurrentMPIComm.get() if comm is None else comm
    header = None
    with agreement(comm):
        if comm.rank == 0:
            header = SnapshotHeader.read(path, dataset)
    return SnapshotCatalog(comm.bcast(header), comm)


def cosmology(attrs):
    """The nbodykit Cosmology of a snapshot's attrs (for FOF catalogues and redshift space)."""
    from nbodykit.cosmology import Cosmology

    h, baryons = attrs["HubbleParam"], attrs["OmegaBaryon"]
    return Cosmology(h=h, Omega0_b=baryons, Omega0_cdm=attrs["Omega0"] - baryons, m_ncdm=[])


def _check_folder(path):
    unfinished = path.rstrip("/") + ".partial"
    if path.rstrip("/").endswith(".partial") or os.path.isfile(os.path.join(path, "../run.json")):
        raise InputError(
            f"{path} is of a run that stopped midway: finish it with generate --resume"
        )
    if not os.path.isdir(path):
        if os.path.isdir(unfinished):
            raise InputError(
                f"snapshot {path} is unfinished: its run stopped midway; finish it with generate --resume"
            )
        raise InputError(
            f"snapshot {path} does not exist: give the folder of a BigFile, such as PART_008"
        )
    if not os.path.isfile(os.path.join(path, "Header", "attr-v2")):
        raise InputError(
            f"snapshot {path} has no Header: it is no MP-Gadget BigFile, or an incomplete one"
        )


def _identity(path, headers):
    digest = hashlib.sha256()
    for name in ["Header/attr-v2", *headers]:
        with open(os.path.join(path, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _units(path, dataset, raw):
    """Catalogue attrs, and the factors from the file's units."""

    def number(name, default=None):
        if name not in raw and default is None:
            raise InputError(f"the Header of {path} has no {name}: it is no snapshot of MP-Gadget")
        try:
            value = float(np.ravel(raw.get(name, default))[0])
        except (ValueError, TypeError, IndexError):
            value = np.nan
        if not np.isfinite(value):
            raise InputError(
                f"{name} in the Header of {path} is {raw[name]}: a finite number is needed"
            )
        return value

    ours = "SRLayout" in raw and dataset == ""
    kind = int(dataset[0]) if dataset[:1].isdigit() else 1
    unit_length = _MPC_IN_CM if ours else number("UnitLength_in_cm", _MPGADGET_LENGTH)
    unit_velocity = 1e5 if ours else number("UnitVelocity_in_cm_per_s", 1e5)
    unit_mass = number("UnitMass_in_g", _MPGADGET_MASS)
    # MP-Gadget writes a kpc of four digits or of seven: a length unit within that of a power of
    # ten of kpc is that power, so that sizes do not come out as 99.99996 Mpc/h.
    length = unit_length / _MPC_IN_CM
    power = 10.0 ** round(np.log10(length)) if length > 0 else np.nan
    length = power if abs(length / power - 1) < 1e-3 else length
    box, a = number("BoxSize") * length, number("Time")
    for name, value in (("BoxSize", box), ("Time", a), ("UnitVelocity_in_cm_per_s", unit_velocity)):
        if not value > 0:
            raise InputError(
                f"{name} in the Header of {path} is {value:g}: a positive number is needed"
            )
    for name in ("Omega0", "HubbleParam"):
        if not 0 < number(name) < 2:
            raise InputError(
                f"{name} in the Header of {path} is {number(name):g}: a number between 0 and 2 is needed"
            )
    if a > 2:
        raise InputError(f"Time in the Header of {path} is {a:g}: a scale factor is needed")
    velocity = unit_velocity / 1e5
    if not ours and not number("UsePeculiarVelocity", 0):
        # without the flag MP-Gadget writes a times the peculiar velocity in snapshots, and
        # 1 / sqrt(a) times it in initial conditions, which have no TimeIC
        velocity *= 1 / a if "TimeIC" in raw else np.sqrt(a)
    attrs = {
        "BoxSize": np.full(3, box),
        "Time": a,
        "Redshift": 1 / a - 1,
        "Omega0": number("Omega0"),
        "OmegaLambda": number("OmegaLambda", 1 - number("Omega0")),
        "OmegaBaryon": number("OmegaBaryon", 0.0),
        "HubbleParam": number("HubbleParam"),
        "source": path,
    }
    if "ParticleMass" in raw:
        attrs["ParticleMass"] = number("ParticleMass")
    masses = np.ravel(raw.get("MassTable", []))
    if kind < len(masses) and np.isfinite(masses[kind]) and masses[kind] > 0:
        attrs["ParticleMass"] = float(masses[kind]) * unit_mass / _MPGADGET_MASS
    for name in raw:
        if name.startswith("SR"):
            value = raw[name]
            attrs[name] = (
                value if isinstance(value, str) or np.size(value) != 1 else np.ravel(value)[0]
            )
    return attrs, length, velocity
