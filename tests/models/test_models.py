"""The generator against the public code's vectors; cards and files of weights."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nbodykit_sr.errors import InputError
from nbodykit_sr.models.blocks import upsample
from nbodykit_sr.models.card import ModelCard, fingerprint, interpolating, read_card, save_model
from nbodykit_sr.models.generator import (
    OUTPUT_TRIM,
    PADDING,
    Generator,
    layer_shapes,
    standard_noise,
)
from nbodykit_sr.models.loading import load_generator

VECTORS = [("map2map_6ch", "map2map"), ("map2map_3ch", "map2map"), ("srs_6ch", "srs")]


def vector(data, name):
    arrays = np.load(data / "vectors" / f"{name}.npz")
    noise = [torch.from_numpy(arrays[f"noise{i}"]) for i in range(6)]
    return (
        torch.from_numpy(arrays["x"])[None],
        [field.reshape(1, 1, *field.shape[-3:]) for field in noise],
        torch.from_numpy(arrays["y"])[None],
    )


@pytest.mark.parametrize("name, flavour", VECTORS)
def test_reference_vectors(data, name, flavour):
    generator, card = load_generator(data / "vectors" / f"{name}.pt", flavour)
    x, noise, y = vector(data, name)
    torch.testing.assert_close(generator(x, noise), y, atol=1e-5, rtol=0)
    assert card.channels == x.shape[1] and card.factor == 8


def test_the_flavours_differ(data):
    x, noise, y = vector(data, "srs_6ch")
    generator, _ = load_generator(data / "vectors" / "srs_6ch.pt", "map2map")
    assert abs(generator(x, noise) - y).max() > 1e-3


def test_parameters_of_the_paper():
    with torch.device("meta"):
        generator = Generator()
    assert sum(p.numel() for p in generator.parameters()) == 6_975_826
    assert generator.widths == [512, 256, 128, 64]


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
@pytest.mark.parametrize("channels", [3, 6])
def test_sizes(factor, channels):
    generator = Generator(channels, factor, chan_base=8, chan_min=2)
    n = 2
    x = torch.randn(1, channels, n + 2 * PADDING, n + 2 * PADDING, n + 1 + 2 * PADDING)
    noise = standard_noise(generator, x)
    layers = generator.noise_layers
    assert [tuple(f.shape[2:]) for f in noise] == layer_shapes(layers, (n, n, n + 1))
    trim = 2 * OUTPUT_TRIM
    expected = (1, channels, factor * n + trim, factor * n + trim, factor * (n + 1) + trim)
    assert generator(x, noise).shape == expected


def test_upsampling_keeps_a_linear_field():
    ramp = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 8, 8)
    fine = upsample(ramp)[0, 0, :, 4, 4]
    np.testing.assert_allclose(fine.diff(), 0.5, rtol=1e-6)
    assert fine[0] == 0.25  # the first fine voxel after the trimmed one: cell-centred


@pytest.mark.parametrize("factor", [2, 8])
def test_interpolation_keeps_a_linear_field(factor):
    generator, card = interpolating(3, factor)
    ramp = torch.arange(9.0).view(1, 1, 9, 1, 1).expand(1, 3, 9, 9, 9)
    fine = generator(ramp)[0, 0, :, 4, 4]
    np.testing.assert_allclose(fine.diff(), 1 / factor, rtol=1e-5)
    assert card.disagreement(cell=123.0, redshift=9.0) is None


def test_saved_models_come_back(tmp_path):
    generator = Generator(3, 4, 8, 2).eval()
    card = ModelCard(
        "test", "displacement", generator.arguments, 4, 3, cell=1.5625, redshift=(2, 2)
    )
    save_model(tmp_path / "m.safetensors", generator, card)
    loaded, read = load_generator(tmp_path / "m.safetensors")
    assert read == card == read_card(tmp_path / "m.safetensors")
    assert fingerprint(loaded, read) == fingerprint(generator, card)
    x = torch.randn(1, 3, 8, 8, 8)
    noise = standard_noise(generator, x)
    assert torch.equal(loaded(x, noise), generator(x, noise))


def test_the_fingerprint_sees_weights_and_card():
    generator = Generator(3, 2, 8, 2)
    card = ModelCard("test", "displacement", generator.arguments, 2, 3)
    before = fingerprint(generator, card)
    assert fingerprint(generator, dataclasses.replace(card, length=5.0)) != before
    with torch.no_grad():
        generator.stem[0].bias[0] += 1e-3
    assert fingerprint(generator, card) != before


def test_cards_name_both_values():
    card = ModelCard("m", "displacement", {}, 8, 6, cell=1.5625, redshift=(0, 2))
    assert card.disagreement(1.5625, 1.0) is None
    assert "0.78125" in card.disagreement(0.78125, 1.0) and "1.5625" in card.disagreement(
        0.78125, 1.0
    )
    assert "redshift 4" in card.disagreement(1.5625, 4.0) and "2" in card.disagreement(1.5625, 4.0)


def test_a_checkpoint_needs_its_flavour(data, tmp_path):
    with pytest.raises(InputError, match="--flavour map2map or --flavour srs"):
        load_generator(data / "vectors" / "map2map_3ch.pt")
    with pytest.raises(InputError, match="does not exist"):
        load_generator(tmp_path / "none.safetensors")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"epoch": 1, "model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="could run code"):
        load_generator(tmp_path / "trap.pt", "map2map")
    assert not (tmp_path / "sprung").exists()


def test_weights_that_do_not_fit_their_card_are_refused(tmp_path):
    generator = Generator(3, 2, 8, 2)
    arguments = {**generator.arguments, "chan_base": 16, "chan_max": 16}
    card = ModelCard("test", "displacement", arguments, 2, 3)
    save_model(tmp_path / "m.safetensors", generator, card)
    with pytest.raises(InputError, match="shape"):
        load_generator(tmp_path / "m.safetensors")
    huge = ModelCard(
        "test", "displacement", {**generator.arguments, "chan_base": 10**7, "chan_max": 10**7}, 2, 3
    )
    save_model(tmp_path / "huge.safetensors", generator, huge)
    with pytest.raises(InputError):
        load_generator(tmp_path / "huge.safetensors")


@pytest.mark.parametrize("arguments", [dict(channels=4), dict(factor=6), dict(factor=1)])
def test_senseless_networks_are_refused(arguments):
    with pytest.raises(InputError, match="needed"):
        Generator(**arguments)


def test_training_computes_the_same():
    """The form that is trained folds the upsampling into the convolution: exact but for rounding."""
    torch.manual_seed(1)
    generator = Generator(3, 8, 16, 4).double()
    x = torch.randn(1, 3, 7, 8, 9, dtype=torch.float64)
    noise = standard_noise(generator, x)
    torch.testing.assert_close(generator.train()(x, noise), generator.eval()(x, noise))


def test_networks_and_training_need_neither_mpi_nor_nbodykit():
    """They run on a GPU machine that has torch alone."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('mpi4py', 'nbodykit', 'bigfile', 'dask')));"
        "import nbodykit_sr.inference, nbodykit_sr.training.displacement, nbodykit_sr.training.loop;"
        "assert nbodykit_sr.Generator and 'SRCatalog' in dir(nbodykit_sr)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=240)


@pytest.mark.parametrize(
    "training, message",
    [
        ('{"log": "' + "x" * 2_000_000 + '"}', "at most 1048576 are read"),
        ('{"a":' * 900 + "1" + "}" * 900, "more than 20 deep"),
        ('{"a":' * 9000 + "1" + "}" * 9000, "more than 20 deep"),
    ],
    ids=["size", "depth", "abyss"],
)
def test_cards_without_end(tmp_path, training, message):
    """Refused as they are read, before a copy or a hash of them fails half way through a run."""
    card = '{"name": "m", "network": "interpolate", "arguments": {}, "factor": 2, "channels": 3, '
    metadata = {"card": card + f'"training": {training}}}'}
    path = tmp_path / "endless.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(InputError, match=message) as error:
        load_generator(path)
    assert len(str(error.value)) < 300


def test_cautions_are_lines():
    sound = {"name": "m", "network": "interpolate", "arguments": {}, "factor": 2, "channels": 3}
    for card in (ModelCard(**sound, caution="few halos"), ModelCard(**sound)):
        assert ModelCard.from_dict(card.entries) == card
    with pytest.raises(InputError, match="caution is 'two"):
        ModelCard(**sound, caution="two\nlines")
