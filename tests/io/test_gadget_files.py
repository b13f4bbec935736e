"""Catalogues as HDF5 of Gadget's form: the same universe in any number of files, for any reader."""

import json

import h5py
import numpy as np
import pytest
from commands import tree
from nbodykit.lab import FOF, FFTPower

from nbodykit_sr import InputError, open_snapshot
from nbodykit_sr.commands.generate import main
from nbodykit_sr.commands.verify import verify


def made(comm, data, path, layout="gadget-hdf5", **options):
    """A catalogue of 32^3 particles."""
    words = ["--model=interpolate", "--factor=4", f"--layout={layout}"]
    words += [f"--{name}={value}" for name, value in options.items()]
    assert main([str(data / "lr8_12p5_z2"), str(path), *words], comm) == 0
    return path


@pytest.mark.mpi(ranks=4)
def test_files_and_ranks_leave_no_trace(comm, alone, data, tmp_path, monkeypatch):
    plain = open_snapshot(made(comm, data, tmp_path / "plain", "nbodykit"), comm)
    one = made(comm, data, tmp_path / "one")
    monkeypatch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 9000)
    four = made(comm, data, tmp_path / "four")
    apart = alone(lambda comm: made(comm, data, tmp_path / "alone"))
    assert tree(four) == tree(apart) and len(tree(four)) == 5 and len(tree(one)) == 2
    power = FFTPower(plain, mode="1d", Nmesh=32).power["power"].real
    groups = FOF(plain, 0.4, nmin=7).find_features()["Length"].compute()
    for path in (one, four):
        assert verify(str(path), comm) == []
        catalog = open_snapshot(path, comm)
        assert catalog.attrs["SRLayout"] == "gadget-hdf5"
        for name, rtol in (("Position", 1e-6), ("Velocity", 1e-6), ("ID", 0)):
            # float32 positions may lie on the other side of the box
            apart = catalog[name].compute().astype("f8") - plain[name].compute()
            apart -= 12.5 * np.rint(apart / 12.5) if name == "Position" else 0
            scale = 12.5 if name == "Position" else 300
            assert np.abs(apart).max(initial=0) <= rtol * scale, name
        found = FFTPower(catalog, mode="1d", Nmesh=32).power["power"].real
        np.testing.assert_allclose(found[1:], power[1:], rtol=1e-6)
        halos = FOF(catalog, 0.4, nmin=7).find_features()["Length"].compute()
        np.testing.assert_array_equal(halos, groups)


def test_the_header_is_gadget_4s(comm, data, tmp_path, monkeypatch):
    monkeypatch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 20000)
    path = made(comm, data, tmp_path / "SR")
    low, counts = open_snapshot(data / "lr8_12p5_z2", comm), []
    for number in range(2):
        with h5py.File(path / f"snapshot.{number}.hdf5") as file:
            header, dm = file["Header"].attrs, file["PartType1"]
            assert header["BoxSize"] == 12500.0 and header["NumFilesPerSnapshot"] == 2
            assert header["Redshift"] == pytest.approx(2) and header["Time"] == pytest.approx(1 / 3)
            assert header["MassTable"][1] == pytest.approx(low.attrs["ParticleMass"] / 64)
            for name in ("Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam"):
                assert header[name] == low.attrs[name]
            assert header["NumPart_Total"].tolist() == [0, 32**3, 0, 0, 0, 0]
            counts.append(header["NumPart_ThisFile"])
            assert dm["Coordinates"].shape == (counts[-1][1], 3)
            u, v = dm["Velocities"][:3], open_snapshot(path, comm)["Velocity"].compute()
            first = number * int(counts[0][1])
            np.testing.assert_allclose(u * np.sqrt(1 / 3), v[first : first + 3], rtol=1e-6)
    assert sum(counts).tolist() == [0, 32**3, 0, 0, 0, 0]


@pytest.mark.mpi
def test_clients_find_what_they_look_for(comm, data, tmp_path):
    """Gadget-4's group Parameters, AREPO's high words, and what makes a dataset physical."""
    path = made(comm, data, tmp_path / "SR")
    catalog = open_snapshot(path, comm)
    a, h = catalog.attrs["Time"], catalog.attrs["HubbleParam"]
    with h5py.File(path / "snapshot.0.hdf5") as file:
        header, parameters, dm = file["Header"].attrs, file["Parameters"].attrs, file["PartType1"]
        for name in ("Omega0", "OmegaLambda", "OmegaBaryon", "HubbleParam"):
            assert parameters[name] == header[name] == catalog.attrs[name]
        assert parameters["BoxSize"] == 12500 and parameters["UnitLength_in_cm"] == 3.085678e21
        assert header["NumPart_Total_HighWord"].tolist() == 6 * [0]
        factor = {  # to cm and cm/s
            name: a ** one["a_scaling"] * h ** one["h_scaling"] * one["to_cgs"]
            for name, one in ((name, dm[name].attrs) for name in ("Coordinates", "Velocities"))
        }
        position, velocity = dm["Coordinates"][:9], dm["Velocities"][:9]
        powers = [
            dm[n].attrs[f"{p}_scaling"] for n in factor for p in ("length", "velocity", "mass")
        ]
        assert powers == [1, 0, 0, 0, 1, 0]
        assert dict(dm["ParticleIDs"].attrs) == {}
    where, moving = (catalog[name][:9].compute() for name in ("Position", "Velocity"))
    if comm.rank == 0:
        physical = where * a / h * 3.085678e24
        np.testing.assert_allclose(position * factor["Coordinates"], physical, rtol=1e-6)
        np.testing.assert_allclose(velocity * factor["Velocities"], moving * 1e5, rtol=1e-6)


@pytest.mark.mpi
def test_the_card_stands_apart(comm, data, tmp_path):
    """No reader's list of the Header is flooded; ours, and verify, find it there or in the Header."""
    path = made(comm, data, tmp_path / "SR")
    card = open_snapshot(path, comm).attrs["SRCard"]
    assert json.loads(card)["network"] == "interpolate"
    with h5py.File(path / "snapshot.0.hdf5") as file:
        assert dict(file["ModelCard"].attrs) == {"SRCard": card.encode()}
        assert "SRCard" not in file["Header"].attrs and "SRSeed" in file["Header"].attrs
    comm.Barrier()
    if comm.rank == 0:  # as before
        with h5py.File(path / "snapshot.0.hdf5", "r+") as file:
            file["Header"].attrs["SRCard"] = np.bytes_(card)
            del file["ModelCard"]
    comm.Barrier()
    assert open_snapshot(path, comm).attrs["SRCard"] == card and verify(str(path), comm) == []


def test_overwritten_and_resumed_only_as_what_it_is(comm, data, tmp_path, capfd):
    path = made(comm, data, tmp_path / "SR")
    before = tree(path)
    words = [str(data / "lr8_12p5_z2"), str(path), "--model=interpolate", "--factor=4"]
    assert main([*words, "--layout=gadget-hdf5", "--resume"], comm) == 0
    assert "complete" in capfd.readouterr().out and tree(path) == before
    with pytest.raises(InputError, match="layout gadget-hdf5, not nbodykit"):
        main([*words, "--resume"], comm)
    assert tree(path) == before
    assert main([*words, "--overwrite"], comm) == 0
    assert not (path / "snapshot.0.hdf5").exists()
    assert main([*words, "--layout=gadget-hdf5", "--overwrite"], comm) == 0
    assert tree(path) == before
