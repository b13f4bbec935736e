"""The linear power spectrum: files of several programs, and the amplitude that LR shows."""

import numpy as np
import pytest

from nbodykit_sr import open_snapshot
from nbodykit_sr.errors import InputError
from nbodykit_sr.particles import find_lattice
from nbodykit_sr.physics.power import LinearPower, linear_power, measured_sigma8
from nbodykit_sr.physics.universe import Universe

# Of the real snapshots in tests/data
SIGMA8, N_S = 0.8256, 0.971
K = np.geomspace(1e-3, 100, 200)
TABLE = 6e4 * (K / 0.02) / (1 + (K / 0.02) ** 2) ** 1.4
GROWTH = 0.0128


def written(path, columns, *header):
    np.savetxt(path, np.transpose(columns), header="\n".join(header), comments="")
    return path


@pytest.mark.parametrize(
    "columns, header",
    [
        ((K, TABLE), ()),
        ((K, TABLE), ("# k/h P",)),  # CAMB
        ((K, TABLE), ("# Power spectrum P(k) at redshift z=0", "# k (h/Mpc) P (Mpc/h)^3")),  # CLASS
        ((K, TABLE * GROWTH**2 / (2 * np.pi) ** 3), ("# 99 0.0128",)),  # MP-GenIC's inputspec
        ((K, TABLE * GROWTH**2, K, TABLE), ("# in Mpc/h Units", "# D1 = 1", "# k P N P(z=0)")),
        ((K, TABLE * GROWTH**2 * K**3 / 2 / np.pi**2, K), ("99 0.0128",)),  # N-GenIC's
        ((np.log10(K), np.log10(TABLE * K**3 / 2 / np.pi**2)), ()),  # N-GenIC's input
    ],
)
def test_files_of_several_programs(tmp_path, columns, header):
    power = LinearPower.read(written(tmp_path / "p.txt", columns, *header), lambda z: GROWTH)
    np.testing.assert_allclose(power(K), TABLE, rtol=1e-6)
    assert power(0.0) == 0 and 0 < power(1e3) < power(100.0)


@pytest.mark.parametrize(
    "columns", [(K[::-1], TABLE), (K, -TABLE), (K, TABLE * 1e6), (K,), (K[:2], TABLE[:2])]
)
def test_what_is_no_power_spectrum_is_refused(tmp_path, columns):
    with pytest.raises(InputError, match="power spectrum .*p.txt"):
        LinearPower.read(written(tmp_path / "p.txt", columns))
    with pytest.raises(InputError, match="cannot be read"):
        LinearPower.read(tmp_path / "none.txt")


@pytest.fixture(scope="module")
def power():
    universe = Universe(Omega0=0.2814, OmegaBaryon=0.0464, h=0.697)
    return LinearPower.of(universe, N_S, SIGMA8)


def test_by_class(power):
    """Its amplitude, its slope on the largest scales and on the smallest."""
    assert power.sigma8 == pytest.approx(SIGMA8, rel=1e-3)
    slope = np.diff(np.log(power(np.array([2e-4, 4e-4])))) / np.log(2)
    assert slope == pytest.approx(N_S, abs=0.01)
    slope = np.diff(np.log(power(np.array([20.0, 40.0])))) / np.log(2)
    assert -2.85 < slope < -2.5
    half = power.scaled(SIGMA8 / 2, "half")
    np.testing.assert_allclose(half(K), power(K) / 4)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["lr16_25_z4", "lr16_25_z2", "lr16_25_z0"])
def test_the_amplitude_of_real_snapshots(comm, data, power, name):
    particles = find_lattice(open_snapshot(data / name, comm))
    sigma8, error = measured_sigma8(particles, power)
    assert abs(sigma8 - SIGMA8) < 2 * error and error < 0.2
    assert len(set(comm.allgather(f"{sigma8:.6g}"))) == 1
    measured = linear_power(particles, n_s=N_S)
    assert measured.sigma8 == pytest.approx(sigma8, rel=1e-3)
    assert "measured from LR" in measured.source and "+-" in measured.source


@pytest.mark.mpi
def test_another_amplitude_is_refused(comm, data):
    particles = find_lattice(open_snapshot(data / "lr16_25_z4", comm))
    with pytest.raises(InputError, match="sigma8 is 1.4 but LR's displacements have 0.8"):
        linear_power(particles, sigma8=1.4)
    assert linear_power(particles, sigma8=1.4, force=True).sigma8 == pytest.approx(1.4, rel=1e-3)
    assert linear_power(particles, sigma8=SIGMA8).sigma8 == pytest.approx(SIGMA8, rel=1e-3)
