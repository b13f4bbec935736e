"""A part of a box is not taken for the whole: masses, linking lengths and densities stay those of the box."""

import bigfile
import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog

from nbodykit_sr import InputError, SRCatalog, open_snapshot
from nbodykit_sr.commands.generate import main as generate
from nbodykit_sr.commands.halos import main as halos_main
from nbodykit_sr.diagnostics import (
    comparison,
    find_halos,
    halo_table,
    line_of_sight_power,
    mass_function,
    pair_statistics,
    particle_mass,
    power_spectrum,
    suite,
)
from nbodykit_sr.diagnostics.groups import find_groups
from nbodykit_sr.diagnostics.pictures import pictures
from nbodykit_sr.diagnostics.walls import cut_halos
from nbodykit_sr.selection import Selection

pytestmark = pytest.mark.mpi

MATTER = 0.2814 * 2.77536627e11 * 12.5**3  # of the box [Msun/h]
HALF = "--region=0:6,0:12.5,0:12.5"


@pytest.fixture(scope="module")
def folder(comm, data, tmp_path_factory):
    """The whole and half a box of 64^3 particles, written by all ranks together."""
    folder = comm.bcast(str(tmp_path_factory.mktemp("parts")))
    for name, words in (("whole", []), ("half", [HALF])):
        low = str(data / "lr8_12p5_z2")
        assert generate([low, f"{folder}/{name}", "--seed=7", "--chunk=4", *words], comm) == 0
    return folder


@pytest.fixture(scope="module")
def whole(comm, folder):
    return open_snapshot(f"{folder}/whole", comm)


def parts(comm, folder, tmp_path):
    """Parts of the same universe, made in the ways that there are, and their share of its matter."""
    sr = open_snapshot(f"{folder}/whole", comm)
    mask = sr["Position"][:, 2] < 5
    sr[mask].save(str(tmp_path / "saved"), ["Position", "Velocity", "ID"])
    selected = open_snapshot(f"{folder}/whole", comm)
    selected["Selection"] = mask
    return {
        "region": open_snapshot(f"{folder}/half", comm),
        "mask": sr[mask],
        "saved": open_snapshot(tmp_path / "saved", comm),
        "Selection": selected,
        "slice": sr[: sr.size // 3],
    }


@pytest.fixture(scope="module")
def halos(whole):
    return find_halos(whole)


def thinned(whole, part):
    """A subsample as `generate` writes it."""
    keep = Selection(("Position",), part).keeps(whole["ID"].compute())
    columns = {name: whole[name].compute()[keep] for name in ("Position", "Velocity", "ID")}
    return ArrayCatalog(columns, comm=whole.comm, **{**whole.attrs, "SRSubsample": part})


def of_ids(halos, comm):
    """Each halo's IDs as a set, on every rank."""
    ends = np.cumsum(halos.length[halos.index])[:-1]
    mine = (
        [set(ids.tolist()) for ids in np.split(halos.particles["ID"], ends)]
        if len(halos.index)
        else []
    )
    return [one for many in comm.allgather(mine) for one in many]


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("name", ["region", "mask", "saved", "Selection", "slice"])
def test_halos_of_a_part_are_those_of_the_whole(comm, folder, halos, tmp_path, name):
    part = parts(comm, folder, tmp_path)[name]
    groups, members = find_groups(part)
    found = find_halos(part)
    assert found.particle_mass == pytest.approx(MATTER / 64**3, rel=1e-6)
    assert found.attrs["separation"] == pytest.approx(12.5 / 64)
    # those that no wall cuts have the particles that they have in the whole box
    cut = np.concatenate(comm.allgather(groups["Cut"]))
    assert 0 < cut.sum() and (name == "slice" or cut.sum() < 0.7 * len(cut))
    order = np.concatenate(comm.allgather(found.index))
    sets = dict(zip(order.tolist(), of_ids(found, comm)))
    known = {frozenset(one) for one in of_ids(halos, comm)}
    kept = [frozenset(sets[halo]) in known for halo in np.flatnonzero(~cut)]
    assert np.mean(kept or [1]) > 0.9  # the walls of a slice in the order of the sites are ragged
    assert found.mass[0] <= halos.mass[0] * (1 + 1e-9)
    # and as many are to be expected of so much matter
    share = found.attrs["share"]
    assert share == pytest.approx(
        comm.allreduce(part["ID"][part["Selection"]].compute().size) / 64**3
    )
    edges = [32 * found.particle_mass, 1e13]
    per_volume = [mass_function(one, edges)["dn_dlogM"][0] for one in (found, halos)]
    assert per_volume[0] == pytest.approx(per_volume[1], rel=0.35)


def test_nothing_of_the_whole_is_cut(whole, halos):
    groups, _ = find_groups(whole)
    assert "Cut" not in groups and halos.attrs["share"] == 1


def test_the_command_says_what_its_walls_cut(comm, folder, tmp_path, capfd):
    assert halos_main([f"{folder}/half", str(tmp_path / "HALOS")], comm) == 0
    text = comm.bcast(capfd.readouterr().out)
    with bigfile.File(str(tmp_path / "HALOS")) as file:
        cut = file["FOFGroups/Cut"][:].ravel()
        mass, length = file["FOFGroups/Mass"][:].ravel(), file["FOFGroups/LengthByType"][:][:, 1]
        np.testing.assert_allclose(mass * 1e10 / length, MATTER / 64**3, rtol=1e-5)
        assert file["Header"].attrs["MassTable"][1] * 1e10 == pytest.approx(MATTER / 64**3)
    assert f"0.5 of the matter of the box: its walls cut {cut.sum()} of the halos" in text
    assert 0 < cut.sum() < len(cut)


def test_particles_of_a_subsample_stand_for_the_others(whole, halos):
    some = thinned(whole, 0.2)
    assert particle_mass(some) == pytest.approx(MATTER / (0.2 * 64**3))
    few = find_halos(some)
    assert few.attrs["share"] == 1
    assert few.attrs["separation"] == pytest.approx(12.5 / 64 / 0.2 ** (1 / 3))
    # few particles bridge two clumps less often than many; a wrong particle mass is off by five times
    np.testing.assert_allclose(few.mass[:3], halos.mass[:3], rtol=0.3)
    # half of a subsample is a part again
    assert find_halos(some[: some.size // 2]).attrs["share"] == pytest.approx(0.5, abs=0.02)


def test_the_power_of_a_subsample_is_that_of_all(whole):
    """Its own noise, V / n (1 - 1/50), is several times the power at the end."""
    some = thinned(whole, 0.02)
    few, many = (power_spectrum(one, 64) for one in (some, whole))
    noise = 0.98 * 12.5**3 / some.csize
    assert noise > 5 * many["power"][-1]
    # which particles of the few large halos are drawn moves all bins together
    np.testing.assert_allclose(few["power"], many["power"], rtol=0.3)
    poles = [line_of_sight_power(one, Nmesh=64) for one in (some, whole)]
    np.testing.assert_allclose(poles[0][0]["power_0"], few["power"], rtol=1e-6, atol=1e-9)
    wedges = [np.average(w["power"], weights=w["modes"], axis=1)[1:6] for _, w in poles]
    np.testing.assert_allclose(*wedges, rtol=0.2)
    ratio = comparison(some, whole, 64)["ratio"]
    np.testing.assert_allclose(ratio, few["power"] / many["power"], rtol=1e-6)


def test_densities_of_a_part_are_refused(comm, folder, whole, tmp_path):
    for name, part in parts(comm, folder, tmp_path).items():
        for measure in (pair_statistics, lambda one: power_spectrum(one, 16)):
            with pytest.raises(InputError, match="only a part of its box"):
                measure(part)
        if name == "Selection":  # which no file has
            continue
        with pytest.raises(InputError, match="only a part of its box"):
            suite.check([{"SR": [part]}])
    with pytest.raises(InputError, match="only a subsample"):
        suite.check([{"SR": [thinned(whole, 0.5)]}])
    suite.check([{"SR": [whole]}])


def test_the_mean_of_a_picture_is_that_of_the_box(comm, folder, whole, halos, tmp_path):
    part = parts(comm, folder, tmp_path)["mask"]
    centre = np.full(3, 6.0)
    for one in (part, whole):
        (shown,) = pictures(one, halos, centre, [(12.5, 12.5)], pixels=32)
        assert shown.mean == pytest.approx(64**3 / 32**2)


def test_radii_of_a_part_are_those_of_the_whole(comm, folder, whole, halos):
    """M200c by the lattice's mass: a halo that no wall cuts has its r200."""
    part = open_snapshot(f"{folder}/half", comm)
    found = find_halos(part)
    cut = cut_halos(found, part)
    here, there = halo_table(found, part), halo_table(halos, whole)
    for halo in np.flatnonzero(~cut)[:5]:
        away = there["centre"] - here["centre"][halo]
        away -= 12.5 * np.rint(away / 12.5)
        twin = np.argmin(np.linalg.norm(away, axis=1))
        assert here["r200"][halo] == pytest.approx(there["r200"][twin], rel=0.02)


def test_slices_of_other_snapshots(comm, data):
    high = open_snapshot(data / "hr64_12p5_z2", comm)
    half = high[high["Position"][:, 0] < 6]
    assert particle_mass(half) == pytest.approx(MATTER / 64**3, rel=1e-6)
    assert find_halos(half).attrs["separation"] == pytest.approx(12.5 / 64)
    bare = ArrayCatalog(
        {"Position": high["Position"]}, comm=comm, BoxSize=[12.5] * 3, Omega0=0.2814
    )
    assert particle_mass(bare) == pytest.approx(MATTER / 64**3)


def test_weights_that_differ_are_refused(comm, data):
    high = open_snapshot(data / "hr64_12p5_z2", comm)
    high["Weight"] = np.full(high.size, 3.0)
    assert len(find_halos(high).length) > 300
    weight = np.ones(high.size)
    weight[:1] = 2
    high["Weight"] = weight
    for measure in (find_halos, pair_statistics):
        with pytest.raises(InputError, match="Weight runs from 1 to [23]"):
            measure(high)


def test_no_particles(comm, whole):
    with pytest.raises(InputError, match="no particles"):
        find_halos(whole[np.zeros(whole.size, dtype=bool)])


def test_sr_catalogues_weigh_alike(comm, data):
    """In memory as on the disk, sliced or not, whatever the input said of masses."""
    low = open_snapshot(data / "lr8_12p5_z2", comm)
    bare = ArrayCatalog({n: low[n] for n in ("Position", "Velocity", "ID")}, comm=comm, **low.attrs)
    for name in [name for name in bare.attrs if name == "ParticleMass"]:
        del bare.attrs[name]
    for source in (low, bare):
        sr = SRCatalog(source, seed=7, region=[(0, 6), (0, 12.5), (0, 12.5)], chunk=2)
        assert sr.attrs["ParticleMass"] * 1e10 == pytest.approx(MATTER / 64**3)
        assert particle_mass(sr[:100]) == pytest.approx(MATTER / 64**3)
