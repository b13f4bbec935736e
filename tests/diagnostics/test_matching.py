"""Halos one by one: partners by shared Lagrangian sites, against Python's sets."""

import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog

from nbodykit_sr.diagnostics import (
    find_halos,
    halo_sites,
    halo_table,
    mass_edges,
    matching_by_mass,
    partners,
)
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot


@pytest.fixture(scope="module")
def snapshot(comm, data):
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    catalog["Position"] = catalog["Position"].compute()
    return catalog


def moved(catalog, sigma, seed):
    """The catalogue with every site's particle moved by a Gaussian, the same on any ranks."""
    kicks = np.random.default_rng(seed).normal(0, sigma, (catalog.csize, 3))
    ids = catalog["ID"].compute().astype("i8")
    position = (catalog["Position"].compute() + kicks[ids - 1]) % 12.5
    return ArrayCatalog({"Position": position, "ID": ids}, comm=catalog.comm, **catalog.attrs)


def renumbered(catalog, rule):
    """The catalogue with other IDs: `rule` tells them from sites (n, 3)."""
    site = np.stack(np.unravel_index(catalog["ID"].compute().astype("i8") - 1, (64,) * 3), axis=1)
    columns = {"Position": catalog["Position"].compute(), "ID": rule(site)}
    return ArrayCatalog(columns, comm=catalog.comm, **catalog.attrs)


def measured(catalog):
    halos = find_halos(catalog)
    sites = halo_sites(halos, catalog)
    return halos, halo_table(halos, catalog), sites


def sets(halos, comm):
    """Every halo's IDs, on every rank."""
    ends = np.cumsum(halos.length[halos.index])[:-1]
    mine = dict(zip(halos.index.tolist(), np.split(halos.particles["ID"], ends), strict=True))
    every = {halo: set(ids.tolist()) for one in comm.allgather(mine) for halo, ids in one.items()}
    return [every[halo] for halo in range(len(halos.length))]


@pytest.mark.mpi(ranks=4)
def test_partners_agree_with_sets(comm, snapshot):
    (halos, table, sites), (others, other_table, other_sites) = (
        measured(one) for one in (snapshot, moved(snapshot, 0.025, 3))
    )
    partner, shared = partners(halos.length, sites, others.length, other_sites, comm)
    one, two = sets(halos, comm), sets(others, comm)
    number = np.array([[len(a & b) for b in two] for a in one], dtype=float)
    merit = number**2 / (halos.length[:, None] * others.length)
    for i in range(len(one)):
        j = int(merit[i].argmax())
        best = merit[i, j] >= 0.25 and merit[:, j].argmax() == i
        assert partner[i] == (j if best else -1)
        assert shared[i] == (number[i, j] if best else 0)
    found = partner >= 0
    assert 0.2 < found.mean() < 1  # some are lost, some are kept

    edges = mass_edges(halos.particle_mass, halos.mass.max(), width=0.5)
    result = matching_by_mass(halos, table, others, other_table, partner, shared, edges)
    inside = (halos.mass >= edges[0]) & (halos.mass < edges[1])
    assert result["matched"][0] == pytest.approx(found[inside].mean())
    pairs = np.flatnonzero(inside & found)
    ratio = others.length[partner[pairs]] / halos.length[pairs]
    assert result["mass_ratio"][0] == pytest.approx(ratio.mean())
    assert result["mass_scatter"][0] == pytest.approx(np.log(ratio).std(ddof=1))
    offset = table["centre"][pairs] - other_table["centre"][partner[pairs]]
    offset -= 12.5 * np.rint(offset / 12.5)
    assert result["offset"][0] == pytest.approx(np.linalg.norm(offset, axis=1).mean())


@pytest.mark.mpi
def test_a_catalogue_is_its_own_partner(comm, snapshot):
    halos, table, sites = measured(snapshot)
    partner, shared = partners(halos.length, sites, halos.length, sites, comm)
    np.testing.assert_array_equal(partner, np.arange(len(halos.length)))
    np.testing.assert_array_equal(shared, halos.length)
    edges = mass_edges(halos.particle_mass, halos.mass.max(), width=0.5)
    result = matching_by_mass(halos, table, halos, table, partner, shared, edges)
    filled = result["count"] > 0
    np.testing.assert_array_equal(result["matched"][filled], 1)
    np.testing.assert_allclose(result["offset"][filled], 0, atol=1e-12)
    assert result.attrs["matched"] == 1


@pytest.mark.mpi
def test_other_phases_share_nothing(comm, snapshot):
    """The same halos half a box away, with the particles of other sites in them."""
    halos, _, sites = measured(snapshot)
    there = (snapshot["Position"].compute() + 6.25) % 12.5
    ids = renumbered(
        snapshot, lambda site: np.ravel_multi_index(((site + 32) % 64).T, (64,) * 3) + 1
    )
    other = ArrayCatalog({"Position": there, "ID": ids["ID"]}, comm=comm, **snapshot.attrs)
    others, _, other_sites = measured(other)
    np.testing.assert_array_equal(np.sort(halos.length), np.sort(others.length))
    partner, _ = partners(halos.length, sites, others.length, other_sites, comm)
    assert (partner < 0).all()


@pytest.mark.mpi
def test_numberings_of_other_codes_are_the_same_sites(comm, snapshot):
    """z slowest, counted in steps of two after the gas."""
    halos, _, sites = measured(snapshot)
    other = renumbered(snapshot, lambda site: 1001 + 2 * (site @ [1, 64, 64**2]))
    others, _, other_sites = measured(other)
    partner, shared = partners(halos.length, sites, others.length, other_sites, comm)
    np.testing.assert_array_equal(partner, np.arange(len(halos.length)))
    np.testing.assert_array_equal(shared, halos.length)


@pytest.mark.mpi
def test_ids_off_the_lattice_are_refused(comm, snapshot):
    names = np.random.default_rng(1).permutation(64**3)
    other = renumbered(snapshot, lambda site: names[site @ [64**2, 64, 1]])
    with pytest.raises(InputError, match="do not number a lattice"):
        halo_sites(find_halos(other), other)
