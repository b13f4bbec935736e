"""Triplets of matched fields, initial conditions, LR and HR density, kept as memory-mapped files.

A triplet is a folder::

    lr.npy          (1, N, N, N) float32     1 + delta, points in the middle of eight HR points
    initial.npy     (1, 2N, 2N, 2N) float32  linear overdensity, extrapolated to z = 0
    moved.npy       (m, 2N, 2N, 2N) float32  the same moved with LR's particles, see `moved_overdensity`;
                                             for emulators that want it
    hr.npy          (1, 2N, 2N, 2N) float32  1 + delta
    manifest.json   box, time, cosmology, seed and origin; written last
"""

import json
from dataclasses import asdict
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from ..errors import InputError
from ..io.atomic import disk
from ..io.preflight import PAIR, prepare_output
from ..io.staging import staged
from ..training.pairs import MANIFEST, Pair, open_pairs


class Triplet(Pair):
    """A triplet folder, opened: a pair of densities, and ``initial.npy`` beside them.

    lr (1, N, N, N) and hr (1, 2N, 2N, 2N) are 1 + delta; initial (1, 2N, 2N, 2N) is the linear
    overdensity extrapolated to z = 0. The points of the LR mesh lie in the middle of eight of HR.
    """

    def __init__(self, folder):
        super().__init__(folder)
        shape = (1, *[self.manifest.Nmesh * 2] * 3)
        if self.initial.shape != shape:
            raise InputError(
                f"{self.folder / 'initial'}.npy has shape {self.initial.shape}, its manifest says "
                f"{shape}: make the triplet again"
            )

    @cached_property
    def initial(self) -> Float32[np.ndarray, "1 n n n"]:
        """Linear overdensity, extrapolated to z = 0: a memory map."""
        return self._open("initial")

    @cached_property
    def moved(self) -> Float32[np.ndarray, "m n n n"]:
        """The same moved with LR's particles: a memory map."""
        return self._open("moved")

    def small_scales(self, kmin) -> Float32[np.ndarray, "1 n n n"]:
        """The initial conditions without the modes of wavenumber below `kmin` [h/Mpc]."""
        if not kmin:
            return self.initial
        size = self.initial.shape[1]
        k = 2 * np.pi * np.fft.fftfreq(size, self.manifest.BoxSize / size)
        kz = 2 * np.pi * np.fft.rfftfreq(size, self.manifest.BoxSize / size)
        modes = np.fft.rfftn(self.initial[0])
        modes *= k[:, None, None] ** 2 + k[:, None] ** 2 + kz**2 >= kmin**2
        return np.fft.irfftn(modes, s=(size,) * 3, axes=(0, 1, 2)).astype(np.float32)[None]


def write_triplet(folder, manifest, lr, initial, hr, moved=None) -> None:
    """Check and write one triplet of matched fields.

    Parameters
    ----------
    folder : path
        To be made; must not exist.
    manifest : Manifest
        With `factor` 2 and one channel.
    lr : (N, N, N) array
        LR density 1 + delta, its points in the middle of eight HR points.
    initial : (2N, 2N, 2N) array
        Linear overdensity of the initial conditions, extrapolated to z = 0.
    hr : (2N, 2N, 2N) array
        HR density 1 + delta.
    moved : (m, 2N, 2N, 2N) array, optional
        The initial conditions moved with LR's particles, for each of the lengths `moved.LENGTHS`.

    Raises
    ------
    InputError
        If a field has a wrong shape or a NaN, or a density is negative or its mean not one.
    """
    size = manifest.Nmesh
    for name, array, sites in (
        ("LR", lr, size),
        ("initial", initial, 2 * size),
        ("HR", hr, 2 * size),
    ):
        if array.shape != (sites,) * 3:
            raise InputError(f"the {name} field has shape {array.shape}: {(sites,) * 3} is needed")
        if not np.isfinite(array).all():
            raise InputError(f"the {name} field is not finite everywhere: the run is damaged")
        if name != "initial" and not (array.min() >= 0 and abs(array.mean(dtype="f8") - 1) < 1e-3):
            raise InputError(
                f"the {name} density has mean {array.mean(dtype='f8'):g} and minimum "
                f"{array.min():g}: 1 + delta is needed"
            )
    prepare_output(folder, None, PAIR, parents=True)
    with staged(folder, PAIR) as partial, disk(folder):
        for name, array in (("lr", lr), ("initial", initial), ("hr", hr)):
            np.save(partial / f"{name}.npy", np.asarray(array, dtype=np.float32)[None])
        if moved is not None:
            np.save(partial / "moved.npy", np.asarray(moved, dtype=np.float32))
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n")


def open_triplets(patterns) -> list[Triplet]:
    """Open the triplets that the glob `patterns` match: see `open_pairs`."""
    return [Triplet(pair.folder) for pair in open_pairs(patterns)]
