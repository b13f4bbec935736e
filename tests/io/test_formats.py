"""Snapshots of other codes: the same box in every format is the same box."""

import shutil
from pathlib import Path

import bigfile
import h5py
import numpy as np
import pytest
from formats import Box, x_slowest, z_slowest
from nbodykit.lab import FOF, FFTPower

from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.particles import find_lattice

pytestmark = pytest.mark.mpi


def fastpm(box, path, without=()):
    """As FastPM writes: BigFile in Mpc/h, with MP-Gadget's names beside its own, IDs from 0."""
    with bigfile.File(str(path), create=True) as file:
        with file.create("Header") as header:
            attrs = {
                "NC": 16,
                "BoxSize": box.box,
                "ScalingFactor": box.a,
                "Time": box.a,
                "OmegaM": box.attrs["Omega0"],
                "Omega0": box.attrs["Omega0"],
                "OmegaLambda": box.attrs["OmegaLambda"],
                "HubbleParam": box.h,
                "MassTable": [0, box.mass, 0, 0, 0, 0],
                "UsePeculiarVelocity": np.int32(1),
                "UnitLength_in_cm": 3.085678e24,
                "UnitMass_in_g": 1.989e43,
                "UnitVelocity_in_cm_per_s": 1e5,
            }
            for name in attrs.keys() - set(without):
                header.attrs[name] = attrs[name]
        for name, values in (
            ("Position", box.position.astype("f4")),
            ("Velocity", box.velocity),
            ("ID", box.ids - 1),
        ):
            file.create_from_array(f"1/{name}", values)


def gadget4_binary(box, path, **options):
    box.gadget_binary(path, gadget4=True, **options)
    box.parameters(Path(path).parent)


FORMATS = {
    "gadget-hdf5": (lambda b, p: b.gadget_hdf5(p), ".hdf5"),
    "gadget-hdf5, 4 files": (lambda b, p: b.gadget_hdf5(p, 4), ".2.hdf5"),
    "gadget-hdf5, compressed": (
        lambda b, p: b.gadget_hdf5(p, compression="gzip", fletcher32=True, chunks=True),
        ".hdf5",
    ),
    "gadget-hdf5, no units, Mpc/h": (lambda b, p: b.gadget_hdf5(p, 2, units=False), ""),
    "gadget-4": (lambda b, p: b.gadget4(p), ".hdf5"),
    "swift": (lambda b, p: b.swift(p), ""),
    "swift, virtual of 3": (lambda b, p: b.swift(p, 3), ".hdf5"),
    "swift, the 3 files": (lambda b, p: b.swift(p, 3), ".0.hdf5"),
    "gadget-2 binary": (lambda b, p: b.gadget_binary(p), ""),
    "gadget-2 binary, 4 files": (lambda b, p: b.gadget_binary(p, 4), ".1"),
    "gadget-2 binary, format 2": (lambda b, p: b.gadget_binary(p, format2=True), ""),
    "binary, big-endian": (lambda b, p: b.gadget_binary(p, order=">"), ""),
    "binary, big-endian, format 2": (
        lambda b, p: b.gadget_binary(p, 2, format2=True, order=">"),
        ".0",
    ),
    "binary, no total": (lambda b, p: b.gadget_binary(p, 4, total=False), ".1"),
    "gadget-4 binary": (lambda b, p: gadget4_binary(b, p), ""),
    "gadget-4 binary, format 2": (lambda b, p: gadget4_binary(b, p, format2=True), ""),
    "gadget-4, 32 bits": (lambda b, p: b.gadget4_integers(p, 32), ".hdf5"),
    "gadget-4, 64 bits": (lambda b, p: b.gadget4_integers(p, 64), ".hdf5"),
    "eagle": (lambda b, p: b.eagle(p), ".hdf5"),
    "fastpm": (fastpm, ""),
    "fastpm, its old names": (lambda b, p: fastpm(b, p, ("Time", "Omega0", "OmegaLambda")), ""),
}


@pytest.fixture
def written(comm, data, tmp_path):
    """A box of tests/data written by rank 0; gives the path to open."""

    def write(how, ending="", name="lr16_25_z2", numbering=None):
        if comm.rank == 0:
            how(Box(data / name, numbering), f"{tmp_path}/snap")
        comm.Barrier()
        return f"{tmp_path}/snap{ending}"

    return write


@pytest.fixture(scope="module")
def truth(comm, data):
    """Power and halos of the box as MP-Gadget wrote it."""
    return physics(open_snapshot(data / "lr16_25_z2", comm))


def physics(catalog):
    wave = 2 * np.pi / 25  # no mode lies on the edge of a bin, where rounding would decide
    power = FFTPower(catalog, mode="1d", Nmesh=32, dk=wave, kmin=wave / 2).power
    halos = FOF(catalog, linking_length=0.2, nmin=7).find_features()
    found = find_lattice(catalog)
    lattice, displacement = found.lattice, found.displacement
    total = catalog.comm.allreduce((displacement**2).sum())
    return power["power"].real, halos.csize, lattice, total


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_box_in_every_format(comm, written, truth, data, form):
    how, ending = FORMATS[form]
    catalog = open_snapshot(written(how, ending), comm)
    power, halos, lattice, total = physics(catalog)
    np.testing.assert_allclose(power, truth[0], rtol=1e-6)
    assert halos == truth[1]
    assert (lattice.Nmesh, lattice.offset) == (16, 0.5) and lattice.BoxSize == pytest.approx(25)
    assert total == pytest.approx(truth[3], rel=1e-5)
    native = open_snapshot(data / "lr16_25_z2", comm)
    ours, its = (
        np.sort(np.concatenate(comm.allgather(c["Velocity"].compute()[:, 0])))
        for c in (catalog, native)
    )
    np.testing.assert_allclose(ours, its, rtol=1e-5, atol=1e-3)
    for name in ("Time", "Redshift", "Omega0", "OmegaLambda", "HubbleParam", "ParticleMass"):
        assert catalog.attrs[name] == pytest.approx(native.attrs[name], rel=1e-6), name


@pytest.mark.parametrize(
    "numbering",
    [x_slowest(0), x_slowest(4097), z_slowest(1), z_slowest(0), z_slowest(1, 2), x_slowest(2, 2)],
    ids=["from 0", "after the gas", "z slowest", "z slowest from 0", "odd", "even"],
)
def test_every_numbering_is_found(comm, written, truth, numbering):
    catalog = open_snapshot(written(Box.gadget_hdf5, ".hdf5", numbering=numbering), comm)
    found = find_lattice(catalog)
    lattice, displacement = found.lattice, found.displacement
    assert lattice == truth[2]
    total = comm.allreduce((displacement**2).sum())
    assert total == pytest.approx(truth[3], rel=1e-5)


def test_dark_matter_is_found_beside_gas(comm, data, tmp_path):
    if comm.rank == 0:
        box, gas = Box(data / "lr16_25_gas_z4"), Box(data / "lr16_25_gas_z4")
        gas.ids = gas.ids + 4096
        box.gadget_hdf5(tmp_path / "snap", 3, gas=gas)
    comm.Barrier()
    catalog = open_snapshot(tmp_path, comm)
    native = open_snapshot(data / "lr16_25_gas_z4", comm)
    # Gadget's header has no OmegaBaryon, by which the shift would be known exactly
    assert find_lattice(catalog).lattice.offset == pytest.approx(
        find_lattice(native).lattice.offset, abs=1e-4
    )
    assert catalog.attrs["ParticleMass"] == pytest.approx(native.attrs["ParticleMass"])
    assert open_snapshot(tmp_path, comm, dataset="PartType0").csize == 4096
    with pytest.raises(InputError, match="dataset is '3/'.*type and number"):
        open_snapshot(tmp_path, comm, dataset="3/")


def test_a_series_of_single_files_is_not_one_snapshot(comm, data, tmp_path):
    if comm.rank == 0:
        Box(data / "lr16_25_z2").gadget_binary(tmp_path / "snap.004")
        Box(data / "lr16_25_z4").gadget_binary(tmp_path / "snap.003")
    comm.Barrier()
    assert open_snapshot(tmp_path / "snap.003", comm).attrs["Redshift"] == pytest.approx(4)
    assert open_snapshot(tmp_path / "snap.004", comm).attrs["Redshift"] == pytest.approx(2)


def change(**attrs):
    def edit(path):
        with h5py.File(path + ".0.hdf5", "a") as file:
            for name, value in attrs.items():
                if value is None:
                    del file["Header"].attrs[name]
                else:
                    file["Header"].attrs[name] = value

    return edit


def cut(path):
    with open(path + ".1.hdf5", "r+b") as file:
        file.truncate(20000)


def no_data(path):
    """Space reserved, never written: HDF5 would show zeros."""
    with h5py.File(path + ".1.hdf5", "a") as file:
        shape = file["PartType1/Coordinates"].shape
        del file["PartType1/Coordinates"]
        file["PartType1"].create_dataset("Coordinates", shape, "f4")


def fewer_rows(path):
    with h5py.File(path + ".1.hdf5", "a") as file:
        rows = file["PartType1/Velocities"][:-1]
        del file["PartType1/Velocities"]
        file["PartType1/Velocities"] = rows


@pytest.mark.parametrize(
    "how, message",
    [
        (lambda p: shutil.move(p + ".1.hdf5", p + ".9x"), "1 files, its Header says 2"),
        (cut, "truncated"),
        (no_data, "no data"),
        (fewer_rows, "Velocities.*truncated"),
        (change(BoxSize=None), "no BoxSize"),
        (change(BoxSize=np.array([25e3, 25e3, 50e3])), "cubic"),
        (change(Time=3.0), "Time is 3: a scale factor"),
        (change(Omega0=np.nan), "Omega0.*finite"),
        (change(UnitLength_in_cm=None, BoxSize=1.0), "neither in kpc/h nor in Mpc/h"),
        (change(NumPart_Total=np.array([0, 9, 0, 0, 0, 0])), "Header says 9"),
        (lambda p: Path(p + ".0.hdf5").write_bytes(b"no snapshot"), "no known format"),
    ],
)
def test_damage_is_named_by_all(comm, written, how, message):
    path = written(lambda box, path: (box.gadget_hdf5(path, 2), how(path)), ".0.hdf5")
    with pytest.raises(InputError, match=message) as caught:
        open_snapshot(path, comm)
    assert "\n" not in str(caught.value)


def test_generate_takes_it(comm, written, data):
    """Through the command's own path: displacement field and SR particles are those of the BigFile."""
    from nbodykit_sr import SRCatalog

    options = {"model": "interpolate", "factor": 2, "seed": 1}
    sr = SRCatalog(open_snapshot(written(Box.swift, ".hdf5"), comm), **options)
    native = SRCatalog(open_snapshot(data / "lr16_25_z2", comm), **options)
    away = (sr["Position"] - native["Position"]).compute()
    away -= 25 * np.rint(away / 25)
    assert abs(away).max() < 1e-4
