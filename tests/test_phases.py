"""The missing initial conditions as noise: their spectra, their independence, and how they are cut."""

import numpy as np
import pytest
import torch
from scipy import fft

from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.phases import (
    LR_TAPER,
    Phases,
    band,
    convolve,
    fast_sides,
    kernel,
    known_to_lr,
    low_pass,
    octave_ratios,
    reach,
    split,
)

N, CELL = 12, 1.5625
LATTICE = LagrangianLattice(N, N * CELL)


def power(k):
    """About that of cold dark matter at these wavenumbers [(Mpc/h)^3]."""
    return 300 * np.maximum(k, 1e-3) ** -2.4


@pytest.fixture(scope="module")
def whole():
    """Octaves of a box, each (3, rN, rN, rN)."""
    phases = Phases(LATTICE, power, 8, seed=5)
    return [phases.octave(r, [0] * 3, [r * N] * 3).numpy() for r in phases.ratios]


def modes(field):
    """Transform of the overdensity of a linear displacement [LR cells], and wavenumbers [h/Mpc]
    along each axis and in all."""
    size = len(field[0])
    k = 2 * np.pi * np.fft.fftfreq(size, 1 / size) / LATTICE.BoxSize
    axes = k[:, None, None], k[None, :, None], k[None, None, :]
    density = sum(axis * fft.fftn(one * np.float64(CELL)) for axis, one in zip(axes, field))
    return density / size**3, axes, np.sqrt(sum(axis**2 for axis in axes))


def test_bands_share_all_of_the_power():
    """LR's share and the octaves' add to one, up to half of SR's Nyquist wavenumber."""
    k = np.linspace(-8 * np.pi, 8 * np.pi, 61)
    axes = k[:, None, None], k[None, :, None], k[None, None, :]
    known = low_pass(axes, np.pi, LR_TAPER)
    total = known**2 + sum(band(axes, r) ** 2 for r in octave_ratios(8))
    inside = np.maximum.reduce(np.broadcast_arrays(*map(np.abs, axes))) <= 4 * np.pi
    np.testing.assert_allclose(total[inside], 1, atol=1e-6)
    assert total.max() <= 1 + 1e-6
    below = np.maximum.reduce(np.broadcast_arrays(*map(np.abs, axes))) <= np.pi
    assert (known_to_lr(axes)[below] == 1).mean() > 0.9  # all but the Nyquist planes
    assert band(axes, 2)[low_pass(axes, 0.9 * np.pi, (1, 1.001)) == 1].max() < 1e-6


def test_the_spectrum_is_that_of_linear_theory():
    """Of each octave within 1%, and of the sum from where LR's taper ends to half of SR's Nyquist
    wavenumber. Kernels are compared, which draw from no chance."""
    size = 192
    for ratio in octave_ratios(8):
        k = 2 * np.pi * np.fft.fftfreq(size, 1 / ratio)
        axes = k[:, None, None], k[None, :, None], k[None, None, :]
        square = sum(axis**2 for axis in axes)
        square[0, 0, 0] = 1
        cube = np.zeros((size,) * 3)
        cut = kernel(power, CELL, ratio)[0]
        cube[: cut.shape[0], : cut.shape[1], : cut.shape[2]] = cut
        found = np.abs(np.fft.fftn(cube)) ** 2
        b = band(axes, ratio)
        wanted = (
            axes[0] ** 2 / square**2 * power(np.sqrt(square) / CELL) / (CELL / ratio) ** 3 * b**2
        )
        # in shells, where the octave has more than half of the power
        k = np.sqrt(square)
        for low in np.arange(1.1, 2.0, 0.1) * ratio / 2 * np.pi:
            shell = (k >= low) & (k < low + 0.1 * ratio * np.pi)
            if (b[shell] ** 2).mean() > 0.5:
                assert found[shell].sum() == pytest.approx(wanted[shell].sum(), rel=0.01)


def test_each_octave_has_its_power(whole):
    for ratio, field in zip(octave_ratios(8), whole):
        density, axes, k = modes(field)
        share = band([axis * CELL for axis in axes], ratio) ** 2
        wanted = power(k) / LATTICE.BoxSize**3 * share
        found = np.abs(density) ** 2
        inside = share > 0.1
        scatter = np.sqrt(2 / inside.sum())
        assert (found[inside] / wanted[inside]).mean() == pytest.approx(1, abs=5 * scatter + 0.02)
        assert found[share < 1e-6].sum() < 2e-3 * found.sum()


def test_octaves_are_independent(whole):
    coarse, fine = (modes(field)[0] for field in whole[:2])
    size = len(coarse)
    inside = np.r_[0 : size // 2, -(size // 2) + 1 : 0]
    coarse, fine = (x[np.ix_(inside, inside, inside)] for x in (coarse, fine))
    both = np.abs(coarse * fine) > 0
    cross = (coarse * fine.conj()).real.sum() / np.linalg.norm(coarse) / np.linalg.norm(fine)
    assert abs(cross) < 5 / np.sqrt(both.sum() / 8)


def test_a_chunk_is_that_part_of_the_whole(whole):
    phases = Phases(LATTICE, power, 8, seed=5)
    layers = [(2, 10), (4, 4), (8, 4)]
    fields = phases.fields((9, 0, 5), (6, 3, 4), layers)
    for field, (ratio, padding), everything in zip(fields, layers, whole):
        index = [
            np.arange(ratio * s - padding, ratio * (s + n) + padding) % (ratio * N)
            for s, n in zip((9, 0, 5), (6, 3, 4))
        ]
        wanted = everything[(slice(None), *np.ix_(*index))]
        np.testing.assert_allclose(field.numpy(), wanted, atol=1e-5 * wanted.std())


def test_convolutions_are_those_of_a_plain_transform():
    """psi of a white noise given on all of a lattice, by one transform of it."""
    ratio, size = 2, 48
    noise = np.random.default_rng(1).normal(size=(size,) * 3)
    k = 2 * np.pi * np.fft.fftfreq(size, 1 / ratio)
    axes = k[:, None, None], k[None, :, None], k[None, None, :]
    square = sum(axis**2 for axis in axes)
    square[0, 0, 0] = 1
    amplitude = np.sqrt(power(np.sqrt(square) / CELL) / (CELL / ratio) ** 3) * band(axes, ratio)
    wanted = np.fft.ifftn(np.fft.fftn(noise) * 1j * axes[1] / square * amplitude).real
    wide = torch.from_numpy(np.pad(noise, reach(ratio), mode="wrap").astype("f4"))
    sides = fast_sides(wide.shape)
    response = torch.stack(
        [torch.fft.rfftn(torch.from_numpy(one), s=sides) for one in kernel(power, CELL, ratio)]
    )
    made = convolve(wide, response, (size,) * 3)[1].numpy()
    # what is beyond the reach of the kernel
    assert np.sqrt(((made - wanted) ** 2).mean()) < 0.04 * wanted.std()


def test_actual_phases_are_split_into_independent_octaves_that_add_to_them():
    size = 64
    rng = np.random.default_rng(2)
    k = 2 * np.pi * np.fft.fftfreq(size, 1 / 8)
    axes = k[:, None, None], k[None, :, None], k[None, None, :]
    square = sum(axis**2 for axis in axes)
    square[0, 0, 0] = 1
    amplitude = np.sqrt(power(np.sqrt(square) / CELL) / (CELL / 8) ** 3)
    white = [fft.fftn(rng.normal(size=(size,) * 3)) for _ in range(5)]
    true = [1j * axis / square * amplitude * white[0] for axis in axes]
    octaves = split(true, axes, white[1:], amplitude, 8)
    known = known_to_lr(axes)
    shares = [band(axes, r, known) for r in octave_ratios(8)]
    # where LR has no share the octaves add to the truth
    beyond = (known == 0) & (sum(b**2 for b in shares) > 1 - 1e-9)
    total = sum(fields[0] for fields in octaves)
    np.testing.assert_allclose(total[beyond], true[0][beyond], rtol=1e-6, atol=1e-6)
    for b, fields in zip(shares, octaves):
        inside = (b > 0.3) & (np.abs(axes[0]) > 0.5)
        expected = (np.abs(axes[0]) / square * amplitude * b) ** 2 * size**3
        ratio = (np.abs(fields[0]) ** 2 / np.where(expected > 0, expected, 1))[inside].mean()
        assert ratio == pytest.approx(1, abs=5 * np.sqrt(2 / inside.sum()))
    both = (shares[0] > 0.3) & (shares[1] > 0.3)
    one, other = (fields[0][both] for fields in octaves[:2])
    cross = (one * other.conj()).real.sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert abs(cross) < 5 / np.sqrt(both.sum() / 2)
