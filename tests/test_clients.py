"""Readers and a halo finder that are not ours take our HDF5 as it stands (slow: they start slowly)."""

import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.lab import FOF

from nbodykit_sr import open_snapshot
from nbodykit_sr.io.layout import GADGET_HDF5
from nbodykit_sr.io.particles import SnapshotWriter
from nbodykit_sr.physics.universe import Universe

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
COMM = MPI.COMM_SELF
MISSING = "is not installed: pip install 'nbodykit_sr[clients]'"


@pytest.fixture(scope="module")
def snapshot(data, tmp_path_factory):
    """An HR snapshot with its halos, written as `generate` writes, in three files."""
    high = open_snapshot(data / "hr64_12p5_z2", COMM)
    path, names = tmp_path_factory.mktemp("clients") / "SR", ("Position", "Velocity", "ID")
    header = GADGET_HDF5.attributes(high.attrs, high.csize, {}) | {"SRSeed": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbodykit_sr.io.rows.ROWS_PER_FILE", 100_000)
        writer = SnapshotWriter(
            str(path),
            COMM,
            GADGET_HDF5,
            high.csize,
            names,
            header,
            {"seed": "SRSeed"},
            Universe.of(high.attrs),
        )
    writer.create()
    writer.write(0, 0, {name: high[name].compute() for name in names})
    writer.finish()
    assert len(list(path.glob("*.hdf5"))) == 3
    return path


def same(found, wanted, ids, mass, universe):
    """Positions [Mpc/h] and velocities [km/s] by ID, and the mass [1e10 Msun]."""
    order, other = np.argsort(ids), np.argsort(wanted["ID"].compute())
    for values, name in zip(found, ("Position", "Velocity"), strict=True):
        np.testing.assert_allclose(
            values[order], wanted[name].compute()[other], rtol=1e-5, atol=1e-3
        )
    np.testing.assert_allclose(mass * universe.h, wanted.attrs["ParticleMass"], rtol=1e-3)


def test_yt_reads_it(snapshot):
    yt = pytest.importorskip("yt", reason=f"yt {MISSING}")
    wanted = open_snapshot(snapshot, COMM)
    universe = Universe.of(wanted.attrs)
    box = yt.load(str(snapshot / "snapshot.0.hdf5"))
    assert box.current_redshift == pytest.approx(universe.redshift)
    assert (box.omega_matter, box.hubble_constant) == (universe.Omega0, universe.h)
    np.testing.assert_allclose(box.domain_width.to("Mpccm/h"), universe.BoxSize)
    dm = {
        n: box.all_data()["PartType1", f"particle_{n}"]
        for n in ("position", "velocity", "index", "mass")
    }
    found = dm["position"].to("Mpccm/h").v, dm["velocity"].to("km/s").v
    same(found, wanted, dm["index"].v, dm["mass"][0].to("1e10*Msun").v, universe)


def test_pynbody_reads_it(snapshot):
    pynbody = pytest.importorskip("pynbody", reason=f"pynbody {MISSING}")
    wanted = open_snapshot(snapshot, COMM)
    universe = Universe.of(wanted.attrs)
    box = pynbody.load(str(snapshot / "snapshot"))
    assert box.properties["z"] == pytest.approx(universe.redshift)
    assert (box.properties["omegaM0"], box.properties["h"]) == (universe.Omega0, universe.h)
    dm = box.dm
    assert len(dm) == wanted.csize
    found = np.asarray(dm["pos"].in_units("Mpc a h^-1")), np.asarray(dm["vel"].in_units("km s^-1"))
    same(found, wanted, np.asarray(dm["iord"]), dm["mass"].in_units("1e10 Msol")[0], universe)


def test_a_halo_finder_of_others_finds_the_same_halos(snapshot):
    yt = pytest.importorskip("yt", reason=f"yt {MISSING}")
    finder = pytest.importorskip(
        "yt_astro_analysis.halo_analysis.halo_finding.halo_objects",
        reason=f"yt_astro_analysis {MISSING}",
    )
    catalog = open_snapshot(snapshot, COMM)
    ours = np.bincount(FOF(catalog, 0.2, nmin=31).labels)[1:]
    box = yt.load(str(snapshot / "snapshot.0.hdf5"))
    found = finder.FOFHaloFinder(box, link=0.2, ptype="PartType1")
    theirs = np.array([halo.get_size() for halo in found])
    theirs = theirs[theirs >= 32]
    assert len(ours) > 300
    np.testing.assert_array_equal(np.sort(theirs), np.sort(ours))
