"""The initial conditions that LR lacks, as noise: their linear displacement psi, chunk by chunk.

An LR run knows the modes of the initial conditions below its Nyquist wavenumber. Of those beyond,
linear theory tells the displacement at any time,

    psi(k) = i k / k^2 sqrt(P(k)) w(k),    w white noise of unit variance,

where P is the linear power spectrum at that time. psi is smooth, so neighbours share it, and it has
the right size for every spacing, redshift and cosmology.

It is made octave by octave, on the lattices of 2, 4, 8, ... sites to an LR cell, each from white
noise of its own (`noise`). An octave takes a band B of wavenumbers; the squares of the bands and of
LR's share add to 1. The tapers between bands are smooth, so the kernels i k / k^2 sqrt(P) B are
local: a chunk of psi is a convolution of a chunk of noise with 33^3 sites (97^3 and 49^3 on the two
coarsest lattices). So it does not depend on how the box is cut, and memory does not grow with the box.

LR knows the modes below its Nyquist wavenumber and none beyond. Half of psi's variance lies between 1
and 1.5 of that, so its taper is narrow, and as much on either side of it.

The initial conditions of an actual HR run can be split into the same octaves (`split`); they need no
taper towards LR, so there it is a step.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Complex, Complex64, Float, Float32
from scipy import fft
from torch import Tensor

from .lattice import LagrangianLattice
from .noise import site_noise

# Where tapers begin and end: LR's in units of its Nyquist wavenumber, an octave's in units of that
# of its lattice
LR_TAPER = (0.95, 1.05)
TAPER = (0.75, 1.0)
# Sites to each side that the kernels of the octaves reach, the coarsest first: 2.1, 1.5 and 5% of
# their rms are outside, a hundredth of psi's in all
REACHES = (48, 24, 16)
# Bytes of a site while an octave is made, most of them of its noise; and of the kernels' transforms
SITE_BYTES, RESPONSE_BYTES = 50, 12
# Layers of `noise` that the octaves are drawn from, far from those of the networks
FIRST_LAYER = 64


@dataclass(frozen=True)
class Phases:
    """psi of one realisation."""

    lattice: LagrangianLattice  # LR lattice
    power: Callable  # linear power spectrum at the snapshot's time, P(k) [(Mpc/h)^3] of k [h/Mpc]
    factor: int  # SR sites to an LR cell, on a side
    seed: int
    device: torch.device | str = "cpu"
    # kernels of the octaves made so far, the same for each seed: `dataclasses.replace` keeps them
    kernels: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def ratios(self) -> list[int]:
        """Sites to an LR cell of each octave's lattice: 2, 4, ..., `factor`."""
        return octave_ratios(self.factor)

    def fields(self, start, shape, layers) -> list[Float32[Tensor, "3 _ _ _"]]:
        """psi of each octave in a chunk [LR cells].

        Parameters
        ----------
        start, shape : three ints
            First LR site and LR sites of the chunk.
        layers : sequence of (int, int)
            Refinement and padding [its own sites] of each octave: `Generator.octaves`.
        """
        return [
            self.octave(
                ratio,
                [ratio * s - padding for s in start],
                [ratio * n + 2 * padding for n in shape],
            )
            for ratio, padding in layers
        ]

    def octave(self, ratio, start, shape) -> Float32[Tensor, "3 x y z"]:
        """psi of one octave on a cuboid of its lattice [LR cells]."""
        first = [s - reach(ratio) for s in start]
        wide = tuple(n + 2 * reach(ratio) for n in shape)
        layer = FIRST_LAYER + self.ratios.index(ratio)
        noise = site_noise(self.seed, layer, first, wide, ratio * self.lattice.Nmesh, self.device)
        return convolve(noise, self._response(ratio, fast_sides(wide)), shape)

    def working_memory(self, shape, layers) -> float:
        """Bytes that `fields` takes for a chunk of `shape` LR sites: an estimate."""
        meshes = [
            np.prod(fast_sides([ratio * n + 2 * (padding + reach(ratio)) for n in shape]))
            for ratio, padding in layers
        ]
        return float(SITE_BYTES * max(meshes) + RESPONSE_BYTES * sum(meshes))

    @property
    def rms(self) -> float:
        """Rms of psi of all octaves together, along an axis [LR cells]."""
        kernels = map(self._kernel, self.ratios)
        return float(np.sqrt(sum((one[0].astype("f8") ** 2).sum() for one in kernels)))

    def _kernel(self, ratio):
        if ratio not in self.kernels:
            self.kernels[ratio] = kernel(self.power, self.lattice.cell, ratio)
        return self.kernels[ratio]

    def _response(self, ratio, sides):
        """Transform of an octave's kernel on a mesh of `sides`, kept for the chunks to come."""
        if (ratio, sides) not in self._responses:
            kernels = torch.from_numpy(self._kernel(ratio))
            parts = [torch.fft.rfftn(one, s=sides) for one in kernels]
            self._responses[ratio, sides] = torch.stack(parts).to(self.device)
        return self._responses[ratio, sides]

    @cached_property
    def _responses(self) -> dict:
        return {}


def octave_ratios(factor) -> list[int]:
    """Sites to an LR cell of each octave's lattice: 2, 4, ..., `factor`."""
    return [2**n for n in range(1, int(factor).bit_length())]


def reach(ratio) -> int:
    """Sites to each side that the kernel of an octave reaches."""
    return REACHES[min(ratio.bit_length() - 2, len(REACHES) - 1)]


def taper(k, low, high) -> Float[np.ndarray, "..."]:
    """Falls smoothly from 1 at `low` to 0 at `high`: the cosine of an angle from 0 to pi / 2."""
    t = np.clip((np.abs(k) - low) / (high - low), 0, 1)
    return np.cos(np.pi / 2 * t**3 * (t * (6 * t - 15) + 10))


def low_pass(axes, nyquist, edges) -> Float[np.ndarray, "x y z"]:
    """The product over three axes of tapers that end at `edges` times `nyquist`."""
    x, y, z = (taper(k, edges[0] * nyquist, edges[1] * nyquist) for k in axes)
    return x * y * z


def known_to_lr(axes) -> Float[np.ndarray, "x y z"]:
    """Which modes of wavenumbers `axes` [1 / LR cell] LR has: 1 below its Nyquist wavenumber."""
    x, y, z = ((np.abs(k) < np.pi * (1 - 1e-6)).astype(float) for k in axes)
    return x * y * z


def band(axes, ratio, known=None) -> Float[np.ndarray, "x y z"]:
    """The band B of an octave: its lattice carries the part B^2 of the power at each wavenumber.

    Parameters
    ----------
    axes : three arrays, broadcast together
        Wavenumbers along each axis [1 / LR cell].
    ratio : int
        Sites to an LR cell of the octave's lattice.
    known : array, optional
        LR's share of the modes; that of its taper by default.
    """
    above = low_pass(axes, ratio * np.pi, TAPER)
    if ratio == 2:
        below = low_pass(axes, np.pi, LR_TAPER) if known is None else known
    else:
        below = low_pass(axes, ratio // 2 * np.pi, TAPER)
    return np.sqrt(np.clip(above**2 - below**2, 0, None))


def kernel(power, cell, ratio) -> Float32[np.ndarray, "3 n n n"]:
    """The kernel that turns unit white noise on an octave's lattice into psi, n = 2 `reach` + 1 [LR cells].

    `power` is P(k) [(Mpc/h)^3] of k [h/Mpc], `cell` that of LR, comoving [Mpc/h].
    """
    size = 4 * reach(ratio)
    k = 2 * np.pi * fft.fftfreq(size, 1 / ratio)
    axes = (k[:, None, None], k[None, :, None], np.abs(k[None, None, : size // 2 + 1]))
    square = axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2
    square[0, 0, 0] = 1.0
    # P has the units of a volume, that of white noise of unit variance is a site's
    amplitude = np.sqrt(power(np.sqrt(square) / cell) / (cell / ratio) ** 3)
    amplitude = amplitude * band(axes, ratio) / square
    response = fft.irfftn(1j * axes[0] * amplitude, s=(size,) * 3)
    centre = slice(size // 2 - reach(ratio), size // 2 + reach(ratio) + 1)
    along_x = fft.fftshift(response)[centre, centre, centre]
    # the same along the other axes, with x and that axis exchanged
    return np.stack([along_x, along_x.swapaxes(0, 1), along_x.swapaxes(0, 2)]).astype("f4")


def fast_sides(shape) -> tuple[int, ...]:
    """Sides of the mesh that noise of a `shape` is transformed on."""
    return tuple(fft.next_fast_len(n, real=True) for n in shape)


def convolve(
    noise: Float32[Tensor, "x y z"], response: Complex64[Tensor, "3 _ _ _"], shape
) -> Float32[Tensor, "3 nx ny nz"]:
    """Convolve white noise with a vector kernel, where the whole kernel lies inside.

    The noise has as many sites more on each side of `shape` as the kernel reaches; `response` is the real
    transform of the kernel on a mesh of the `fast_sides` of the noise.
    """
    sides = fast_sides(noise.shape)
    modes = torch.fft.rfftn(noise, s=sides)
    inside = tuple(slice(m - n, m) for n, m in zip(shape, noise.shape))
    fields = noise.new_empty(3, *shape)
    for out, one in zip(fields, response):
        out.copy_(torch.fft.irfftn(modes * one, s=sides)[inside])
    return fields


def at_sites(modes, axes, ratio, finest) -> Complex[np.ndarray, "x y z"]:
    """Transform of a field on the finest lattice, moved to the sites of a coarser one; the sites of both
    lie at the centres of cells.

    `ratio` and `finest` are sites to an LR cell of the two lattices, `modes` and `axes` as in `split`.
    """
    return modes * np.exp(1j * (0.5 / ratio - 0.5 / finest) * sum(axes))


def split(modes, axes, drawn, amplitude, factor) -> list[list]:
    """Split the linear displacement of actual initial conditions into octaves, mode by mode.

    With the unit vector b of bands, white noises v of as many components and the true phases w, the
    components of v - b (b . v) + b w are independent white noises, as those that psi is drawn from,
    and their sum weighed by the bands is w. So octave r is

        psi_r = B_r^2 s + T B_r (v_r - B_r b . v)

    where s = T w is the true displacement; all together they are s beyond LR's Nyquist wavenumber.

    Parameters
    ----------
    modes : three complex arrays
        Transform of s along each axis, on SR's lattice.
    axes : three arrays, broadcast together
        Wavenumbers [1 / LR cell].
    drawn : list of complex arrays
        Transforms of unit white noise, v: one for each octave, one for what is beyond.
    amplitude : array
        sqrt(P(k)), so that T = i k / k^2 `amplitude`, in the units of s and of the transform.
    factor : int

    Returns
    -------
    list of list of three complex arrays
        Transform of psi of each octave along each axis.
    """
    known = known_to_lr(axes)
    bands = [band(axes, ratio, known) for ratio in octave_ratios(factor)]
    rest = np.sqrt(np.clip(1 - known - sum(b**2 for b in bands), 0, None))
    common = sum(b * v for b, v in zip([*bands, rest], drawn, strict=True))
    square = sum(axis**2 for axis in axes)
    square = np.where(square == 0, 1.0, square)
    octaves = []
    for own, v in zip(bands, drawn):
        added = 1j / square * amplitude * own * (v - own * common)
        octaves.append([own**2 * s + axis * added for s, axis in zip(modes, axes)])
    return octaves
