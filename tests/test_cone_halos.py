"""Halos on the light cone: those of the box, wherever its replicas are seen, and galaxies in them."""

import shutil
from dataclasses import replace
from itertools import product

import bigfile
import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog, BigFileCatalog
from scipy.spatial import cKDTree

from nbodykit_sr import InputError, SRCatalog, SRLightCone, open_halos, open_snapshot
from nbodykit_sr.commands.halos import main
from nbodykit_sr.commands.lightcone import main as lightcone
from nbodykit_sr.diagnostics.cone_halos import find_cone_groups
from nbodykit_sr.diagnostics.groups import find_groups
from nbodykit_sr.diagnostics.overdensity import threshold_densities
from nbodykit_sr.io.cones import open_cone
from nbodykit_sr.lightcone.cone import Cone
from nbodykit_sr.physics.distance import LIGHT, Expansion
from nbodykit_sr.physics.universe import RHO_CRITICAL, Universe

pytestmark = pytest.mark.mpi

BOX, OBSERVER = 25.0, (5.0, 12.0, 20.0)
ZMIN, ZMAX, ANGLE, NMIN = 0.002, 0.014, 70, 32


@pytest.fixture(scope="module")
def still(comm, data, tmp_path_factory):
    """A snapshot, and one of an earlier time in which no particle has moved since."""
    folder = comm.bcast(str(tmp_path_factory.mktemp("still")))
    source, found = open_snapshot(data / "lr16_25_z0", comm), []
    for a in (0.95, 1.0):
        attrs = {k: v for k, v in source.attrs.items() if k not in ("Redshift", "ParticleMass")}
        columns = {name: source[name] for name in ("Position", "Velocity", "ID")}
        found.append(f"{folder}/a{a}")
        ArrayCatalog(columns, comm=comm, **attrs | {"Time": a}).save(found[-1], list(columns))
    return found


@pytest.fixture(scope="module")
def cone(comm, still, tmp_path_factory):
    path = comm.bcast(str(tmp_path_factory.mktemp("cone") / "CONE"))
    given = [f"--zmin={ZMIN}", f"--zmax={ZMAX}", f"--angle={ANGLE}", "--chunk=8", "--factor=2"]
    observer = ",".join(map(str, OBSERVER))
    assert (
        lightcone([*still, path, *given, "--model=interpolate", f"--observer={observer}"], comm)
        == 0
    )
    return path


@pytest.fixture(scope="module")
def path(comm, cone, tmp_path_factory):
    out = comm.bcast(str(tmp_path_factory.mktemp("halos") / "HALOS"))
    assert main([cone, out, f"--nmin={NMIN}"], comm) == 0
    return out


def groups(path):
    with bigfile.File(path) as file:
        names = [name for name in file.blocks if name.startswith("FOFGroups/")]
        return {name.removeprefix("FOFGroups/"): file[name][:] for name in names}


def edges(universe):
    """The cone, and the distances at which it begins and ends [Mpc/h]."""
    distance = Expansion.of(universe, 0.9).distance(1 / (1 + np.array([ZMIN, ZMAX])))
    return Cone(ZMIN, ZMAX, OBSERVER, ANGLE), *distance


@pytest.mark.mpi(ranks=4)
def test_halos_are_those_of_the_box(comm, still, path):
    """In all replicas; but for those that the cone's edges cut, which are marked."""
    found, sr = groups(path), SRCatalog(still[1], model="interpolate", factor=2)
    here = find_groups(sr, nmin=NMIN)[0]
    box = {name: np.concatenate(comm.allgather(values)) for name, values in here.items()}
    shift = np.array(list(product(range(-3, 4), repeat=3))) * BOX - OBSERVER
    place = (box["Center"] + shift[:, None]).reshape(-1, 3)
    cone, near, far = edges(Universe.of(sr.attrs))
    depth = cone.depth(place, near, far)
    apart, match = cKDTree(place).query(found["CenterPosition"] / 1e3)
    sound = found["Cut"] == 0
    assert 0 < np.count_nonzero(~sound) < sound.sum() and apart[sound].max() < 1e-3
    for name in ("Mass", "Mass200m"):
        wanted = box[name][match % len(box["Mass"])]
        np.testing.assert_allclose(found[name][sound] * 1e10, wanted[sound], rtol=1e-5)
    # each that lies deep within the cone is there, once
    deep = np.flatnonzero(depth > 5)
    assert len(deep) > 20 and np.isin(deep, match[sound]).all()
    assert len(np.unique(match[sound])) == sound.sum()


def test_halos_of_a_cone_in_memory(comm, still, path):
    light = SRLightCone(
        still, ZMAX, OBSERVER, ANGLE, zmin=ZMIN, model="interpolate", factor=2, chunk=8
    )
    here = find_cone_groups(light, nmin=NMIN)[0]
    found = groups(path)
    for name, wanted in (("Mass", found["Mass"] * 1e10), ("Redshift", found["Redshift"])):
        values = np.sort(np.concatenate(comm.allgather(here[name])))
        np.testing.assert_allclose(values, np.sort(wanted), rtol=1e-5)


def test_each_halo_is_seen_at_its_own_time(comm, cone, path):
    found, opened = groups(path), open_cone(cone, comm)
    centre, a = found["CenterPosition"] / 1e3, found["Aemit"]
    light = Expansion.of(Universe.of(opened.attrs), 0.9).distance
    np.testing.assert_allclose(np.linalg.norm(centre, axis=1), light(a), atol=1e-6)
    np.testing.assert_allclose(found["Redshift"], 1 / a - 1)
    # the centre is a particle of the cone, and is observed like it
    columns = [opened[name].compute() for name in ("Position", "Aemit", "RA", "DEC")]
    position, *rest = (np.concatenate(comm.allgather(one)) for one in columns)
    apart, which = cKDTree(position).query(centre)
    assert apart.max() < 1e-9
    for name, values in zip(("Aemit", "RA", "DEC"), rest):
        np.testing.assert_allclose(found[name], values[which], atol=1e-9)
    away = (centre * found["MassCenterVelocity"]).sum(axis=1) / np.linalg.norm(centre, axis=1)
    observed = (1 + away / LIGHT) / a - 1
    np.testing.assert_allclose(found["RedshiftObserved"], observed, atol=1e-7)
    # critical densities are of that time
    some = np.argmin(a)
    universe = Universe.of({**Universe.of(opened.attrs).attrs, "Time": a[some]})
    mass = opened.attrs["ParticleMass"][0] * 1e10
    away = np.sort(np.linalg.norm(position - centre[some], axis=1))
    dense = np.arange(1, 1 + len(away)) * mass / (4 / 3 * np.pi * away.clip(1e-9) ** 3)
    for name, density in threshold_densities(universe).items():
        inside = 16 + np.argmax(dense[16:] < density)
        key = "MassVir" if name == "vir" else f"Mass{name}"
        if dense[15] > density:
            np.testing.assert_allclose(found[key][some] * 1e10, inside * mass, rtol=1e-5)


def test_mass_function_and_header(comm, cone, path):
    """Particle mass is that of the lattice, whatever part of the box the cone is."""
    found = BigFileCatalog(path, dataset="FOFGroups/", header="Header", comm=comm)
    mass = Universe.of(found.attrs).Omega0 * RHO_CRITICAL * (BOX / 32) ** 3 / 1e10
    count = found["LengthByType"].compute()[:, 1]
    np.testing.assert_allclose(found["Mass"].compute()[:, 0], count * mass, rtol=1e-5)
    assert found.attrs["NumFOFGroupsTotal"][0] == found.csize
    assert "BoxSize" not in found.attrs and found.attrs["SRModel"] == "interpolate"


def test_galaxies_on_the_cone(comm, path):
    pytest.importorskip("halotools")
    from nbodykit.hod import Zheng07Model

    halos = open_halos(path, comm)
    galaxies = halos.populate(Zheng07Model, seed=42, logMmin=11.5, logM0=11.5, logM1=13.0)
    names = ("Position", "Velocity", "Redshift", "RedshiftObserved", "Aemit", "halo_id", "gal_type")
    place, velocity, z, observed, a, halo, kind = (
        np.concatenate(comm.allgather(galaxies[name].compute())) for name in names
    )
    centre, own = (
        np.concatenate(comm.allgather(halos[name].compute())) for name in ("Position", "Redshift")
    )
    central = kind == 0
    assert 0 < np.count_nonzero(~central) < central.sum()
    np.testing.assert_allclose(place[central], centre[halo[central]], atol=1e-4)
    np.testing.assert_allclose(z[central], own[halo[central]], atol=1e-7)
    assert 0.01 < np.linalg.norm(place - centre[halo], axis=1).max() < 3
    away = (place * velocity).sum(axis=1) / np.linalg.norm(place, axis=1)
    np.testing.assert_allclose(observed, (1 + z) * (1 + away / LIGHT) - 1, atol=1e-9)
    mass, radius = (
        np.concatenate(comm.allgather(galaxies[f"halo_{name}"].compute()))
        for name in ("mvir", "rvir")
    )
    universe = Universe.of(halos.attrs)
    for some in np.linspace(0, len(a) - 1, 9).astype(int):  # each by its own time, comoving
        density = threshold_densities(replace(universe, a=1 / (1 + own[halo[some]])))["vir"]
        wanted = np.cbrt(3 * mass[some] / (4 * np.pi * density))
        np.testing.assert_allclose(radius[some], wanted, rtol=3e-3)
    assert (np.linalg.norm(place - centre[halo], axis=1) <= radius * 1.001).all()
    assert galaxies.attrs["logMmin"] == 11.5 and not hasattr(galaxies, "repopulate")
    sound = halos[halos["Cut"] == 0]
    assert 0 < sound.csize < halos.csize
    assert 0 < sound.populate(Zheng07Model, seed=42, logMmin=11.5).csize < galaxies.csize


def test_a_subsample_and_positions_alone(comm, still, tmp_path):
    """Half of the particles weigh twice; without velocities there are no observed redshifts."""
    given = [f"--zmax={ZMAX}", "--angle=50", "--chunk=8", "--factor=2", "--model=interpolate"]
    out = str(tmp_path / "HALF")
    some = ["--subsample=0.5", "--columns=Position,Weight"]
    assert lightcone([*still, out, *given, *some], comm) == 0
    assert main([out, str(tmp_path / "HALOS"), f"--nmin={NMIN}"], comm) == 0
    found = groups(str(tmp_path / "HALOS"))
    mass = Universe.of(open_cone(out, comm).attrs).Omega0 * RHO_CRITICAL * (BOX / 32) ** 3 / 1e10
    count = found["LengthByType"][:, 1]
    np.testing.assert_allclose(found["Mass"], 2 * mass * count, rtol=1e-5)
    assert "RedshiftObserved" not in found and (found["Redshift"] < ZMAX).all()


def test_refusals(comm, cone, path, tmp_path):
    if comm.rank == 0:
        shutil.copytree(cone, tmp_path / "BAD")
        with open(tmp_path / "BAD" / "Position" / "000000", "r+b") as file:
            file.write(b"damage")
    comm.Barrier()
    with pytest.raises(InputError, match="checksum"):
        main([str(tmp_path / "BAD"), str(tmp_path / "OUT")], comm)
    with pytest.raises(InputError, match="no light cone"):
        open_cone(path, comm)
    with pytest.raises(InputError, match="holds no halos"):
        open_halos(cone, comm)
    for folder in (cone, path):
        with pytest.raises(InputError, match="is a light cone, which has neither a box"):
            open_snapshot(folder, comm)
    assert main([cone, str(tmp_path / "NONE"), "--nmin=100000"], comm) == 0
    assert open_halos(tmp_path / "NONE", comm).csize == 0
    assert not (tmp_path / "OUT").exists()
