"""Crops, the octahedral group and cloud-in-cell densities."""

import numpy as np
import pytest
import torch
from pmesh.pm import ParticleMesh
from training_cases import fields, make_pair, table

from nbodykit_sr.commands.train import make_system
from nbodykit_sr.errors import InputError
from nbodykit_sr.training.augmentation import ELEMENTS, periodic_crop, transform
from nbodykit_sr.training.cic import cic, density, mesh_position, read_out, space_to_depth


def inverse(element):
    permutation, flips = element
    back = np.argsort(permutation)
    return tuple(int(i) for i in back), tuple(flips[i] for i in back)


def test_there_are_48_elements_and_they_are_a_group():
    field = fields(channels=6, size=4, factor=2)[1]
    images = [transform(field, element) for element in ELEMENTS]
    assert len({image.tobytes() for image in images}) == 48
    known = {image.tobytes() for image in images}
    for element in ELEMENTS[::5]:
        assert np.array_equal(transform(transform(field, element), inverse(element)), field)
        assert {transform(image, element).tobytes() for image in images} == known


@pytest.mark.parametrize("element", ELEMENTS[::3])
def test_positions_and_vectors_turn_together(element):
    """The density of transformed displacements is the transformed density."""
    displacement = torch.from_numpy(fields(size=4)[1].astype("f8"))[None]
    moved = torch.from_numpy(transform(displacement[0].numpy(), element))[None]
    painted = density(displacement, 0.7, density_factor=2, periodic=True)[0]
    turned = transform(painted.numpy(), element)
    assert np.allclose(density(moved, 0.7, 2, periodic=True)[0].numpy(), turned, atol=1e-9)


def test_scalars_keep_their_sign():
    field = fields(channels=3)[1][:1]
    assert sorted(transform(field, ELEMENTS[-1]).ravel()) == sorted(field.ravel())


def test_pairs_of_two_times_need_phases(tmp_path):
    """In units of linear growth a network is for one time; with the phases lengths are in LR cells."""
    make_pair(tmp_path / "pair0", a=0.25)
    make_pair(tmp_path / "pair1", a=0.5)
    with pytest.raises(InputError, match="0.250 to 0.500: set generator.phases"):
        make_system(table(tmp_path))


def test_a_bulk_motion_moves_lr_and_hr_alike(tmp_path):
    """The same crop with one constant vector more, of displacements and of velocities."""
    make_pair(tmp_path / "pair", channels=6)
    settings = table(tmp_path, generator={"channels": 6, "chan_base": 8, "chan_min": 4})
    still = make_system(settings).sample(np.random.default_rng(7))
    settings["sample"] = {"crop": 4, "bulk": 3.0}
    system = make_system(settings)
    moved = system.sample(np.random.default_rng(7))
    motion = moved["lr"] - still["lr"]
    np.testing.assert_allclose(motion, motion[:, :1, :1, :1] * np.ones_like(motion), atol=1e-5)
    np.testing.assert_allclose(
        moved["hr"] - still["hr"], motion[:, :1, :1, :1] * np.ones_like(moved["hr"]), atol=1e-5
    )
    np.testing.assert_array_equal(moved["noise"], still["noise"])
    vector = motion[:, 0, 0, 0]
    np.testing.assert_allclose(vector[:3], vector[3:], atol=1e-6)
    assert 0.01 < np.abs(vector[:3]).min() and np.abs(vector).max() < 5 * 3.0 / 6.0
    network, _ = system.networks()
    still_range = make_system({**settings, "sample": {"crop": 4}}).card(network).displacement_range
    assert type(still_range) is float and system.card(network).displacement_range > still_range


def test_crops_are_periodic():
    field = np.arange(2 * 5**3, dtype="f4").reshape(2, 5, 5, 5)
    crop = periodic_crop(field, [-2, 3, 9], [4, 3, 7])
    for i, j, k in [(0, 0, 0), (3, 2, 6), (1, 2, 3)]:
        wanted = field[:, (i - 2) % 5, (j + 3) % 5, (k + 9) % 5]
        assert np.array_equal(crop[:, i, j, k], wanted)


def test_cic_paints_as_pmesh_does():
    rng = np.random.default_rng(1)
    position = rng.uniform(-9, 17, size=(400, 3))
    pm = ParticleMesh([8, 8, 8], BoxSize=8.0, dtype="f8")
    wanted = np.zeros((8, 8, 8))
    real = pm.paint(position, resampler="cic", layout=pm.decompose(position))
    wanted[real.slices] = np.asarray(real)
    mine = cic(torch.from_numpy(position.T[None].copy()), 8, periodic=True)[0].numpy()
    first = tuple(int(s) for s in real.start)
    window = tuple(slice(s, s + n) for s, n in zip(first, real.shape, strict=True))
    assert np.allclose(mine[window], np.asarray(real), atol=1e-12)


@pytest.mark.parametrize("periodic", [True, False])
def test_cic_gradient(periodic):
    torch.manual_seed(2)
    position = (torch.rand(2, 3, 3, 3, 3, dtype=torch.float64) * 10 - 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: cic(p, 6, periodic), position)


def test_cic_mass():
    inside = torch.rand(1, 3, 100, dtype=torch.float64) * 5
    assert cic(inside, 6).sum() == pytest.approx(100)
    assert cic(inside + 40, 6).sum() == 0
    assert cic(inside + 40, 6, periodic=True).sum() == pytest.approx(100)


def test_density_at_rest_is_one():
    at_rest = torch.zeros(1, 3, 4, 4, 4)
    assert torch.equal(density(at_rest, 2.0, periodic=True), torch.ones(1, 1, 4, 4, 4))
    fine = density(at_rest, 2.0, density_factor=2, periodic=True)
    assert fine.mean() == 1
    # a bulk motion is taken off exactly
    moved = density(at_rest + 0.6, 2.0, shift=torch.full((1, 3), 0.6))
    assert torch.equal(moved, density(at_rest, 2.0))


def test_density_shows_what_is_not_finite():
    broken = torch.zeros(1, 3, 4, 4, 4)
    broken[0, 0, 1, 1, 1] = torch.nan
    assert not torch.isfinite(density(broken, 1.0)).all()


def test_particles_find_the_field_where_they_are():
    """A linear field is read out exactly inside the mesh, and nothing outside it."""
    generator = torch.Generator().manual_seed(0)
    displacement = torch.randn((2, 3, 6, 6, 6), generator=generator, dtype=torch.float64)
    shift = displacement.mean((2, 3, 4))
    position = mesh_position(displacement, 1.5, 2, shift=shift)
    axes = torch.meshgrid(*[torch.arange(12.0, dtype=torch.float64)] * 3, indexing="ij")
    site = mesh_position(displacement, 1.5, shift=shift).flip(1).movedim(1, -1)
    found = read_out(torch.stack(axes).expand(2, -1, -1, -1, -1), site, 2)
    inside = ((position >= 0) & (position <= 11)).all(1, keepdim=True).expand_as(position)
    assert 0.3 < inside.double().mean() < 1
    torch.testing.assert_close(found[inside], position[inside])
    outside = ((position < -1) | (position > 12)).any(1, keepdim=True).expand_as(position)
    assert outside.any() and (found[outside] == 0).all()


def test_space_to_depth_keeps_blocks():
    fine = torch.arange(4.0**3).view(1, 1, 4, 4, 4)
    folded = space_to_depth(fine, 2)
    assert folded.shape == (1, 8, 2, 2, 2)
    assert torch.equal(folded[0, :, 1, 0, 1], fine[0, 0, 2:4, 0:2, 2:4].flatten())


def test_evaluation_does_not_depend_on_the_crop(tmp_path):
    """Chunks make the whole, also where crops do not fill the region."""
    make_pair(tmp_path / "pair", size=12)
    found = []
    for crop in (4, 3, 5):
        system = make_system(table(tmp_path, sample={"crop": crop}))
        torch.manual_seed(0)
        generator, _ = system.networks()
        evaluation = system.configuration.evaluation
        found.append(system.evaluate(generator, evaluation, torch.device("cpu"))[0])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
