"""Pairs of particles and halo bias, against every pair one by one and against numpy."""

from functools import partial

import numpy as np
import pytest
from helpers import gathered
from mpi4py import MPI
from nbodykit.lab import ArrayCatalog
from scipy.spatial import cKDTree

from nbodykit_sr.diagnostics import complex_field, halo_bias, pair_statistics
from nbodykit_sr.diagnostics.halos import find_halos
from nbodykit_sr.io.snapshot import open_snapshot

BOX = 10.0


def catalogue(position, comm, velocity=None, box=BOX):
    columns = {"Position": position, "Velocity": velocity, "ID": np.arange(len(position))}
    local = {key: one[comm.rank :: comm.size] for key, one in columns.items() if one is not None}
    return ArrayCatalog(local, comm=comm, BoxSize=[box] * 3)


def clustered(seed, number):
    """Particles in clumps that fall towards their centres, and some elsewhere."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, BOX, (20, 3))[rng.integers(20, size=number)]
    offset = rng.normal(0, 0.2, (number, 3)) * rng.choice([1, 20], number)[:, None]
    return (centre + offset) % BOX, -100 * offset + rng.normal(0, 30, (number, 3))


def every_pair(position, velocity, edges):
    """xi, mean and dispersion of the pairwise velocity, from all pairs."""
    i, j = np.triu_indices(len(position), 1)
    offset = position[j] - position[i]
    offset -= BOX * np.rint(offset / BOX)
    distance = np.linalg.norm(offset, axis=1)
    speed = ((velocity[j] - velocity[i]) * offset).sum(axis=1) / distance
    volume = 4 * np.pi / 3 * np.diff(edges**3) / BOX**3
    bins = [(distance >= low) & (distance < high) for low, high in zip(edges, edges[1:])]
    count = np.array([one.sum() for one in bins])
    return (
        count / (len(i) * volume) - 1,
        np.array([speed[one].mean() for one in bins]),
        np.array([speed[one].std() for one in bins]),
    )


@pytest.mark.mpi(ranks=4)
def test_pairs_agree_with_every_pair(comm):
    position, velocity = clustered(1, 1500)
    result = pair_statistics(catalogue(position, comm, velocity), pairs=1e9)
    edges = 0.05 * 2 ** (np.arange(len(result["r"]) + 1) / 3)
    assert edges[-1] <= BOX / 4 < 2 * edges[-1]
    expected = every_pair(position, velocity, edges)
    for name, value in zip(("xi", "v12", "sigma12"), expected):
        np.testing.assert_allclose(result[name], value, rtol=1e-9, atol=1e-9)
    assert result["xi"][0] > 10 and result["v12"][6] < -20  # they cluster, and fall


@pytest.mark.mpi(ranks=4)
def test_subsamples_agree_with_all_and_on_any_number_of_ranks(comm, alone):
    position, velocity = clustered(2, 4000)

    def measured(comm, pairs):
        return pair_statistics(catalogue(position, comm, velocity), pairs=pairs)

    few, many = (measured(comm, pairs) for pairs in (3e4, 1e9))
    assert few["pairs"].sum() < 0.5 * many["pairs"].sum()
    off = (few["xi"] - many["xi"]) / few.errors["xi"]
    assert np.sqrt(np.mean(off**2)) < 3  # clumps make pairs less independent than Poisson's
    for result, pairs in ((few, 3e4), (many, 1e9)):
        same = alone(partial(measured, pairs=pairs))
        for name in ("xi", "v12", "sigma12"):
            np.testing.assert_allclose(result[name], same[name], rtol=1e-9, atol=1e-9)


@pytest.mark.mpi
def test_no_clustering_without_clumps(comm):
    position = np.random.default_rng(3).uniform(0, BOX, (20000, 3))
    result = pair_statistics(catalogue(position, comm), pairs=1e6)
    assert "v12" not in result.columns
    assert np.sqrt(np.nanmean((result["xi"] / result.errors["xi"])[3:] ** 2)) < 1.6


@pytest.mark.mpi
def test_a_real_snapshot(comm, data):
    """Against the pairs of all particles, of which a few are counted here."""
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    result = pair_statistics(catalog, pairs=2e5)
    assert result.attrs["subsample"] == 64**3
    position = gathered(catalog, "Position") % 12.5
    tree, edges = cKDTree(position, boxsize=12.5), 0.05 * 2 ** (np.arange(7) / 3)
    pairs = np.diff(tree.count_neighbors(tree, edges))
    random = len(position) ** 2 * 4 * np.pi / 3 * np.diff(edges**3) / 12.5**3
    np.testing.assert_allclose(result["xi"][:6], pairs / random - 1, rtol=0.12)
    assert np.all(np.diff(result["xi"][:12]) < 0)
    assert -200 < result["v12"].min() < -20


@pytest.mark.mpi
def test_bias_of_halos(comm, data):
    """Against numpy on one rank; more massive halos cluster more."""
    catalog = open_snapshot(data / "hr64_12p5_z2", comm)
    matter, halos = complex_field(catalog, 32), find_halos(catalog)
    first = np.cumsum(halos.length[halos.index]) - halos.length[halos.index]
    place = comm.allgather((halos.index, halos.particles["Position"][first]))
    centre = np.empty((len(halos.length), 3))
    for index, position in place:
        centre[index] = position
    result = halo_bias(halos, {"centre": centre}, matter, [32, 100, 10**9])
    fields = []
    positions = gathered(catalog, "Position")
    for many in (positions, centre, centre[halos.length >= 100]):
        alone = ArrayCatalog({"Position": many}, comm=MPI.COMM_SELF, BoxSize=[12.5] * 3)
        fields.append(np.fft.fftn(alone.to_mesh(Nmesh=32, resampler="cic").compute().value))
    k = np.stack(np.meshgrid(*[np.fft.fftfreq(32, 1 / 32)] * 3, indexing="ij"))
    large = ((k**2).sum(axis=0) < 4.5**2) & ((k**2).sum(axis=0) > 0)
    for i in (0, 1):
        cross = (fields[i + 1] * fields[0].conj()).real[large].sum()
        expected = cross / (abs(fields[0]) ** 2)[large].sum()
        assert result["bias"][i] == pytest.approx(expected, rel=1e-3)
    assert result["bias"][1] > result["bias"][0] > 1
    assert np.isnan(result["bias"][2]) and result["count"][2] == 0
