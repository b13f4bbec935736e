"""From particles anywhere to padded blocks of the lattice, for any number of ranks."""

import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog

from nbodykit_sr import chunks
from nbodykit_sr.chunks import ChunkGrid, default_grid
from nbodykit_sr.domain import LatticeDomain
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.particles import find_lattice

pytestmark = pytest.mark.mpi


def label(site, Nmesh):
    """A different value at each site, and a second channel."""
    flat = np.ravel_multi_index(tuple(np.moveaxis(site % Nmesh, -1, 0)), (Nmesh,) * 3)
    return np.stack([flat, -2 * flat], axis=-1).astype("f4")


def my_share(array, comm, seed=1):
    """This rank's share of shuffled rows."""
    order = np.random.default_rng(seed).permutation(len(array))
    return array[order[comm.rank :: comm.size]]


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("Nmesh, side", [(8, 2), (8, 4), (7, 3), (6, 6), (5, 2)])
@pytest.mark.parametrize("padding", [0, 1, 3, 9])
def test_padded_blocks_are_periodic(comm, Nmesh, side, padding):
    grid = ChunkGrid(Nmesh, side)
    if comm.size > np.prod(grid.counts):
        pytest.skip("fewer chunks than ranks")
    domain = LatticeDomain(grid, comm, padding)
    site = my_share(np.indices((Nmesh,) * 3).reshape(3, -1).T, comm)
    block = domain.exchange(site, label(site, Nmesh))
    start, shape = domain.padded(comm.rank)
    wanted = np.moveaxis(np.indices(tuple(shape)), 0, -1) + start
    np.testing.assert_array_equal(np.moveaxis(block, 0, -1), label(wanted, Nmesh))


@pytest.mark.mpi(ranks=4)
def test_a_grid_is_bisected_once(comm):
    """However often, and by however many ranks, it is asked for."""
    domain = LatticeDomain(ChunkGrid(12, 3), comm, 2)
    site = my_share(np.indices((12,) * 3).reshape(3, -1).T, comm)
    chunks._shared.cache_clear()
    for _ in range(3):
        block = domain.exchange(site, label(site, 12))
        for chunk in domain.chunks:
            assert domain.cut(block, chunk).shape[1:] == tuple(np.array(chunk.shape) + 4)
    assert chunks._shared.cache_info().misses == 1


@pytest.mark.mpi(ranks=4)
def test_holes_and_repeats_are_refused_by_all(comm):
    domain = LatticeDomain(ChunkGrid(8, 4), comm, 3)
    sites = np.indices((8,) * 3).reshape(3, -1).T
    sites[17] = sites[18]
    site = my_share(sites, comm)
    with pytest.raises(InputError, match="IDs are missing or repeated"):
        domain.exchange(site, label(site, 8))


@pytest.mark.parametrize(
    "name, offset",
    [
        ("lr16_25_z2", 0.5),
        ("lr16_25_z0", 0.5),
        ("lr16_25_corner_z4", 0.0),
        ("lr16_25_gas_z4", 0.5 + 0.5 * 0.0464 / 0.2814),
    ],
)
def test_the_offset_is_found(comm, data, name, offset):
    lattice = find_lattice(open_snapshot(data / name, comm)).lattice
    assert (lattice.Nmesh, lattice.BoxSize) == (16, 25.0)
    assert lattice.offset == pytest.approx(offset, abs=1e-12)


def test_gas_particles_have_their_own_lattice(comm, data):
    gas = find_lattice(open_snapshot(data / "lr16_25_gas_z4", comm, dataset="0/")).lattice
    baryons = 0.0464 / 0.2814
    assert gas.offset == pytest.approx(0.5 - 0.5 * (1 - baryons), abs=1e-12)


def field_of(catalog, comm, velocity=True):
    particles = find_lattice(catalog)
    grid = default_grid(particles.lattice.Nmesh, comm.size)
    return particles.field(LatticeDomain(grid, comm, 3), velocity)


@pytest.mark.mpi(ranks=4)
def test_the_field_does_not_depend_on_the_ranks(comm, data):
    field = field_of(open_snapshot(data / "lr16_25_z2", comm), comm)
    alone = field_of(
        open_snapshot(data / "lr16_25_z2", comm.Split(comm.rank)), comm.Split(comm.rank)
    )
    chunks = {chunk.index: chunk for chunk in alone.domain.chunks}
    for chunk in field.domain.chunks:
        np.testing.assert_array_equal(field.padded(chunk), alone.padded(chunks[chunk.index]))


@pytest.mark.mpi(ranks=4)
def test_initial_displacements_are_those_from_prepositions(comm, data):
    """MP-GenIC writes the lattice itself into its initial conditions."""
    bigfile = pytest.importorskip("bigfile")
    catalog = open_snapshot(data / "lr16_25_IC", comm)
    found = find_lattice(catalog)
    lattice, site = found.lattice, found.site
    with bigfile.File(str(data / "lr16_25_IC")) as file:
        first = comm.rank * 4096 // comm.size
        before = file["1/PrePosition"][first : first + len(site)] / 1000
    np.testing.assert_allclose(lattice.site_position(site) % 25, before % 25, atol=1e-4)


def test_several_files_and_empty_types_change_nothing(comm, data):
    one = field_of(open_snapshot(data / "lr16_25_z2", comm), comm)
    for other in ("lr16_25_multi_z2", "lr16_25_z2_asis"):
        np.testing.assert_array_equal(
            field_of(open_snapshot(data / other, comm), comm).data, one.data
        )


def test_the_velocity_flag_changes_nothing(comm, data):
    flagged = field_of(open_snapshot(data / "lr16_25_z4", comm), comm).data
    plain = field_of(open_snapshot(data / "lr16_25_vel0_z4", comm), comm).data
    np.testing.assert_allclose(plain[:3], flagged[:3], atol=1e-5)
    np.testing.assert_allclose(plain[3:], flagged[3:], atol=1e-3 * flagged[3:].std())


def test_corner_and_centre_lattices_carry_the_same_modes(comm, data):
    """The lowest modes of both runs' displacements, at their own sites, agree."""

    def mode(name):
        catalog = open_snapshot(data / name, comm)
        found = find_lattice(catalog)
        lattice, site, displacement = found.lattice, found.site, found.displacement
        k = 2 * np.pi / lattice.BoxSize
        wave = np.exp(-1j * k * lattice.site_position(site))
        return comm.allreduce((displacement * wave).sum(axis=0)) / lattice.size

    centre, corner = mode("lr16_25_z4"), mode("lr16_25_corner_z4")
    assert (abs(corner - centre) < 0.05 * abs(centre)).all()


def catalog_of(comm, site, displacement, Nmesh=8, BoxSize=12.5, offset=0.5, ids=None, velocity=0):
    lattice = LagrangianLattice(Nmesh, BoxSize, offset)
    columns = np.zeros(
        len(site), dtype=[("Position", "f8", 3), ("Velocity", "f4", 3), ("ID", "u8")]
    )
    columns["Position"] = lattice.position(site, displacement)
    columns["Velocity"] = velocity
    columns["ID"] = lattice.id(site) if ids is None else ids
    catalog = ArrayCatalog(my_share(columns, comm), comm=comm)
    catalog.attrs["BoxSize"] = np.full(3, BoxSize)
    return catalog


SITES = np.indices((8,) * 3).reshape(3, -1).T
SMOOTH = 0.5 * np.sin(2 * np.pi * SITES / 8)


@pytest.mark.mpi(ranks=4)
def test_any_id_base_is_found(comm):
    ids = LagrangianLattice(8, 12.5).id(SITES, base=4097)
    found = find_lattice(catalog_of(comm, SITES, SMOOTH, ids=ids))
    expected = 0.5 * np.sin(2 * np.pi * found.site / 8)
    np.testing.assert_allclose(found.displacement, expected, atol=1e-12)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda c: catalog_of(c, SITES[:-1], SMOOTH[:-1]), "511 particles.*cube"),
        (lambda c: catalog_of(c, SITES, SMOOTH, ids=np.r_[0:511, 600]), "consecutive"),
        (
            lambda c: catalog_of(c, SITES, SMOOTH, ids=np.r_[0:300, 7, 301:512]),
            "missing or repeated",
        ),
        (
            lambda c: catalog_of(
                c, SITES, np.random.default_rng(1).uniform(-0.8, 0.8, SITES.shape)
            ),
            "glass",
        ),
        (lambda c: catalog_of(c, SITES, SMOOTH * [12, 1, 1], offset=0), "6 Mpc/h.*periodic image"),
        (lambda c: catalog_of(c, SITES, SMOOTH + [0.8, 0, 0]), "shifted alike"),
        (
            lambda c: catalog_of(c, SITES, np.where(SITES == 3, np.nan, SMOOTH)),
            "Position is not finite",
        ),
        (lambda c: catalog_of(c, SITES, SMOOTH, velocity=np.inf), "Velocity is not finite"),
    ],
)
def test_what_comes_from_no_lattice_is_refused_by_all(comm, make, message):
    with pytest.raises(InputError, match=message):
        field_of(make(comm), comm)


def test_shuffled_ids_are_refused(comm, data):
    catalog = open_snapshot(data / "lr16_25_z2", comm)
    ids = np.random.default_rng(2).permutation(4096)[comm.rank * 4096 // comm.size :][
        : catalog.size
    ]
    catalog["ID"] = ids + 1
    with pytest.raises(InputError, match="lattice"):
        field_of(catalog, comm)


def test_without_a_box_or_velocity(comm):
    catalog = catalog_of(comm, SITES, SMOOTH)
    del catalog.attrs["BoxSize"]
    with pytest.raises(InputError, match="BoxSize is absent"):
        find_lattice(catalog)
    bare = ArrayCatalog({"Position": my_share(SITES * 1.5625, comm)}, comm=comm, BoxSize=[12.5] * 3)
    with pytest.raises(InputError, match="no ID"):
        find_lattice(bare)
