"""Snapshots written by the programs themselves, of one universe: MP-Gadget's displacements and velocities."""

import logging

import numpy as np
import pytest
from nbodykit.lab import FOF

from nbodykit_sr.commands.generate import main
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.particles import find_lattice

pytestmark = pytest.mark.mpi

BARYONS = 0.0464 / 0.2814


@pytest.fixture
def real(data):
    return data / "real"


def fields(comm, catalog):
    """Displacements and velocities of all particles by site, the lattice."""
    found = find_lattice(catalog)
    velocity = catalog["Velocity"].compute()
    site, away, speed = (
        np.concatenate(comm.allgather(x)) for x in (found.site, found.displacement, velocity)
    )
    order = np.lexsort(site.T)
    return away[order], speed[order], found.lattice


def linear_speed(catalog, away, velocity):
    """Velocities over those of linear theory: 1.008 to 1.021 measured, for MP-Gadget 1.014."""
    rate = find_lattice(catalog).universe.linear_rate
    return (velocity.astype("f8") * away).sum() / (away**2).sum() / rate


# offset of the lattice, and what displacements may differ from MP-Gadget's [cells rms]
SNAPSHOTS = {
    "gizmo_2files_z2": (0.5, 0.03),
    "gadget2_binary2_z2": (0.5, 0.03),
    "gadget4_binary2_z2": (0.5, 0.06),
    "swift_gas_z2.hdf5": (0.5 + 0.5 * BARYONS, 0.2),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_its_particles_are_where_mpgadgets_are(comm, data, real, name):
    offset, most = SNAPSHOTS[name]
    catalog = open_snapshot(real / name, comm)
    truth, speed, _ = fields(comm, open_snapshot(data / "lr16_25_z2", comm))
    away, velocity, lattice = fields(comm, catalog)
    assert lattice.BoxSize == pytest.approx(25)
    assert lattice.offset == pytest.approx(offset, abs=2e-4)
    assert np.sqrt(((away - truth) ** 2).sum(axis=1).mean()) / lattice.cell < most
    assert np.std(velocity) == pytest.approx(np.std(speed), rel=0.05)
    assert linear_speed(catalog, away, velocity) == pytest.approx(1.013, abs=0.01)
    # all of the matter, also where gas holds a part of it
    assert catalog.attrs["ParticleMass"] == pytest.approx(29.794, rel=1e-3)


def test_gadget4_of_two_types(comm, real):
    """Its own initial conditions, on cell corners: velocities are those of linear theory."""
    catalog = open_snapshot(real / "gadget4_lean_2files_z2", comm)
    away, velocity, lattice = fields(comm, catalog)
    assert lattice.offset == 0.0
    assert linear_speed(catalog, away, velocity) == pytest.approx(1.013, abs=0.01)


@pytest.mark.parametrize(
    "kind, offset, name",
    [("1/", 0.5 + 0.5 * BARYONS, "cell centres, shifted by the gas"),
     ("0/", 0.5 * BARYONS, "cell centres, gas")],
)  # fmt: skip
def test_the_lattices_of_swift_with_gas(comm, real, caplog, kind, offset, name):
    """Shifted as MP-Gadget's, then drawn together by .016 cells."""
    with caplog.at_level(logging.INFO):
        found = find_lattice(open_snapshot(real / "swift_gas_z2.hdf5", comm, dataset=kind))
    assert found.lattice.offset == pytest.approx(offset, abs=1e-12)
    assert (name in caplog.text) == (comm.rank == 0)


def test_a_subsample_is_called_one(comm, real):
    with pytest.raises(InputError, match="is a subsample .*0.5 of the particles of type 1"):
        open_snapshot(real / "swift_subsampled_z2.hdf5", comm)


def test_a_catalogue_without_h(comm, real, tmp_path):
    """Of Gadget-4's binary: what needs no h works, what does says so."""
    part, output = real / "gadget4_binary2_z2", tmp_path / "SR"
    assert main([str(part), str(output), "--model=interpolate", "--factor=2"], comm) == 0
    catalog = open_snapshot(output, comm)
    assert catalog.csize == 32**3 and "HubbleParam" not in catalog.attrs
    assert FOF(catalog, linking_length=0.2, nmin=31).find_features().csize > 0
    with pytest.raises(InputError, match="HubbleParam is absent"):
        main([str(part), str(tmp_path / "HDF5"), "--model=interpolate", "--layout=mp-gadget"], comm)
