"""Matched LR and HR fields on their lattices, kept as memory-mapped files.

A pair is a folder::

    lr.npy          (C, N, N, N) float32     displacement [Mpc/h], then peculiar velocity [km/s]
    hr.npy          (C, fN, fN, fN) float32  the same of the HR run, on the lattice that a
                                             cell-centred upsampling of the LR lattice gives
    manifest.json   box, time, cosmology, seed and origin of both; written last

and, for models that are given the phases,

    ic.npy          (3, fN, fN, fN) float32  displacement of HR's initial conditions by linear theory
                                             at the pair's time [Mpc/h]
    power.npy       (2, n) float64           k [h/Mpc] and the linear P(k) [(Mpc/h)^3] of that time
"""

import glob
import json
import os
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..lattice import LagrangianLattice
from ..physics.power import LinearPower

MANIFEST, POWER = "manifest.json", "power.npy"
# Offsets of snapshots are measured from mean displacements, to 1e-4 LR cells
OFFSET_TOLERANCE = 0.01
# Runs from the same phases agree better than this on the largest scales
MATCHED = 0.98


@dataclass(frozen=True)
class Manifest:
    """What a pair of fields is.

    Attributes
    ----------
    BoxSize : float
        Comoving [Mpc/h].
    a : float
        Scale factor of both snapshots.
    Omega_m : float
        Matter density today.
    Nmesh : int
        LR sites on a side.
    factor : int
        HR sites per LR site, on a side.
    channels : int
        3 (displacement) or 6 (and velocity).
    offset : float
        Of the LR lattice, in LR cells; HR sites are at ``lattice.refine(factor)``.
    source : str
        How the runs were made, such as "particle-mesh" or "TreePM".
    seed : int or None
        Of the initial conditions.
    cross_correlation : float
        Of the LR and HR displacements on the largest scales.
    """

    BoxSize: float
    a: float
    Omega_m: float
    Nmesh: int
    factor: int
    channels: int
    offset: float = 0.5
    source: str = "unknown"
    seed: int | None = None
    cross_correlation: float = 1.0

    @property
    def lattice(self) -> LagrangianLattice:
        """The LR lattice."""
        return LagrangianLattice(self.Nmesh, self.BoxSize, self.offset)

    @property
    def cell(self) -> float:
        """LR lattice spacing, comoving [Mpc/h]."""
        return self.lattice.cell


class Pair:
    """A pair folder, opened: ``lr`` and ``hr`` are memory maps and ``manifest`` a `Manifest`.

    Raises
    ------
    InputError
        If the folder is no complete pair.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        try:
            self.manifest = Manifest(**json.loads((self.folder / MANIFEST).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{folder} is no complete pair of fields ({error}): "
                "make it again with `nbodykit-sr pairs`"
            ) from None
        m = self.manifest
        for name, size in (("lr", m.Nmesh), ("hr", m.Nmesh * m.factor)):
            wanted = (m.channels, size, size, size)
            if getattr(self, name).shape != wanted:
                raise InputError(
                    f"{self.folder / name}.npy has shape {getattr(self, name).shape}, its manifest "
                    f"says {wanted}: make the pair again"
                )

    @cached_property
    def lr(self) -> np.ndarray:
        """(C, N, N, N) float32 memory map: displacement [Mpc/h], velocity [km/s]."""
        return self._open("lr")

    @cached_property
    def hr(self) -> np.ndarray:
        """(C, fN, fN, fN) float32 memory map: displacement [Mpc/h], velocity [km/s]."""
        return self._open("hr")

    @cached_property
    def ic(self) -> np.ndarray:
        """(3, fN, fN, fN) float32 memory map: HR's displacement by linear theory [Mpc/h]."""
        return self._open("ic")

    @cached_property
    def power(self) -> LinearPower:
        """The linear power spectrum at the pair's time."""
        k, table = self._open("power")
        return LinearPower(k, table, str(self.folder))

    def _open(self, name):
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / name}.npy cannot be read ({error})") from None


def open_pairs(patterns, channels=None, any_universe=False) -> list[Pair]:
    """Open the pairs that the glob `patterns` match, sorted, all of one kind.

    Parameters
    ----------
    patterns : sequence of str
        A pair that several match is there several times: it is drawn as much more often.
    channels : int, optional
        Channels that are needed; pairs with more are fine.
    any_universe : bool
        Pairs may be of several LR cells and cosmologies.

    Raises
    ------
    InputError
        If nothing matches, or factor, cell size or cosmology differ between pairs.
    """
    folders = sorted(folder for pattern in patterns for folder in glob.glob(str(pattern)))
    if not folders:
        raise InputError(f"no pairs match {list(patterns)}: name folders that hold a {MANIFEST}")
    opened = {folder: Pair(folder) for folder in folders}
    pairs = [opened[folder] for folder in folders]
    first = pairs[0].manifest
    for pair in pairs:
        for name in ("factor",) if any_universe else ("factor", "cell", "Omega_m"):
            wanted, value = getattr(first, name), getattr(pair.manifest, name)
            if abs(wanted - value) > 1e-4 * abs(wanted):
                raise InputError(
                    f"{name} is {value} in {pair.folder} and {wanted} in {pairs[0].folder}: "
                    "a model is trained on pairs of one kind"
                )
        if channels is not None and pair.manifest.channels < channels:
            raise InputError(
                f"{pair.folder} has {pair.manifest.channels} channels, {channels} are wanted: "
                "make pairs with velocities, or set channels = 3"
            )
    return pairs


def new_field(path, shape) -> np.memmap:
    """A memory-mapped float32 .npy file to fill, for which the disk has room. Raises OSError."""
    field = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    # a map onto a full disk would end the process
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    return field


def describe_pair(folder, lattice, factor, a, Omega_m, source, seed) -> Manifest:
    """Check the fields written in a folder and write what they are.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        If they hold a NaN or their phases do not match.
    """
    folder = Path(folder)
    lr = np.load(folder / "lr.npy", mmap_mode="r")
    hr = np.load(folder / "hr.npy", mmap_mode="r")
    for name, field in (("LR", lr), ("HR", hr)):
        bad = sum(int(np.count_nonzero(~np.isfinite(channel))) for channel in field)
        if bad:
            raise InputError(f"{bad} values of the {name} field are not finite: finite ones needed")
    correlation = cross_correlation(lr, hr)
    if correlation < MATCHED:
        raise InputError(
            f"LR and HR displacements correlate by {correlation:.3f} on the largest scales, at "
            f"least {MATCHED} is wanted: start both runs from the same phases"
        )
    manifest = Manifest(
        BoxSize=float(lattice.BoxSize),
        a=float(a),
        Omega_m=float(Omega_m),
        Nmesh=lattice.Nmesh,
        factor=factor,
        channels=lr.shape[0],
        offset=float(lattice.offset),
        source=source,
        seed=None if seed is None else int(seed),
        cross_correlation=round(correlation, 5),
    )
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    return manifest


def alignment(lattice, factor, hr_offset) -> int:
    """How many sites to roll an HR field so that its lattice is ``lattice.refine(factor)``.

    Raises
    ------
    InputError
        If no whole number of sites does it: shifting by parts of a cell would smooth the field.
    """
    wanted = lattice.refine(factor).offset
    shift = hr_offset - wanted
    if abs(shift - round(shift)) > OFFSET_TOLERANCE:
        raise InputError(
            f"LR sites lie at {lattice.offset:.4f} and HR sites at {hr_offset:.4f} of their cells: "
            f"upsampling by {factor} puts HR sites at {wanted % 1:.4f}; start both runs from cell "
            "centres (PrePosGridCenter=1 of MP-GenIC)"
        )
    return round(shift)


def cross_correlation(lr, hr) -> float:
    """Correlation coefficient of LR and HR displacements in the modes below a quarter of the LR
    Nyquist wavenumber (the two lowest shells at least)."""
    size = lr.shape[1]
    factor = hr.shape[1] // size
    k = np.fft.fftfreq(size, 1 / size)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2)
    low = (radius > 0) & (radius <= max(2, size / 8))
    cross = power_lr = power_hr = 0.0
    for c in range(3):
        blocks = np.asarray(hr[c], dtype=np.float32)
        for axis in range(3):
            shape = blocks.shape[:axis] + (size, factor) + blocks.shape[axis + 1 :]
            blocks = blocks.reshape(shape).mean(axis=axis + 1)
        a, b = np.fft.fftn(lr[c])[low], np.fft.fftn(blocks)[low]
        cross += np.vdot(a, b).real
        power_lr += np.vdot(a, a).real
        power_hr += np.vdot(b, b).real
    total = np.sqrt(power_lr * power_hr)
    return float(cross / total) if total > 0 else 0.0
