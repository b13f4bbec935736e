"""Matched LR and HR fields on their lattices, kept as memory-mapped files.

A pair is a folder::

    lr.npy          (C, N, N, N) float32     displacement [Mpc/h], then peculiar velocity [km/s]
    hr.npy          (C, fN, fN, fN) float32  the same of the HR run, on the lattice that a
                                             cell-centred upsampling of the LR lattice gives
    manifest.json   box, time, cosmology, seed and origin of both; written last
"""

import glob
import json
import os
from copy import copy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..io.atomic import disk
from ..io.preflight import PAIR, prepare_output
from ..io.staging import staged
from ..lattice import LagrangianLattice

MANIFEST = "manifest.json"
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
                "make it again with write_pair or `nbodykit-sr pairs`"
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

    def _open(self, name):
        try:
            return np.load(self.folder / f"{name}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder / name}.npy cannot be read ({error})") from None


def open_pairs(patterns, channels=None, factor=0) -> list[Pair]:
    """Open the pairs that the glob `patterns` match, sorted, all of one kind.

    Parameters
    ----------
    patterns : sequence of str
        A pair that several match is there several times: it is drawn as much more often.
    channels : int, optional
        Channels that are needed; pairs with more are fine.
    factor : int
        Average HR fields to this smaller factor; 0: leave them as they are.

    Raises
    ------
    InputError
        If nothing matches, factor, cell size or cosmology differ between pairs, or the factor does
        not divide theirs.
    """
    folders = sorted(folder for pattern in patterns for folder in glob.glob(str(pattern)))
    if not folders:
        raise InputError(f"no pairs match {list(patterns)}: name folders that hold a {MANIFEST}")
    opened = {folder: Pair(folder) for folder in folders}
    pairs = [opened[folder] for folder in folders]
    first = pairs[0].manifest
    for pair in pairs:
        for name in ("factor", "cell", "Omega_m"):
            one, other = getattr(first, name), getattr(pair.manifest, name)
            if abs(one - other) > 1e-4 * abs(one):
                raise InputError(
                    f"{name} is {other} in {pair.folder} and {one} in {pairs[0].folder}: "
                    "a model is trained on pairs of one kind"
                )
        if channels is not None and pair.manifest.channels < channels:
            raise InputError(
                f"{pair.folder} has {pair.manifest.channels} channels, {channels} are wanted: "
                "make pairs with velocities, or set channels = 3"
            )
    if factor:
        coarse = {pair: _coarse(pair, factor) for pair in {*pairs}}
        pairs = [coarse[pair] for pair in pairs]
    return pairs


def _coarse(pair, factor):
    """The pair with its HR field averaged to a lattice `factor` times finer than LR."""
    manifest = pair.manifest
    if not 0 < factor < manifest.factor or manifest.factor % factor:
        raise InputError(
            f"pairs.factor is {factor}: a divisor of the pairs' factor {manifest.factor} needed"
        )
    ratio, size = manifest.factor // factor, factor * manifest.Nmesh
    out = copy(pair)
    out.manifest = replace(manifest, factor=factor)
    out.hr = np.empty((len(pair.hr), size, size, size), np.float32)
    for averaged, channel in zip(out.hr, pair.hr):
        averaged[:] = channel.reshape(size, ratio, size, ratio, size, ratio).mean((1, 3, 5))
    return out


def write_pair(
    folder, lr, hr, BoxSize, a, Omega_m, source, seed=None, lr_offset=0.5, hr_offset=0.5
) -> Manifest:
    """Check and write one pair of matched fields.

    Parameters
    ----------
    folder : path
        To be made; must not exist.
    lr : (C, N, N, N) array
        LR displacement, comoving [Mpc/h], in C = 3 channels, and for C = 6 the peculiar
        velocity [km/s] after it; indexed by Lagrangian site, x first.
    hr : (C, fN, fN, fN) array
        The same of the HR run.
    BoxSize : float
        Comoving [Mpc/h].
    a : float
        Scale factor.
    Omega_m : float
    source : str
        "particle-mesh", "TreePM" or other words that say how the runs were made.
    seed : int, optional
        Of the initial conditions.
    lr_offset, hr_offset : float
        Where in its cell a site of each lattice lies. 0.5 with 0.5 is the good case.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        If shapes, lattices or phases do not match, or a field holds a NaN.
    """
    channels, factor = _check_shapes(lr, hr)
    lattice = LagrangianLattice(lr.shape[1], float(BoxSize), float(lr_offset))
    shift = alignment(lattice, factor, hr_offset)
    prepare_output(folder, None, PAIR, parents=True)
    with staged(folder, PAIR) as partial, disk(folder):
        np.save(partial / "lr.npy", np.asarray(lr, dtype=np.float32))
        out = new_field(partial / "hr.npy", hr.shape)
        for c in range(channels):
            out[c] = np.roll(hr[c], (shift,) * 3, axis=(0, 1, 2)) if shift else hr[c]
        out.flush()
        return describe_pair(partial, lattice, factor, a, Omega_m, source, seed)


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
        one, other = np.fft.fftn(lr[c])[low], np.fft.fftn(blocks)[low]
        cross += np.vdot(one, other).real
        power_lr += np.vdot(one, one).real
        power_hr += np.vdot(other, other).real
    total = np.sqrt(power_lr * power_hr)
    return float(cross / total) if total > 0 else 0.0


def _check_shapes(lr, hr):
    """Channels and factor of two fields that fit each other."""
    lr_shape, hr_shape = tuple(np.shape(lr)), tuple(np.shape(hr))
    for name, shape in (("LR", lr_shape), ("HR", hr_shape)):
        if len(shape) != 4 or shape[0] not in (3, 6) or len(set(shape[1:])) != 1:
            raise InputError(f"the {name} field has shape {shape}: (3 or 6, N, N, N) is needed")
    factor, rest = divmod(hr_shape[1], lr_shape[1])
    if rest or factor < 2 or factor & (factor - 1):
        raise InputError(
            f"HR has {hr_shape[1]} and LR {lr_shape[1]} sites on a side: "
            "a ratio of 2, 4, 8 or another power of 2 is needed"
        )
    if hr_shape[0] != lr_shape[0]:
        raise InputError(f"LR has {lr_shape[0]} channels and HR {hr_shape[0]}: 3 or 6 in both")
    return lr_shape[0], factor
