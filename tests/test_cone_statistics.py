"""What linear theory says of a light cone: angular power of shells, and redshift-space multipoles.

The particles have growing-mode displacements with the amplitudes of a linear power spectrum, small
enough that Zel'dovich's density is linear.
"""

from dataclasses import replace

import healpy
import numpy as np
import pytest
from mpi4py import MPI
from nbodykit.cosmology import Cosmology, LinearPower
from nbodykit.lab import ArrayCatalog, ConvolvedFFTPower, FKPCatalog

from nbodykit_sr import SRLightCone
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.physics.distance import Expansion
from nbodykit_sr.physics.universe import Universe

BOX, NMESH, OMEGA, SMALL = 480.0, 24, 0.3, 0.3
TIMES = (0.75, 1.0)
SHELL = (0.1, 0.26)  # redshifts
UNIVERSE = Universe(BoxSize=BOX, Omega0=OMEGA, OmegaLambda=1 - OMEGA, h=0.7)


@pytest.fixture(scope="module")
def power():
    """P(k) of linear theory today, much smaller than the true one."""
    cosmology = Cosmology(h=0.7, Omega0_b=0.045, Omega0_cdm=OMEGA - 0.045, n_s=0.96, m_ncdm=[])
    linear = LinearPower(cosmology.match(sigma8=SMALL), 0.0, transfer="NoWiggleEisensteinHu")
    return lambda k: np.where(k > 0, linear(np.maximum(k, 1e-4)), 0.0)


def displacement(power, seed):
    """Of the growing mode today, by site (n, 3), with fixed amplitudes."""
    k = 2 * np.pi * np.fft.fftfreq(NMESH, BOX / NMESH)
    k = np.stack(np.meshgrid(k, k, k[: NMESH // 2 + 1], indexing="ij"))
    k[2] = abs(k[2])
    square = (k**2).sum(axis=0)
    white = np.fft.rfftn(np.random.default_rng(seed).normal(size=[NMESH] * 3))
    phase = white / np.maximum(abs(white), 1e-30)
    delta = phase * np.sqrt(power(np.sqrt(square)) / BOX**3) * NMESH**3
    nyquist = (abs(k) >= np.pi * NMESH / BOX * (1 - 1e-9)).any(axis=0)
    delta[nyquist] = 0
    # what the model "interpolate" takes away: weights of 3/4 and 1/4 along each axis
    kept = (0.75 * np.cos(k * BOX / NMESH / 4) + 0.25 * np.cos(0.75 * k * BOX / NMESH)).prod(axis=0)
    delta = delta / kept
    psi = [np.fft.irfftn(1j * ki / np.maximum(square, 1e-30) * delta) for ki in k]
    return np.stack(psi, axis=-1)


def snapshot(psi, a):
    """Growing mode at a time as an nbodykit catalogue."""
    lattice = LagrangianLattice(NMESH, BOX, 0.5)
    site = lattice.site(np.arange(1, lattice.size + 1))
    moved = psi[tuple(site.T)]
    universe = Universe.of({**UNIVERSE.attrs, "Time": a})
    columns = {
        "Position": lattice.position(site, universe.growth * moved),
        "Velocity": universe.linear_rate * universe.growth * moved,
        "ID": lattice.id(site),
    }
    return ArrayCatalog(columns, comm=MPI.COMM_SELF, **universe.attrs)


def seen(psi):
    """Columns of the shell on the whole sky."""
    series = [snapshot(psi, a) for a in TIMES]
    zmin, zmax = SHELL
    names = ("Position", "RedshiftObserved")
    given = dict(observer=(1, 2, 3), sky="full", model="interpolate", factor=2, columns=names)
    cone = SRLightCone(series, zmin=zmin, zmax=zmax, **given)
    return {name: np.asarray(cone[name]) for name in names}


@pytest.fixture(scope="module")
def shell(power):
    return seen(displacement(power, seed=1))


@pytest.fixture(scope="module")
def expansion():
    return Expansion.of(UNIVERSE, 0.7)


def test_angular_power_of_a_shell(shell, power, expansion):
    """That of Limber's approximation, up to the wavenumber that the lattice has.

    pyccl 3.3.6 gives for this shell what stands here within 0.1% at l = 20 to 70, with its own distances,
    growth and power spectrum, by adaptive quadrature ("qag_quad"; its default, splines, gives 4% less).
    """
    near, far = expansion.distance(1 / (1 + np.array(SHELL)))
    counts = np.bincount(healpy.vec2pix(64, *shell["Position"].T), minlength=12 * 64**2)
    found = healpy.anafast(counts / counts.mean() - 1, lmax=70, iter=1, pol=False)
    r = np.linspace(near, far, 100)
    growth = expansion.growth(expansion.scale_factor(r))
    window = 3 * r**2 / (far**3 - near**3)
    ell = np.arange(71)
    limber = [np.trapezoid((window * growth / r) ** 2 * power((n + 0.5) / r), r) for n in ell]
    modes = 2 * ell + 1
    bands = (20, 30), (30, 40), (40, 55), (20, 55)
    ratio = [
        np.dot(modes[low:high], found[low:high]) / np.dot(modes[low:high], limber[low:high])
        for low, high in bands
    ]
    np.testing.assert_allclose(ratio[:-1], 1, atol=0.15)
    assert abs(ratio[-1] - 1) < 0.05


def test_multipoles_in_redshift_space(shell, power, expansion):
    """Those of Kaiser (1987), by nbodykit's ConvolvedFFTPower; its randoms are a shell that did not move."""
    near, far = expansion.distance(1 / (1 + np.array(SHELL)))
    catalogues = []
    for columns in (shell, seen(1e-6 * displacement(power, seed=1))):
        position = columns["Position"]
        distance = expansion.distance(1 / (1 + columns["RedshiftObserved"]))
        position = position * (distance / np.linalg.norm(position, axis=1))[:, None]
        inside = (distance > near + 20) & (distance < far - 20)
        density = np.full(inside.sum(), (2 * NMESH / BOX) ** 3)
        catalogues.append(ArrayCatalog({"Position": position[inside], "NZ": density}))
    mesh = FKPCatalog(*catalogues, BoxPad=0.05).to_mesh(
        Nmesh=64, nbar="NZ", resampler="tsc", compensated=True
    )
    poles = ConvolvedFFTPower(mesh, poles=[0, 2], dk=0.02, kmin=0.03).poles
    use = poles["k"] < 0.12
    k, monopole, quadrupole = (poles[name][use].real for name in ("k", "power_0", "power_2"))
    a = expansion.scale_factor(0.75 * far)  # where half of the volume is
    universe = replace(UNIVERSE, a=float(a))
    f = universe.linear_rate / universe.hubble / a
    boost = monopole / power(k) / universe.growth**2
    assert abs(boost.mean() / (1 + 2 * f / 3 + f**2 / 5) - 1) < 0.05
    ratio = (4 * f / 3 + 4 * f**2 / 7) / (1 + 2 * f / 3 + f**2 / 5)
    assert abs((quadrupole / monopole).mean() - ratio) < 0.07
