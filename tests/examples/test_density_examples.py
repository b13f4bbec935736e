"""The density emulator's examples, from the simulation to the figures."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.slow


def python(*arguments):
    """Run Python; its standard output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_simulation_to_figures(tmp_path):
    pytest.importorskip("fastpm")
    triplets, weights = tmp_path / "triplets", tmp_path / "w.safetensors"
    python(
        EXAMPLES / "density_triplet.py", triplets, "--seeds", 1,
        "--boxsize", 93.75, "--nmesh", 24, "--step", 0.2,
    )  # fmt: skip
    text = (EXAMPLES / "recipes" / "density_small.toml").read_text()
    for old, new in (
        ("runs/density", str(tmp_path / "run")),
        ("triplets/1", str(triplets / "1")),
        ("steps = 1000", "steps = 200"),
        ("every = 250", "every = 200"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "small.toml").write_text(text.replace(f"{triplets}/101", f"{triplets}/1"))
    python("-m", "nbodykit_sr", "train", tmp_path / "small.toml")
    python("-m", "nbodykit_sr", "export", tmp_path / "run", weights)
    printed = python(
        EXAMPLES / "density_compare.py", triplets, 1, tmp_path / "transfer.png", "--model", weights
    )
    worst = {
        line.split(":")[0]: float(line.split("within ")[1].split("%")[0])
        for line in printed.splitlines()
        if "transfer function within" in line
    }
    assert worst.keys() == {"SR", "LR"} and worst["SR"] < 30  # percent
    inputs = (triplets / "1-LR", triplets / "1-initial")
    python(EXAMPLES / "filters.py", *inputs, tmp_path / "figures", "--model", weights)
    for name in ("transfer.png", "figures/kernels.png", "figures/features.png"):
        assert (tmp_path / name).stat().st_size > 10_000
