"""Density painted from particles of given phases: mass, cloud-in-cell, ranks, refusals."""

import numpy as np
import pytest
from helpers import saved_model
from mpi4py import MPI
from nbodykit.lab import FFTPower, FieldMesh
from test_initial_conditions import (
    BOX,
    FACTOR,
    MATTER,
    START,
    N,
    fitting_lr,
    linear,  # noqa: F401
    model,
    simulation,
)

from nbodykit_sr import SRCatalog, SRMesh
from nbodykit_sr.density.painting import FRACTION, initial_overdensity, paint
from nbodykit_sr.density.particles import painted
from nbodykit_sr.errors import InputError
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.density import DensityEmulator
from nbodykit_sr.physics.background import growth_factor
from nbodykit_sr.provenance import Provenance

GROWTH = growth_factor(START, MATTER)


def snapshot(comm, field, **change):
    """The HR run's initial conditions."""
    lattice = LagrangianLattice(len(field[0]), BOX)
    return simulation(comm, lattice, field * GROWTH, START, **change)


def by_particles(comm, field, path, **options):
    options = {"model": path, "force": True, "chunk": 4, **options}
    return SRMesh(fitting_lr(comm, field), snapshot(comm, field), by="particles", **options)


def test_sums_are_exact():
    rng, box, Nmesh = np.random.default_rng(5), 10.0, 7
    across = (rng.normal(size=(400, 3)) + [0, 5, 9.9]) % box
    one_cell = rng.uniform(5, 5 + box / Nmesh, (2**18, 3))
    edges = np.array([[0, 0, 0], [box - 1e-6, 0, 5], [np.nextafter(box, 0)] * 3])
    for position in (across, one_cell, edges, rng.uniform(0, box, (3000, 3))):
        cell, part = painted(position, box, Nmesh).T
        assert part.sum() == len(position) * FRACTION**3
        assert (np.diff(cell) > 0).all() and (part > 0).all()
        at = np.rint(position * (Nmesh / box) * FRACTION).astype("i8")
        brute = np.zeros(3 * (Nmesh,), dtype=object)
        for one in at[:400]:
            for corner in np.ndindex(2, 2, 2):
                share = np.where(corner, one % FRACTION, FRACTION - one % FRACTION)
                brute[tuple((one // FRACTION + corner) % Nmesh)] += int(share.prod())
        if len(at) <= 400:
            assert dict(zip(cell, part)) == {
                i: n for i, n in enumerate(brute.ravel().tolist()) if n
            }
    halves = [painted(one_cell[half], box, Nmesh) for half in (slice(0, 999), slice(999, None))]
    total = np.zeros(Nmesh**3, dtype="i8")
    for rows in halves:
        total[rows[:, 0]] += rows[:, 1]
    whole = painted(one_cell, box, Nmesh)
    assert np.array_equal(total[whole[:, 0]], whole[:, 1])


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("options", [{}, {"factor": 4, "Nmesh": 5}])
def test_it_is_the_density_of_the_catalogue(comm, linear, tmp_path, options):  # noqa: F811
    """In every bit, of any chunks and by any ranks; nbodykit's own to the rounding of positions."""
    path, factor = model(tmp_path, comm), options.get("factor", 2)
    mesh = by_particles(comm, linear[2], path, **options)
    size, field = 2 * options.get("Nmesh", N), mesh.compute()
    catalog = SRCatalog(
        fitting_lr(comm, linear[2]),
        model=path,
        phases=snapshot(comm, linear[2]),
        factor=factor,
        chunk=3,
        force=True,
    )
    same = paint(catalog, size)
    assert all(comm.allgather(np.array_equal(field.value, same.value.astype("f4"))))
    if comm.size > 1:
        alone = by_particles(MPI.COMM_SELF, linear[2], path, **options).compute().value
        assert all(comm.allgather(np.array_equal(field.value, alone[field.slices])))
    assert field.csum() == pytest.approx(size**3, rel=1e-6)
    plain = catalog.to_mesh(Nmesh=size, resampler="cic", dtype="f8").compute()
    np.testing.assert_allclose(field.value, plain.value, rtol=1e-2, atol=1e-2)
    assert np.isfinite(FFTPower(mesh, mode="1d").power["power"].real[1:-1]).all()
    made = Provenance.from_attrs(mesh.attrs)
    assert mesh.attrs["Nmesh"].tolist() == [size] * 3
    assert (made.factor, made.origin, made.chunk) == (factor, 0, 4)
    assert made.power == catalog.attrs["SRPower"] and field.attrs["SRMean"] == 1


@pytest.mark.mpi
def test_an_overdensity_on_a_mesh_is_the_displacement(comm, linear, tmp_path):  # noqa: F811
    path = model(tmp_path, comm)
    lr, initial = fitting_lr(comm, linear[2]), snapshot(comm, linear[2])
    options = dict(model=path, by="particles", chunk=4, force=True)
    same = SRMesh(lr, initial, **options).compute()
    today = initial_overdensity(initial, N * FACTOR, growth_factor(START, MATTER))
    for z in (0.0, 99.0):
        delta = today.copy()
        delta[...] = 1 + today * growth_factor(1 / (1 + z), MATTER)
        field = SRMesh(lr, FieldMesh(delta), initial_redshift=z, **options).compute()
        noise = np.sqrt(((field - same) ** 2).cmean() / ((same - 1) ** 2).cmean())
        assert noise < 0.02  # the planes at the Nyquist wavenumber are not moved


@pytest.mark.mpi
def test_what_is_refused(comm, linear, tmp_path):  # noqa: F811
    path, other = model(tmp_path, comm), tmp_path / "none"
    density = saved_model(tmp_path / "d.safetensors", DensityEmulator(filters=1), comm)
    lr, initial = fitting_lr(comm, linear[2]), snapshot(comm, linear[2])
    elsewhere = snapshot(comm, linear[2])
    elsewhere.attrs["BoxSize"] = [2 * BOX] * 3
    undated = fitting_lr(comm, linear[2])
    del undated.attrs["Time"]
    painted_lr = FieldMesh(paint(lr, N))
    painted_lr.attrs.update(lr.attrs)
    odd = FieldMesh(paint(initial, 20))
    odd.attrs.update(Redshift=99.0)
    for source, start, options, words in (
        (painted_lr, initial, {}, "give its snapshot, or make the density by the network"),
        (lr, initial, {"by": "magic"}, "by is 'magic': network or particles is needed"),
        (lr, initial, {"by": "network", "factor": 2}, "make the density by particles"),
        (lr, initial, {"factor": 8}, "8: the model goes up to 4"),
        (lr, initial, {"factor": 3}, "power of 2"),
        (lr, snapshot(comm, linear[2][:, ::4, ::4, ::4]), {}, "16.3 are needed"),
        (lr, snapshot(comm, -linear[2]), {"force": False}, "same phases"),
        (lr, elsewhere, {}, "of one box"),
        (lr, odd, {}, "have 20 cells a side and LR 8.3 particles"),
        (undated, initial, {}, "Redshift is absent"),
        (lr, initial, {"model": "interpolate"}, "phases go with models that are given the phases"),
        (lr, initial, {"model": density}, "a displacement one is needed"),
        (lr, initial, {"model": other}, "none"),
        (lr, initial, {"chunk": 9}, "chunk is 9"),
    ):
        options = {"model": path, "by": "particles", "force": True, **options}
        with pytest.raises(InputError, match=words):
            SRMesh(source, start, **options)


@pytest.mark.mpi
def test_particles_that_are_nowhere(comm, linear, tmp_path):  # noqa: F811
    """All ranks refuse what a model of one rank's chunk gives."""
    mesh = by_particles(comm, linear[2], model(tmp_path, comm))
    if comm.rank == 0:
        mesh.way.sr.field.data[:] = np.nan
    with pytest.raises(InputError, match="positions that are not finite"):
        mesh.compute()
