"""SRMesh and the fields that go into it, the same for any number of ranks."""

import numpy as np
import pytest
import torch
from helpers import saved_model
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog, BigFileMesh, FFTPower, FieldMesh
from pmesh.pm import ParticleMesh

from nbodykit_sr.density.mesh import SRMesh
from nbodykit_sr.density.painting import (
    LR_ORIGIN,
    correlation,
    initial_overdensity,
    lr_density,
    paint,
)
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.models.density import PADDING, PADDING_HR, DensityEmulator
from nbodykit_sr.models.generator import InterpolatingGenerator
from nbodykit_sr.physics.universe import growth_factor

pytestmark = pytest.mark.mpi

N, BOX, Z = 10, 39.0, 50.0


def plane_waves(x, y, z):
    """A smooth overdensity of rms about one on cells' coordinates of a box of side 1."""
    waves = 0.0
    for n, (phase, axis) in enumerate(((0.3, x), (1.1, y), (2.0, z)), start=1):
        waves = waves + np.cos(2 * np.pi * n * axis + phase)
    return waves / np.sqrt(1.5)


def mesh(values, comm, box=BOX):
    """An nbodykit mesh of a function of cell coordinates, or of an array (M, M, M)."""
    size = 2 * N if callable(values) else len(values)
    pm = ParticleMesh([size] * 3, box, dtype="f8", comm=comm)
    field = pm.create(type="real")
    if callable(values):
        grid = [np.arange(s, s + n) / size for s, n in zip(field.start, field.shape)]
        field[...] = values(*np.meshgrid(*grid, indexing="ij"))
    else:
        field[...] = values[field.slices]
    source = FieldMesh(field)
    if not callable(values):  # an LR density of today
        source.attrs.update(Redshift=0.0, Omega0=0.3)
    return source


def initial(comm, factor=1.0, box=BOX):
    """Initial conditions at redshift Z whose overdensity today is `plane_waves`."""
    growth = growth_factor(1 / (1 + Z), 0.3) * factor
    source = mesh(lambda *x: growth * plane_waves(*x), comm, box)
    source.attrs["Redshift"] = Z
    return source


def evolved(comm, seed=3, box=BOX):
    """Particles that follow `plane_waves`, each rank its part of the same ones."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(size=(8000, 3))
    keep = rng.uniform(size=8000) * 2.5 < 1 + 0.6 * plane_waves(*position.T)
    mine = position[keep][comm.rank :: comm.size] * box
    source = ArrayCatalog(
        {"Position": mine}, BoxSize=[box] * 3, Redshift=0.0, Omega0=0.3, comm=comm
    )
    return source


@pytest.fixture
def weights(tmp_path, comm):
    return written(tmp_path / "w.safetensors", comm)


def written(path, comm, **card):
    """A small emulator that knows nothing, as a file."""
    torch.manual_seed(4)
    card |= {"cell": BOX / N, "redshift": (0.0, 0.0), "Omega_m": 0.3}
    return saved_model(path, DensityEmulator(filters=2), comm, **card)


def same(field, alone):
    """Whether a distributed field has, bit for bit, the values of one on this rank alone."""
    return np.array_equal(np.asarray(field.value), np.asarray(alone.value)[tuple(field.slices)])


def everywhere(condition, comm):
    return all(comm.allgather(bool(condition)))


@pytest.mark.mpi(ranks=4)
def test_painting_does_not_depend_on_ranks(comm):
    field, alone = (paint(evolved(c), 12, LR_ORIGIN) for c in (comm, MPI.COMM_SELF))
    assert everywhere(same(field, alone), comm)
    assert alone.cmean() == pytest.approx(1, abs=1e-12)
    # and is nbodykit's, on a mesh moved by a quarter of a cell, to the rounding of positions
    source = evolved(MPI.COMM_SELF)
    source["Position"] = (source["Position"] - LR_ORIGIN * BOX / 12) % BOX
    expected = source.to_mesh(Nmesh=12, dtype="f8", resampler="cic").to_real_field()
    np.testing.assert_allclose(alone.value, expected.value, atol=2e-3)


@pytest.mark.mpi(ranks=4)
def test_initial_conditions_from_a_mesh(comm):
    growth = growth_factor(1 / (1 + Z), 0.3)
    at = np.indices((2 * N,) * 3) / (2 * N)
    field = initial_overdensity(initial(comm), 2 * N, growth)
    np.testing.assert_allclose(field.value, plane_waves(*at)[field.slices], atol=1e-12)
    contrast = initial(comm)
    contrast.field[...] += 1  # 1 + delta
    again = initial_overdensity(contrast, 2 * N, growth)
    np.testing.assert_allclose(again.value, field.value, atol=1e-9)
    moved = initial_overdensity(initial(comm), 2 * N, growth, origin=-0.5)
    np.testing.assert_allclose(moved.value, plane_waves(*(at - 0.25 / N))[moved.slices], atol=1e-9)
    # of the waves 1, 2 and 3 along x, y and z only the last is left
    small = initial_overdensity(initial(comm), 2 * N, growth, kmin=2.5 * np.pi / N)
    expected = np.cos(6 * np.pi * at[2] + 2.0) / np.sqrt(1.5)
    np.testing.assert_allclose(small.value, expected[small.slices], atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_initial_conditions_from_a_snapshot(comm, offset):
    """The overdensity is minus the divergence of the displacement, wherever the lattice lies."""
    size, growth = 2 * N, 1e-3
    site = np.indices((size,) * 3).reshape(3, -1).T
    position = (site + offset) / size
    shift = np.zeros_like(position)
    for n, (phase, axis) in enumerate(((0.3, 0), (1.1, 1), (2.0, 2)), start=1):
        wave = np.sin(2 * np.pi * n * position[:, axis] + phase) / (2 * np.pi * n)
        shift[:, axis] = -growth * wave / np.sqrt(1.5)
    mine = slice(comm.rank, None, comm.size)
    ids = np.ravel_multi_index(site.T, (size,) * 3).astype("u8") + 1
    source = ArrayCatalog(
        {"Position": ((position + shift) * BOX)[mine] % BOX, "ID": ids[mine]},
        BoxSize=[BOX] * 3,
        comm=comm,
    )
    field = initial_overdensity(source, size, growth)
    at = np.indices((size,) * 3) / size
    np.testing.assert_allclose(field.value, plane_waves(*at)[field.slices], atol=1e-6)


@pytest.mark.mpi(ranks=4)
def test_the_mesh_is_the_network_on_the_periodic_box(comm, weights):
    model = SRMesh(evolved(comm), initial(comm), model=weights, Nmesh=N, chunk=4)
    field = model.to_real_field()
    alone = SRMesh(evolved(MPI.COMM_SELF), initial(MPI.COMM_SELF), model=weights, Nmesh=N, chunk=4)
    assert everywhere(same(field, alone.to_real_field()), comm)
    lr, _ = lr_density(evolved(MPI.COMM_SELF), N)
    at = np.indices((2 * N,) * 3) / (2 * N)
    lr, ic = (
        torch.from_numpy(np.pad(x, width, mode="wrap").astype("f4"))[None, None]
        for x, width in ((np.asarray(lr.value), PADDING), (plane_waves(*at), PADDING_HR))
    )
    with torch.no_grad():
        whole = model.way.network(lr, ic)[0, 0].numpy()
    assert field.attrs["SRMean"] == pytest.approx(whole.mean(), rel=1e-5)
    np.testing.assert_allclose(
        field.value, (whole / whole.mean())[field.slices], rtol=1e-4, atol=1e-5
    )


def test_paths_are_opened(comm, weights, data, tmp_path):
    low = data / "lr16_25_z2"
    mesh(plane_waves, comm, box=25.0).save(str(tmp_path / "IC"))
    options = dict(model=weights, Nmesh=N, initial_redshift=Z, force=True)
    given = SRMesh(low, str(tmp_path / "IC"), **options)
    assert given.lr.csize == 16**3 and isinstance(given.initial, BigFileMesh)
    with pytest.raises(InputError, match="nowhere does not exist"):
        SRMesh(low, "nowhere", **options)


def test_ranks_that_hold_the_same_particles(comm, weights):
    position = np.random.default_rng(1).uniform(size=(N**3, 3)) * BOX
    whole = ArrayCatalog(
        {"Position": position}, BoxSize=[BOX] * 3, Redshift=0.0, Omega0=0.3, comm=comm
    )
    if comm.size > 1:
        with pytest.raises(InputError, match=f"all {comm.size} ranks hold the same {N**3}"):
            SRMesh(whole, initial(comm), model=weights, Nmesh=N)


def test_no_chunk_of_zero(comm, weights):
    with pytest.raises(InputError, match="chunk is 0"):
        SRMesh(evolved(comm), initial(comm), model=weights, Nmesh=N, chunk=0)


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("chunk", [3, 5, 10])
def test_any_chunk_and_any_ranks(comm, weights, chunk):
    if chunk == 10 and comm.size > 1:
        with pytest.raises(InputError, match="1 chunks"):
            SRMesh(evolved(comm), initial(comm), model=weights, Nmesh=N, chunk=chunk)
        return
    field, alone = (
        SRMesh(evolved(c), initial(c), model=weights, Nmesh=N, chunk=chunk).to_real_field()
        for c in (comm, MPI.COMM_SELF)
    )
    assert everywhere(same(field, alone), comm)
    assert alone.value.min() >= 0
    assert field.cmean() == pytest.approx(1, abs=1e-6)


def test_it_is_a_mesh_of_nbodykit(comm, weights, tmp_path):
    model = SRMesh(evolved(comm), initial(comm), model=weights, Nmesh=N, chunk=4)
    assert model.attrs["Nmesh"].tolist() == [2 * N] * 3
    assert model.attrs["SROrigin"] == 0
    power = FFTPower(model, mode="1d").power["power"].real
    assert np.isfinite(power[1:-1]).all()
    doubled = model.apply(lambda k, v: 2 * v, mode="complex", kind="wavenumber")
    np.testing.assert_allclose(
        FFTPower(doubled, mode="1d").power["power"].real, 4 * power, rtol=1e-4
    )
    model.save(str(tmp_path / "out"), dataset="Field", mode="real")
    saved = BigFileMesh(str(tmp_path / "out"), "Field", comm=comm)
    equal = np.array_equal(saved.compute().value, model.compute().value)
    assert everywhere(equal, comm)
    assert saved.attrs["SRModel"] == "untrained"


def test_a_notebook_shows_what_it_is(comm, weights):
    html = SRMesh(evolved(comm), initial(comm), model=weights, Nmesh=N)._repr_html_()
    for text in ("SRMesh", f"{2 * N}³ in {BOX:g} Mpc/h", "ArrayCatalog", "untrained"):
        assert text in html, text


def test_a_caution_is_told(comm, tmp_path, caplog):
    path = written(tmp_path / "w.safetensors", comm, caution="no voids", notes="All else.")
    SRMesh(evolved(comm), initial(comm), model=path, Nmesh=N)
    told = [record.getMessage() for record in caplog.records]
    assert told == (["untrained: no voids"] if comm.rank == 0 else [])


def test_an_lr_mesh_moves_the_initial_conditions(comm, weights):
    """A mesh has its points elsewhere: the same fields half an HR cell lower give the same."""
    lr, _ = lr_density(evolved(MPI.COMM_SELF), N)
    lower = mesh(lambda *x: 0.05 * plane_waves(*(np.array(x) + 0.25 / N)), comm)
    lower.attrs["Redshift"] = 0.0
    moved = SRMesh(
        mesh(np.asarray(lr.value), comm), lower, model=weights, chunk=4, initial_redshift=0
    )
    assert moved.attrs["SROrigin"] == -0.5
    plain = mesh(lambda *x: 0.05 * plane_waves(*x), comm)
    direct = SRMesh(evolved(comm), plain, model=weights, Nmesh=N, chunk=4, initial_redshift=0)
    np.testing.assert_allclose(moved.to_real_field(), direct.to_real_field(), rtol=1e-4, atol=1e-5)


def test_threads_and_large_scales_taken_out(comm, tmp_path):
    path, kmin = tmp_path / "small.safetensors", 2.5 * 2 * np.pi / BOX
    torch.manual_seed(4)
    saved_model(path, DensityEmulator(filters=6, initial_kmin=kmin), comm, Omega_m=0.3)
    model = SRMesh(evolved(comm), initial(comm), model=path, Nmesh=N, chunk=4)
    at = np.indices((2 * N,) * 3) / (2 * N)
    expected = np.cos(6 * np.pi * at[2] + 2.0) / np.sqrt(1.5)
    (overdensity,) = model.way.fields()[1]
    np.testing.assert_allclose(overdensity.value, expected[overdensity.slices], atol=1e-9)
    before, fields = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            fields.append(np.array(model.to_real_field().value))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*fields)


def test_a_real_snapshot(comm, weights, data):
    """Densities of a real run follow its real initial conditions."""
    lr, ic = (open_snapshot(data / f"lr16_25_{name}", comm) for name in ("z2", "IC"))
    growth = growth_factor(ic.attrs["Time"], lr.attrs["Omega0"])
    density, origin = lr_density(lr, 8)
    overdensity = initial_overdensity(ic, 16, growth, origin)
    assert correlation(density, overdensity) > 0.8
    assert 1 < np.sqrt((overdensity**2).cmean()) < 10
    model = SRMesh(lr, ic, model=weights, Nmesh=8, chunk=4, force=True)
    assert model.compute().cmean() == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="the snapshot's LR cell is 3.125"):
        SRMesh(lr, ic, model=weights, Nmesh=8)


def test_fields_that_cannot_be_used(comm, weights, tmp_path):
    ones = np.ones((N,) * 3)
    bad = {name: ones.copy() for name in ("negative", "not finite", "the mean LR density is 2")}
    bad["negative"][2, 3, 4] = -1
    bad["not finite"][5, 6, 7] = np.nan
    bad["the mean LR density is 2"] *= 2
    for words, values in bad.items():
        with pytest.raises(InputError, match=words):
            SRMesh(mesh(values, comm), initial(comm), model=weights, chunk=4).compute()
    lr = evolved(comm)
    nan = evolved(comm)
    nan["Position"] = nan["Position"] * np.where(comm.rank == 0, np.nan, 1)
    kpc = evolved(comm)
    kpc["Position"] = kpc["Position"] * 1000
    for source, start, words in (
        (nan, initial(comm), "Position is not finite"),
        (kpc, initial(comm), "check the units"),
        (lr, mesh(3 * np.ones((2 * N,) * 3), comm), "mean of the initial conditions is 3"),
        (lr, initial(comm, factor=1e5), "check its redshift"),
        (lr, initial(comm, factor=-1), "same phases"),
    ):
        start.attrs["Redshift"] = Z
        with pytest.raises(InputError, match=words):
            SRMesh(source, start, model=weights, Nmesh=N, chunk=4).compute()


def test_inputs_that_do_not_match(comm, weights, tmp_path):
    lr = evolved(comm)
    undated = mesh(plane_waves, comm)
    early = evolved(comm)
    del early.attrs["Redshift"]
    early.attrs["Time"] = 0
    for source, start, options, words in (
        (lr, initial(comm, box=40.0), {"Nmesh": N}, "of one box"),
        (lr, initial(comm), {"Nmesh": N + 1}, "22 are needed, twice LR"),
        (lr, initial(comm), {}, "a Lagrangian lattice needs a cube"),
        (lr, undated, {"Nmesh": N}, "initial_redshift"),
        (early, initial(comm), {"Nmesh": N}, "Time is 0"),
        (evolved(comm, box=78.0), initial(comm, box=78.0), {"Nmesh": N}, "LR cell is 7.8"),
        (lr, initial(comm), {"Nmesh": N, "chunk": 11}, "chunk is 11"),
        (lr, initial(comm), {"Nmesh": N, "model": "nowhere"}, "does not exist"),
        (lr, initial(comm), {"Nmesh": N, "model": tmp_path}, "is a folder"),
    ):
        with pytest.raises(InputError, match=words):
            SRMesh(source, start, **{"model": weights, **options})
    path = saved_model(tmp_path / "other.safetensors", InterpolatingGenerator(3, 2), comm)
    with pytest.raises(InputError, match="a density one is needed"):
        SRMesh(lr, initial(comm), model=path, Nmesh=N)
