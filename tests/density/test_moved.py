"""The initial conditions moved with LR's particles, and the emulator that is given them."""

import numpy as np
import pytest
import torch
from helpers import saved_model
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog
from test_mesh import BOX, N, Z, everywhere, initial, mesh, plane_waves, same

from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.density.moved import LENGTHS, moved_overdensity
from nbodykit_sr.density.painting import initial_overdensity, mesh_size
from nbodykit_sr.errors import InputError
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.card import load_model
from nbodykit_sr.models.density import PADDING_HR, DensityEmulator
from nbodykit_sr.physics.universe import growth_factor

LATTICE = LagrangianLattice(N, BOX, 0.5)


def particles(comm, displacement):
    """LR particles of which each is `displacement`, of its site (n, 3), from there [Mpc/h]."""
    ids = np.arange(1 + comm.rank, N**3 + 1, comm.size)
    site = LATTICE.site(ids)
    columns = {"Position": LATTICE.position(site, displacement(site)), "ID": ids}
    return ArrayCatalog(columns, BoxSize=[BOX] * 3, Redshift=0.0, Omega0=0.3, comm=comm)


def linear(comm):
    return initial_overdensity(initial(comm), 2 * N, growth_factor(1 / (1 + Z), 0.3))


def swirl(site):
    """A smooth displacement of some cells."""
    return 0.15 * BOX * np.sin(2 * np.pi / N * (site + site[:, [1, 2, 0]]))


@pytest.mark.mpi
def test_an_overdensity_goes_where_its_matter_goes(comm):
    """Half of the box up along y, the other down; painted from centres of cells, which blurs waves."""
    lr = particles(comm, lambda site: np.where(site < N / 2, 1, -1)[:, :1] * [0, 2 * BOX / N, 0])
    for length, field in zip((0.0, 1.5), moved_overdensity(lr, linear(comm), (0.0, 1.5))):
        for side, up in ((slice(2, N - 2), 4), (slice(N + 2, 2 * N - 2), -4)):
            expected = 0.0
            for axis, phase in enumerate((0.3, 1.1, 2.0)):  # of `plane_waves`
                w = 2 * np.pi * (axis + 1) / (2 * N)
                wave = np.cos(w * (np.arange(2 * N) - up * (axis == 1)) + phase) / np.sqrt(1.5)
                wave = wave * np.cos(w / 2) * np.exp(-((length * w) ** 2) / 2)
                expected = expected + wave.reshape(np.roll([-1, 1, 1], axis))
            mine, wanted = np.zeros((2, *expected.shape))
            mine[field.slices], wanted[field.slices] = field.value, expected[field.slices]
            np.testing.assert_allclose(mine[side], wanted[side], atol=3e-3)


@pytest.mark.mpi(ranks=4)
def test_it_does_not_depend_on_ranks(comm):
    many, alone = (
        moved_overdensity(particles(c, swirl), linear(c), LENGTHS, 5) for c in (comm, MPI.COMM_SELF)
    )
    assert len(many) == len(LENGTHS)
    assert everywhere(all(same(one, other) for one, other in zip(many, alone)), comm)


@pytest.fixture
def weights(tmp_path, comm):
    torch.manual_seed(4)
    network = DensityEmulator(filters=2, moved=LENGTHS)
    return saved_model(tmp_path / "moved.safetensors", network, comm, Omega_m=0.3)


@pytest.mark.mpi
def test_the_mesh_is_the_network_on_the_box_and_needs_particles(comm, weights):
    network, options = load_model(weights)[0], dict(model=weights, chunk=5, force=True)
    made, lone = (SRMesh(particles(c, swirl), initial(c), **options) for c in (comm, MPI.COMM_SELF))
    assert everywhere(same(made.compute(), lone.compute()), comm)
    density, fields = lone.way.fields()
    pads = [(0, 0), *3 * [(PADDING_HR, PADDING_HR)]]
    fine = np.pad(np.stack([np.asarray(field.value) for field in fields]), pads, "wrap")
    coarse = np.pad(np.asarray(density.value)[None], [(0, 0), *3 * [(3, 3)]], "wrap")
    with torch.no_grad():
        whole = network(*(torch.from_numpy(x.astype("f4"))[None] for x in (coarse, fine)))[0, 0]
    np.testing.assert_allclose(lone.compute(), whole / whole.mean(), rtol=1e-4, atol=1e-5)
    for lr, start, words in (
        (mesh(np.ones((N,) * 3), comm), initial(comm), "give its snapshot"),
        (particles(comm, swirl), mesh_of(comm, 2 * N + 4), "leave Nmesh out"),
    ):
        with pytest.raises(InputError, match=words):
            SRMesh(lr, start, Nmesh=mesh_size(start) // 2, **options).compute()


def mesh_of(comm, size):
    grid = np.meshgrid(*3 * [np.arange(size) / size], indexing="ij")
    source = mesh(0.01 * plane_waves(*grid), comm)
    source.attrs["Redshift"] = Z
    return source


def test_the_papers_network_is_as_it_was():
    """What is moved is a layer more: of one that it does not listen to, nothing is left."""
    torch.manual_seed(0)
    plain, moved = DensityEmulator(filters=2), DensityEmulator(filters=2, moved=(0.0,))
    assert "moved" not in plain.arguments
    assert DensityEmulator(**moved.arguments).moved == (0.0,)
    state = moved.state_dict()
    for name, value in plain.state_dict().items():
        if name == "joint.reduce.weight" or name == "joint.conv.3.weight":
            state[name][:] = 0
            state[name][:, : value.shape[1]] = value
        else:
            state[name] = value
    moved.load_state_dict(state)
    lr, fields = torch.rand(1, 1, 8, 8, 8), torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(moved(lr, fields), plain(lr, fields[:, :1]))
