"""The density emulator's networks and its place in the training loop."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nbodykit_sr.commands.train import make_system
from nbodykit_sr.density.network import MESH_MODEL, MOVED_MODEL
from nbodykit_sr.density.triplets import Triplet, open_triplets, write_triplet
from nbodykit_sr.errors import InputError
from nbodykit_sr.models.blocks import trim
from nbodykit_sr.models.card import ModelCard, load_model, save_model
from nbodykit_sr.models.density import (
    KERNELS,
    PADDING,
    PADDING_HR,
    DensityCritic,
    DensityEmulator,
    InceptionBlock,
)
from nbodykit_sr.training.distributed import Ranks
from nbodykit_sr.training.export import export
from nbodykit_sr.training.loop import Trainer
from nbodykit_sr.training.pairs import Manifest

MANIFEST = Manifest(93.75, 1.0, 0.3, 24, factor=2, channels=1, source="made up")


@pytest.fixture
def fields():
    """Made-up LR, initial and HR fields of 24 and 48 cells a side, LR the mean of HR's cells."""
    rng = np.random.default_rng(5)
    hr = rng.gamma(1.0, size=(48,) * 3).astype("f4")
    hr /= hr.mean(dtype="f8")
    lr = hr.reshape(24, 2, 24, 2, 24, 2).mean(axis=(1, 3, 5), dtype="f8")
    return lr, np.log(hr + 0.1), hr


@pytest.fixture
def triplet(tmp_path, fields):
    write_triplet(tmp_path / "1", MANIFEST, *fields)
    return tmp_path / "1"


def inputs(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    lr = torch.rand((1, 1, n, n, n), generator=rng) * 2
    return lr, torch.randn((1, 1, 2 * n, 2 * n, 2 * n), generator=rng)


def test_the_papers_sizes():
    network = DensityEmulator()
    # per block: 1x1x1 to 6 filters before each large kernel, the kernels, the lone 1x1x1
    kernels = sum(6 * 6 * k**3 + 6 for k in (7, 5, 3))
    first = 3 * (6 + 6) + kernels + (6 + 6)
    second = 3 * (48 * 6 + 6) + kernels + (48 * 6 + 6)
    assert sum(p.numel() for p in network.parameters()) == 2 * first + second + 25 == 54_811
    with torch.no_grad():
        assert network(*inputs(20)).shape == (1, 1, 28, 28, 28)
        assert network(torch.rand(2, 1, 7, 8, 9), torch.rand(2, 1, 14, 16, 18)).shape == (
            2,
            1,
            2,
            4,
            6,
        )
    critic = DensityCritic(28)
    shapes = []
    for layer in critic.conv:
        layer.register_forward_hook(lambda _, __, y: shapes.append(tuple(y.shape[1:3])))
    assert critic(torch.rand(3, 2, 28, 28, 28)).shape == (3,)
    assert shapes == [(8, 11), (16, 7), (32, 3), (64, 3)]
    with pytest.raises(InputError, match="19 or more"):
        DensityCritic(18)


def test_a_block_is_its_branches_and_a_residual():
    torch.manual_seed(1)
    for channels in (1, 5):
        block, x = InceptionBlock(channels, 2), torch.randn(1, channels, 10, 9, 8)
        parts = [*block.reduce(x).split(2, dim=1), x]
        expected = [F.conv3d(z, c.weight, c.bias) for z, c in zip(parts, block.conv, strict=True)]
        expected = [trim(y, (7 - 1) // 2 - (k - 1) // 2) for y, k in zip(expected, KERNELS)]
        expected = torch.cat(expected, dim=1) + x[:, :1, 3:-3, 3:-3, 3:-3]
        torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_not_negative_and_alive_at_the_start():
    torch.manual_seed(2)
    density = DensityEmulator()(*inputs(12))
    assert density.min() >= 0
    assert density.mean() > 0.1


def test_chunks_equal_the_whole():
    network = DensityEmulator().requires_grad_(False)
    lr, initial = inputs(16)
    whole = network(lr, initial)  # HR cells 6 to 26
    part = network(lr[..., 4:, 2:13, :], initial[..., 8:, 4:26, :])
    torch.testing.assert_close(part, whole[..., 8:, 4:14, :], rtol=1e-5, atol=1e-5)


def test_padding_is_what_reaches_the_output():
    network = DensityEmulator()
    lr, initial = (x.requires_grad_(True) for x in inputs(2 * PADDING + 1))
    network(lr, initial).sum().backward()
    for field, width in ((lr, PADDING), (initial, PADDING_HR)):
        reach = field.grad[0, 0].abs().sum(dim=(1, 2)) > 0
        assert reach.all(), "every padded cell counts"
        assert len(reach) - 2 * width == len(field.grad[0, 0]) // (2 * PADDING + 1)


def test_the_card_travels(tmp_path):
    network = DensityEmulator(filters=2, initial_kmin=0.4)
    card = ModelCard("x", "density", network.arguments, factor=2, channels=1)
    save_model(tmp_path / "x.safetensors", network, card)
    other, read = load_model(tmp_path / "x.safetensors")
    assert read == card
    assert (other.filters, other.initial_kmin) == (2, 0.4)
    torch.testing.assert_close(other(*inputs(8)), network(*inputs(8)).detach())


def test_triplets_refuse_what_is_no_density(tmp_path, fields):
    lr, initial, hr = fields
    for bad, words in (
        ((lr[:12], initial, hr), "shape"),
        ((lr * 2, initial, hr), "mean 2"),
        ((lr, initial, hr - 0.5), "minimum"),
        ((lr, initial * np.nan, hr), "not finite"),
    ):
        with pytest.raises(InputError, match=words):
            write_triplet(tmp_path / "bad", MANIFEST, *bad)
    with pytest.raises(InputError, match="no pairs match"):
        open_triplets([str(tmp_path / "bad")])


def test_a_triplet_whose_making_was_killed_is_made_anew(tmp_path, fields):
    left = tmp_path / "1.partial" / "pair"
    left.mkdir(parents=True)
    for name in ("lr.npy", "moved.npy"):
        (left / name).write_bytes(b"half of it")
    write_triplet(tmp_path / "1", MANIFEST, *fields, moved=fields[1][None])
    assert Triplet(tmp_path / "1").moved.shape == (1, 48, 48, 48)
    assert not left.parent.exists()


def test_only_small_scales(triplet):
    """Section 4.5: below kmin nothing is left, above it nothing is changed."""
    opened = Triplet(triplet)
    kmin = 0.8
    before, after = (np.fft.rfftn(x[0]) for x in (opened.initial, opened.small_scales(kmin)))
    axis = 2 * np.pi * np.fft.fftfreq(48, 93.75 / 48)
    k = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis[:25] ** 2)
    scale = abs(before).max()
    assert abs(after[k < kmin]).max() < 1e-5 * scale
    assert abs((after - before)[k > kmin]).max() < 1e-5 * scale


def settings(tmp_path, triplet, **changes):
    stages = [
        {"name": "L2", "steps": 3, "l2": 0.1, "statistics": 0.1, "learning_rate": 1e-3},
        {
            "name": "GAN",
            "steps": 1,
            "adversarial": "wasserstein",
            "critic_steps": 2,
            "penalty_every": 1,
        },
    ]
    return {
        "run": str(tmp_path / "run"),
        "system": "density",
        "device": "cpu",
        "triplets": {"train": [str(triplet)], "held_out_part": 0.25},
        "sample": {"size": 16},
        "log_every": 1,
        "evaluation": {"every": 4, "crops": 1},
        "stage": stages,
        **changes,
    }


def test_samples_are_matched_and_leave_the_held_out_part(tmp_path, triplet):
    system = make_system(settings(tmp_path, triplet))
    hr = Triplet(triplet).hr[0]
    trained = set(hr[: 2 * 18].ravel().tolist())
    for seed in range(20):
        sample = system.sample(np.random.default_rng(seed))
        assert sample["lr"].shape == (1, 16, 16, 16)
        assert sample["initial"].shape == (1, 32, 32, 32)
        # the LR cells are the means of the HR ones, rotated alike
        core = sample["lr"][0, 3:-3, 3:-3, 3:-3]
        means = sample["hr"][0].reshape(10, 2, 10, 2, 10, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(core, means, rtol=1e-5)
        inner = sample["initial"][0, 6:-6, 6:-6, 6:-6]
        np.testing.assert_allclose(inner, np.log(sample["hr"][0] + 0.1), atol=1e-5)
        assert set(sample["hr"].ravel().tolist()) <= trained


def test_fitting_and_export(tmp_path, triplet):
    trainer = Trainer(make_system(settings(tmp_path, triplet)), Ranks(torch.device("cpu")))
    trainer.run()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    train = [json.loads(line) for line in lines if '"train"' in line]
    assert {"critic", "penalty", "generator"} <= train[-1].keys()
    card = export(tmp_path / "run", tmp_path / "w.safetensors", name="tiny", licence="CC0-1.0")
    network, read = load_model(tmp_path / "w.safetensors")
    assert read.cell == pytest.approx(93.75 / 24)
    assert card.redshift == (0.0, 0.0)
    assert 0 < read.evaluation["mean density"] < 10
    assert network(*inputs(10)).min() >= 0


def test_the_defaults_are_the_papers(tmp_path, triplet):
    plain = settings(tmp_path, triplet)
    with pytest.raises(InputError, match="score is set in a stage"):
        make_system({**plain, "stage": [{"steps": 3, "score": 1.0}]})
    for name in ("stage", "sample"):
        del plain[name]
    plain["triplets"] = {"train": [str(triplet)], "held_out_part": 0.0}
    c = make_system(plain).configuration
    (stage,) = c.stage
    assert (c.sample.size, c.batch, c.betas) == (20, 1, (0.5, 0.999))
    assert (stage.steps, stage.critic_steps, stage.penalty) == (500_000, 10, 10.0)
    assert (stage.learning_rate, stage.batch_doubles_every) == (1e-4, 100_000)


def test_training_takes_it_from_the_triplet(tmp_path, triplet, fields):
    """Rotated with the other fields, and not shown to the critic."""
    options = settings(tmp_path, triplet, emulator={"moved": True})
    with pytest.raises(InputError, match="moved.npy cannot be read"):
        make_system(options)
    np.save(triplet / "moved.npy", np.stack([fields[2] * factor for factor in (1, 2, 3)]))
    system = make_system(options)
    for seed in range(5):
        sample = system.sample(np.random.default_rng(seed))
        core = sample["initial"][1:, 6:-6, 6:-6, 6:-6]
        np.testing.assert_allclose(core, sample["hr"] * np.arange(1, 4).reshape(3, 1, 1, 1))
    batch = {name: torch.from_numpy(x)[None] for name, x in sample.items() if name != "noise"}
    made = system.generate(system.networks()[0], batch)
    assert system.critic_fields(batch, made).shape[1] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample": {"size": 15}}, "sample.size is 15"),
        ({"sample": {"size": 22}}, "lower sample.size"),
        ({"emulator": {"initial_kmin": -1.0}}, "initial_kmin"),
    ],
)
def test_settings_are_checked(tmp_path, triplet, changes, words):
    with pytest.raises(InputError, match=words):
        make_system(settings(tmp_path, triplet, **changes)).networks()


@pytest.mark.parametrize("path", [MOVED_MODEL, MESH_MODEL])
def test_the_shipped_weights(path):
    network, card = load_model(path)
    assert (card.network, card.redshift) == ("density", (0.0, 0.0))
    assert card.cell == pytest.approx(1000 / 256)
    boxes = [box for name, box in card.evaluation.items() if name.startswith("box")]
    assert len(boxes) == 2
    for box in boxes:
        worst = box["transfer, largest deviation from 1 to k = 0.80"]
        assert worst["SR"] < 0.05 < worst["LR"]
    # where nothing happened the density is low, where all collapsed it is high
    n = 2 * PADDING + 2
    void, cluster = (
        network(
            torch.full((1, 1, n, n, n), density),
            # the overdensity that comes with matter is as much more as that is
            torch.tensor([overdensity, *len(network.moved) * [density * overdensity]])
            .view(1, -1, 1, 1, 1)
            .expand(-1, -1, 2 * n, 2 * n, 2 * n),
        )
        for density, overdensity in ((0.1, -2.0), (10.0, 2.0))
    )
    assert 0 <= void.mean() < 0.5
    assert cluster.mean() > 3
