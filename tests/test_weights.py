"""The shipped models: small, whole, and chosen by what a snapshot is."""

import resource
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from mpi4py import MPI

from nbodykit_sr import SRCatalog, open_snapshot, weights
from nbodykit_sr.diagnostics import comparison, complex_field
from nbodykit_sr.errors import InputError
from nbodykit_sr.models.card import ModelCard, load_model, read_card, save_model
from nbodykit_sr.models.card_summary import bfloat16_change
from nbodykit_sr.models.generator import Generator, layer_shapes, standard_noise
from nbodykit_sr.models.loading import load_generator

DISPLACEMENT = [path for path in weights.shipped() if read_card(path).moves_particles]


def test_shipped_models_say_what_they_are():
    for path in weights.shipped():
        assert path.stat().st_size <= 16e6
        network, card = load_model(path)
        assert card.licence != "unknown" and card.simulation != "unknown"
        assert card.training and card.evaluation and card.notes


def test_hidden_files_are_no_models(tmp_path, monkeypatch):
    """Of macOS, on disks of other systems: ``._x`` beside each file ``x``."""
    tiny(tmp_path / "x.safetensors")
    (tmp_path / "._x.safetensors").write_bytes(b"\0\5\x16\7")
    with pytest.raises(InputError, match="such as x.safetensors"):
        load_generator(tmp_path)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert [path.name for path in weights.shipped()] == ["x.safetensors"]


@pytest.mark.parametrize("path", DISPLACEMENT, ids=lambda path: path.stem)
def test_shipped_displacement_models(path):
    network, card = load_generator(path)
    side = 2 + 2 * network.padding
    x = torch.zeros(1, card.channels, side, side, side)
    more = ()
    if card.amplitude is not None:
        more = ([torch.zeros(1, 3, *s) for s in layer_shapes(network.octaves, (2, 2, 2))],)
    with torch.no_grad():
        made = network(x, standard_noise(network, x), *more)
    assert made.shape[2] == card.factor * 2 + 6
    assert torch.isfinite(made).all()
    if card.amplitude is not None:
        # for all that no other is for
        assert weights.choose(0.7, 1.7, card.channels) == path
        assert network.coarser(2).factor == 2
        return
    redshift = sum(card.redshift) / 2
    chosen = weights.choose(card.cell, redshift, card.channels)
    assert read_card(chosen).disagreement(card.cell, redshift) is None


def tiny(path, chan=4):
    """Save a small model there."""
    network = Generator(6, 2, chan, chan)
    save_model(path, network, ModelCard("x", "displacement", network.arguments, 2, 6))


def test_saved_weights_are_readable_by_whom_the_umask_lets(tmp_path):
    path, other = tmp_path / "x.safetensors", tmp_path / "other"
    tiny(path)
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.mark.parametrize("place, words", [("no/x", "No such file"), ("", "directory")])
def test_weights_that_cannot_be_written(tmp_path, place, words):
    with pytest.raises(InputError, match=words):
        tiny(tmp_path / place)
    assert tmp_path.is_dir() and not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", [None, b"before"])
def test_weights_are_not_left_in_part(tmp_path, before):
    """A limit on the size of files stands for a full disk; what was there stays."""
    path = tmp_path / "x.safetensors"
    if before:
        path.write_bytes(before)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            tiny(path, chan=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


def test_choice(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    network = Generator(6, 2, 4, 4)
    card = ModelCard("wide", "displacement", network.arguments, 2, 6, cell=1.5, redshift=(0, 4))
    save_model(tmp_path / "wide.safetensors", network, card)
    narrow = replace(card, name="narrow", redshift=(2, 2))
    save_model(tmp_path / "narrow.safetensors", network, narrow)
    assert weights.choose(1.5, 2.0).stem == "narrow"
    assert weights.choose(1.5, 1.0).stem == "wide"
    assert weights.choose(1.5, 2.0, 6).stem == "narrow"
    for wrong in ((1.6, 2.0), (1.5, 5.0), (1.5, 2.0, 3)):
        with pytest.raises(InputError, match="wide .*z = 0 to 4.*") as error:
            weights.choose(*wrong)
        assert "narrow" in str(error.value) and "\n" not in str(error.value)


def test_no_models(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="there are none"):
        weights.choose(1.5, 2.0)


@pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="minutes without bfloat16 in hardware"
)
def test_bfloat16_leaves_the_power_of_the_shipped_model(data):
    """P(k) changes by no more than the card says, but for half of that, up to SR's Nyquist wavenumber."""
    low = open_snapshot(data / "lr8_12p5_z2", MPI.COMM_SELF)
    whole, half = (
        complex_field(SRCatalog(low, dtype=dtype), 128) for dtype in ("float32", "bfloat16")
    )
    shells = comparison(half, whole, kmax=64 * np.pi / 12.5)
    said = bfloat16_change(read_card(weights.choose(12.5 / 8, 2.0)))
    assert 0 < np.abs(shells["ratio"] - 1).max() < 1.5 * said < 0.005
