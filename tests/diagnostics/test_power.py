"""Painting and power spectra against plain numpy, theory and each other."""

from dataclasses import replace

import numpy as np
import pytest
from nbodykit.lab import ArrayCatalog, FFTPower

from nbodykit_sr.diagnostics import (
    Statistic,
    axis_quadrupoles,
    comparison,
    complex_field,
    ensemble,
    power_spectrum,
    ratio,
    real_field,
    redshift_space_power,
)
from nbodykit_sr.diagnostics import fields as diagnostic_fields
from nbodykit_sr.diagnostics.fields import density_field, particle_mesh, require_memory
from nbodykit_sr.diagnostics.halos import _to_first_ranks
from nbodykit_sr.diagnostics.redshift_space import in_redshift_space, line_of_sight_power
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.snapshot import open_snapshot

BOX = 10.0


def cloud_in_cell(position, box, Nmesh):
    """1 + delta by plain numpy."""
    scaled = position / box * Nmesh
    base = np.floor(scaled).astype(int)
    part = scaled - base
    mesh = np.zeros((Nmesh,) * 3)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=-1)
        np.add.at(mesh, tuple(((base + corner) % Nmesh).T), weight)
    return mesh / mesh.mean()


def numpy_power(first, second, box):
    """Cross power in shells one fundamental mode wide, by plain numpy."""
    Nmesh = len(first)
    modes = [np.fft.fftn(field) / Nmesh**3 for field in (first, second)]
    cross = (modes[0] * modes[1].conj()).real * box**3
    n = np.fft.fftfreq(Nmesh, 1 / Nmesh)
    shell = np.rint(np.sqrt(n[:, None, None] ** 2 + n[:, None] ** 2 + n**2)).astype(int).ravel()
    total = np.bincount(shell, cross.ravel()) / np.bincount(shell)
    return total[1 : Nmesh // 2 + 1], np.bincount(shell)[1 : Nmesh // 2 + 1]


def shared(values, comm):
    """This rank's rows of what all ranks hold."""
    return values[comm.rank * len(values) // comm.size : (comm.rank + 1) * len(values) // comm.size]


def clustered(comm, seed, number=3000, velocity=0.0):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, BOX, (40, 3))
    position = centres[rng.integers(40, size=number)] + rng.normal(0, 0.4, (number, 3))
    data = {
        "Position": shared(position % BOX, comm),
        "Velocity": shared(velocity * rng.normal(size=(number, 3)), comm),
    }
    attrs = {"BoxSize": [BOX] * 3, "Omega0": 0.3, "OmegaLambda": 0.7, "Redshift": 1.0}
    return ArrayCatalog(data, comm=comm, **attrs), position % BOX


@pytest.mark.mpi(ranks=4)
def test_painting_and_power_agree_with_numpy(comm):
    catalog, position = clustered(comm, 1)
    expected = cloud_in_cell(position, BOX, 24)
    field = real_field(catalog, 24)
    np.testing.assert_allclose(field.value, expected[field.slices], rtol=1e-11, atol=1e-11)

    result = power_spectrum(catalog, 24)
    power, modes = numpy_power(expected, expected, BOX)
    assert len(result["k"]) == 12
    np.testing.assert_array_equal(result["modes"], modes)
    np.testing.assert_allclose(result["power"], power, rtol=1e-10)
    np.testing.assert_allclose(
        result["dimensionless"], result["k"] ** 3 * power / (2 * np.pi**2), rtol=1e-10
    )
    np.testing.assert_allclose(result.errors["power"], power * np.sqrt(2 / modes), rtol=1e-10)


@pytest.mark.mpi(ranks=4)
def test_comparison_agrees_with_numpy(comm):
    (one, first), (two, second) = clustered(comm, 1), clustered(comm, 2)
    a, b = cloud_in_cell(first, BOX, 16), cloud_in_cell(second, BOX, 16)
    result = comparison(one, two, Nmesh=16)
    (paa, _), (pbb, _), (pab, _) = (numpy_power(*pair, BOX) for pair in ((a, a), (b, b), (a, b)))
    np.testing.assert_allclose(result["ratio"], paa / pbb, rtol=1e-10)
    np.testing.assert_allclose(result["transfer"], np.sqrt(paa / pbb), rtol=1e-10)
    np.testing.assert_allclose(result["correlation"], pab / np.sqrt(paa * pbb), atol=1e-10)
    itself = comparison(one, one, Nmesh=16)
    np.testing.assert_allclose(itself["correlation"], 1, rtol=1e-12)


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_multipoles_and_wedges_are_nbodykits(comm, axis):
    """But for modes on the edge between two wedges, which rounding put on either side there."""
    field = particle_mesh(24, BOX, comm).generate_whitenoise(seed=4, type="complex")
    poles, wedges = line_of_sight_power(field, axis, kmax=5.1)
    unit = 2 * np.pi / BOX
    theirs = FFTPower(
        field,
        mode="2d",
        dk=unit,
        kmin=unit / 2,
        kmax=5.1 + 0.51 * unit,
        Nmu=10,  # of few modes on edges
        los=np.eye(3, dtype=int)[axis].tolist(),
        poles=[0, 2, 4],
    )
    for ell in (0, 2, 4):
        np.testing.assert_allclose(
            poles[f"power_{ell}"], theirs.poles[f"power_{ell}"].real, rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(poles["k"], theirs.poles["k"], rtol=1e-12)
    np.testing.assert_array_equal(poles["modes"], theirs.poles["modes"])
    about = axis_quadrupoles(field, kmax=5.1)
    np.testing.assert_allclose(about["xyz"[axis]], poles["power_2"] / poles["power_0"], rtol=1e-9)
    _, five = line_of_sight_power(field, axis, kmax=5.1, wedges=5)
    both = theirs.power
    modes = both["modes"][:, 5:] + both["modes"][:, :5][:, ::-1]
    alike = five["modes"] == modes
    assert alike.mean() > 0.5 and five["modes"].sum() == modes.sum()
    total = np.nan_to_num(both["power"].real * both["modes"])
    total = total[:, 5:] + total[:, :5][:, ::-1]
    same = alike & (modes > 0)
    np.testing.assert_allclose(five["power"][same], (total / np.maximum(modes, 1))[same], rtol=1e-9)
    assert np.all(np.diff(wedges["mu"], axis=1)[3:] > 0)


@pytest.mark.mpi(ranks=4)
def test_painting_as_it_is_read(comm, monkeypatch):
    """Piece by piece, in real and in redshift space: the fields of nbodykit's painting."""
    monkeypatch.setattr(diagnostic_fields, "ROWS", 1000)
    catalog, _ = clustered(comm, 3, velocity=200.0)
    real = density_field(catalog, 24)
    expected = real_field(catalog, 24)
    np.testing.assert_allclose(real.value, expected.value, rtol=1e-11, atol=1e-11)
    moved = density_field(in_redshift_space(catalog, 1), 24)
    expected = real_field(in_redshift_space(catalog, 1), 24)
    np.testing.assert_allclose(moved.value, expected.value, rtol=1e-11, atol=1e-11)


@pytest.mark.mpi
def test_power_of_a_known_field(comm):
    """Painting nothing: white noise of power P0 has P0, in every bin, within its error."""
    pm = particle_mesh(32, BOX, comm)
    field = pm.generate_whitenoise(seed=5, unitary=True, type="complex")
    field[...] *= np.sqrt(7.0 / BOX**3)
    result = power_spectrum(field)
    np.testing.assert_allclose(result["power"][:-1], 7.0, rtol=1e-6)
    quadrupoles = axis_quadrupoles(field)
    for axis in "xyz":
        assert np.all(np.abs(quadrupoles[axis]) < 5 * quadrupoles.errors[axis])


def test_kmax_keeps_the_lower_bins(comm):
    catalog, _ = clustered(comm, 1)
    whole, part = power_spectrum(catalog, 24), power_spectrum(catalog, 24, kmax=4.0)
    assert part["k"].max() < 4.0 + np.pi / BOX
    np.testing.assert_array_equal(part["power"], whole["power"][: len(part["k"])])


@pytest.mark.mpi
def test_redshift_space_moves_along_one_axis(comm):
    catalog, position = clustered(comm, 3, velocity=200.0)
    moved = in_redshift_space(catalog, axis=1)
    shift = moved.compute(moved["Position"] - catalog["Position"])
    velocity = catalog.compute(catalog["Velocity"])
    # v (1 + z) / H at z = 1 of Omega0 = 0.3: H = 100 sqrt(0.3 * 8 + 0.7)
    expected = velocity[:, 1] * 2 / (100 * np.sqrt(3.1))
    np.testing.assert_allclose(shift[:, 1], expected, rtol=1e-9, atol=1e-12)
    assert not shift[:, [0, 2]].any()


@pytest.mark.mpi
def test_redshift_space_power(comm):
    at_rest, _ = clustered(comm, 3)
    real = power_spectrum(at_rest, 24)
    still, wedges = redshift_space_power(at_rest, 24)
    np.testing.assert_allclose(still["power_0"], real["power"], rtol=1e-10)
    mean = np.nansum(wedges["power"] * wedges["modes"], axis=1) / wedges["modes"].sum(axis=1)
    np.testing.assert_allclose(mean, real["power"], rtol=1e-10)

    # random velocities smear along the line of sight: power falls with mu, the quadrupole too
    warm, _ = clustered(comm, 3, velocity=60.0)
    poles, wedges = redshift_space_power(warm, 24, axis=0)
    smeared = (poles["k"] > 2.5) & (poles["k"] < 5)
    assert np.all(wedges["power"][smeared, 2] < 0.5 * wedges["power"][smeared, 0])
    assert np.all(poles["power_2"][smeared] < -poles.errors["power_2"][smeared])


@pytest.mark.mpi
def test_a_real_snapshot(comm, data):
    """TreePM at LR and HR: power agrees on large scales, particles fill the box."""
    low, high = (open_snapshot(data / name, comm) for name in ("lr8_12p5_z2", "hr64_12p5_z2"))
    result = comparison(low, high, Nmesh=32)
    assert result["correlation"][0] > 0.95
    assert abs(result["ratio"][0] - 1) < 0.15
    # what numpy on one rank gave
    position = np.concatenate(comm.allgather(high.compute(high["Position"])))
    field = cloud_in_cell(position, 12.5, 32)
    expected, _ = numpy_power(field, field, 12.5)
    np.testing.assert_allclose(power_spectrum(high, 32)["power"], expected, rtol=1e-10)


@pytest.mark.mpi(ranks=4)
def test_particles_spread_evenly_over_ranks_keep_their_order(comm):
    """Also very uneven ones."""
    local = np.arange(7) + 7 * comm.rank if comm.rank % 2 == 0 else np.arange(0)
    even = _to_first_ranks(local, comm.size, comm)
    assert max(comm.allgather(len(even))) - min(comm.allgather(len(even))) <= 1
    np.testing.assert_array_equal(
        np.concatenate(comm.allgather(even)), np.concatenate(comm.allgather(local))
    )


@pytest.mark.mpi
def test_memory_is_refused_before_it_is_taken(comm):
    with pytest.raises(InputError, match="--mesh"):
        require_memory(comm, 1e18, "a mesh of 50000^3 (--mesh)")
    require_memory(comm, 1e3, "nothing much")


def test_missing_attributes_are_named(comm):
    catalog, _ = clustered(comm, 1)
    catalog.attrs["BoxSize"] = BOX
    with pytest.raises(InputError, match="BoxSize has length 1"):
        real_field(catalog, 8)
    catalog.attrs.update(BoxSize=[BOX] * 3)
    del catalog.attrs["OmegaLambda"]
    with pytest.raises(InputError, match="OmegaLambda"):
        redshift_space_power(catalog, 8)
    with pytest.raises(InputError, match="Nmesh"):
        complex_field(catalog)


def test_statistic_is_saved_whole(tmp_path):
    result = Statistic(
        "a test",
        {"k": [1.0, 2.0], "count": [3, 4], "power": [np.nan, 2.5]},
        {"k": "h/Mpc"},
        {"power": [0.1, np.inf]},
        {"edges": np.arange(3), "BoxSize": np.float64(2)},
    )
    result.save(tmp_path / "one.json")
    again = Statistic.load(tmp_path / "one.json")
    np.testing.assert_array_equal(again["power"], [np.nan, 2.5])
    assert again["count"].dtype.kind == "i" and again.attrs["edges"] == [0, 1, 2]
    assert again.units == {"k": "h/Mpc"} and np.isnan(again.errors["power"][1])
    with pytest.raises(ValueError, match="shapes"):
        Statistic("bad", {"k": [1], "power": [1, 2]})


def test_ensemble_and_ratio():
    one, two = (
        Statistic("power", {"k": [1.0, 2.0], "power": power}, {}, {"power": [0.3, 0.4]})
        for power in ([3.0, 4.0], [5.0, 8.0])
    )
    both = ensemble([one, two])
    np.testing.assert_allclose(both["power"], [4, 6])
    np.testing.assert_allclose(both.errors["power"], [np.sqrt(2), np.sqrt(8)])
    # of two boxes, the first with two realisations: means of means, standard errors
    boxes = [replace(one, attrs={"box": 0}), replace(two, attrs={"box": 0})]
    boxes.append(Statistic("power", {"k": [1.0, 2.0], "power": [8.0, np.nan]}, attrs={"box": 1}))
    mean = ensemble(boxes)
    np.testing.assert_allclose(mean["power"], [6, 6])
    np.testing.assert_allclose(mean.errors["power"], [2, np.nan])
    assert mean.attrs["boxes"] == 2 and mean.attrs["realisations"] == 3
    divided = ratio(two, one, ["power"], ["k"])
    np.testing.assert_allclose(divided["power"], [5 / 3, 2])
    np.testing.assert_allclose(divided.errors["power"][0], 5 / 3 * np.hypot(0.3 / 5, 0.3 / 3))
