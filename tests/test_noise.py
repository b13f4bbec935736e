"""Counter-based noise: the right generator, and the same field for any cut."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nbodykit_sr.errors import InputError
from nbodykit_sr.noise import philox, site_noise


@pytest.mark.parametrize(
    "counter, key, words",
    [  # known answers of Random123, philox4x32-10
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, words):
    result = philox([torch.tensor(word) for word in counter], key)
    assert " ".join(f"{int(word):08x}" for word in result) == words


offsets = st.tuples(*[st.integers(-40, 40)] * 3)
shapes = st.tuples(*[st.integers(1, 9)] * 3)


@given(offsets, shapes, st.sampled_from([5, 16, 23]))
def test_any_piece_is_a_piece_of_the_whole(start, shape, Nmesh):
    whole = site_noise(7, 2, (0, 0, 0), (Nmesh,) * 3, Nmesh)
    piece = site_noise(7, 2, start, shape, Nmesh)
    index = np.ix_(*[(np.arange(n) + s) % Nmesh for s, n in zip(start, shape)])
    assert torch.equal(piece, whole[index])


def test_the_field_is_standard_normal_and_white():
    field = site_noise(3, 5, (0, 0, 0), (96, 96, 96), 96).double().numpy()
    assert stats.kstest(field.ravel()[:200_000], "norm").pvalue > 1e-3
    assert abs(field.mean()) < 4 / field.size**0.5
    for axis in range(3):
        for lag in (1, 2, 3, 4):
            neighbours = (field * np.roll(field, lag, axis)).mean()
            assert abs(neighbours) < 4.5 / field.size**0.5


def test_seeds_and_layers_are_independent():
    fields = [
        site_noise(seed, layer, (0, 0, 0), (40, 40, 40), 64)
        for seed, layer in [(0, 0), (1, 0), (0, 1), (2**32, 0), (2**64 - 1, 5)]
    ]
    correlation = np.corrcoef([field.ravel() for field in fields])
    assert abs(correlation - np.eye(5)).max() < 0.02


def test_seeds_out_of_range_are_refused():
    with pytest.raises(InputError, match="seed is -1"):
        site_noise(-1, 0, (0, 0, 0), (1, 1, 1), 8)
