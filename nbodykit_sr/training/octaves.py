"""The phases of a training pair: the initial conditions of its HR run, split into octaves."""

from collections import OrderedDict
from threading import Lock

import numpy as np
from scipy import fft

from ..phases import at_sites, octave_ratios, split

# How often the split into octaves is drawn anew for each pair
REALISATIONS = 4
# Bytes of octaves that are kept
KEPT = 3e9


def own_octaves(pair, number) -> list[np.ndarray]:
    """psi of a pair's own initial conditions, split with drawn noise.

    Parameters
    ----------
    pair : Pair
    number : int
        Of the realisation of what is drawn.

    Returns
    -------
    list of (3, rN, rN, rN) float32 arrays
        For r = 2, 4, ... sites to an LR cell [LR cells].
    """
    manifest = pair.manifest
    factor, cell = manifest.factor, manifest.cell
    size = manifest.Nmesh * factor
    k = (2 * np.pi * fft.fftfreq(size, 1 / factor)).astype("f4")
    half = np.abs(k[: size // 2 + 1])
    axes = (k[:, None, None], k[None, :, None], half[None, None, :])
    modes = [fft.rfftn(np.asarray(field)) / np.float32(cell) for field in pair.ic]
    ratios = octave_ratios(factor)
    random = np.random.default_rng((manifest.seed or 0, number))
    shape = (size,) * 3
    drawn = [fft.rfftn(random.standard_normal(shape, "f4")) for _ in range(len(ratios) + 1)]
    # a site's share of the box, in the units of P
    power = pair.power(np.sqrt(sum(axis**2 for axis in axes)) / cell)
    amplitude = np.sqrt(power / (cell / factor) ** 3).astype("f4")
    octaves = split(modes, axes, drawn, amplitude, factor)
    return [
        np.stack([_sampled(field, axes, ratio, factor) for field in fields])
        for ratio, fields in zip(ratios, octaves)
    ]


def _sampled(modes, axes, ratio, factor):
    """A field of the finest lattice, given by its transform, at the sites of a coarser one."""
    size = modes.shape[0]
    coarse = size * ratio // factor
    modes = at_sites(modes, axes, ratio, factor)
    inside = np.r_[0 : coarse // 2, size - coarse // 2 : size]
    modes = modes[np.ix_(inside, inside, range(coarse // 2 + 1))]
    field = fft.irfftn(modes, s=(coarse,) * 3) * (coarse / size) ** 3
    return field.astype("f4")


class Octaves:
    """`own_octaves` of several pairs, the latest kept. Several threads may ask.

    Parameters
    ----------
    pairs : sequence of Pair
    """

    def __init__(self, pairs):
        self.pairs, self.kept = pairs, OrderedDict()
        self.lock = Lock()

    def __call__(self, index, number) -> list[np.ndarray]:
        """Of pair `index`, realisation `number`."""
        key = index, number
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
        made = own_octaves(self.pairs[index], number)
        with self.lock:
            self.kept[key] = made
            while sum(f.nbytes for fields in self.kept.values() for f in fields) > KEPT:
                self.kept.popitem(last=False)
        return made
