"""What the tests of training share: a small pair of fields and a small configuration."""

import numpy as np

from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.training.configuration import build
from nbodykit_sr.training.displacement import DisplacementSystem
from nbodykit_sr.training.displacement_configuration import DisplacementConfiguration
from nbodykit_sr.training.pairs import describe_pair


def fields(seed=0, size=8, factor=2, channels=3):
    """A smooth periodic LR field and an HR field that adds small scales to it."""
    rng = np.random.default_rng(seed)
    x = 2 * np.pi * (np.arange(size * factor) + 0.5) / (size * factor)
    waves = rng.normal(size=(channels, 3, 2))
    smooth = sum(
        waves[:, axis, 0].reshape(-1, 1, 1, 1) * np.sin(x).reshape(_along(axis))
        + waves[:, axis, 1].reshape(-1, 1, 1, 1) * np.cos(x).reshape(_along(axis))
        for axis in range(3)
    )
    hr = smooth + 0.1 * rng.normal(size=(channels, *[size * factor] * 3))
    blocks = hr.reshape(channels, size, factor, size, factor, size, factor)
    return blocks.mean((2, 4, 6)).astype("f4"), hr.astype("f4")


def _along(axis):
    shape = [1, 1, 1]
    shape[axis] = -1
    return shape


def make_pair(folder, seed=0, a=0.5, **options):
    lr, hr = fields(seed, **options)
    return write_pair(folder, lr, hr, a, seed)


def write_pair(folder, lr, hr, a=0.5, seed=None):
    folder.mkdir(parents=True)
    np.save(folder / "lr.npy", lr)
    np.save(folder / "hr.npy", hr)
    lattice, factor = LagrangianLattice(lr.shape[1], 12.0), hr.shape[1] // lr.shape[1]
    return describe_pair(folder, lattice, factor, a, 0.3, "waves", seed)


def table(tmp_path, **changes):
    """A configuration of a few quick steps of all kinds."""
    return {
        "run": str(tmp_path / "run"),
        "seed": 3,
        "batch": 2,
        "device": "cpu",
        "average": 0.9,
        "log_every": 1,
        "pairs": {"train": [str(tmp_path / "pair*")], "held_out": [str(tmp_path / "pair*")]},
        "sample": {"crop": 4},
        "generator": {"channels": 3, "chan_base": 8, "chan_min": 4, "noise_std": 0.1},
        "critic": {"blocks": 1, "chan_base": 8, "chan_min": 4, "density_factor": 2},
        "evaluation": {"every": 4, "sites": 8, "crops": 1},
        "checkpoints": {"every": 2, "keep": 3},
        "stage": [
            {"name": "L2", "steps": 3, "l2": 1.0, "statistics": 0.1, "learning_rate": 1e-3},
            {
                "name": "GAN",
                "steps": 5,
                "adversarial": "wasserstein",
                "penalty_every": 2,
                "critic_steps": 2,
                "warmup": 1,
                "learning_rate": 1e-3,
                "decay": 0.5,
            },
        ],
        **changes,
    }


def make_system(settings):
    return DisplacementSystem(build(DisplacementConfiguration, settings))
