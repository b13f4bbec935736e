"""The super-resolved catalogue, as nbodykit sees it."""

import numpy as np
import pytest
import torch
from helpers import gathered, saved_model
from nbodykit.lab import FOF, ArrayCatalog, BigFileCatalog, FFTPower, SimulationBox2PCF
from scipy.spatial import cKDTree

from nbodykit_sr import InputError, SRCatalog, SRMesh, cosmology, open_snapshot
from nbodykit_sr.chunks import ChunkGrid
from nbodykit_sr.inference import ChunkedInference
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.generator import Generator
from nbodykit_sr.models.loading import load_generator
from nbodykit_sr.weights import FOLDER as WEIGHTS

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def snapshot(comm, data):
    return open_snapshot(data / "lr8_12p5_z2", comm)


@pytest.fixture(scope="module")
def weights(data):
    return dict(model=data / "vectors" / "map2map_6ch.pt", flavour="map2map")


def all_columns(sr):
    """Every rank's particles by ID: the global catalogue as an array on the SR lattice."""
    ids = gathered(sr, "ID")
    order = np.argsort(ids)
    return {name: gathered(sr, name)[order] for name in sr.names}


def test_no_network_runs_before_a_column_is_computed(snapshot, weights, monkeypatch):
    ran = []
    particles = ChunkedInference.particles
    monkeypatch.setattr(
        ChunkedInference, "particles", lambda *a, **k: ran.append(1) or particles(*a, **k)
    )
    sr = SRCatalog(snapshot, **weights)
    assert sr.csize == 64**3
    position, velocity = sr["Position"], sr["Velocity"]
    assert position.shape == (sr.size, 3) and velocity.dtype == "f4" and not ran
    position[:5].compute()
    assert len(ran) == 1


def test_one_pass_for_all_columns_where_it_fits(snapshot, weights, monkeypatch):
    ran = []
    particles = ChunkedInference.particles
    monkeypatch.setattr(
        ChunkedInference, "particles", lambda *a, **k: ran.append(1) or particles(*a, **k)
    )
    sr = SRCatalog(snapshot, **weights)
    FFTPower(sr, mode="1d", Nmesh=32)
    sr.compute(sr["Position"], sr["Velocity"], sr["ID"])
    assert len(ran) == len(sr.chunks)
    small = SRCatalog(snapshot, cache_size=0, **weights)
    del ran[:]
    small["Position"].compute(), small["Velocity"].compute()
    assert len(ran) == 2 * len(sr.chunks)


@pytest.mark.mpi(ranks=4)
def test_columns_are_a_lattice_of_particles_in_the_box(snapshot, weights):
    sr = SRCatalog(snapshot, **weights)
    columns = all_columns(sr)
    np.testing.assert_array_equal(columns["ID"], 1 + np.arange(64**3))
    assert (columns["Position"] >= 0).all() and (columns["Position"] < 12.5).all()
    assert np.isfinite(columns["Velocity"]).all()


@pytest.mark.mpi(ranks=4)
def test_the_universe_depends_on_seed_and_model_alone(alone, data, snapshot, weights):
    sr = all_columns(SRCatalog(snapshot, seed=7, **weights))
    same = alone(
        lambda one: all_columns(
            SRCatalog(open_snapshot(data / "lr8_12p5_z2", one), seed=7, **weights)
        )
    )
    for name in sr:
        np.testing.assert_array_equal(sr[name], same[name])
    other = all_columns(SRCatalog(snapshot, seed=8, **weights))
    assert abs(other["Velocity"] - sr["Velocity"]).max() > 1


@pytest.mark.mpi(ranks=1)
@pytest.mark.parametrize("chunk", [2, 3])
def test_chunks_make_no_difference(comm, snapshot, weights, chunk):
    """The same universe to float tolerance, ragged chunks too."""
    lattice = LagrangianLattice(64, 12.5)
    fields = [
        lattice.displacement(lattice.site(columns["ID"]), columns["Position"])
        for columns in (
            all_columns(SRCatalog(snapshot, chunk=side, seed=3, **weights)) for side in (4, chunk)
        )
    ]
    # positions are float32 in a box of 12.5 Mpc/h: half a unit in their last place is 1e-6 Mpc/h
    assert abs(fields[0] - fields[1]).max() < 1e-5 * abs(fields[0]).max() + 2e-6


@pytest.mark.mpi(ranks=1)
def test_chunks_equal_the_whole_box(comm, data, weights):
    """Against the network run once on the whole periodic box with whole-box noise."""
    from nbodykit_sr.domain import LatticeDomain
    from nbodykit_sr.particles import find_lattice
    from nbodykit_sr.physics.normalization import Normalization

    snapshot = open_snapshot(data / "lr8_12p5_z2", comm)
    generator, card = load_generator(weights["model"], weights["flavour"])
    particles = find_lattice(snapshot)
    outputs = []
    for side in (8, 4, 2):
        domain = LatticeDomain(ChunkGrid(8, side), comm, 3)
        field = particles.field(domain, True)
        units = Normalization(card.Omega_m or 0.3, card.length).units(1 / 3, 6)
        inference = ChunkedInference(generator, 8, particles.lattice, units, 5, torch.device("cpu"))
        whole = np.empty((6, 64, 64, 64), "f4")
        for chunk in domain.chunks:
            place = tuple(slice(8 * s, 8 * (s + n)) for s, n in zip(chunk.start, chunk.shape))
            whole[(slice(None), *place)] = inference.fields(chunk, field.padded(chunk)).numpy()
        outputs.append(whole / units[:, None, None, None])
    for cut in outputs[1:]:
        assert abs(cut - outputs[0]).max() < 1e-5 * abs(outputs[0]).max()


@pytest.mark.mpi(ranks=1)
def test_no_seams(snapshot, weights):
    """Displacement gradients across chunk faces are distributed as elsewhere."""
    columns = all_columns(SRCatalog(snapshot, chunk=2, **weights))
    lattice = LagrangianLattice(64, 12.5)
    field = lattice.displacement(lattice.site(columns["ID"]), columns["Position"])
    jump = np.diff(field.reshape(64, 64, 64, 3), axis=0)
    sizes = np.sqrt((jump**2).mean(axis=(1, 2, 3)))
    faces = np.arange(15, 63, 16)
    # trilinear cells have their own rhythm of 8 sites: compare with other LR cell faces
    others = np.setdiff1d(np.arange(7, 63, 8), faces)
    assert sizes[faces].mean() == pytest.approx(sizes[others].mean(), rel=0.08)


@pytest.mark.mpi(ranks=4)
def test_regions_are_identical_to_the_whole(snapshot, weights):
    sr = SRCatalog(snapshot, seed=2, chunk=2, **weights)
    region = ((2.0, 4.0), (0.0, 12.5), (11.0, 13.0))
    zoom = SRCatalog(snapshot, seed=2, chunk=2, region=region, **weights)
    assert 0 < zoom.csize < sr.csize
    whole, part = all_columns(sr), all_columns(zoom)
    index = part["ID"].astype(int) - 1
    for name in part:
        np.testing.assert_array_equal(part[name], whole[name][index])
    site = LagrangianLattice(64, 12.5).site(part["ID"])
    assert set(site[:, 0] // 16) == {0, 1} and set(site[:, 2] // 16) == {0, 3}


def test_large_scales_are_those_of_the_snapshot(comm, data):
    """Interpolation keeps the power below the LR lattice, less the trilinear kernel's loss."""
    snapshot = open_snapshot(data / "lr16_25_z2", comm)
    sr = SRCatalog(snapshot, model="interpolate")
    power = [FFTPower(c, mode="1d", Nmesh=32, kmax=0.9).power for c in (sr, snapshot)]
    ratio = power[0]["power"].real[1:] / power[1]["power"].real[1:]
    assert (ratio[:2] > 0.85).all() and (ratio[:2] < 1.01).all()


@pytest.mark.mpi(ranks=1)
@pytest.mark.parametrize("name", ["lr16_25_corner_z4", "lr16_25_gas_z4"])
def test_lattice_offsets_shift_nothing(comm, data, name):
    """SR particles of shifted lattices lie where their LR particles are."""
    snapshot = open_snapshot(data / name, comm)
    sr = SRCatalog(snapshot, model="interpolate")
    phases = []
    for catalog in (sr, snapshot):
        mode = catalog.to_mesh(Nmesh=32, resampler="tsc", compensated=True).to_field(mode="complex")
        modes = np.zeros((3, 3, 3), dtype=complex)
        for index in np.ndindex(3, 3, 3):
            modes[index] = comm.allreduce(mode.cgetitem(list(index)) / comm.size)
        phases.append(np.angle(modes.ravel()[1:]))
    difference = np.angle(np.exp(1j * (phases[0] - phases[1])))
    # an error of one LR cell would turn the lowest modes by 2 pi / 16
    assert abs(difference).max() < 0.1


@pytest.mark.mpi(ranks=4)
def test_fof_and_redshift_space(comm, snapshot, weights):
    sr = SRCatalog(snapshot, **weights)
    fof = FOF(sr, linking_length=0.4, nmin=31)
    halos = fof.to_halos(sr.attrs["ParticleMass"] * 1e10, cosmology(sr.attrs), sr.attrs["Redshift"])
    rows = {name: sr[name].compute() for name in ("Position", "Velocity")}
    stored = FOF(ArrayCatalog(rows, comm=comm, BoxSize=[12.5] * 3), linking_length=0.4, nmin=31)
    features = stored.find_features()  # its first entry counts the particles in no halo
    assert halos.csize == features.csize - 1 > 3
    factor = 1 / (sr.attrs["Time"] * 100 * cosmology(sr.attrs).efunc(sr.attrs["Redshift"]))
    sr["RSDPosition"] = sr["Position"] + sr["Velocity"] * [0, 0, 1] * factor
    mesh = sr.to_mesh(Nmesh=32, position="RSDPosition")
    poles = FFTPower(mesh, mode="2d", Nmu=5, poles=[0, 2]).poles
    assert np.isfinite(poles["power_2"].real[1:]).all()


def test_slices_views_and_copies(snapshot, weights):
    sr = SRCatalog(snapshot, **weights)
    first = sr[:100]
    np.testing.assert_array_equal(first["ID"].compute(), sr["ID"].compute()[:100])
    np.testing.assert_array_equal(sr.copy()["ID"][:9].compute(), sr["ID"][:9].compute())
    view = sr.view()
    np.testing.assert_array_equal(view["Position"][:9].compute(), sr["Position"][:9].compute())
    chosen = sr[sr["ID"] % 1000 == 0]
    assert chosen.csize == 64**3 // 1000


def test_progress_is_shown_on_rank_0_when_asked_for(comm, snapshot, weights, capfd):
    for asked in (False, True):
        sr = SRCatalog(snapshot, **weights, chunk=4, progress=asked)
        sr.compute(sr["Position"])
        err = capfd.readouterr().err
        done = f"{len(sr.chunks)}/{len(sr.chunks)}"
        assert ("super-resolving" in err and done in err) == (asked and comm.rank == 0)


@pytest.mark.mpi(ranks=1)
def test_a_notebook_shows_what_it_is_and_what_it_is_worth(snapshot):
    sr = SRCatalog(snapshot, seed=3)
    for one in (sr, sr[: sr.size // 2]):
        html = one._repr_html_()
        for text in (
            "SRCatalog",
            "of 64³",
            "Position, ",
            f"{sr.card.name}, seed 3",
            sr.card.validity,
        ):
            assert text in html, text
        assert "halos &gt;= 100 particles / HR" in html
    part = SRCatalog(snapshot, "interpolate", chunk=2, region=[(0, 6), (0, 6), (0, 6)])
    assert "region" in part._repr_html_()


@pytest.mark.mpi(ranks=4)
def test_saved_catalogues_open_as_any_other(comm, snapshot, weights, tmp_path):
    sr = SRCatalog(snapshot, seed=4, **weights)
    sr.save(str(tmp_path / "sr"), columns=["Position", "Velocity", "ID"])
    saved = BigFileCatalog(str(tmp_path / "sr"), comm=comm)
    assert saved.attrs["SRSeed"] == "4" and saved.csize == sr.csize
    for name in sr.names:
        before, after = gathered(sr, name), gathered(saved, name)
        # bigfile gives columns of one member as (n, 1)
        np.testing.assert_array_equal(after.reshape(before.shape), before)


def test_attrs_say_how_it_was_made(snapshot, weights):
    sr = SRCatalog(snapshot, seed=9, **weights)
    assert sr.attrs["SRSeed"] == "9" and sr.attrs["SRModel"] == "map2map_6ch"
    assert sr.attrs["SRSource"].endswith("lr8_12p5_z2") and "torch" in sr.attrs["SRVersions"]
    np.testing.assert_array_equal(sr.attrs["BoxSize"], [12.5, 12.5, 12.5])
    assert sr.attrs["ParticleMass"] == pytest.approx(snapshot.attrs["ParticleMass"] / 512)


def test_any_catalogue_of_a_lattice_is_taken(comm, snapshot):
    rows = np.empty(snapshot.size, dtype=[("Position", "f8", 3), ("ID", "u8", (1,))])
    rows["Position"] = snapshot["Position"].compute()
    rows["ID"] = snapshot["ID"].compute()[:, None]  # as bigfile gives it under numpy 2
    other = ArrayCatalog(rows, comm=comm, BoxSize=[12.5] * 3, Redshift=2.0, Omega0=0.28)
    sr = SRCatalog(other, model="interpolate", factor=2)
    assert sr.names == ("Position", "ID") and sr.csize == 16**3
    reference = SRCatalog(snapshot, model="interpolate", factor=2)
    np.testing.assert_array_equal(sr["Position"].compute(), reference["Position"].compute())


@pytest.mark.mpi(ranks=4)
def test_more_ranks_than_default_chunks(comm, data):
    """Chunks become smaller rather than a rank empty."""
    sr = SRCatalog(open_snapshot(data / "lr8_12p5_z2", comm), model="interpolate", factor=2)
    assert all(sr.comm.allgather(sr.size > 0))
    if comm.size > 1:
        with pytest.raises(InputError, match="smaller chunks or fewer ranks"):
            SRCatalog(open_snapshot(data / "lr8_12p5_z2", comm), model="interpolate", chunk=8)


def model_file(comm, tmp_path, **card):
    generator = Generator(channels=6, factor=2, chan_base=4, chan_min=2)
    return saved_model(tmp_path / "model.safetensors", generator, comm, **{"name": "m"} | card)


@pytest.mark.parametrize(
    "card, message",
    [
        (dict(cell=0.78125), "1.5625 Mpc/h.*0.78125"),
        (dict(redshift=(4, 4)), "redshift 2 .*z = 4"),
        (dict(redshift=(0, 1)), "redshift 2 .*z = 0 to 1"),
        (dict(Omega_m=0.6), "Omega0 is 0.2814 .*for 0.6, to 10%"),
    ],
)
def test_a_model_that_does_not_fit(comm, snapshot, tmp_path, card, message, caplog):
    path = model_file(comm, tmp_path, **card)
    with pytest.raises(InputError, match=message):
        SRCatalog(snapshot, model=path)
    SRCatalog(snapshot, model=path, force=True)
    if comm.rank == 0:
        assert "going on as forced" in caplog.text


@pytest.mark.parametrize(
    "card", [dict(caution="Caution: few halos.", notes="All else."), dict(notes="Many halos."), {}]
)
def test_a_caution_is_told(comm, snapshot, tmp_path, card, caplog):
    SRCatalog(snapshot, model=model_file(comm, tmp_path, **card))
    told = [record.getMessage() for record in caplog.records]
    assert told == (["m: Caution: few halos."] if "Caution" in str(card) and comm.rank == 0 else [])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(seed=-1), "seed is -1"),
        (dict(seed=1.5), "seed is 1.5: an integer"),
        (dict(seed="7"), "seed is '7': an integer"),
        (dict(seed=None), "seed is None: an integer"),
        (dict(chunk=2.0), "chunk is 2.0"),
        (dict(model="interpolate", factor=2.0), "factor is 2.0"),
        (dict(model="interpolate", factor=0), "factor is 0"),
        (dict(region=np.zeros((3, 3))), "region is .*three"),
        (dict(region=5.0), "region is 5.0: three"),
        (dict(region=(("a", 1), (0, 1), (0, 1))), "region is .*three"),
        (dict(chunk=9), "chunk is 9"),
        (dict(device="tpu"), "device is 'tpu'"),
        (dict(dtype="float16"), "dtype is 'float16'"),
        (dict(model="interpolate", factor=3), "factor is 3"),
        (dict(model="nowhere.safetensors"), "does not exist"),
        (dict(model=WEIGHTS), "is a folder: give one in it, such as density_moved_z0.safetensors"),
        (dict(model=WEIGHTS.parent / "io"), "is a folder: give a .safetensors or .pt file"),
        (dict(cache_size="1 furlong"), "cache_size is '1 furlong': a number of bytes"),
        (dict(cache_size=-1), "cache_size is -1"),
        (dict(cache_size=None), "cache_size is None"),
        (dict(region=((0, 1), (0, 1), (2, 2))), "region along z"),
    ],
)
def test_senseless_options(snapshot, options, message):
    with pytest.raises(InputError, match=message):
        SRCatalog(snapshot, **options)


@pytest.mark.parametrize("source", [None, ["PART_008"], np.zeros((8, 3))])
def test_what_is_no_snapshot(source):
    with pytest.raises(InputError, match=f"source is of type {type(source).__name__}"):
        SRCatalog(source)
    with pytest.raises(InputError, match=f"lr is of type {type(source).__name__}"):
        SRMesh(source, source)


def test_what_people_write_in_python(comm, data, snapshot):
    """Paths, numbers of numpy's types, bytes in words."""
    wanted = all_columns(SRCatalog(snapshot, model="interpolate", factor=2))
    path = data / "lr8_12p5_z2"
    for source, options in (
        (path, {}),
        (str(path), dict(cache_size="1 GB")),
        (open_snapshot(path, comm, dataset=1), dict(cache_size=np.inf, seed=np.uint64(0))),
        (snapshot, dict(factor=np.int32(2), chunk=np.int64(4))),
    ):
        found = SRCatalog(source, model="interpolate", **{"factor": 2, **options})
        for name, values in all_columns(found).items():
            np.testing.assert_array_equal(values, wanted[name])
    assert SRCatalog(path, model="interpolate", cache_size="2kB")._cache.limit == 2000


def test_ranks_that_hold_the_same_particles(comm, snapshot):
    """An array that every rank read whole: of 8 ranks even the number is that of a lattice."""
    columns = {name: gathered(snapshot, name) for name in ("Position", "ID")}
    whole = ArrayCatalog(columns, comm=comm, **snapshot.attrs)
    part = whole[comm.rank :: comm.size]
    assert SRCatalog(part, model="interpolate", factor=2).csize == 16**3
    if comm.size > 1:
        with pytest.raises(InputError, match=f"all {comm.size} ranks hold the same 512 particles"):
            SRCatalog(whole, model="interpolate", factor=2)


def test_a_region_of_any_kind(snapshot, weights):
    regions = ((0, 5), (0, 5), (0, 5)), np.array([[0, 5]] * 3), [[0.0, 5.0]] * 3
    told = {
        SRCatalog(snapshot, chunk=2, region=one, **weights).attrs["SRRegion"] for one in regions
    }
    assert told == {"[[0.0, 5.0], [0.0, 5.0], [0.0, 5.0]]"}


@pytest.mark.mpi(ranks=4)
def test_ranks_that_disagree(comm, snapshot, tmp_path):
    """As when every rank draws a seed of its own, or reads files of its own."""
    rank = min(comm.rank, 1)
    if comm.size == 1:
        return
    path = tmp_path / f"of rank {comm.rank}.safetensors"
    torch.manual_seed(comm.rank)  # whatever tests before left
    generator = Generator(channels=6, factor=2, chan_base=4, chan_min=2)
    saved_model(path, generator)
    for options, message in (
        (dict(seed=rank), "seed is 0 on rank 0 but 1 on rank 1: give all ranks the same"),
        (dict(dtype=["float32", "bfloat16"][rank]), "dtype is 'float32' on rank 0"),
        (dict(chunk=[None, 2][rank]), "chunk is None on rank 0"),
        (dict(model=path), "model is '.*' on rank 0"),
    ):
        with pytest.raises(InputError, match=message):
            SRCatalog(snapshot, **{"model": "interpolate", **options})
    rows = {name: snapshot[name] for name in snapshot.header.columns}
    later = ArrayCatalog(rows, comm=comm, **{**snapshot.attrs, "Time": (1 + rank * 1e-4) / 3})
    with pytest.raises(InputError, match="Time is .* on rank 0 but"):
        SRCatalog(later, model="interpolate")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: {"Selection": c["ID"] % 2 == 0}, "Selection leaves out"),
        (lambda c: {"ID": c["ID"].astype("f8")}, "ID is float64: integers"),
        (lambda c: {"ID": c["ID"].astype("i8") - 5}, "ID is -"),
        (lambda c: {"Position": c["Position"].astype("i8")}, "Position is int64"),
        (lambda c: {"Position": c["Position"] * 1j}, "Position is complex128"),
        (lambda c: {"Position": c["Position"][:, :2]}, r"Position is .*\(n, 3\) are needed"),
        (lambda c: {"Velocity": c["Velocity"] * 1e6}, "linear theory gives .* check its units"),
        (lambda c: {"Velocity": c["Velocity"] * 0}, "Velocity is 0 km/s rms"),
    ],
)
def test_columns_that_make_no_sense(comm, snapshot, weights, change, message):
    rows = {name: snapshot[name] for name in snapshot.header.columns}
    attrs = {name: snapshot.attrs[name] for name in ("BoxSize", "Time", "Omega0")}
    source = ArrayCatalog({**rows, **change(snapshot)}, comm=comm, **attrs)
    with pytest.raises(InputError, match=message):
        SRCatalog(source, **weights)


def test_velocities_a_model_wants(comm, snapshot, tmp_path):
    rows = {"Position": snapshot["Position"], "ID": snapshot["ID"]}
    bare = ArrayCatalog(rows, comm=comm, BoxSize=[12.5] * 3, Redshift=2.0, Omega0=0.3)
    with pytest.raises(InputError, match="6 channels.*no Velocity"):
        SRCatalog(bare, model=model_file(comm, tmp_path))


def test_threads_compute_ahead_within_the_cache(snapshot, weights):
    """As many chunks together as there are threads and room in the cache: the same particles."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        together = SRCatalog(snapshot, chunk=4, **weights)
        positions = together["Position"].compute()
        first = together.chunks[0]
        ahead = [len(together._cache._together(one)) for one in together.chunks[:1]]
        alone = SRCatalog(snapshot, chunk=4, cache_size=0, **weights)
        assert len(alone._cache._together(first)) == 1
        fresh = SRCatalog(snapshot, chunk=4, **weights)
        assert len(fresh._cache._together(first)) == min(3, len(fresh.chunks))
        assert len(fresh._cache._together(fresh.chunks[-1])) == 1
    finally:
        torch.set_num_threads(before)
    assert ahead == [0]  # all of them are kept
    np.testing.assert_array_equal(positions, alone["Position"].compute())


@pytest.mark.slow
def test_pair_counts_of_nbodykit(snapshot):
    """By Corrfunc as by a tree of scipy's, whose pairs are ordered and without the particles themselves."""
    reason = "Corrfunc is not installed: install.sh leaves it out where the GNU Scientific Library is missing"
    pytest.importorskip("Corrfunc", reason=reason)
    sr = SRCatalog(snapshot, model="interpolate")
    edges = np.geomspace(0.1, 0.5, 5)
    counted = SimulationBox2PCF("1d", sr, edges)
    position, BoxSize = all_columns(sr)["Position"], 12.5
    tree = cKDTree(position % BoxSize, boxsize=BoxSize)
    pairs = np.diff(tree.count_neighbors(tree, edges))
    np.testing.assert_array_equal(counted.D1D2["npairs"], pairs)
    density = len(position) / BoxSize**3
    expected = len(position) * density * 4 / 3 * np.pi * np.diff(edges**3)
    np.testing.assert_allclose(counted.corr["corr"], pairs / expected - 1, rtol=1e-3, atol=1e-3)
