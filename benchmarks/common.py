"""What the benchmarks share: weights and snapshots to run on, and how a command is measured."""

import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch

from nbodykit_sr.models.blocks import trim, upsample
from nbodykit_sr.models.card import ModelCard, save_model
from nbodykit_sr.models.generator import Generator

PAPER = dict(channels=6, factor=8, chan_base=512, chan_min=64, chan_max=512)  # Li et al. 2021
SMALL = dict(channels=6, factor=2, chan_base=16, chan_min=8, chan_max=16)


def generator(network=Generator, **arguments):
    """A network with random weights and noise amplitudes of about 0.1."""
    torch.manual_seed(1)
    network = network(**arguments)
    for level in network.levels:
        torch.nn.init.normal_(level.noise0.std, 0, 0.1)
        torch.nn.init.normal_(level.noise1.std, 0, 0.1)
    return network.requires_grad_(False)


def published(network, x, noise):
    """A generator's forward pass as it was published, nothing folded."""
    y = x
    x = network.stem(x)
    for level, noise0, noise1 in zip(network.levels, noise[::2], noise[1::2]):
        x = level.act(level.conv0(upsample(level.noise0(x, noise0))))
        x = level.act(level.conv1(level.noise1(x, noise1)))
        y = trim(upsample(y), 2) + level.act(level.proj(x))
    return y


def save_weights(path, arguments):
    """Weights of `generator` with a card that fits any snapshot."""
    network = generator(**arguments)
    channels, factor = network.channels, network.factor
    card = ModelCard("benchmark", "displacement", network.arguments, factor, channels)
    save_model(path, network, card)
    return path


def make_snapshot(path, Nmesh, cell=1.5625, rms=1.0):
    """An MP-Gadget snapshot of a smooth Gaussian displacement, `rms` in LR cells."""
    import bigfile  # here alone: networks are measured where there is torch alone

    BoxSize = Nmesh * cell
    rng = np.random.default_rng(Nmesh)
    k = np.fft.fftfreq(Nmesh, 1 / Nmesh)
    k2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k[: Nmesh // 2 + 1] ** 2
    site = np.arange(Nmesh) + 0.5
    position = np.empty((Nmesh, Nmesh, Nmesh, 3))
    velocity = np.empty((Nmesh, Nmesh, Nmesh, 3), dtype="f4")
    for axis in range(3):
        mode = np.fft.rfftn(rng.normal(size=3 * (Nmesh,))) * np.exp(-k2 / 8) * (k2 > 0)
        field = np.fft.irfftn(mode, s=3 * (Nmesh,), axes=(0, 1, 2))
        field *= rms / field.std()
        along = site.reshape([-1 if i == axis else 1 for i in range(3)])
        position[..., axis] = (along + field) % Nmesh * cell * 1e3
        velocity[..., axis] = 50 * field
    with bigfile.File(path, create=True) as file:
        with file.create("Header") as header:
            attrs = dict(
                BoxSize=BoxSize * 1e3,
                Time=1 / 3,
                Omega0=0.28,
                OmegaLambda=0.72,
                OmegaBaryon=0.046,
                HubbleParam=0.7,
                UnitLength_in_cm=3.085678e21,
                UnitMass_in_g=1.989e43,
                UnitVelocity_in_cm_per_s=1e5,
            )
            for name, value in attrs.items():
                header.attrs[name] = np.array([value])
            header.attrs["UsePeculiarVelocity"] = np.array([1], dtype="i4")
            header.attrs["MassTable"] = np.array([0, 1.0, 0, 0, 0, 0])
            header.attrs["TotNumPart"] = np.array([0, Nmesh**3, 0, 0, 0, 0], dtype="u8")
        file.create_from_array("1/Position", position.reshape(-1, 3), Nfile=1)
        file.create_from_array("1/Velocity", velocity.reshape(-1, 3), Nfile=1)
        file.create_from_array("1/ID", np.arange(1, Nmesh**3 + 1, dtype="u8"), Nfile=1)
    return path


def run(command, threads=None, folder=None):
    """Run a command to its end: wall and CPU seconds, and the largest resident memory of one
    of its processes [bytes]."""
    environment = dict(os.environ)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)  # its own usage, not that of all children
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        message = errors.read().decode()[-2000:]
    wall = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{message}")
    return dict(wall=wall, cpu=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss * 1024)


def median(runs, name="wall"):
    """Median of one quantity of several runs."""
    return statistics.median(run[name] for run in runs)
