"""How snapshots lie on disk: links, parts of older runs, headers with less in them, periodic positions."""

import logging
import shutil

import h5py
import numpy as np
import pytest
from formats import Box
from nbodykit.lab import FOF, ArrayCatalog

from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.lattice import periodic
from nbodykit_sr.particles import find_lattice

pytestmark = pytest.mark.mpi


@pytest.fixture
def written(comm, data, tmp_path):
    """A box of tests/data written by rank 0 in some way; gives the path it begins with."""

    def write(how):
        if comm.rank == 0:
            how(Box(data / "lr16_25_z2"), tmp_path / "snap")
        comm.Barrier()
        return tmp_path / "snap"

    return write


@pytest.fixture
def same(comm, data):
    """Whether a snapshot has the displacements of the box of tests/data."""
    truth = displacements(comm, open_snapshot(data / "lr16_25_z2", comm))

    def check(path):
        catalog = open_snapshot(path, comm)
        np.testing.assert_allclose(displacements(comm, catalog), truth, atol=1e-4)
        return catalog

    return check


def displacements(comm, catalog):
    """Of all particles, by site [Mpc/h]."""
    found = find_lattice(catalog)
    site, away = (np.concatenate(comm.allgather(x)) for x in (found.site, found.displacement))
    return away[np.lexsort(site.T)]


def headers(path, **attrs):
    for name in path.parent.glob("snap*.hdf5"):
        with h5py.File(name, "a") as file:
            file["Header"].attrs.update(attrs)


@pytest.mark.parametrize("table", [29.7, np.array([29.7]), np.array([0, 29.7])])
def test_mass_tables_of_any_length(written, same, table):
    path = written(lambda box, p: (box.gadget_hdf5(p), headers(p, MassTable=table)))
    # its share of all matter, which is near
    assert same(path).attrs["ParticleMass"] == pytest.approx(29.7, rel=0.01)


def test_totals_may_be_left_at_zero(written, same):
    nothing = {"NumPart_Total": np.zeros(6, "u4")}
    same(written(lambda box, p: (box.gadget_hdf5(p, 3), headers(p, **nothing))))


def test_an_empty_snapshot_is_called_empty(comm, written):
    nothing = {"NumPart_Total": np.zeros(6, "u4"), "NumPart_ThisFile": np.zeros(6, "u4")}
    path = written(lambda box, p: (box.gadget_hdf5(p), headers(p, **nothing)))
    with pytest.raises(InputError, match="no particles of any type"):
        open_snapshot(path, comm)


def more_parts(box, path):
    """Two parts, and the third of a run before that had three."""
    box.gadget_hdf5(path, 3)
    box.gadget_hdf5(path, 2)


def test_parts_of_an_older_run_are_left_alone(comm, written, same):
    path = written(more_parts)
    same(path)
    same(f"{path}.1.hdf5")
    with pytest.raises(InputError, match="snap.0.hdf5 is of another snapshot.*NumFilesPerSnapshot"):
        open_snapshot(f"{path}.2.hdf5", comm)


def test_parts_of_two_times_are_told_apart(comm, data, written):
    def mixed(box, path):
        box.gadget_hdf5(path, 2)
        other = path.with_name("other")
        Box(data / "lr16_25_z4").gadget_hdf5(other, 2)
        shutil.move(f"{other}.1.hdf5", f"{path}.1.hdf5")

    with pytest.raises(InputError, match="snap.1.hdf5 is of another snapshot.*Time"):
        open_snapshot(written(mixed), comm)


def test_hidden_files_are_no_snapshots(written, same, comm):
    """macOS leaves ._snap.0.hdf5 beside snap.0.hdf5."""

    def hidden(box, path):
        box.gadget_hdf5(path, 2)
        for number in range(2):
            path.with_name(f"._snap.{number}.hdf5").write_bytes(b"\0\5\x16\7")

    same(written(hidden).parent)


def elsewhere(name):
    """SWIFT's parts and virtual file in a folder, a link to one of them in another."""

    def write(box, path):
        path.with_name("run").mkdir()
        box.swift(path.with_name("run") / "there", 3)
        path.with_name("link").mkdir()
        path.with_name("link").joinpath("here.hdf5").symlink_to(path.with_name("run") / name)

    return write


@pytest.mark.parametrize("name", ["there.hdf5", "there.1.hdf5"])
def test_links_lead_to_what_lies_beside_their_target(written, same, name):
    same(written(elsewhere(name)).with_name("link") / "here.hdf5")


def drifted(position):
    """Unwrapped: out of the box by up to a twentieth of it on both sides."""
    position[position > 24] -= 25
    position[(position > 0) & (position < 0.5)] += 25
    return position


def centred(position):
    return position - 25 * (position >= 12.5)


@pytest.mark.parametrize("move", [drifted, centred])
@pytest.mark.parametrize("form", ["gadget_hdf5", "swift", "gadget_binary"])
def test_positions_are_periodic(comm, data, written, same, move, form):
    def moved(box, path):
        box.position = move(box.position)
        assert box.position.min() < 0
        getattr(box, form)(path)

    catalog = same(written(moved))
    position = catalog["Position"].compute()
    assert ((position >= 0) & (position < 25)).all()
    halos, truth = (
        FOF(c, linking_length=0.2, nmin=7).find_features()
        for c in (catalog, open_snapshot(data / "lr16_25_z2", comm))
    )
    assert halos.csize == truth.csize


@pytest.mark.parametrize("move", [drifted, centred])
def test_positions_of_any_catalogue_are_periodic(comm, data, same, move):
    native = open_snapshot(data / "lr16_25_z2", comm)
    columns = {name: native[name].compute() for name in ("Position", "ID")}
    columns["Position"] = move(columns["Position"])
    catalog = ArrayCatalog(columns, comm=comm, **native.attrs)
    truth = displacements(comm, native)
    np.testing.assert_allclose(displacements(comm, catalog), truth, atol=1e-9)


def test_positions_in_other_units_are_not(comm, written):
    def units(box, path):
        box.position /= box.h
        box.gadget_hdf5(path)

    catalog = open_snapshot(written(units), comm)
    with pytest.raises(InputError, match="Position runs from .* in a box of 25 Mpc/h"):
        find_lattice(catalog)


def test_wrapping_keeps_what_is_in_the_box():
    inside = np.random.default_rng(1).uniform(0, 25, (100, 3))
    assert (periodic(inside, 25.0) == inside).all()
    assert periodic(np.array([[25.0, -1e-17, -0.03]]), 25.0).tolist() == [[0, 0, 24.97]]
    for out in (25.0 / 0.697, 25e3, -25.0):
        with pytest.raises(InputError, match="check the units"):
            periodic(np.array([[1.0, 2, 3], [out, 1, 1]]), 25.0)


def test_gadget4s_binary_without_its_parameters(comm, written, same, caplog):
    """Its header has no cosmology: Omega0 is in the masses, and h nobody knows."""
    with caplog.at_level(logging.WARNING):
        catalog = same(written(lambda box, p: box.gadget_binary(p, gadget4=True)))
    assert (comm.rank == 0) == (
        "no cosmology" in caplog.text and "parameters-usedvalues" in caplog.text
    )
    assert catalog.attrs["Omega0"] == pytest.approx(0.2814, rel=1e-3)
    assert "HubbleParam" not in catalog.attrs


def test_parameters_of_another_run_are_not_taken(comm, data, written, caplog):
    def write(box, path):
        box.gadget_binary(path, gadget4=True)
        box.box *= 2
        box.parameters(path.parent)

    with caplog.at_level(logging.WARNING):
        catalog = open_snapshot(written(write), comm)
    assert "HubbleParam" not in catalog.attrs


def damaged(offset, content):
    def write(box, path):
        box.gadget_binary(path)
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(content)

    return write


@pytest.mark.parametrize(
    "how, message",
    [
        (damaged(0, b"\0\2\0\0"), "no known format"),
        (damaged(264, b"\1\2\3\4"), "block POS .*truncated or damaged"),
        (lambda box, p: (box.gadget_binary(p), cut(p, 200)), "ends within its header"),
        (lambda box, p: (box.gadget_binary(p), cut(p, 60000)), "block VEL .*truncated"),
        (
            lambda box, p: (box.gadget_binary(p, format2=True), cut(p, 98700)),
            "block ID .*truncated",
        ),
    ],
)
def test_damaged_binary_is_named_by_all(comm, written, how, message):
    path = written(how)
    with pytest.raises(InputError, match=message) as caught:
        open_snapshot(path, comm)["ID"].compute()
    assert "\n" not in str(caught.value)


def cut(path, size):
    with open(path, "r+b") as file:
        file.truncate(size)


def long_blocks(box, path):
    """Of over 4 GB, in a file with holes: lengths of 4 bytes are kept modulo 2^32."""
    number, header = 720**3, np.zeros(256, "u1")
    header.view("u4")[[1, 25]] = number
    header.view("f8")[[4, 9, 10]] = 27.7536627 * 0.2814 * 25**3 / number, box.a, 1 / box.a - 1
    header.view("u4")[31] = 1
    header.view("f8")[16:20] = 25e3, 0.2814, 0.7186, 0.697
    with open(path, "wb") as file:
        for length, content in ((256, header.tobytes()), (12 * number, b""), (12 * number, b"")):
            record(file, length, content)
        record(file, 4 * number, np.uint32(1).tobytes())
        file.seek(-8, 1)
        file.write(np.uint32(number).tobytes())


def record(file, length, content):
    mark = np.uint32(length % 2**32).tobytes()
    file.write(mark + content)
    file.seek(length - len(content), 1)
    file.write(mark)


def test_binary_blocks_of_any_length(comm, written):
    header = open_snapshot(written(long_blocks), comm).header
    assert header.size == 720**3 and (header.rows("Position", 10**8, 10**8 + 9) == 0).all()
    assert header.rows("ID", 0, 2).tolist() == [1, 0]
    assert header.rows("ID", header.size - 1, header.size) == [720**3]
