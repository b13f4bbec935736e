"""Halos inside: against analytic halos and against numpy, halo by halo."""

import numpy as np
import pytest
from helpers import gathered
from nbodykit.lab import ArrayCatalog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from nbodykit_sr.diagnostics import (
    density_profiles,
    find_halos,
    halo_table,
    mass_edges,
    structure_by_mass,
)
from nbodykit_sr.diagnostics.halo_structure import nfw_half_mass_radius
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.physics.universe import Universe

BOX = 10.0


def catalogue(position, comm, velocity=None):
    columns = {"Position": position, "Velocity": velocity}
    local = {key: one[comm.rank :: comm.size] for key, one in columns.items() if one is not None}
    attrs = {"BoxSize": [BOX] * 3, "Omega0": 0.3, "OmegaLambda": 0.7, "Redshift": 0.0}
    return ArrayCatalog(local, comm=comm, **attrs)


def nfw_radii(rng, number, concentration):
    """Radii within R200 drawn from an NFW profile, in units of R200."""
    x = np.linspace(0, 1, 4001) * concentration
    mass = np.log1p(x) - x / (1 + x)
    return np.interp(rng.uniform(size=number), mass / mass[-1], np.linspace(0, 1, 4001))


def directions(rng, number):
    vector = rng.normal(size=(number, 3))
    return vector / np.linalg.norm(vector, axis=1)[:, None]


def by_hand(halos, catalog, where, centre, around):
    """A halo's numbers, by the plainest numpy, of its own particles and of all `around` it."""
    box, mass = halos.attrs["BoxSize"], halos.particle_mass
    position, velocity = (
        halos.particles[name][where].astype("f8") for name in ("Position", "Velocity")
    )
    offset, others = (
        one - centre - box * np.rint((one - centre) / box) for one in (position, around)
    )
    radii = np.sort(np.linalg.norm(offset, axis=1))
    known = {f"r{s}": radii[int(np.ceil(s * len(radii) / 100 - 1e-9)) - 1] for s in (20, 50, 80)}
    threshold = 200 * Universe.of(catalog.attrs).critical_density * 4 * np.pi / 3
    every = np.sort(np.linalg.norm(others, axis=1))
    number = np.arange(1, len(every) + 1)
    thin = np.flatnonzero(number * mass < threshold * every**3)
    known["r200"] = np.cbrt(thin[thin >= 16][0] * mass / threshold)
    axes = np.sqrt(np.linalg.eigvalsh(np.cov(offset.T)))
    known["axis"], known["middle"] = axes[0] / axes[2], axes[1] / axes[2]
    known["dispersion"] = np.sqrt(velocity.var(axis=0, ddof=1).sum() / 3)
    for divisor in (2, 4):
        length = halos.attrs["linking_length"] * halos.attrs["separation"] / divisor
        pairs = cKDTree(offset).query_pairs(length, output_type="ndarray").T
        graph = coo_array((np.ones(pairs.shape[1]), tuple(pairs)), shape=(len(offset),) * 2)
        sizes = np.sort(np.bincount(connected_components(graph)[1]))[::-1]
        known[f"core_{divisor}"] = sizes[0] / len(offset)
        known[f"pieces_{divisor}"] = np.count_nonzero(sizes[1:] >= 20)
    return known


@pytest.mark.mpi
def test_halos_of_a_real_snapshot_by_hand(comm, data):
    """Every number of every halo of this rank; and the same table on every rank."""
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    halos = find_halos(catalog)
    table = halo_table(halos, catalog)
    ends = np.cumsum(halos.length[halos.index])
    everyone = gathered(catalog, "Position") % 12.5
    tree = cKDTree(everyone, boxsize=12.5)
    for halo, end in zip(halos.index, ends):
        where = slice(end - halos.length[halo], end)
        centre = table["centre"][halo]
        around = everyone[tree.query_ball_point(centre, 1.0)]
        for name, value in by_hand(halos, catalog, where, centre, around).items():
            if name == "r200" and np.isnan(table[name][halo]):
                continue
            assert table[name][halo] == pytest.approx(value, rel=1e-6), (halo, name)
    assert np.isfinite(table["r200"]).mean() > 0.9
    for one in comm.allgather(table):
        for name in table:
            np.testing.assert_array_equal(one[name], table[name])

    edges = mass_edges(halos.particle_mass, halos.mass.max(), width=0.5)
    means = structure_by_mass(halos, table, edges)
    first = (halos.mass >= edges[0]) & (halos.mass < edges[1])
    assert means["r50"][0] == pytest.approx(table["r50"][first].mean())
    error = table["r50"][first].std(ddof=1) / np.sqrt(first.sum())
    assert means.errors["r50"][0] == pytest.approx(error)
    # a stack of profiles holds every particle of its halos
    radii = np.concatenate([[0], np.geomspace(0.01, 5, 12)])
    profiles = density_profiles(halos, table, edges, radii, catalog)
    shells = 4 * np.pi / 3 * np.diff(radii**3) * Universe.of(catalog.attrs).critical_density
    np.testing.assert_allclose(
        (profiles["density"][0] * shells).sum(), halos.mass[first].mean(), rtol=1e-9
    )


@pytest.mark.mpi(ranks=4)
def test_the_same_on_any_number_of_ranks(comm, alone, data):
    def measured(on):
        catalog = open_snapshot(data / "hr64_12p5_z2", on)
        halos = find_halos(catalog)
        table = halo_table(halos, catalog)
        edges = mass_edges(halos.particle_mass, halos.mass.max(), width=0.5)
        radii = np.geomspace(0.03, 2, 13)
        stacks = density_profiles(halos, table, edges, radii, catalog, scaled=True)
        return {**table, "stacks": stacks["density"]}

    together = measured(comm)
    for name, value in alone(measured).items():
        np.testing.assert_allclose(together[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.mpi
@pytest.mark.parametrize("concentration", [3.0, 12.0])
def test_concentrations_of_nfw_halos(comm, concentration):
    """Drawn from the profile; across the box's corner, so on all ranks of the linking."""
    rng = np.random.default_rng(1)
    r200 = 0.8
    radius = 1.3 * r200 * nfw_radii(rng, 20000, 1.3 * concentration)
    position = (radius[:, None] * directions(rng, len(radius))) % BOX
    sigma = 150.0
    catalog = catalogue(position, comm, rng.normal(0, sigma, position.shape))
    density, inside = Universe.of(catalog.attrs).critical_density, (radius < r200).sum()
    catalog.attrs["ParticleMass"] = 200 * density * 4 * np.pi / 3 * r200**3 / inside / 1e10
    halos = find_halos(catalog, linking_length=0.5)
    assert len(halos.length) == 1 and halos.length[0] > 0.95 * len(position)
    table = halo_table(halos, catalog)
    wrapped = table["centre"][0] - BOX * np.rint(table["centre"][0] / BOX)
    np.testing.assert_allclose(wrapped, 0, atol=0.03 * r200)
    assert table["r200"][0] == pytest.approx(r200, rel=0.02)
    assert table["concentration"][0] == pytest.approx(concentration, rel=0.08)
    assert table["dispersion"][0] == pytest.approx(sigma, rel=0.02)
    assert table["axis"][0] == pytest.approx(1, abs=0.03)
    assert table["r50"][0] == pytest.approx(np.median(radius), rel=0.05)
    half = nfw_half_mass_radius(concentration)[0]
    assert np.median(radius[radius < r200]) == pytest.approx(half * r200, rel=0.03)
    # the analytic profile in shells
    edges, radii = np.array([0.5, 2]) * halos.mass[0], np.geomspace(0.05, 1, 9)
    stack = density_profiles(halos, table, edges, radii, catalog, scaled=True)
    x = radii * concentration
    inner = np.log1p(x) - x / (1 + x)
    total = np.log1p(concentration) - concentration / (1 + concentration)
    expected = 200 * np.diff(inner) / total / np.diff(radii**3)
    np.testing.assert_allclose(stack["density"][0], expected, rtol=0.15)


@pytest.mark.mpi
def test_smeared_halos_are_told(comm, data):
    """The same halos with their particles' distances to the centre half as large again."""
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    halos = find_halos(catalog)
    sharp = halo_table(halos, catalog)
    count = halos.length[halos.index]
    centre = sharp["centre"][np.repeat(halos.index, count)]
    offset = halos.particles["Position"] - centre
    offset -= 12.5 * np.rint(offset / 12.5)
    halos.particles["Position"] = (centre + 1.5 * offset) % 12.5
    moved = np.empty((64**3 + 1, 3))
    for columns in (catalog, halos.particles):
        for ids, position in comm.allgather([np.asarray(columns[n]) for n in ("ID", "Position")]):
            moved[ids] = position
    catalog["Position"] = moved[catalog["ID"].compute()]
    smeared = halo_table(halos, catalog)
    assert np.median(smeared["r50"] / sharp["r50"]) == pytest.approx(1.5, rel=0.03)
    np.testing.assert_allclose(smeared["axis"], sharp["axis"], rtol=1e-6)
    assert np.nanmean(smeared["concentration"]) < 0.8 * np.nanmean(sharp["concentration"])
    assert smeared["core_2"].mean() < 0.8 * sharp["core_2"].mean()


@pytest.mark.mpi
def test_no_halo_to_look_into(comm):
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), -1).reshape(-1, 3)
    halos = find_halos(catalogue(grid, comm, grid))
    table = halo_table(halos, catalogue(grid, comm))
    edges = mass_edges(halos.particle_mass, 0, width=0.5)
    assert structure_by_mass(halos, table, edges)["count"].sum() == 0
    stack = density_profiles(halos, table, edges, np.geomspace(0.1, 1, 5), catalogue(grid, comm))
    assert np.isnan(stack["density"]).all()
