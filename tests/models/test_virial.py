"""Mean shift and scatter: what they do to halos, and that they know no direction."""

import numpy as np
import pytest
import torch

from nbodykit_sr.models.virial import SHIFT_GAIN, MeanShift, directions
from nbodykit_sr.training.augmentation import ELEMENTS, transform

SPACING = 0.5


def mean_shift(strength, velocity=0.0):
    shift = MeanShift(SPACING).requires_grad_(False)
    shift.strength.copy_(torch.tensor([[strength, 0.0], [velocity, 0.0]]) / SHIFT_GAIN)
    return shift


def sites(n):
    site = torch.arange(n) * SPACING
    return torch.stack(torch.meshgrid(site, site, site, indexing="ij"))[None]


def test_particles_far_apart_stay():
    torch.manual_seed(1)
    y = torch.cat([torch.full((1, 3, 5, 5, 5), 0.3), torch.randn(1, 3, 5, 5, 5)], 1)
    moved = mean_shift(1.0)(y)
    weight = 6 * np.exp(-8)  # of the six neighbours, a site away at a width of a quarter
    torch.testing.assert_close(moved, y[..., 1:-1, 1:-1, 1:-1], atol=2 * weight, rtol=0)


def test_a_clump_meets_in_its_centre():
    """All 27 particles near one point: with strength 1 the middle one is moved to their mean."""
    torch.manual_seed(2)
    position = 1e-3 * torch.randn(1, 3, 3, 3, 3)
    velocity = torch.randn(1, 3, 3, 3, 3)
    y = torch.cat([position - sites(3), velocity], 1)
    moved = mean_shift(1.0, velocity=1.0)(y)[0, :, 0, 0, 0]
    torch.testing.assert_close(moved[:3] + SPACING, position.mean((0, 2, 3, 4)), atol=1e-5, rtol=0)
    torch.testing.assert_close(moved[3:], velocity.mean((0, 2, 3, 4)), atol=1e-3, rtol=0)


def test_two_clumps_approach_and_their_velocities_stay():
    """Of a pair of columns of particles half a kernel apart each moves towards the other."""
    y = torch.zeros(1, 6, 4, 4, 4)
    y[:, 0] = torch.tensor([0.0, 0.22, -0.22, 0.0])[:, None, None]  # the inner two are 0.06 apart
    moved = mean_shift(1.0)(y)
    assert 0 < moved[0, 0, 1].sub(moved[0, 0, 0]).add(SPACING).max() < 0.06
    assert not moved[:, 3:].any()


def test_a_second_step_brings_them_nearer():
    torch.manual_seed(6)
    y = torch.cat(
        [0.15 * torch.randn(1, 3, 7, 7, 7) - 0.8 * sites(7), torch.zeros(1, 3, 7, 7, 7)], 1
    )
    once, twice = mean_shift(1.0), mean_shift(1.0)
    twice.steps = 2
    inner = (..., *[slice(1, -1)] * 3)
    spread = [(shift(y)[:, :3] + sites(5))[inner].std((2, 3, 4)).mean() for shift in (once, twice)]
    assert spread[1] < 0.9 * spread[0]
    wanted = once(once(y))  # away from the edges
    torch.testing.assert_close(twice(y)[inner], wanted)


@pytest.mark.parametrize("element", ELEMENTS[::7])
def test_turning_the_box_turns_the_shift(element):
    y = np.random.default_rng(3).normal(0, 0.4, (6, 6, 6, 6)).astype("f4")
    shift = mean_shift(1.5, velocity=0.5)

    def shifted(y):
        return shift(torch.from_numpy(y.copy())[None])[0]

    turned = transform(shifted(y).numpy(), element)
    torch.testing.assert_close(shifted(transform(y, element)), torch.from_numpy(turned))


def test_offsets_are_isotropic_and_of_one_site_alone():
    """Components have the variance of the noise, and none is correlated with any along the same axis,
    at its own site or at another."""
    torch.manual_seed(4)
    offsets = directions(torch.randn(1, 1, 44, 44, 44), 2, 6)[0]
    count = offsets[0].numel()
    assert offsets.shape == (6, 40, 40, 40)
    covariance = torch.cov(offsets.flatten(1))
    assert (covariance - torch.eye(6)).abs().max() < 5 / count**0.5
    for axis in range(3):
        near, far = offsets[axis].narrow(axis, 0, 39), offsets[axis].narrow(axis, 1, 39)
        assert (near * far).mean().abs() < 5 / count**0.5


def test_offsets_are_the_noise_around():
    noise = torch.arange(5.0**3).reshape(1, 1, 5, 5, 5)
    (offset,) = directions(noise, 2, 6)[0].flatten(1).T
    here = 2 * 25 + 2 * 5 + 2
    assert offset.tolist() == [here + 25, here + 5, here + 1, here - 25, here - 5, here - 1]
