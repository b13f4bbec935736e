"""What a particle stands for: all matter, Omega0 rho_crit V / N, whatever inputs say and in all layouts."""

import bigfile
import h5py
import numpy as np
import pytest
from formats import Box

from nbodykit_sr import InputError, open_snapshot
from nbodykit_sr.commands.generate import main as generate
from nbodykit_sr.commands.halos import main as halos
from nbodykit_sr.physics.matter import mean_separation, particle_mass, share, snapshot_mass

RHO = 2.77536627e11
EVEN = 0.2814 * RHO * 25.0**3 / 16**3  # an LR particle of the boxes of 25 Mpc/h [Msun/h]
BOX = {"BoxSize": [10.0] * 3, "Omega0": 0.3}
ALL = 0.3 * RHO * 1000


def mass_table(path):
    """MassTable[1] of a catalogue's Header [Msun/h]."""
    if (path / "Header").exists():
        with bigfile.File(str(path)) as file:
            return file["Header"].attrs["MassTable"][1] * 1e10
    with h5py.File(path / "snapshot.0.hdf5") as file:
        return file["Header"].attrs["MassTable"][1] * 1e10


def bare_swift(data, tmp_path):
    """SWIFT's snapshot without masses (Masses_DM: off)."""
    path = str(tmp_path / "swift")
    Box(str(data / "lr16_25_z2")).swift(path)
    with h5py.File(f"{path}.hdf5", "a") as file:
        del file["PartType1/Masses"]
    return f"{path}.hdf5"


def bare_mpgadget(data, tmp_path):
    """MP-Gadget's with MassTable 0."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "1").symlink_to(data / "lr16_25_z2/1")
    with bigfile.File(str(data / "lr16_25_z2")) as file:
        attrs = dict(file["Header"].attrs)
    attrs["MassTable"] = np.zeros(6)
    with bigfile.File(str(copy), create=True) as file, file.create("Header") as header:
        for name, value in attrs.items():
            header.attrs[name] = value
    return str(copy)


INPUTS = {
    "plain": lambda data, tmp_path: str(data / "lr16_25_z2"),
    "gas": lambda data, tmp_path: str(data / "lr16_25_gas_z4"),
    "no masses, SWIFT": bare_swift,
    "no masses, MP-Gadget": bare_mpgadget,
}


@pytest.mark.parametrize("input", INPUTS)
@pytest.mark.parametrize("layout", ["nbodykit", "mp-gadget", "gadget-hdf5"])
def test_every_layout_says_what_an_sr_particle_weighs(comm, data, tmp_path, input, layout):
    low = INPUTS[input](data, tmp_path)
    assert open_snapshot(low, comm).attrs["ParticleMass"] * 1e10 == pytest.approx(EVEN, rel=1e-5)
    words = [low, "--model=interpolate", "--factor=2", f"--layout={layout}"]
    assert generate([*words[:1], str(tmp_path / "SR"), *words[1:]], comm) == 0
    sr = open_snapshot(tmp_path / "SR", comm)
    for mass in (sr.attrs["ParticleMass"] * 1e10, particle_mass(sr.attrs, sr.csize)):
        assert mass == pytest.approx(EVEN / 8, rel=1e-5)
    if layout != "nbodykit":
        assert mass_table(tmp_path / "SR") == pytest.approx(EVEN / 8, rel=1e-5)
    assert (
        halos(
            [str(tmp_path / "SR"), str(tmp_path / "HALOS"), "--nmin=8", "--linking-length=0.6"],
            comm,
        )
        == 0
    )
    assert mass_table(tmp_path / "HALOS") == pytest.approx(EVEN / 8, rel=1e-5)
    with bigfile.File(str(tmp_path / "HALOS")) as file:
        number, mass = (file[f"FOFGroups/{n}"][:] for n in ("LengthByType", "Mass"))
        assert len(mass)
        np.testing.assert_allclose(mass.ravel() * 1e10 / number[:, 1], EVEN / 8, rtol=1e-5)
    # the particles in halos are a part of the box, of the same mass
    inside = open_snapshot(tmp_path / "HALOS", comm)
    assert inside.csize < 32**3
    assert inside.attrs["ParticleMass"] * 1e10 == pytest.approx(EVEN / 8, rel=1e-5)


@pytest.mark.parametrize("layout", ["mp-gadget", "gadget-hdf5"])
def test_a_subsample_weighs_what_all_weigh(comm, data, tmp_path, layout):
    words = ["--model=interpolate", "--factor=2", f"--layout={layout}", "--subsample=0.25"]
    assert generate([str(data / "lr16_25_z2"), str(tmp_path / "SR"), *words], comm) == 0
    assert mass_table(tmp_path / "SR") == pytest.approx(EVEN / 8 * 4, rel=1e-5)


@pytest.mark.parametrize(
    "attrs, size, mass",
    [
        ({}, 1000, ALL / 1000),
        ({"SRNmesh": 20}, 1000, ALL / 8000),  # a region
        ({"SRNmesh": [20], "SRSubsample": [0.1]}, 790, ALL / 800),
        ({"ParticleMass": ALL / 8000 / 1e10}, 500, ALL / 8000),  # a slice
    ],
)
def test_mass_and_separation(attrs, size, mass):
    attrs = {**BOX, **attrs}
    assert particle_mass(attrs, size) == pytest.approx(mass)
    assert mean_separation(attrs, size) == pytest.approx(10 * (mass / ALL) ** (1 / 3))
    part = size * mass / ALL
    assert share(attrs, size) == pytest.approx(1 if part > 0.9 else part)


@pytest.mark.parametrize(
    "told, size, mass",
    [
        (0.84, 1000, 1.0),  # beside gas
        (0.995, 990, 1.0),  # massive neutrinos
        (1.37, 1000, 1.0),  # in other units
        (0.84, 990, 0.84),  # a selection that was saved
        (0.1, 1000, 0.1),  # a region
    ],
)
def test_masses_of_snapshots(told, size, mass):
    """In those of an even share."""
    attrs = {**BOX, "ParticleMass": told * ALL / size / 1e10}
    assert snapshot_mass(attrs, size) == pytest.approx(mass * ALL / size)


@pytest.mark.parametrize(
    "attrs",
    [
        {"SRNmesh": 0},
        {"SRNmesh": 8, "SRSubsample": 0.0},
        {"ParticleMass": -1},
        {"ParticleMass": "x"},
    ],
)
def test_nonsense_is_refused(attrs):
    with pytest.raises(InputError, match=next(iter(attrs))):
        particle_mass({**BOX, **attrs}, 1000)
