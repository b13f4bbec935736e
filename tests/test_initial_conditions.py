"""Initial conditions of an actual HR run as phases: split, shared by ranks, refused where they do not fit."""

import numpy as np
import pytest
from helpers import saved_model
from nbodykit.lab import ArrayCatalog
from scipy import fft

from nbodykit_sr import SRCatalog, open_snapshot
from nbodykit_sr.chunks import ChunkGrid
from nbodykit_sr.errors import InputError
from nbodykit_sr.initial_conditions import OwnPhases
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.generator import Generator
from nbodykit_sr.particles import find_lattice
from nbodykit_sr.phases import band
from nbodykit_sr.physics.background import growth_factor

N, BOX, FACTOR = 8, 12.5, 4
START, NOW, MATTER = 0.01, 1 / 3, 0.3
GROWTH = growth_factor(NOW, MATTER)
LAYERS = [(2, 6), (4, 4)]


def power(k):
    return 30 * np.maximum(k, 1e-3) ** -2.0


def simulation(comm, lattice, displacement, a, **attrs):
    """A catalogue of particles displaced from a lattice, shared by the ranks."""
    sites = np.stack(np.meshgrid(*3 * [np.arange(lattice.Nmesh)], indexing="ij"), -1).reshape(-1, 3)
    mine = np.array_split(np.arange(len(sites)), comm.size)[comm.rank]
    moved = displacement.reshape(3, -1).T[mine]
    columns = {
        "Position": lattice.position(sites[mine], moved),
        "ID": lattice.id(sites[mine]),
        "Velocity": moved * 100.0,
    }
    catalog = ArrayCatalog(columns, comm=comm, BoxSize=[BOX] * 3)
    catalog.attrs.update(Time=a, Omega0=MATTER, OmegaBaryon=0.045, HubbleParam=0.7, **attrs)
    return catalog


@pytest.fixture(scope="module")
def linear():
    """A linear displacement today [Mpc/h] on a lattice of FACTOR sites to a cell, with LR's modes."""
    size = N * FACTOR
    k = 2 * np.pi * np.fft.fftfreq(size, 1 / FACTOR)  # per LR cell
    axes = k[:, None, None], k[None, :, None], k[None, None, :]
    square = sum(axis**2 for axis in axes)
    square[0, 0, 0] = 1
    white = fft.fftn(np.random.default_rng(3).normal(size=(size,) * 3))
    cell = BOX / N
    amplitude = np.sqrt(power(np.sqrt(square) / cell) / (cell / FACTOR) ** 3)
    inside = np.maximum.reduce(np.broadcast_arrays(*map(np.abs, axes))) < FACTOR * np.pi
    spectra = [1j * axis / square * amplitude * white * inside * cell for axis in axes]
    return axes, spectra, np.stack([fft.ifftn(one).real for one in spectra])


def fitting_lr(comm, linear):
    coarse = linear.reshape(3, N, FACTOR, N, FACTOR, N, FACTOR).mean((2, 4, 6))
    return simulation(comm, LagrangianLattice(N, BOX), coarse * GROWTH, NOW)


@pytest.mark.mpi(ranks=4)
def test_octaves_of_actual_phases(comm, alone, linear):
    axes, spectra, field = linear
    fine = LagrangianLattice(N * FACTOR, BOX)

    def octaves(comm):
        particles = find_lattice(fitting_lr(comm, field))
        initial = simulation(comm, fine, field * growth_factor(START, MATTER), START)
        grid = ChunkGrid(N, 4)

        def power_now(k):
            return power(k) * GROWTH**2

        phases = OwnPhases.of(initial, particles, grid, LAYERS, power_now, 7)
        whole = [np.zeros((3, *3 * [ratio * N]), "f4") for ratio, _ in LAYERS]
        for chunk in grid.chunks(grid.blocks(comm.size)[comm.rank]):
            fields = phases.fields(chunk.start, chunk.shape, LAYERS)
            for out, psi, (ratio, padding) in zip(whole, fields, LAYERS):
                inner = psi.numpy()[(slice(None), *3 * [slice(padding, -padding)])]
                where = [
                    slice(ratio * s, ratio * (s + n)) for s, n in zip(chunk.start, chunk.shape)
                ]
                out[(slice(None), *where)] = inner
        return [comm.allreduce(one) for one in whole]

    together = octaves(comm)
    for one, other in zip(together, alone(octaves)):
        np.testing.assert_allclose(one, other, atol=1e-5 * other.std())
    # the octave and the truth correlate as the band says, without a shift [LR cells]
    share = band(axes, FACTOR)
    inside = (share > 0.8) & (np.abs(axes[0]) > 0.5)
    assert inside.sum() > 1000
    found = fft.fftn(together[-1][0].astype("f8"))[inside]
    true = (spectra[0] * GROWTH / (BOX / N))[inside]
    cross = (found * true.conj()).real.sum()
    assert cross / (share[inside] ** 2 * np.abs(true) ** 2).sum() == pytest.approx(1, abs=0.03)
    assert cross / np.linalg.norm(found) / np.linalg.norm(true) > 0.8


def model(folder, comm):
    network = Generator(6, FACTOR, 8, 4, convex=2, phases=True)
    return saved_model(folder / "phases.safetensors", network, comm, amplitude=(1e-3, 10.0))


@pytest.mark.mpi
def test_a_catalogue_of_actual_phases(comm, linear, tmp_path, caplog):
    _, _, field = linear
    path = model(tmp_path, comm)
    initial = simulation(
        comm, LagrangianLattice(N * FACTOR, BOX), field * growth_factor(START, MATTER), START
    )
    lr = fitting_lr(comm, field)
    drawn, own, again, fewer = (
        SRCatalog(lr, model=path, force=True, **options)
        for options in ({}, {"phases": initial}, {"phases": initial}, {"factor": 2})
    )
    positions = [catalog["Position"].compute() for catalog in (drawn, own, again)]
    assert np.array_equal(positions[1], positions[2])
    assert not np.allclose(positions[0], positions[1], atol=1e-3)
    assert fewer.csize == (2 * N) ** 3 and drawn.csize == (FACTOR * N) ** 3
    for factor, message in ((8, "8: the model goes up to 4"), (3, "power of 2")):
        with pytest.raises(InputError, match=message):
            SRCatalog(lr, model=path, factor=factor, force=True)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "change, message",
    [
        (dict(Nmesh=16), "16.3 particles and LR 8.3: 32.3 are needed"),
        (dict(a=0.5), "at z = 1, LR at z = 2"),
        (dict(offset=0.3), "cells from SR's"),
        (dict(Omega0=0.4), "Omega0 is 0.4 in the initial conditions and 0.3 in LR"),
    ],
)
def test_initial_conditions_that_do_not_fit_are_refused(comm, linear, tmp_path, change, message):
    _, _, field = linear
    change = {"Nmesh": N * FACTOR, "a": START, "offset": 0.5, **change}
    step = N * FACTOR // change["Nmesh"]
    lattice = LagrangianLattice(change["Nmesh"], BOX, change["offset"])
    smooth = field[:, ::step, ::step, ::step] * growth_factor(START, MATTER)
    initial = simulation(comm, lattice, smooth, change["a"])
    initial.attrs.update({k: v for k, v in change.items() if k == "Omega0"})
    with pytest.raises(InputError, match=message):
        SRCatalog(fitting_lr(comm, field), model=model(tmp_path, comm), phases=initial, force=True)


@pytest.mark.mpi
def test_other_models_have_no_phases(comm, data):
    snapshot = open_snapshot(data / "lr16_25_z2", comm)
    with pytest.raises(InputError, match="sigma8 go with models that are given the phases"):
        SRCatalog(snapshot, model="interpolate", sigma8=0.8)
