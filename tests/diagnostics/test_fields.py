"""Density PDF, bispectrum, voids and seams: analytic cases, direct sums and planted truths."""

import sys

import numpy as np
import pytest
from helpers import gathered
from nbodykit.lab import ArrayCatalog
from scipy.ndimage import gaussian_filter
from scipy.stats import norm

from nbodykit_sr.diagnostics import (
    angle_triangles,
    bispectrum,
    density_pdf,
    displacement_jumps,
    equilateral_triangles,
    find_voids,
    top_hat,
    void_radii,
    void_size_function,
)
from nbodykit_sr.diagnostics.fields import particle_mesh
from nbodykit_sr.errors import InputError
from nbodykit_sr.lattice import LagrangianLattice

BOX = 100.0
SAFE = 1 - 1e-9  # wavenumbers of modes that lie on an edge are rounded


def field_of(values, box, comm):
    """A distributed RealField of an array that all ranks hold."""
    field = particle_mesh(len(values), box, comm).create(type="real")
    field[...] = values[field.slices]
    return field


def direct_bispectrum(values, triangles, box):
    """Sum over all pairs of modes whose third closes the triangle."""
    Nmesh = len(values)
    modes = np.fft.fftn(values) / Nmesh**3
    n = np.fft.fftfreq(Nmesh, 1 / Nmesh).astype(int)
    vectors = np.stack(np.meshgrid(n, n, n, indexing="ij"), -1).reshape(-1, 3)
    size = np.sqrt((vectors**2).sum(axis=1)) * 2 * np.pi / box
    means, numbers = [], []
    for shells in triangles:
        in_shell = [(size >= low * SAFE) & (size < high * SAFE) for low, high in shells]
        total, number = 0.0, 0
        for one in vectors[in_shell[0]]:
            two = vectors[in_shell[1]]
            three = -one - two
            k3 = np.sqrt((three**2).sum(axis=1)) * 2 * np.pi / box
            good = (k3 >= shells[2][0] * SAFE) & (k3 < shells[2][1] * SAFE)
            product = modes[tuple(one)] * modes[tuple(two[good].T)] * modes[tuple(three[good].T)]
            total, number = total + product.sum().real, number + good.sum()
        means.append(box**6 * total / number)
        numbers.append(number)
    return np.array(means), np.array(numbers)


@pytest.mark.mpi(ranks=4)
def test_bispectrum_equals_direct_sums(comm):
    rng = np.random.default_rng(8)
    values = rng.normal(size=(14, 14, 14))
    values = values + 0.3 * values**2
    unit = 2 * np.pi / BOX
    theta, triangles = angle_triangles(1.6 * unit, 2.2 * unit, unit, 4)
    triangles = np.concatenate([triangles, equilateral_triangles(1 * unit, 4 * unit, 3)])
    result = bispectrum(field_of(values, BOX, comm), triangles)
    means, numbers = direct_bispectrum(values, triangles, BOX)
    np.testing.assert_array_equal(result["triangles"], numbers)
    np.testing.assert_allclose(result["bispectrum"], means, rtol=1e-9)
    assert np.all(result["k3"] >= triangles[:, 2, 0]) and np.all(result["k3"] < triangles[:, 2, 1])


@pytest.mark.mpi
def test_bispectrum_on_any_mesh_that_holds_it(comm, monkeypatch):
    """Meshes of one rank, of all ranks, and the field's own give the same sums."""
    module = sys.modules["nbodykit_sr.diagnostics.bispectrum"]
    unit = 2 * np.pi / BOX
    theta, triangles = angle_triangles(1.6 * unit, 2.2 * unit, unit, 4)
    triangles = np.concatenate([triangles, equilateral_triangles(1.5 * unit, 10.5 * unit, 4)])
    field = particle_mesh(32, BOX, comm).generate_whitenoise(seed=2, type="complex")
    results = []
    for alone in (128, 16, 0):
        monkeypatch.setattr(module, "ALONE", alone)
        results.append(bispectrum(field, triangles))
    monkeypatch.setattr(module, "_cells", lambda key: 32)
    results.append(bispectrum(field, triangles, closed=results[0]["triangles"]))
    for one in results[1:]:
        np.testing.assert_array_equal(one["triangles"], results[0]["triangles"])
        for name in ("k1", "k3", "bispectrum", "reduced"):
            np.testing.assert_allclose(one[name], results[0][name], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(one.errors["reduced"], results[0].errors["reduced"], rtol=1e-9)


@pytest.mark.mpi
def test_bispectrum_of_a_squared_gaussian(comm):
    """delta = g + f (g^2 - <g^2>) has B = 2 f (P1 P2 + P2 P3 + P3 P1) at tree level."""
    f, Nmesh = 0.05, 48
    pm = particle_mesh(Nmesh, BOX, comm)
    limit = Nmesh / 3 * 2 * np.pi / BOX
    ratios = []
    for seed in range(16):
        # f and -f: what is even in f, the noise of <ggg>, cancels
        modes = pm.generate_whitenoise(seed=seed, unitary=True, type="complex")
        smooth = modes.apply(
            lambda k, value: (
                value
                * np.where(
                    sum(ki**2 for ki in k) < limit**2, (sum(ki**2 for ki in k) + 0.01) ** -0.5, 0
                )
            )
        )
        g = smooth.c2r()
        g /= (g**2).cmean() ** 0.5
        square = g**2
        square -= square.cmean()
        triangles = equilateral_triangles(0.25, 0.9 * limit, 5)
        up, down = (bispectrum(g + sign * f * square, triangles) for sign in (1, -1))
        gaussian = bispectrum(g, triangles)
        pairs = gaussian["bispectrum"] / gaussian["reduced"]
        ratios.append((up["bispectrum"] - down["bispectrum"]) / 2 / (2 * f * pairs))
    mean, error = np.mean(ratios, axis=0), np.std(ratios, axis=0, ddof=1) / 4
    assert np.all(error[1:] < 0.1)
    assert np.all(np.abs(mean - 1) < 0.03 + 4 * error)


@pytest.mark.mpi
def test_bispectrum_error_is_the_scatter(comm):
    """Of Gaussian fields, for three equal and for three different shells."""
    unit = 2 * np.pi / BOX
    triangles = np.concatenate(
        [
            equilateral_triangles(3 * unit, 4 * unit, 1),
            [[[2 * unit, 3 * unit], [3 * unit, 4 * unit], [4 * unit, 5 * unit]]],
        ]
    )
    pull = []
    for seed in range(60):
        pm = particle_mesh(16, BOX, comm)
        result = bispectrum(pm.generate_whitenoise(seed=seed, type="complex"), triangles)
        pull.append(result["bispectrum"] / result.errors["bispectrum"])
    scatter = np.std(pull, axis=0)
    np.testing.assert_allclose(scatter, 1, atol=0.35)  # 0.09 expected for a Gaussian


@pytest.mark.mpi
def test_bispectrum_refuses_to_alias(comm):
    field = particle_mesh(16, BOX, comm).create(type="complex", value=0)
    with pytest.raises(InputError, match="finer mesh"):
        bispectrum(field, equilateral_triangles(0.2, 0.4, 2))


@pytest.mark.mpi(ranks=4)
def test_pdf_of_a_gaussian_field(comm):
    """Smoothed white noise: its variance is a sum over modes, its PDF is normal."""
    Nmesh, radius, amplitude = 48, 8.0, 0.02
    field = particle_mesh(Nmesh, BOX, comm).generate_whitenoise(
        seed=3, unitary=True, type="complex"
    )
    field[...] *= amplitude
    field.csetitem([0, 0, 0], 1.0)
    edges = np.linspace(0.05, 1.95, 20)
    result = density_pdf(field, radius, edges=edges)
    n = np.fft.fftfreq(Nmesh, 1 / Nmesh)
    k = 2 * np.pi / BOX * np.sqrt(n[:, None, None] ** 2 + n[:, None] ** 2 + n**2)
    x = radius * k.ravel()[1:]
    variance = amplitude**2 * ((3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2).sum()
    assert result.attrs["mean"] == pytest.approx(1, abs=1e-9)
    assert result.attrs["variance"] == pytest.approx(variance, rel=1e-2)
    expected = np.diff(norm(1, np.sqrt(variance)).cdf(edges)) / np.diff(np.log10(edges))
    assert np.all(np.abs(result["pdf"] - expected) < 4 * result.errors["pdf"] + 1e-3)
    fraction = result["voxels"].sum() / Nmesh**3
    assert fraction + result.attrs["below"] + result.attrs["above"] == pytest.approx(1)


@pytest.mark.mpi
def test_top_hat_averages_over_a_sphere(comm):
    """A point becomes a sphere: its mean inside is 1 / volume, and nothing far off."""
    Nmesh, radius = 40, 20.0
    values = np.zeros((Nmesh,) * 3)
    values[0, 0, 0] = Nmesh**3 / BOX**3  # a delta function of unit weight
    smooth = top_hat(field_of(values, BOX, comm).r2c(), radius)
    whole = np.zeros_like(values)
    whole[smooth.slices] = smooth.value
    whole = comm.allreduce(whole)
    n = np.minimum(np.arange(Nmesh), Nmesh - np.arange(Nmesh)) * BOX / Nmesh
    r = np.sqrt(n[:, None, None] ** 2 + n[:, None] ** 2 + n**2)
    inside = whole[r < 0.7 * radius].mean()
    assert inside == pytest.approx(1 / (4 / 3 * np.pi * radius**3), rel=0.03)
    assert abs(whole[r > 1.4 * radius].mean()) < 0.02 * inside


def planted(Nmesh, truth):
    """1 + delta with empty spheres."""
    axis = np.arange(Nmesh) * BOX / Nmesh
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    values = np.ones((Nmesh,) * 3)
    for centre, radius in truth:
        offset = cells - centre
        offset -= BOX * np.rint(offset / BOX)
        values[(offset**2).sum(axis=-1) < radius**2] = 0.0
    return values / values.mean()


@pytest.mark.mpi
def test_planted_voids_are_found(comm):
    truth = [((2.0, 50.0, 98.0), 20.0), ((60.0, 20.0, 40.0), 14.0), ((70.0, 80.0, 60.0), 10.0)]
    field = field_of(planted(50, truth), BOX, comm)
    voids = find_voids(field, [24.0, 20.0, 17.0, 14.0, 12.0, 10.0, 8.0], threshold=-0.8)
    radius, position = gathered(voids, "Radius"), gathered(voids, "Position")
    found = radius >= 10
    np.testing.assert_array_equal(radius[found], [20, 14, 10])
    for (centre, _), at in zip(truth, position[found], strict=True):
        offset = at - centre
        assert np.abs(offset - BOX * np.rint(offset / BOX)).max() <= 2.0  # a voxel
    assert np.all(gathered(voids, "Delta") < -0.8)
    function = void_size_function(voids)
    assert function.attrs["total"] == len(radius)
    assert function["count"][function["radius"] == 20.0] == 1


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("batch", [4096, 3])
def test_voids_do_not_overlap_and_are_lowest_first(comm, batch, monkeypatch):
    """Against the same greedy choice written out on the whole mesh."""
    monkeypatch.setattr("nbodykit_sr.diagnostics.voids.BATCH", batch)
    pm = particle_mesh(24, BOX, comm)
    modes = pm.generate_whitenoise(seed=11, type="complex").apply(
        lambda k, value: value * np.exp(-0.5 * 16 * sum(ki**2 for ki in k))
    )
    field = modes.c2r()
    field[...] = np.exp(1.5 * field / (field**2).cmean() ** 0.5)
    field /= field.cmean()
    radii = [20.0, 14.0, 10.0, 8.5]
    voids = find_voids(field, radii, threshold=-0.6)
    radius, position = gathered(voids, "Radius"), gathered(voids, "Position")

    expected = []
    for size in radii:
        smooth = top_hat(field.r2c(), size)
        whole = np.zeros((24,) * 3)
        whole[smooth.slices] = smooth.value
        whole = np.rint(comm.allreduce(whole) / 1e-8)
        for flat in np.argsort(whole.ravel(), kind="stable"):
            if whole.flat[flat] >= np.rint(0.4 / 1e-8):
                break
            at = np.array(np.unravel_index(flat, whole.shape)) * BOX / 24
            offset = np.array([at - other for other, _ in expected]).reshape(-1, 3)
            offset -= BOX * np.rint(offset / BOX)
            reach = np.array([size + other for _, other in expected])
            if np.all(np.sqrt((offset**2).sum(axis=1)) > reach * (1 - 1e-9)):
                expected.append((at, size))
    assert len(expected) > 8
    np.testing.assert_allclose(radius, [size for _, size in expected])
    np.testing.assert_allclose(position, [at for at, _ in expected])


@pytest.mark.mpi
def test_no_voids_and_bad_radii(comm):
    field = field_of(np.ones((16,) * 3), BOX, comm)
    voids = find_voids(field, void_radii(BOX, 16, 4))
    assert voids.csize == 0 and void_size_function(voids)["count"].sum() == 0
    with pytest.raises(InputError, match="half the box"):
        find_voids(field, [60.0])


def lattice_catalog(displacement, comm, offset=0.5):
    """Particles of a displacement (N, N, N, 3) all ranks hold, in a shuffled order."""
    Nmesh = len(displacement)
    lattice = LagrangianLattice(Nmesh, BOX, offset)
    order = np.random.default_rng(1).permutation(Nmesh**3)[comm.rank :: comm.size]
    site = lattice.site(order, base=0)
    position = lattice.position(site, displacement.reshape(-1, 3)[order])
    data = {"Position": position, "ID": lattice.id(site)}
    return ArrayCatalog(data, comm=comm, BoxSize=[BOX] * 3)


def smooth_displacement(Nmesh):
    """The same statistics along each axis."""
    phase = 2 * np.pi * np.arange(Nmesh) / Nmesh
    x, y, z = np.meshgrid(phase, phase, phase, indexing="ij")
    turns = (x, y, z), (y, z, x), (z, x, y)
    return 4 * np.stack([np.cos(a + 1) + np.sin(3 * b) + np.sin(2 * c) for a, b, c in turns], -1)


@pytest.mark.mpi(ranks=4)
@pytest.mark.parametrize("offset", [0.5, -3.5])
def test_jumps_equal_numpy(comm, offset):
    field = smooth_displacement(16)
    result = displacement_jumps(lattice_catalog(field, comm, offset), chunk=8, factor=4)
    places = np.zeros((3, 16))
    for axis in range(3):
        jump = np.roll(field, -1, axis=axis) - field
        places[axis] = (jump**2).sum(-1).mean(axis=tuple({0, 1, 2} - {axis}))
    expected = np.sqrt(places.reshape(3, 2, 8).mean(axis=(0, 1)))
    np.testing.assert_allclose(result["rms"], expected, rtol=1e-6)
    assert result.attrs["face"] == pytest.approx(expected[7])
    assert result.attrs["interior"] == pytest.approx(expected[3])
    np.testing.assert_allclose(result.attrs["rms_axis"], result.attrs["rms_axis"][0], rtol=1e-9)


@pytest.mark.mpi
def test_a_seam_is_seen(comm):
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(24, 24, 24, 3))
    clean = 10 * gaussian_filter(noise, (1.5, 1.5, 1.5, 0), mode="wrap")
    blocks = rng.normal(size=(3, 3, 3, 3)).repeat(8, 0).repeat(8, 1).repeat(8, 2)
    seamed = clean + 0.3 * blocks  # every chunk shifted by a little
    before, after = (
        displacement_jumps(lattice_catalog(one, comm), chunk=8, factor=2).attrs
        for one in (clean, seamed)
    )
    assert abs(before["excess"]) < 4 * before["excess_error"]
    assert after["excess"] > 5 * after["excess_error"]


@pytest.mark.mpi
def test_the_last_chunk_may_be_smaller(comm):
    """10 sites in chunks of 4, 4 and 2: faces after sites 4, 8 and 10."""
    field = smooth_displacement(10)
    result = displacement_jumps(lattice_catalog(field, comm), chunk=4, factor=2)
    square = [((np.roll(field, -1, axis) - field) ** 2).sum(-1) for axis in range(3)]
    planes = np.array([np.moveaxis(one, axis, 0).mean((1, 2)) for axis, one in enumerate(square)])
    assert result.attrs["face"] == pytest.approx(np.sqrt(planes[:, [3, 7, 9]].mean()))
    assert result.attrs["interior"] == pytest.approx(np.sqrt(planes[:, [1, 5]].mean()))
    whole = displacement_jumps(lattice_catalog(field, comm), chunk=10, factor=10)
    assert np.isnan(whole.attrs["interior"]) and np.isfinite(whole.attrs["face"])


@pytest.mark.mpi
def test_a_lattice_that_is_none_is_refused(comm):
    catalog = lattice_catalog(smooth_displacement(8), comm)
    with pytest.raises(InputError, match="no multiples"):
        displacement_jumps(catalog, chunk=6, factor=4)
    twice = ArrayCatalog(
        {"Position": catalog["Position"], "ID": catalog["ID"] // 2 + 1},
        comm=comm,
        BoxSize=[BOX] * 3,
    )
    with pytest.raises(InputError, match="repeat"):
        displacement_jumps(twice, chunk=8)
