"""Halos as a product: found, written in MP-Gadget's layout, opened and populated by nbodykit."""

import importlib.util
import shutil

import bigfile
import numpy as np
import pytest
from helpers import gathered
from nbodykit.lab import FOF, BigFileCatalog, FFTPower

from nbodykit_sr import InputError, SRCatalog, open_halos, open_snapshot
from nbodykit_sr.commands.halos import main
from nbodykit_sr.diagnostics.groups import find_groups
from nbodykit_sr.diagnostics.overdensity import threshold_densities
from nbodykit_sr.physics.universe import Universe

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def path(comm, data, tmp_path_factory):
    """Halos of the HR snapshot, written by all ranks together."""
    path = comm.bcast(str(tmp_path_factory.mktemp("halos") / "HALOS"))
    assert main([str(data / "hr64_12p5_z2"), path], comm) == 0
    return path


@pytest.mark.mpi(ranks=4)
def test_groups_are_those_of_nbodykit(comm, data, path):
    fof = FOF(open_snapshot(data / "hr64_12p5_z2", comm), linking_length=0.2, nmin=31)
    features = fof.find_features()
    wanted = {  # the first is the particles outside
        name: gathered(features, name)[1:] for name in ("Length", "CMPosition", "CMVelocity")
    }
    with bigfile.File(path) as file:
        length = file["FOFGroups/LengthByType"][:]
        np.testing.assert_array_equal(length[:, 1], wanted["Length"])
        assert not np.delete(length, 1, axis=1).any()
        assert file["Header"].attrs["NumFOFGroupsTotal"][0] == len(length)
        # of halos of one length the order is free
        single = np.flatnonzero(np.bincount(length[:, 1])[length[:, 1]] == 1)
        away = file["FOFGroups/MassCenterPosition"][:] / 1000 - wanted["CMPosition"]
        away -= 12.5 * np.rint(away / 12.5)
        assert abs(away[single]).max() < 1e-4
        velocity = file["FOFGroups/MassCenterVelocity"][:]
        np.testing.assert_allclose(velocity[single], wanted["CMVelocity"][single], atol=0.1)
        np.testing.assert_array_equal(
            file["FOFGroups/GroupID"][:].ravel(), 1 + np.arange(len(length))
        )


def test_each_particle_knows_its_group(data, path):
    with bigfile.File(path) as file, bigfile.File(str(data / "hr64_12p5_z2")) as snapshot:
        group, ids = file["1/GroupID"][:].ravel(), file["1/ID"][:].ravel()
        length = file["FOFGroups/LengthByType"][:][:, 1].astype(int)
        np.testing.assert_array_equal(group, np.repeat(1 + np.arange(len(length)), length))
        start = np.cumsum(length) - length
        np.testing.assert_array_equal(
            file["FOFGroups/MinID"][:].ravel(), np.minimum.reduceat(ids, start)
        )
        position = np.zeros((64**3 + 1, 3))
        position[snapshot["1/ID"][:].ravel()] = snapshot["1/Position"][:]
        np.testing.assert_allclose(file["1/Position"][:], position[ids], rtol=1e-6)


def test_the_centre_is_where_it_is_densest(path):
    """More particles lie near it than near the centre of mass."""
    with bigfile.File(path) as file:
        length = file["FOFGroups/LengthByType"][:][:, 1].astype(int)
        position, group = file["1/Position"][:], file["1/GroupID"][:].ravel() - 1
        near = {}
        for name in ("CenterPosition", "MassCenterPosition"):
            away = position - file[f"FOFGroups/{name}"][:][group]
            away -= 12500 * np.rint(away / 12500)
            near[name] = np.bincount(group, np.linalg.norm(away, axis=1) < 30)[length > 100].sum()
    assert near["CenterPosition"] > 1.2 * near["MassCenterPosition"]


def test_spherical_masses_by_counting(data, path, comm):
    """The mean density within the radius of each mass is the threshold: counted one by one."""
    snapshot = open_snapshot(data / "hr64_12p5_z2", comm)
    position = gathered(snapshot, "Position")
    with bigfile.File(path) as file:
        centre = file["FOFGroups/CenterPosition"][:5] / 1000
        masses = {n: file[f"FOFGroups/{n}"][:5].ravel() * 1e10 for n in ("Mass200m", "Mass200c")}
        fof = file["FOFGroups/Mass"][:].ravel() * 1e10
        everyone = file["FOFGroups/Mass200m"][:].ravel() * 1e10
    particle = 0.2814 * 2.77536627e11 * 12.5**3 / 64**3
    for name, critical in (("Mass200m", 0.2814), ("Mass200c", 0.2814 + 0.7186 / 27)):
        radius = np.cbrt(3 * masses[name] / (4 * np.pi * 200 * critical * 2.77536627e11))
        for one, mass, within in zip(centre, masses[name], radius):
            away = position - one
            away -= 12.5 * np.rint(away / 12.5)
            count = (np.linalg.norm(away, axis=1) <= within).sum()
            assert count * particle == pytest.approx(mass, rel=1e-3)
    assert (masses["Mass200c"] <= masses["Mass200m"]).all()
    assert np.median(everyone / fof) == pytest.approx(0.8, abs=0.1)


@pytest.mark.mpi(ranks=4)
def test_the_same_for_any_number_of_ranks(comm, alone, data):
    def groups(comm):
        return find_groups(open_snapshot(data / "hr64_12p5_z2", comm))[0]

    here, there = groups(comm), alone(groups)
    for name, values in here.items():
        np.testing.assert_allclose(np.concatenate(comm.allgather(values)), there[name], rtol=1e-6)


def test_bigfilecatalog_opens_it(comm, path):
    groups = BigFileCatalog(path, dataset="FOFGroups/", header="Header", comm=comm)
    assert groups.csize == groups.attrs["NumFOFGroupsTotal"][0]
    assert open_snapshot(path, comm).csize == groups.attrs["NumPartInGroupTotal"][1]


@pytest.mark.parametrize("mdef", ["vir", "200m", "200c", "fof"])
def test_halos_are_populated(comm, path, mdef):
    """By the mass that was asked for; satellites lie within its radius."""
    pytest.importorskip("halotools")
    from nbodykit.hod import Zheng07Model

    halos = open_halos(path, comm, mdef)
    assert halos.attrs["BoxSize"].tolist() == [12.5] * 3
    galaxies = halos.populate(Zheng07Model, seed=42, logMmin=10.8, logM0=10.8, logM1=11.8)
    assert 100 < galaxies.csize < 140
    power = FFTPower(galaxies, mode="1d", Nmesh=32, BoxSize=12.5).power
    assert (power["power"].real[1:] > 0).all()
    key = halos.attrs["mdef"]  # of the radius; friends of friends have none of their own
    names = "halo_id", f"halo_m{key}", "halo_mvir", f"halo_r{key}", "host_centric_distance"
    ids, mass, virial, radius, apart = gathered(galaxies, *names)
    blocks = {"vir": "MassVir", "fof": "Mass", "200m": "Mass200m", "200c": "Mass200c"}
    with bigfile.File(path) as file:
        masses, virials = (file[f"FOFGroups/{n}"][:].ravel() for n in (blocks[mdef], "MassVir"))
    np.testing.assert_allclose(mass / 1e10, masses[ids], rtol=1e-6)
    np.testing.assert_allclose(
        virial / 1e10, (masses if mdef == "fof" else virials)[ids], rtol=1e-6
    )
    assert 0 < apart.max() and (apart <= 1.001 * radius).all()
    # comoving, as positions are
    density = threshold_densities(Universe.of(halos.attrs))[key]
    np.testing.assert_allclose(radius, np.cbrt(3 * mass / (4 * np.pi * density)), rtol=1e-2)
    some = halos[::2]  # a part of them, too; of each rank's, as halotools needs
    assert 0 < some.populate(Zheng07Model, seed=42, logMmin=10.8).csize < galaxies.csize


def test_halos_without_velocities(comm, data, tmp_path):
    """They lie where they lie; how they move is not known."""
    found = {}
    for name in ("MOVING", "STILL"):
        snapshot = tmp_path / name
        if comm.rank == 0:
            shutil.copytree(data / "lr16_25_z2", snapshot)
            if name == "STILL":
                shutil.rmtree(snapshot / "1" / "Velocity")
        comm.Barrier()
        out = str(tmp_path / f"HALOS {name}")
        assert main([str(snapshot), out, "--nmin=8"], comm) == 0
        found[name] = {mdef: open_halos(out, comm, mdef) for mdef in ("vir", "200m", "200c", "fof")}
    for mdef, halos in found["STILL"].items():
        moving = found["MOVING"][mdef]
        for name in ("Position", "Mass"):
            np.testing.assert_allclose(halos[name].compute(), moving[name].compute(), rtol=1e-6)
        assert np.isnan(halos["Velocity"].compute()).all()
        assert np.isfinite(moving["Velocity"].compute()).all()
    if importlib.util.find_spec("halotools"):
        from nbodykit.hod import Zheng07Model

        galaxies = halos.populate(Zheng07Model, seed=42, logMmin=11)
        place = gathered(galaxies, "Position")
        assert ((place >= 0) & (place <= 25)).all() and len(place) > 0
        assert np.isnan(galaxies["Velocity"].compute()).all()


def test_opened_halos_are_saved_and_read(comm, path, tmp_path):
    """As any catalogue, by nbodykit and by us, in the units in which they were opened."""
    halos = open_halos(path, comm)
    halos.save(str(tmp_path / "SAVED"), columns=["Position", "Velocity", "Mass", "MassVir"])
    ours = open_snapshot(tmp_path / "SAVED", comm)
    theirs = BigFileCatalog(str(tmp_path / "SAVED"), comm=comm)
    np.testing.assert_array_equal(ours.attrs["BoxSize"], [12.5] * 3)
    for name in ("Redshift", "Omega0", "HubbleParam"):
        assert ours.attrs[name] == pytest.approx(halos.attrs[name])
    for name in ("Position", "Velocity"):
        wanted = halos[name].compute()
        np.testing.assert_allclose(ours[name].compute(), wanted, rtol=1e-6)
        np.testing.assert_allclose(theirs[name].compute(), wanted, rtol=1e-6)


def test_halos_of_super_resolved_particles(comm, data, tmp_path):
    from nbodykit_sr.commands.generate import generate
    from nbodykit_sr.commands.generate_options import GenerateOptions

    sr = str(tmp_path / "SR")
    options = GenerateOptions(str(data / "lr8_12p5_z2"), sr, seed=1)
    assert generate(options, comm) == 0
    assert main([sr, str(tmp_path / "HALOS"), "--nmin=100"], comm) == 0
    groups, _ = find_groups(SRCatalog(open_snapshot(data / "lr8_12p5_z2", comm), seed=1), nmin=100)
    halos = open_halos(tmp_path / "HALOS", comm, mdef="fof")
    np.testing.assert_allclose(
        gathered(halos, "Mass"), np.concatenate(comm.allgather(groups["Mass"])), rtol=1e-6
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{lr}", "{out}", "--nmin=1"], "at least 2"),
        (["{lr}", "{out}", "--linking-length=20"], "such as 0.2"),
        (["{lr}", "{lr}"], "overlap"),
        (["{lr}x", "{out}"], "does not exist"),
    ],
)
def test_refusals(comm, data, tmp_path, arguments, message):
    places = {"lr": data / "lr8_12p5_z2", "out": tmp_path / "HALOS"}
    with pytest.raises(InputError, match=message):
        main([one.format(**places) for one in arguments], comm)
    assert not (tmp_path / "HALOS").exists()


def test_no_halos_is_said(comm, data):
    with pytest.raises(InputError, match="holds no halos"):
        open_halos(data / "lr8_12p5_z2", comm)
