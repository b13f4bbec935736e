"""Halos against brute-force linking, and their mass function."""

import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from nbodykit_sr.diagnostics import find_halos, mass_edges, mass_function, particle_mass, ratio
from nbodykit_sr.diagnostics.linking import link
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot

BOX = 10.0


def linked_pairs(position, box, length, nmin):
    """Sizes of friends-of-friends groups from a list of all close pairs, largest first."""
    pairs = cKDTree(position, boxsize=box).query_pairs(length, output_type="ndarray")
    return _sizes(pairs.T, len(position), nmin)


def brute_force(position, box, length, nmin):
    """The same without a tree."""
    pairs = []
    for i, one in enumerate(position):
        offset = position[i:] - one
        offset -= box * np.rint(offset / box)
        friends = i + np.nonzero((offset**2).sum(axis=1) <= length**2)[0]
        pairs.append(np.stack([np.full(len(friends), i), friends]))
    return _sizes(np.concatenate(pairs, axis=1), len(position), nmin)


def _sizes(pairs, number, nmin):
    graph = coo_array((np.ones(len(pairs[0])), tuple(pairs)), shape=(number, number))
    sizes = np.bincount(connected_components(graph)[1])
    return np.sort(sizes[sizes >= nmin])[::-1]


def catalogue(position, comm, **attrs):
    local = position[comm.rank :: comm.size]
    attrs = {"BoxSize": [BOX] * 3, "Omega0": 0.3, **attrs}
    return ArrayCatalog({"Position": local}, comm=comm, **attrs)


def clumps(seed, sizes, background):
    rng = np.random.default_rng(seed)
    parts = [rng.uniform(0, BOX, (background, 3))]
    for size in sizes:
        parts.append(rng.uniform(0, BOX, 3) + rng.normal(0, 0.05, (size, 3)))
    return np.concatenate(parts) % BOX


@pytest.mark.mpi(ranks=4)
def test_halos_agree_with_brute_force(comm):
    position = clumps(4, [31, 32, 33, 60, 200, 400, 32], 3000)
    length = 0.2 * BOX / len(position) ** (1 / 3)
    expected = brute_force(position, BOX, length, 32)
    halos = find_halos(catalogue(position, comm))
    np.testing.assert_array_equal(halos.length, expected)
    assert comm.allreduce(len(halos.particles["Position"])) == expected.sum()


@pytest.mark.mpi(ranks=4)
def test_slabs_make_the_same_groups(comm):
    """However the box is cut, and where groups lie across faces, through slabs and all around."""
    rng = np.random.default_rng(5)
    wire = np.stack([np.full(500, 2.0), np.full(500, 7.0), np.linspace(0, BOX, 500)], 1)
    faces = [[9.0, 9.0, z] + rng.normal(0, 0.04, (40, 3)) for z in np.linspace(0, BOX, 21)]
    position = np.concatenate([clumps(6, [31, 32, 200], 4000), wire, *faces]) % BOX
    position = rng.permutation(position)
    length = 0.2 * BOX / len(position) ** (1 / 3)
    expected = brute_force(position, BOX, length, 32)
    assert expected[0] > 500
    part = slice(*(len(position) * np.array([comm.rank, comm.rank + 1]) // comm.size))
    found = []
    for slab in (10**6, 900):
        row, group, sizes = link(position[part], BOX, length, 32, comm, slab // comm.size)
        np.testing.assert_array_equal(sizes, expected)
        np.testing.assert_array_equal(row, np.unique(row))
        found.append((row, group))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.mpi
def test_the_fewest_particles_count(comm):
    """32 makes a halo, 31 does not; a halo may lie across the box's faces."""
    rng = np.random.default_rng(0)
    parts = [at + rng.normal(0, 0.003, (n, 3)) for at, n in ((0.0, 32), (5.0, 31))]
    grid = np.stack(np.meshgrid(*[np.arange(6) * BOX / 6 + 0.7] * 3), -1).reshape(-1, 3)
    halos = find_halos(catalogue(np.concatenate([*parts, grid]) % BOX, comm))
    np.testing.assert_array_equal(halos.length, [32])
    position = halos.particles["Position"]
    np.testing.assert_allclose(position - BOX * np.rint(position / BOX), 0, atol=0.02)


@pytest.mark.mpi(ranks=4)
def test_no_halo_at_all(comm):
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), -1).reshape(-1, 3)
    halos = find_halos(catalogue(grid, comm))
    assert len(halos.length) == 0 and not len(halos.particles["Position"])
    function = mass_function(halos)
    assert function.attrs["total"] == 0 and function["count"].sum() == 0


@pytest.mark.mpi(ranks=4)
def test_particles_on_one_rank_only(comm):
    position = clumps(4, [40, 60], 500)
    local = position if comm.rank == 0 else position[:0]
    catalog = ArrayCatalog({"Position": local}, comm=comm, BoxSize=[BOX] * 3, Omega0=0.3)
    length = 0.2 * BOX / len(position) ** (1 / 3)
    np.testing.assert_array_equal(
        find_halos(catalog).length, brute_force(position, BOX, length, 32)
    )


@pytest.mark.mpi
def test_halos_of_a_real_snapshot(comm, data):
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    halos = find_halos(catalog)
    # 0.2814 rho_c (12.5 Mpc/h)^3 / 64^3
    assert halos.particle_mass == pytest.approx(5.819e8, rel=1e-3)
    function = mass_function(halos)
    assert halos.particle_mass == pytest.approx(catalog.attrs["ParticleMass"] * 1e10, rel=1e-3)
    expected = None
    if comm.rank == 0:
        position = open_snapshot(data / "hr64_12p5_z2", MPI.COMM_SELF)["Position"].compute()
        expected = linked_pairs(position % 12.5, 12.5, 0.2 * 12.5 / 64, 32)
    np.testing.assert_array_equal(halos.length, comm.bcast(expected))
    assert function.attrs["total"] == function["count"].sum() == len(halos.length) > 100
    known = function["count"] > 0
    width = np.diff(np.log10(function.attrs["edges"]))
    np.testing.assert_allclose(
        function["dn_dlogM"][known], (function["count"] / width / 12.5**3)[known], rtol=1e-12
    )
    relative = function.errors["dn_dlogM"] / function["dn_dlogM"]
    np.testing.assert_allclose(relative[known], 1 / np.sqrt(function["count"][known]))


def test_coarse_halos_leave_small_bins_unknown(comm):
    fine, coarse = clumps(4, [100, 300, 500], 3000), clumps(4, [100], 200)
    high, low = (find_halos(catalogue(position, comm)) for position in (fine, coarse))
    edges = mass_edges(high.particle_mass, max(high.mass.max(), low.mass.max()))
    assert edges[0] < 32 * high.particle_mass < edges[1]
    functions = [mass_function(halos, edges) for halos in (high, low)]
    unknown = edges[:-1] < 31 * low.particle_mass
    assert unknown.any() and np.isnan(functions[1]["dn_dlogM"][unknown]).all()
    assert np.isfinite(functions[0]["dn_dlogM"]).all()
    assert np.isnan(ratio(functions[1], functions[0], ["dn_dlogM"], ["mass"])["dn_dlogM"][0])


def test_particle_mass_wants_a_cosmology(comm):
    catalog = catalogue(clumps(4, [40], 100), comm)
    assert particle_mass(catalog) == pytest.approx(0.3 * 2.77536627e11 * BOX**3 / 140)
    del catalog.attrs["Omega0"]
    with pytest.raises(InputError, match="Omega0"):
        find_halos(catalog)
