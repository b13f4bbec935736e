"""The light cone: every particle once, on the cone, whatever the cut and the number of ranks."""

import os
import shlex
import shutil
import signal
from itertools import product
from types import SimpleNamespace

import h5py
import healpy
import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog, BigFileCatalog
from scipy.spatial import cKDTree

from nbodykit_sr import InputError, SRCatalog, open_snapshot
from nbodykit_sr.commands import verified_cone
from nbodykit_sr.commands.halos import main as halos
from nbodykit_sr.commands.lightcone import main
from nbodykit_sr.commands.lightcone_plan import lightcone_plan
from nbodykit_sr.commands.verify import verify
from nbodykit_sr.io.checks import attributes
from nbodykit_sr.io.cones import COLUMNS, ConeWriter, open_cone
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.lightcone import worldlines
from nbodykit_sr.lightcone.catalog import SRLightCone
from nbodykit_sr.lightcone.cone import Cone
from nbodykit_sr.models.card import ModelCard, save_model
from nbodykit_sr.models.generator import Generator
from nbodykit_sr.physics.background import growth_factor, growth_rate, hubble
from nbodykit_sr.physics.distance import LIGHT
from nbodykit_sr.preparation import ModelOptions

pytestmark = pytest.mark.mpi

BOX, NMESH, OMEGA = 60.0, 8, 0.3
TIMES = (0.9, 0.94, 1.0)
QUICK = {"model": "interpolate", "factor": 2, "chunk": 4}


def zeldovich(seed=3, Nmesh=NMESH, box=BOX, rms=1.0):
    """Displacement today of a few long waves, (n, 3) by site, and the lattice."""
    random = np.random.default_rng(seed)
    lattice = LagrangianLattice(Nmesh, box, 0.5)
    site = lattice.site(np.arange(1, lattice.size + 1))
    q, psi = lattice.site_position(site), 0.0
    for n in product(range(-2, 3), repeat=3):
        if any(n):
            k = 2 * np.pi / box * np.array(n)
            phase = q @ k + random.uniform(0, 2 * np.pi)
            psi = psi + np.outer(random.normal() * np.sin(phase), k / (k @ k))
    return psi * rms / psi.std(), lattice


def snapshot(comm, psi, lattice, a):
    """Growing mode at a time as an nbodykit catalogue; every rank has a part."""
    mine = slice(comm.rank, None, comm.size)
    growth = growth_factor(a, OMEGA)
    site = lattice.site(np.arange(1, lattice.size + 1))[mine]
    columns = {
        "Position": lattice.position(site, growth * psi[mine]),
        "Velocity": (a * hubble(a, OMEGA) * growth_rate(a, OMEGA) * growth * psi[mine]),
        "ID": lattice.id(site),
    }
    attrs = {"BoxSize": np.full(3, lattice.BoxSize), "Time": a, "Omega0": OMEGA}
    attrs |= {"OmegaLambda": 1 - OMEGA, "HubbleParam": 0.7}
    return ArrayCatalog(columns, comm=comm, **attrs)


@pytest.fixture(scope="module")
def series(comm):
    return [snapshot(comm, *zeldovich(), a) for a in TIMES]


def held(cone):
    """All columns of a cone on every rank, by ID and replica."""
    columns = {}
    for name in cone._held:
        columns[name] = np.concatenate(cone.comm.allgather(cone._held[name]))
    order = np.lexsort((*columns["Replica"].T, columns["ID"]))
    return {name: values[order] for name, values in columns.items()}


def chi(a):
    """Comoving distance by quadrature, (n,)."""
    points, weights = np.polynomial.legendre.leggauss(40)
    half = (1 - np.asarray(a)[:, None]) / 2
    x = 1 - half * (1 - points)
    return (half * weights * LIGHT / (x**2 * hubble(x, OMEGA))).sum(axis=1)


def brute(comm, series, a):
    """SR positions at a time by ID, not wrapped, of snapshots interpolated linearly in D."""
    early = [one.attrs["Time"] <= a for one in series].index(False) - 1
    found = []
    for one in series[early : early + 2]:
        sr = SRCatalog(one, **QUICK)
        position, ids = (comm.allgather(x) for x in sr.compute(sr["Position"], sr["ID"]))
        order = np.argsort(np.concatenate(ids))
        site = sr.lattice.site(np.arange(1, sr.lattice.size + 1))
        moved = sr.lattice.displacement(site, np.concatenate(position)[order])
        found.append((growth_factor(one.attrs["Time"], OMEGA), moved))
    (first, start), (last, end) = found
    part = (growth_factor(a, OMEGA) - first) / (last - first)
    return sr.lattice.site_position(site) + (1 - part) * start + part * end


def keys(cone):
    """A number for each particle of each replica."""
    wide = (
        64 + np.concatenate([cone["Replica"], cone["ID"][:, None] * 0], axis=1).astype("i8")[:, :3]
    )
    return np.sort(
        ((cone["ID"].astype("i8") * 128 + wide[:, 0]) * 128 + wide[:, 1]) * 128 + wide[:, 2]
    )


OBSERVER = (50.0, 3.0, 20.0)


@pytest.fixture(scope="module")
def full(series):
    return SRLightCone(series, zmax=0.05, zmin=0.01, sky="full", observer=OBSERVER, **QUICK)


@pytest.mark.mpi(ranks=4)
def test_each_particle_of_each_replica_is_there_once(comm, series, full):
    """Counted over all replicas by numpy alone: nearer than light at first, and not at last."""
    inside = []
    for a in full.cone.times:
        position, light = brute(comm, series, a) - OBSERVER, chi([a])[0]
        seen = [
            (i, n)
            for n in product(range(-4, 5), repeat=3)
            for i in np.flatnonzero(np.linalg.norm(position + BOX * np.array(n), axis=1) < light)
        ]
        ids, replica = (np.array(x) for x in zip(*seen, strict=True))
        inside.append({"ID": ids + 1, "Replica": replica})
    wanted = np.setdiff1d(*map(keys, inside))
    found = keys(held(full))
    assert len(np.unique(found)) == len(found) > 200_000
    np.testing.assert_array_equal(found, wanted)


def test_positions_lie_on_the_cone(comm, series, full):
    cone = held(full)
    distance = np.linalg.norm(cone["Position"], axis=1)
    assert abs(distance - chi(cone["Aemit"])).max() < 1e-4
    # and on the world lines: of the growing mode, interpolation in time is exact
    mode, lattice = zeldovich()
    site = LagrangianLattice(2 * NMESH, BOX, 0.5).site(cone["ID"])
    moved = cone["Position"] + OBSERVER - BOX * cone["Replica"] - (site + 0.5) * BOX / 2 / NMESH
    growth = np.interp(cone["Aemit"], *growth_table())
    order = np.argsort(cone["ID"], kind="stable")
    today, ids = (moved / growth[:, None])[order], cone["ID"][order]
    apart = np.diff(today, axis=0)[np.diff(ids) == 0]
    assert len(apart) > 100_000 and abs(apart).max() < 1e-4
    rate = np.interp(cone["Aemit"], growth_table()[0], rate_table())
    np.testing.assert_allclose(cone["Velocity"], rate[:, None] * moved, atol=0.1)


def growth_table():
    a = np.linspace(0.9, 1, 1000)
    return a, np.array([growth_factor(x, OMEGA) for x in a])


def rate_table():
    a = np.linspace(0.9, 1, 1000)
    return np.array([x * hubble(x, OMEGA) * growth_rate(x, OMEGA) for x in a])


def test_sky_and_redshift_columns(comm, full):
    cone = held(full)
    distance = np.linalg.norm(cone["Position"], axis=1)
    ra, dec = np.radians(cone["RA"]), np.radians(cone["DEC"])
    line = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    np.testing.assert_allclose(distance[:, None] * line, cone["Position"], atol=1e-9)
    np.testing.assert_allclose(1 / (1 + cone["Redshift"]), cone["Aemit"], rtol=1e-14)
    away = (line * cone["Velocity"]).sum(axis=1)
    observed = (1 + cone["Redshift"]) * (1 + away / LIGHT) - 1
    np.testing.assert_allclose(cone["RedshiftObserved"], observed, atol=1e-10)
    assert (0.01 < cone["Redshift"]).all() and (cone["Redshift"] <= 0.05).all()
    assert "Weight" not in cone and "BoxSize" not in full.attrs
    np.testing.assert_array_equal(full.attrs["ConeObserver"], OBSERVER)


def part(cone, inside):
    return {name: values[inside] for name, values in cone.items()}


def same(one, other):
    assert one.keys() == other.keys() and len(one["ID"]) > 0
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_part_of_the_sky_is_that_part_of_the_whole(comm, series, full):
    cone, given = held(full), dict(zmax=0.05, zmin=0.01, observer=OBSERVER, **QUICK)
    octant = SRLightCone(series, sky="octant", **given)
    same(held(octant), part(cone, (cone["Position"] > 0).all(axis=1)))
    axis = np.array([-1, 2, 0.5])
    narrow = SRLightCone(series, angle=9, axis=axis, **given)
    along = (
        cone["Position"] @ axis / np.linalg.norm(axis) / np.linalg.norm(cone["Position"], axis=1)
    )
    same(held(narrow), part(cone, along > np.cos(np.radians(9))))
    near = SRLightCone(series, sky="full", **{**given, "zmax": 0.03})
    same(held(near), part(cone, cone["Redshift"] <= 0.03))


def test_density_follows_the_volume_and_no_edge_is_seen(comm, series):
    """The node of the snapshot at z = 0.0638 lies within this cone."""
    full = SRLightCone(
        series, zmax=0.08, zmin=0.045, sky="full", observer=OBSERVER, subsample=0.3, **QUICK
    )
    cone = held(full)
    assert (cone["Weight"] == np.float32(1 / 0.3)).all()
    distance, light = np.linalg.norm(cone["Position"], axis=1), chi(1 / np.array([1.08, 1.045]))
    mean = 0.3 * (2 * NMESH / BOX) ** 3 * 4 * np.pi
    edges = np.linspace(*light[::-1], 21)
    shells = np.histogram(distance, edges)[0] / (mean / 3 * np.diff(edges**3))
    # boxes repeat, so that shells scatter more than Poisson's
    assert abs(shells - 1).max() < 0.05 and abs(shells.mean() - 1) < 0.01
    # pairs across spheres, for their area: that of the node is like others
    node, tree = chi([TIMES[1]])[0], cKDTree(cone["Position"])
    pairs = tree.query_pairs(6.0, output_type="ndarray")
    low, high = np.sort(distance[pairs], axis=1).T
    radii = node + np.linspace(-36, 36, 13)
    across = np.array([((low < r) & (high >= r)).sum() / r**2 for r in radii])
    others = np.delete(across, 6)
    assert abs(across[6] - others.mean()) < 3 * others.std() < 0.3 * others.mean()


@pytest.mark.mpi(ranks=4)
def test_any_number_of_ranks_gives_the_same_bytes(comm, full):
    alone = [snapshot(MPI.COMM_SELF, *zeldovich(), a) for a in TIMES]
    one = SRLightCone(alone, zmax=0.05, zmin=0.01, sky="full", observer=OBSERVER, **QUICK)
    same(held(one), held(full))


def test_positions_between_nodes_are_within_a_tenth_of_a_cell(comm, data, monkeypatch):
    """Of a network, halfway between two nodes, from those that it gives there."""
    low = [open_snapshot(data / name, comm) for name in ("lr8_12p5_z4", "lr8_12p5_z2")]
    cone, options = Cone(2.0, 2.6, (6, 6, 6), angle=5), ModelOptions("phases", sigma8=0.82)
    monkeypatch.setattr(worldlines, "STEP", worldlines.STEP / 2)
    light = worldlines.LightCone(low, cone, seed=7, chunk=4, options=options)
    growth = light.expansion.growth(light.nodes[-3:])
    chunk = light.chunks[0]
    drawn = light._inferences[0].phases.phases.phases  # whose memory is foretold too
    assert light.memory > drawn.working_memory(chunk.shape, light.model.generator.octaves) > 1e6
    early, middle, late = (light._fields((chunk, len(light.nodes) - n))[:3] for n in (3, 2, 1))
    part = (growth[1] - growth[0]) / (growth[2] - growth[0])
    apart = ((1 - part) * early + part * late - middle) / light.fine.cell
    assert np.sqrt((apart**2).sum(axis=0).mean()) < 0.1
    # the last node is the snapshot's own
    sr = SRCatalog(low[1], model="phases", sigma8=0.82, seed=7, chunk=4)
    expected = sr.inference.fields(chunk, sr.field.padded(chunk)).numpy()[:3]
    np.testing.assert_allclose(late, expected, atol=1e-4)


def test_memory_does_not_grow_with_the_cone(comm, series, monkeypatch):
    monkeypatch.setattr(worldlines, "PIECE", 1000)
    monkeypatch.setattr(worldlines, "BATCH", 4096)
    cone = Cone(0.0, 0.05, OBSERVER, sky="full")
    options = ModelOptions("interpolate", factor=2)
    light = worldlines.LightCone(series, cone, chunk=4, options=options)
    for _, pieces in light.stream(light.chunks[:1], light.select()):
        sizes = [len(columns["Position"]) for columns in pieces]
    assert sum(sizes) > 20_000 and max(sizes) <= 1000 + 4096
    plan = lightcone_plan(light, light.select(), 100, 1.0)
    volume = 4 / 3 * np.pi * chi([1 / 1.05])[0] ** 3
    assert abs(plan.particles / (volume * (2 * NMESH / BOX) ** 3) - 1) < 1e-4
    assert plan.disk == pytest.approx(200 * plan.particles, rel=1e-4) and plan.seconds > 1


def test_repeats_are_warned_of(comm, series, caplog):
    SRLightCone(series, zmax=0.04, zmin=0.03, angle=1, axis=(1, 0, 0), **QUICK)
    assert "repeats" not in comm.bcast(caplog.text)
    SRLightCone(series, zmax=0.05, angle=1, axis=(0, 2, 2), **QUICK)
    assert "every 84.85 Mpc/h along (0, 1, 1)" in comm.bcast(caplog.text)
    assert Cone(0, 1, angle=5).repeat(2300, 1000) is None
    assert Cone(0, 1, sky="octant").repeat(2300, 1000) == (1, 0, 0)


def test_refusals(comm, series):
    given = dict(sky="full", **QUICK)
    for change, words in (
        (
            dict(zmax=0.2),
            "zmax is 0.2 but the earliest snapshot is of z = 0.1111: add one of z >= 0.2",
        ),
        (dict(zmax=0.05, zmin=0.05), "0 <= zmin < zmax"),
        (dict(zmax=0.1, sky=None), "give an angle"),
        (dict(zmax=0.1, angle=10), "give an angle .* or the sky"),
        (dict(zmax=0.1, sky=None, angle=200), "up to 180"),
        (dict(zmax=0.1, sky="half"), "full or octant"),
        (dict(zmax=0.1, axis=(0, 0, 0)), "a direction is needed"),
        (dict(zmax=0.1, observer=(1, 2)), "three numbers"),
        (dict(zmax=0.1, columns=("Position", "Colour")), "columns are"),
        (dict(zmax=0.1, subsample=0), "subsample is 0"),
        (dict(zmax=0.1, seed=-1), "seed is -1"),
        (dict(zmax=0.1, model="nothing"), "nothing"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            SRLightCone(series, **{**given, **change})
        assert "\n" not in str(caught.value)
    with pytest.raises(
        InputError, match="zmin is 0 but the latest snapshot is of z = 0.06383: add one"
    ):
        SRLightCone(series[:2], zmax=0.1, **given)
    with pytest.raises(InputError, match="two or more"):
        SRLightCone(series[2:], zmax=0.0001, **given)
    with pytest.raises(InputError, match="0 snapshots"):
        SRLightCone([], zmax=0.1, **given)
    other = snapshot(comm, *zeldovich(seed=4), TIMES[0])
    with pytest.raises(InputError, match="other phases"):
        SRLightCone([other, series[2]], zmax=0.05, **given)


@pytest.fixture(scope="module")
def paths(comm, series, tmp_path_factory):
    folder = comm.bcast(str(tmp_path_factory.mktemp("series")))
    found = []
    for one in series[1:]:
        found.append(f"{folder}/a{one.attrs['Time']:.2f}")
        one.save(found[-1], ["Position", "Velocity", "ID"])
    return found


def read_or_refused(path, comm):
    """A damaged cone is read, or refused in one line."""
    for read in (verify, open_cone):
        try:
            read(str(path), comm)
        except InputError as error:
            assert "\n" not in str(error)


def content(path):
    """Every file of a cone and its bytes."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


CONE = [
    "--zmax=0.03",
    "--sky=full",
    "--observer=5,5,5",
    "--model=interpolate",
    "--factor=2",
    "--chunk=4",
]
NARROW = [*CONE[:1], "--angle=30", *CONE[2:]]


@pytest.mark.mpi(ranks=4)
def test_command_writes_what_python_computes(comm, paths, tmp_path):
    output = str(tmp_path / "CONE")
    assert main([*paths, output, *CONE], comm) == 0
    python = SRLightCone(paths, zmax=0.03, sky="full", observer=(5, 5, 5), **QUICK)
    found = BigFileCatalog(output, header="Header", comm=comm)
    assert found.csize == python.csize > 0
    read = SimpleNamespace(comm=comm, _held={})
    for name, values in python._held.items():  # bigfile gives single numbers a second axis
        read._held[name] = found[name].compute().reshape(-1, *values.shape[1:])
    same(held(read), held(python))
    attrs = found.attrs
    np.testing.assert_array_equal(attrs["ConeObserver"], (5, 5, 5))
    assert "BoxSize" not in attrs and attrs["SRModel"] == "interpolate" and attrs["Omega0"] == OMEGA
    # made again by the command in its header, and by one rank: to the same bytes
    words = shlex.split(attributes(f"{output}/Header")["SRCommand"])
    assert words[:4] == "python -m nbodykit_sr lightcone".split()
    if comm.rank == 0:
        again = [str(tmp_path / "AGAIN") if word == "OUTPUT" else word for word in words[4:]]
        assert main(again, MPI.COMM_SELF) == 0
        assert content(tmp_path / "AGAIN") == content(tmp_path / "CONE")
    comm.Barrier()


def test_a_stopped_run_goes_on_to_the_same_bytes(comm, paths, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole", tmp_path / "CONE"
    given = [*NARROW, "--columns=Position,ID,Weight", "--subsample=0.5"]
    assert main([*paths, str(whole), *given], comm) == 0
    record = ConeWriter.record

    def recorded(writer, index):
        record(writer, index)
        os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(ConeWriter, "record", recorded)
        assert main([*paths, str(output), *given, "--chunk=2"], comm) == 75
    assert not output.exists()
    with pytest.raises(InputError, match="unfinished run"):
        main([*paths, str(output), *given, "--chunk=2"], comm)
    with pytest.raises(InputError, match="begun with cone"):
        main([*paths, str(output), *given, "--chunk=2", "--zmin=0.01", "--resume"], comm)
    if comm.rank == 0:  # a kill amid a write, and damage
        path = tmp_path / "CONE.partial" / "chunks" / "Position" / "000000"
        path.write_bytes(b"1" + path.read_bytes()[1:] + b"half a row")
    comm.Barrier()
    for _ in range(2):  # and again, where it is complete
        assert main([*paths, str(output), *given, "--chunk=2", "--resume"], comm) == 0
    with pytest.raises(InputError, match="exists: choose another name"):
        main([*paths, str(whole), *given, "--chunk=2"], comm)
    assert main([*paths, str(whole), *given, "--chunk=2", "--overwrite"], comm) == 0
    assert content(output) == content(whole)
    weight = BigFileCatalog(str(output), header="Header", comm=comm)["Weight"].compute()
    assert (weight == 2).all()


@pytest.fixture(scope="module")
def written(comm, paths, tmp_path_factory):
    """A cone with an edge, of a part of the particles."""
    output = comm.bcast(str(tmp_path_factory.mktemp("written") / "CONE"))
    assert main([*paths, output, *NARROW, "--zmin=0.01", "--subsample=0.5"], comm) == 0
    return output


def test_a_sound_cone_is_verified(comm, paths, written, tmp_path, monkeypatch):
    assert verify(written, comm) == []
    monkeypatch.setattr(verified_cone, "ROWS", 1000)  # chunks in pieces
    assert verify(written, comm) == []
    few = str(tmp_path / "FEW")
    assert main([*paths, few, *NARROW, "--columns=Redshift,Position"], comm) == 0
    assert verify(few, comm) == []


@pytest.fixture(scope="module")
def hdf5(comm, paths, tmp_path_factory):
    """The same cone in HDF5."""
    output = comm.bcast(str(tmp_path_factory.mktemp("hdf5") / "CONE"))
    given = [*NARROW, "--zmin=0.01", "--subsample=0.5", "--layout=gadget-hdf5"]
    assert main([*paths, output, *given], comm) == 0
    return output


def test_hdf5_holds_the_same_cone(comm, written, hdf5, tmp_path):
    """The same columns and attributes, for h5py, `open_cone`, `verify` and `halos`."""
    one, other = open_cone(written, comm), open_cone(hdf5, comm)
    assert list(one.columns) == list(other.columns) and one.csize == other.csize > 1000
    with h5py.File(f"{hdf5}/cone.0.hdf5") as file:
        group, header = file["PartType1"], dict(file["Header"].attrs)
        velocity = dict(group["Velocities"].attrs)
        stored = {name: group[name][:] for name in group}
    names = {"Position": "Coordinates", "Velocity": "Velocities", "ID": "ParticleIDs"}
    for name in COLUMNS:
        values = [np.concatenate(comm.allgather(cone[name].compute())) for cone in (one, other)]
        np.testing.assert_array_equal(*values)
        np.testing.assert_array_equal(values[0], stored[names.get(name, name)])
    apart = {"SRLayout", "SRCommand", "SRChecksums"}
    assert one.attrs.keys() == other.attrs.keys() > apart
    for name in one.attrs.keys() - apart:
        np.testing.assert_array_equal(one.attrs[name], other.attrs[name])
    assert header["NumPart_Total"][1] == one.csize and "BoxSize" not in header
    assert header["UnitLength_in_cm"] == 3.085678e24 and velocity["a_scaling"] == 0
    assert verify(hdf5, comm) == []
    for cone in (written, hdf5):
        assert (
            halos([cone, f"{tmp_path}/{cone == hdf5}", "--nmin=3", "--linking-length=0.9"], comm)
            == 0
        )
    masses = [content(tmp_path / name / "FOFGroups" / "Mass") for name in ("True", "False")]
    assert masses[0] == masses[1] and masses[0]["000000"]
    with pytest.raises(InputError, match="is a light cone, which has neither a box"):
        open_snapshot(hdf5, comm)


def test_hdf5_is_resumed_to_the_same_bytes(comm, paths, tmp_path, monkeypatch):
    whole, output = tmp_path / "whole", tmp_path / "CONE"
    given = [*NARROW, "--columns=Position,ID", "--layout=gadget-hdf5"]
    assert main([*paths, str(whole), *given], comm) == 0

    def killed(*args):
        raise InputError("killed")

    with monkeypatch.context() as patch:  # when all is copied
        patch.setattr(ConeWriter, "_seal", killed)
        with pytest.raises(InputError, match="killed"):
            main([*paths, str(output), *given], comm)
    with pytest.raises(InputError, match="stopped midway: finish it with --resume"):
        open_snapshot(tmp_path / "CONE.partial" / "cone", comm)
    with pytest.raises(InputError, match="begun with layout gadget-hdf5, not nbodykit"):
        main([*paths, str(output), *given[:-1], "--resume"], comm)
    for _ in range(2):  # and again, where it is complete
        assert main([*paths, str(output), *given, "--resume"], comm) == 0
        assert content(output) == content(whole)
    assert main([*paths, str(output), *given[:-1], "--overwrite"], comm) == 0
    assert not (output / "cone.0.hdf5").exists() and verify(str(output), comm) == []


def test_damaged_hdf5_is_refused_or_reported(comm, hdf5, tmp_path):
    random, size = np.random.default_rng(5), os.path.getsize(f"{hdf5}/cone.0.hdf5")
    for number in range(12):
        output = tmp_path / f"CONE{number}"
        if comm.rank == 0:
            shutil.copytree(hdf5, output)
            with open(output / "cone.0.hdf5", "r+b") as file:
                for place in random.integers(min(size, 2**13) if number % 2 else size, size=3):
                    file.seek(place)
                    file.write(bytes(random.integers(256, size=1).tolist()))
                file.truncate(size // 2 if number == 11 else size)
        comm.Barrier()
        read_or_refused(output, comm)
    with pytest.raises(InputError, match="truncated"):
        open_cone(output, comm)


@pytest.mark.parametrize("columns", [None, "Position,ID"])
def test_a_particle_that_is_there_twice_is_found(comm, paths, tmp_path, monkeypatch, columns):
    """Far from each other in a chunk, whose rows are read in pieces; with Replica and without."""
    output = tmp_path / "CONE"
    given = [*NARROW] if columns is None else [*NARROW, f"--columns={columns}"]
    assert main([*paths, str(output), *given], comm) == 0
    monkeypatch.setattr(verified_cone, "ROWS", 100)
    assert verify(str(output), comm) == []
    if comm.rank == 0:
        first, rows, *_ = (output / "checksums").read_text().splitlines()[1].split()
        assert int(rows) > 600
        for file in output.glob("*/000000"):
            values = np.fromfile(file, np.dtype(COLUMNS[file.parent.name]))
            values[int(first) + 600] = values[int(first) + 10]
            values.tofile(file)
    comm.Barrier()
    words = "chunk 0: 1 particles are there twice, with the same ID and Replica"
    problems = verify(str(output), comm)
    assert words in problems and all(
        "what was written" in x or "checksum" in x for x in problems if x != words
    )


def test_snapshots_in_which_nothing_moves(comm):
    """They are of one simulation; one that moves is of another."""
    psi, lattice = zeldovich()
    still = [snapshot(comm, 0 * psi, lattice, a) for a in TIMES]
    with np.errstate(all="raise", under="ignore"):
        cone = SRLightCone(still, zmax=0.02, angle=20, **QUICK)
    assert cone.csize > 0
    with pytest.raises(InputError, match=r"correlate by 0\.00"):
        SRLightCone([still[0], snapshot(comm, psi, lattice, 1.0)], zmax=0.02, angle=20, **QUICK)


@pytest.mark.parametrize(
    "column, damage, words",
    [
        ("Position", lambda x: x * (1 + 1e-5), "not where light meets them"),
        ("Position", lambda x: -x, "not in the cone"),
        ("Position", lambda x: x[:, ::-1], "DEC do not go"),
        ("Redshift", lambda z: z + 1e-5, "Redshift do not go"),
        ("RedshiftObserved", lambda z: z * 1.01, "RedshiftObserved do not go"),
        ("RA", lambda x: x + 1, "RA do not go"),
        ("Aemit", lambda a: a * np.nan, "Aemit is not finite"),
        ("ID", lambda x: x[::-1], "IDs are not of the chunk"),
        ("Replica", lambda n: n + 1, "Replica do not go with positions"),
        ("Weight", lambda x: x / 2, "weights are not of the subsample"),
    ],
)
def test_a_damaged_cone_is_found(comm, written, tmp_path, column, damage, words):
    """By what the values mean, and by its checksums."""
    output = tmp_path / "CONE"
    if comm.rank == 0:
        shutil.copytree(written, output)
        kind, shape = COLUMNS[column]
        file = output / column / "000000"
        rows = np.fromfile(file, kind).reshape(-1, *shape)
        np.ascontiguousarray(damage(rows), kind).tofile(file)
    comm.Barrier()
    problems = verify(str(output), comm)
    assert comm.allgather(problems) == [problems] * comm.size
    assert any(words in line for line in problems)
    assert any(f"{column} is not what was written" in line for line in problems)


def test_what_is_no_cone_is_refused(comm, written, tmp_path):
    output = tmp_path / "CONE"
    if comm.rank == 0:
        shutil.copytree(written, output)
        shutil.rmtree(output / "Header")
        (output / "Header").mkdir()
    comm.Barrier()
    with pytest.raises(InputError):
        verify(str(output), comm)
    if comm.rank == 0:
        shutil.rmtree(output)
        shutil.copytree(written, output)
        shutil.rmtree(output / "RA")
    comm.Barrier()
    with pytest.raises(InputError, match="columns"):
        verify(str(output), comm)


def test_damaged_headers_are_refused_or_reported(comm, written, tmp_path):
    """Whatever bytes of them: one line, or what is wrong, or nothing if it does not matter."""
    random = np.random.default_rng(5)
    names = ("Header/attr-v2", "Header/header", "Position/header", "ID/header", "checksums")
    for number in range(25):
        output = tmp_path / f"CONE{number}"
        if comm.rank == 0:
            shutil.copytree(written, output)
            file = output / names[number % len(names)]
            content = bytearray(file.read_bytes())
            for place in random.integers(len(content), size=3):
                content[place] = random.choice(list(b"0123456789ABCDEF \n"))
            file.write_bytes(content)
        comm.Barrier()
        read_or_refused(output, comm)


def test_command_replaces_nothing_else(comm, paths, tmp_path):
    if comm.rank == 0:
        (tmp_path / "mine").mkdir()
    comm.Barrier()
    with pytest.raises(InputError, match="is no cone of this command"):
        main([*paths, str(tmp_path / "mine"), *NARROW, "--overwrite"], comm)
    with pytest.raises(InputError, match="overlap"):
        main([*paths, paths[0], *NARROW, "--overwrite"], comm)
    with pytest.raises(InputError, match="--zmax is absent"):
        main([*paths, str(tmp_path / "CONE"), *NARROW[1:]], comm)
    with pytest.raises(InputError, match="zmax is 0.3 but the earliest"):
        main([*paths, str(tmp_path / "CONE"), *NARROW, "--zmax=0.3"], comm)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


MAPS = ["--maps=8", "--shells=3", "--figures"]


def test_maps_count_the_particles(comm, paths, tmp_path):
    """Of the catalogue, in pixels of healpy's; they are the same without it, and for one rank."""
    output = tmp_path / "CONE"
    given = [*NARROW, "--columns=Position,Redshift", *MAPS]
    assert main([*paths, str(output), *given], comm) == 0
    assert main([*paths, str(tmp_path / "MAPS"), *given, "--maps-only"], comm) == 0
    found = BigFileCatalog(str(output), header="Header", comm=comm)
    position = np.concatenate(comm.allgather(found["Position"].compute()))
    distance = np.linalg.norm(position, axis=1)
    edges = np.linspace(0, chi([1 / 1.03])[0], 4)
    for n in range(3):
        path = output / "maps" / f"shell.{n}.fits"
        (counts, mass), header = healpy.read_map(path, field=(0, 1), dtype=None, h=True)
        inside = (edges[n] <= distance) & (distance < edges[n + 1])
        pixel = healpy.vec2pix(8, *position[inside].T)
        np.testing.assert_array_equal(counts, np.bincount(pixel, minlength=768))
        np.testing.assert_allclose(mass, counts * found.attrs["ParticleMass"] * 1e10)
        assert abs(dict(header)["RMAX"] - edges[n + 1]) < 1e-4
    made = {name for name in content(output) if name.startswith(("maps", "figures"))}
    assert made > {"figures/fan.png", "figures/shell.png"}
    only = content(tmp_path / "MAPS")
    assert made == {name for name in only if not name.startswith("Header")}
    assert all(only[name] == content(output)[name] for name in made)
    # they are the cone's, and are replaced with it
    assert main([*paths, str(output), *NARROW, "--overwrite"], comm) == 0
    assert not (output / "maps").exists()


def test_maps_are_refused(comm, paths, tmp_path):
    for given, words in (
        (["--maps=9"], "nside 9: a power of 2"),
        (["--maps=8", "--shells=0"], "shells is 0"),
        (["--maps=8", "--shells=0,0.02,0.01"], "ascending redshifts"),
        (["--maps=8", "--shells=0,0.2"], "from 0 to 0.03"),
        (["--maps-only"], "give --maps"),
        (["--maps-only", "--maps=8", "--resume"], "begin again"),
    ):
        with pytest.raises(InputError, match=words):
            main([*paths, str(tmp_path / "CONE"), *NARROW, *given], comm)
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_phases_grow_with_time(comm, data, tmp_path):
    """At the last snapshot's time a model that is given the phases makes what `SRCatalog` does; they
    are drawn at the first's."""
    path, network = tmp_path / "x.safetensors", Generator(6, 2, 8, 4, convex=1, phases=True)
    if comm.rank == 0:
        card = ModelCard("x", "displacement", network.arguments, 2, 6, amplitude=(1e-3, 10.0))
        save_model(path, network, card)
    comm.Barrier()
    low = [open_snapshot(data / name, comm) for name in ("lr8_12p5_z4", "lr8_12p5_z2")]
    given = {"model": str(path), "sigma8": 0.8256, "n_s": 0.971, "force": True}
    light = worldlines.LightCone(low, Cone(2, 4, angle=1), 7, 4, ModelOptions(**given))
    chunk = light.chunks[-1]
    sr = SRCatalog(low[1], seed=7, chunk=4, **given)
    expected = sr.inference.fields(chunk, sr.field.padded(chunk)).numpy()
    found = light._fields((chunk, len(light.nodes) - 1))
    found[3:] *= light.expansion.rate(light.nodes[-1])
    np.testing.assert_allclose(found, expected, atol=1e-4 * abs(expected).max())
