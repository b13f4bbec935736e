"""MP-Gadget snapshots as nbodykit catalogues."""

import shutil

import bigfile
import numpy as np
import pytest
from nbodykit.lab import FOF, FFTPower

from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import cosmology, open_snapshot

pytestmark = pytest.mark.mpi


def test_columns_in_nbodykits_units(comm, data):
    catalog = open_snapshot(data / "lr16_25_z2", comm)
    with bigfile.File(str(data / "lr16_25_z2")) as file:
        mine = slice(comm.rank * 4096 // comm.size, (comm.rank + 1) * 4096 // comm.size)
        np.testing.assert_allclose(catalog["Position"].compute(), file["1/Position"][mine] / 1000)
        np.testing.assert_array_equal(catalog["Velocity"].compute(), file["1/Velocity"][mine])
        np.testing.assert_array_equal(catalog["ID"].compute(), file["1/ID"][mine].ravel())
    assert catalog.csize == 4096 and catalog["ID"].ndim == 1


def test_attrs(comm, data):
    attrs = open_snapshot(data / "lr16_25_z2", comm).attrs
    np.testing.assert_array_equal(attrs["BoxSize"], [25, 25, 25])
    assert attrs["Time"] == pytest.approx(1 / 3) and attrs["Redshift"] == pytest.approx(2)
    assert (attrs["Omega0"], attrs["HubbleParam"]) == (0.2814, 0.697)
    # the box's matter, shared among its particles [1e10 Msun/h]
    assert attrs["ParticleMass"] == pytest.approx(27.7536627 * 0.2814 * 25**3 / 4096, rel=1e-3)
    assert cosmology(attrs).Om0 == pytest.approx(0.2814, rel=1e-3)


def test_initial_conditions_have_the_flag_too(comm, data):
    catalog = open_snapshot(data / "lr16_25_IC", comm)
    assert catalog.attrs["Redshift"] == pytest.approx(99)
    assert set(catalog.columns) >= {"Position", "Velocity", "ID"}


def test_nbodykit_analyses_it(comm, data):
    catalog = open_snapshot(data / "lr16_25_z2", comm)
    assert np.isfinite(FFTPower(catalog, mode="1d", Nmesh=32).power["power"].real[1:]).all()
    fof = FOF(catalog, linking_length=0.2, nmin=7)
    halos = fof.to_halos(
        catalog.attrs["ParticleMass"] * 1e10, cosmology(catalog.attrs), catalog.attrs["Redshift"]
    )
    assert halos.csize >= 0


def test_positions_outside_of_the_box_are_periodic(comm, data, broken):
    """Codes let particles drift out until they sort them anew."""

    def drift(path):
        position = np.fromfile(path / "1/Position/000000")  # kpc/h
        assert (position > 24970).any()
        position[position > 24970] -= 25000
        position.tofile(path / "1/Position/000000")

    native = open_snapshot(data / "lr16_25_z2", comm)["Position"].compute()
    found = open_snapshot(broken(drift), comm)["Position"].compute()
    np.testing.assert_allclose(found, native, atol=1e-9)


def test_a_mass_table_of_one(comm, broken):
    def shorten(path):
        with bigfile.File(str(path)) as file, file["Header"] as header:
            table = header.attrs["MassTable"][1:2]
            del header.attrs["MassTable"]
            header.attrs["MassTable"] = table

    assert open_snapshot(broken(shorten), comm).attrs["ParticleMass"] == pytest.approx(
        29.8, rel=0.01
    )


def test_slices_and_copies(comm, data):
    catalog = open_snapshot(data / "lr16_25_z2", comm)
    np.testing.assert_array_equal(catalog[:7]["ID"].compute(), catalog.copy()["ID"].compute()[:7])


@pytest.fixture
def broken(comm, data, tmp_path):
    """A copy of a snapshot to damage, on rank 0."""

    def damage(how, name="lr16_25_z2"):
        path = tmp_path / "broken"
        if comm.rank == 0:
            shutil.copytree(data / name, path, dirs_exist_ok=True)
            how(path)
        comm.Barrier()
        return path

    return damage


@pytest.mark.parametrize(
    "how, message",
    [
        (lambda p: (p / "1/ID/header").write_text("DTYPE: <u8\nNMEMB: 1\n"), "NFILE"),
        (lambda p: (p / "1/Position/header").write_bytes(b"\xff\xfe"), "header"),
    ],
)
def test_a_damaged_header_is_named_by_all(comm, broken, how, message):
    """Other damage: `robustness/test_input.py`."""
    with pytest.raises(InputError, match=message) as caught:
        open_snapshot(broken(how), comm)
    assert "\n" not in str(caught.value)


def test_no_id_is_an_error_only_where_it_is_needed(comm, broken):
    catalog = open_snapshot(broken(lambda p: shutil.rmtree(p / "1/ID")), comm)
    assert "ID" not in catalog.columns
