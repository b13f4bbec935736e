"""BigFile snapshots: MP-Gadget's, FastPM's, and the catalogues of this package."""

import hashlib
import os
from dataclasses import dataclass

import bigfile
import numpy as np

from ...errors import InputError, one_line
from ...provenance import NAMES
from ..checks import attributes, check_block
from .header import (
    GADGET_MASS,
    KPC,
    RawHeader,
    SnapshotHeader,
    catalogue_attrs,
    in_mpc,
    refuse_cone,
)
from .readings import fitting


@dataclass(frozen=True, kw_only=True)
class BigFileHeader(SnapshotHeader):
    """Header of a BigFile; `blocks` maps a column to the `BlockHeader` of its block."""

    blocks: dict

    @classmethod
    def read(cls, path, dataset=None) -> "BigFileHeader":
        """Read and check a header; on one rank, no communication.

        Parameters
        ----------
        path : str or Path
        dataset : str, optional
            Prefix of the columns: "1/" (dark matter), or the root where Position is there.
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
        refuse_cone(path, raw)
        blocks = {}
        for name in ("Position", "Velocity", "ID"):
            folder = os.path.join(path, dataset, name)
            if os.path.isdir(folder):
                blocks[name] = check_block(folder, members=1 if name == "ID" else 3)
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
        headers = [f"{dataset}{name}/header" for name in blocks]
        identity = fingerprint(path, ["Header/attr-v2", *headers])
        readings = {}
        for name, units in _readings(path, dataset, raw).items():
            readings[name] = cls(
                path=path,
                dataset=dataset,
                columns=tuple(blocks),
                size=size,
                **units,
                identity=identity,
                raw=raw,
                blocks=blocks,
            )
        return fitting(path, readings)

    @property
    def checksums(self) -> list[tuple[str, int, int]]:
        return [file for block in self.blocks.values() for file in block.checksums]

    def stored_rows(self, name, start, stop) -> np.ndarray:
        try:
            with bigfile.File(self.path) as file, file[self.dataset + name] as block:
                return block[start:stop]
        except (bigfile.Error, OSError) as error:
            line = one_line(error)
            raise InputError(
                f"block {self.dataset}{name} of {self.path} is unreadable: {line}"
            ) from None


def _check_folder(path):
    unfinished = path.rstrip("/") + ".partial"
    partial = path.rstrip("/").endswith(".partial") and os.path.isdir(path)
    if partial or os.path.isfile(os.path.join(path, "../run.json")):
        raise InputError(f"{path} is of a run that stopped midway: finish it with --resume")
    if not os.path.isdir(path):
        if os.path.isdir(unfinished):
            raise InputError(
                f"snapshot {path} is unfinished: its run stopped midway; finish it with --resume"
            )
        raise InputError(
            f"snapshot {path} does not exist: give the folder of a BigFile, such as PART_008, or files of "
            "another code"
        )
    if not os.path.isfile(os.path.join(path, "Header", "attr-v2")):
        raise InputError(
            f"snapshot {path} has no Header: it is no BigFile, or an incomplete one, and holds no files of "
            "another code"
        )


def fingerprint(path, names) -> str:
    """SHA-256 of some files of a folder: headers, which hold the checksums of the rest."""
    digest = hashlib.sha256()
    for name in names:
        with open(os.path.join(path, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def _readings(path, dataset, raw):
    """Possible units of a snapshot: a description of each to length, velocity and attrs of the header.

    Without units in the header, a BoxSize of three numbers suggests nbodykit, which writes Mpc/h and
    peculiar km/s, and a single number MP-Gadget; the other one is tried next.
    """
    header = RawHeader(path, raw)
    box, a = header.numbers("BoxSize"), header.scale_factor()
    velocity = header.positive("UnitVelocity_in_cm_per_s", default=1e5) / 1e5
    gadgets = velocity
    if not header.number("UsePeculiarVelocity", default=0):
        # without the flag MP-Gadget writes a times the peculiar velocity in snapshots, and
        # 1 / sqrt(a) times it in initial conditions, which have no TimeIC
        gadgets *= 1 / a if "TimeIC" in raw else np.sqrt(a)
    if NAMES["layout"] in raw and dataset == "" and "UnitLength_in_cm" not in raw:
        readings = {"Mpc/h": (1.0, 1.0)}
    elif "UnitLength_in_cm" in raw:
        length = in_mpc(header.positive("UnitLength_in_cm"))
        readings = {"those of its Header": (length, gadgets)}
    else:
        readings = {"kpc/h": (in_mpc(KPC), gadgets), "Mpc/h": (1.0, velocity)}
        if len(box) == 3:
            readings = dict(reversed(readings.items()))
    attrs = catalogue_attrs(path, header, box, a, _particle_mass(header, dataset))
    box = attrs["BoxSize"]
    return {
        name: {"length": length, "velocity": speed, "attrs": {**attrs, "BoxSize": box * length}}
        for name, (length, speed) in readings.items()
    }


def _particle_mass(header, dataset):
    """[1e10 Msun/h], or None where it is unknown."""
    kind = int(dataset[0]) if dataset[:1].isdigit() else 1
    unit = header.number("UnitMass_in_g", default=GADGET_MASS) / GADGET_MASS
    mass = header.number("ParticleMass") if "ParticleMass" in header else None
    masses = np.ravel(header.get("MassTable", []))
    kind = kind if len(masses) > 1 else 0
    if kind < len(masses) and np.isfinite(masses[kind]) and masses[kind] > 0:
        mass = float(masses[kind]) * unit
    return mass
