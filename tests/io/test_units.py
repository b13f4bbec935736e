"""Headers held against physics: units that are not told, and the universe by the names of any code."""

import logging
import shutil

import bigfile
import h5py
import numpy as np
import pytest
from formats import Box
from nbodykit.lab import ArrayCatalog

from nbodykit_sr.diagnostics.groups import find_groups
from nbodykit_sr.diagnostics.halos import find_halos
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import cosmology, open_snapshot
from nbodykit_sr.physics.universe import Universe

pytestmark = pytest.mark.mpi

COLUMNS = ["Position", "Velocity", "ID"]


@pytest.fixture
def snapshot(comm, data, tmp_path):
    """A copy of a snapshot with attributes of its Header changed, or gone where they are None."""

    def change(attrs, name="lr16_25_z2"):
        path = tmp_path / "changed"
        if comm.rank == 0:
            shutil.copytree(data / name, path)
            header = path / "Header" / "attr-v2"
            lines = header.read_text("latin-1").splitlines(keepends=True)
            kept = [line for line in lines if line.split()[0] not in attrs]
            header.write_text("".join(kept), "latin-1")
            with bigfile.File(str(path)) as file, file["Header"] as block:
                for attribute, value in attrs.items():
                    if value is not None:
                        block.attrs[attribute] = np.atleast_1d(value)
        comm.Barrier()
        return path

    return change


NBODYKITS = {
    "whole": lambda attrs: attrs,
    "Redshift alone": lambda attrs: {n: v for n, v in attrs.items() if n != "Time"},
    "no mass": lambda attrs: {n: v for n, v in attrs.items() if n != "ParticleMass"},
}


@pytest.mark.parametrize("form", NBODYKITS)
def test_what_nbodykit_saved_is_what_it_was(comm, data, tmp_path, form):
    """In Mpc/h and peculiar km/s, which its Header does not say."""
    native = open_snapshot(data / "lr16_25_z2", comm)
    columns = {name: native[name] for name in COLUMNS}
    attrs = NBODYKITS[form](dict(native.attrs))
    ArrayCatalog(columns, comm=comm, **attrs).save(str(tmp_path / "saved"), COLUMNS)
    again = open_snapshot(tmp_path / "saved", comm)
    np.testing.assert_array_equal(again.attrs["BoxSize"], [25.0] * 3)
    assert again.attrs["Time"] == pytest.approx(1 / 3)
    for name in COLUMNS:
        np.testing.assert_allclose(again[name].compute(), native[name].compute(), rtol=1e-6)
    assert find_halos(again, nmin=20).length.tolist() == find_halos(native, nmin=20).length.tolist()


def test_mpgadgets_own_units_are_its_defaults(comm, data, snapshot):
    """Without any Unit: kpc/h, as its own reader takes them; also of a part of the particles."""
    units = dict.fromkeys(["UnitLength_in_cm", "UnitMass_in_g", "UnitVelocity_in_cm_per_s"])
    native, again = open_snapshot(data / "lr16_25_z2", comm), open_snapshot(snapshot(units), comm)
    np.testing.assert_array_equal(again.attrs["BoxSize"], [25.0] * 3)
    for name in COLUMNS:
        np.testing.assert_array_equal(again[name].compute(), native[name].compute())


def test_a_part_of_the_particles_has_the_same_units(comm, data, tmp_path):
    native = open_snapshot(data / "lr16_25_z2", comm)
    part = native[native["Position"][:, 0].compute() < 3]
    part.save(str(tmp_path / "part"), COLUMNS)
    np.testing.assert_array_equal(
        open_snapshot(tmp_path / "part", comm).attrs["BoxSize"], [25.0] * 3
    )


WRONG = {
    "length in m": (dict(UnitLength_in_cm=3.085678e18), "1e.09 times the matter"),
    "length of Mpc": (dict(UnitLength_in_cm=3.085678e24), "1e-09 times the matter"),
    "velocities in cm/s": (
        dict(UnitVelocity_in_cm_per_s=1.0, RSDFactor=None),
        "Velocity is 0.00.* km/s, but linear theory gives .* km/s for displacements of",
    ),
    "no reading": (
        dict(UnitLength_in_cm=None, MassTable=[0, 30e6, 0, 0, 0, 0]),
        "in kpc/h 4096 particles .* times the matter that .*; in Mpc/h Velocity is",
    ),
    "no reading of velocities": (
        dict(UnitLength_in_cm=None, UnitVelocity_in_cm_per_s=1.0, MassTable=np.zeros(6)),
        "in kpc/h Velocity is .* linear theory .*; in Mpc/h Velocity is",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_units_that_fit_nothing_are_refused(comm, snapshot, case):
    attrs, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        open_snapshot(snapshot(attrs), comm)
    assert "\n" not in str(caught.value) and "UnitLength_in_cm" in str(caught.value)


def test_other_formats_are_held_against_physics_too(comm, data, tmp_path):
    if comm.rank == 0:
        Box(data / "lr16_25_z2").gadget_hdf5(tmp_path / "length")
        Box(data / "lr16_25_z2").gadget_hdf5(tmp_path / "velocity")
        with h5py.File(tmp_path / "length.hdf5", "a") as file:
            file["Header"].attrs["UnitLength_in_cm"] = 3.085678e24
        with h5py.File(tmp_path / "velocity.hdf5", "a") as file:
            file["Header"].attrs["UnitVelocity_in_cm_per_s"] = 1e7
        Box(data / "lr16_25_z2").swift(tmp_path / "swift")
        with h5py.File(tmp_path / "swift.hdf5", "a") as file:
            file["Units"].attrs["Unit mass in cgs (U_M)"] = np.array([1.98841e33])
    comm.Barrier()
    for name, message in (
        ("length", "1e-09 times the matter"),
        ("velocity", "Velocity is .* but linear theory"),
        ("swift", "1e-10 times the matter"),
    ):
        with pytest.raises(InputError, match=message):
            open_snapshot(tmp_path / f"{name}.hdf5", comm)


def test_lengths_that_are_off_by_h_are_suspected(comm, snapshot, caplog):
    """As GIZMO's are, whose unit of length holds 1 / h already."""
    caplog.set_level(logging.WARNING, "nbodykit_sr.io")
    open_snapshot(snapshot(dict(UnitLength_in_cm=3.085678e21 / 0.697, RSDFactor=None)), comm)
    if comm.rank == 0:
        assert "Velocity is" in caplog.text and "linear theory gives" in caplog.text


@pytest.mark.parametrize("box", [0.025, 1e-6])
def test_halos_of_a_tiny_box(comm, data, box):
    """Nothing depends on the unit of length: boxes below 1 Mpc/h have the same halos."""
    native = open_snapshot(data / "lr16_25_z2", comm)
    rows = {"Position": native["Position"] * (box / 25), "ID": native["ID"]}
    mass = native.attrs["ParticleMass"] * (box / 25) ** 3
    attrs = {**native.attrs, "BoxSize": [box] * 3, "ParticleMass": mass}
    small = ArrayCatalog(rows, comm=comm, **attrs)
    one, other = (find_groups(catalog, nmin=20)[0] for catalog in (native, small))
    np.testing.assert_array_equal(one["Length"], other["Length"])
    for name in ("Mass", "Mass200m", "Mass200c", "MassVir"):
        np.testing.assert_allclose(other[name], one[name] * (box / 25) ** 3, rtol=1e-6)


def test_a_fluid_is_no_curvature(comm, data, snapshot, caplog):
    """MP-Gadget keeps dark energy that is no constant beside OmegaLambda = 0."""
    fluid = dict(OmegaLambda=0.0, OmegaFld=0.7186, RSDFactor=None)
    lcdm = open_snapshot(data / "lr16_25_z2", comm)
    same = open_snapshot(snapshot({**fluid, "CMBTemperature": None}), comm)
    for name in ("Omega0", "OmegaLambda", "HubbleParam"):
        assert same.attrs[name] == lcdm.attrs[name]
    assert not {"w0", "wa"} & set(same.attrs)
    assert cosmology(same.attrs).efunc(1.0) == cosmology(lcdm.attrs).efunc(1.0)


def test_dark_energy_of_every_code(comm, data, snapshot, tmp_path):
    square = 0.2814 * 27 + 0.7186 * 3 ** (3 * 0.2)
    fluid = dict(OmegaLambda=0.0, OmegaFld=0.7186, W0_Fld=-0.8, RSDFactor=None)
    path = snapshot({**fluid, "CMBTemperature": None})
    if comm.rank == 0:
        Box(data / "lr16_25_z2").swift(tmp_path / "swift")
        with h5py.File(tmp_path / "swift.hdf5", "a") as file:
            file["Cosmology"].attrs.update({"w_0": np.array([-0.8]), "w_a": np.array([0.0])})
        Box(data / "lr16_25_z2").gadget4(tmp_path / "gadget4")
        with h5py.File(tmp_path / "gadget4.hdf5", "a") as file:
            file["Parameters"].attrs.update(w0=-0.8, wa=0.0)
    comm.Barrier()
    for one in (path, tmp_path / "swift.hdf5", tmp_path / "gadget4.hdf5"):
        universe = Universe.of(open_snapshot(one, comm).attrs)
        assert universe.hubble == pytest.approx(100 * np.sqrt(square), rel=1e-4), one


def test_radiation_where_it_was_in_expansion(comm, data, snapshot):
    """MP-Gadget tells a temperature in any case; its RSDFactor says whether H(a) had radiation."""
    with_it = open_snapshot(data / "lr16_25_z2", comm).attrs
    assert with_it["Omega_r"] == pytest.approx(2.47282e-5 / 0.697**2 * 1.6903, rel=2e-3)
    with bigfile.File(str(data / "lr16_25_z2")) as file, file["Header"] as header:
        measured = 1000 / (with_it["Time"] * header.attrs["RSDFactor"][0])
    assert Universe.of(with_it).hubble == pytest.approx(measured, rel=2e-5)
    plain = 100 * np.sqrt(0.2814 * 27 + 0.7186)
    attrs = open_snapshot(snapshot(dict(RSDFactor=3 / plain * 1000)), comm).attrs
    assert "Omega_r" not in attrs
    assert Universe.of(attrs).hubble == pytest.approx(plain)


def test_massive_neutrinos_of_every_code(comm, data, snapshot, tmp_path):
    path = snapshot(dict(MNue=0.1, MNum=0.1, MNut=0.0, CMBTemperature=None, RSDFactor=None))
    today = 0.2 / 93.14 / 0.697**2
    if comm.rank == 0:
        Box(data / "lr16_25_z2").swift(tmp_path / "swift")
        with h5py.File(tmp_path / "swift.hdf5", "a") as file:
            names = {"Omega_m": 0.2814 - today, "Omega_nu_0": today, "M_nu_eV": 0.1, "deg_nu": 2}
            file["Cosmology"].attrs.update({n: np.array([value]) for n, value in names.items()})
    comm.Barrier()
    for one in (path, tmp_path / "swift.hdf5"):
        universe = Universe.of(open_snapshot(one, comm).attrs)
        assert universe.m_nu == (0.1, 0.1) and universe.Omega0 == pytest.approx(0.2814)
        lcdm = Universe(a=universe.a, Omega0=0.2814)
        assert 0.99 < universe.linear_rate / lcdm.linear_rate < 0.999


def test_what_is_not_understood_is_named(comm, snapshot, caplog):
    caplog.set_level(logging.WARNING, "nbodykit_sr.io")
    open_snapshot(snapshot(dict(OmegaQuintessence=0.1, f_R0=0.0)), comm)
    if comm.rank == 0:
        assert "tells of OmegaQuintessence: not understood" in caplog.text
        assert "f_R0" not in caplog.text


def test_an_expansion_that_is_not_understood_is_told(comm, snapshot, caplog):
    caplog.set_level(logging.WARNING, "nbodykit_sr.io")
    open_snapshot(snapshot(dict(RSDFactor=10.0)), comm)
    if comm.rank == 0:
        assert "says that H(a) is 300" in caplog.text


def test_plain_headers_are_read_without_a_word(comm, data, caplog):
    caplog.set_level(logging.WARNING, "nbodykit_sr.io")
    for name in ("lr16_25_z2", "lr16_25_z0", "lr16_25_IC", "lr16_25_gas_z4", "lr16_25_vel0_z4"):
        open_snapshot(data / name, comm)
    assert not caplog.text
