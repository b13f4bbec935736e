"""The price of a training step: where its CPU time goes, and pieces against plain autograd.

python benchmarks/training.py [--steps 3] [--chan-base 128]

CPU seconds are compared, so that it can be run where others work too.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.blocks import halve, upsample, upsampled_convolution
from nbodykit_sr.training.configuration import build
from nbodykit_sr.training.displacement import DisplacementSystem
from nbodykit_sr.training.displacement_configuration import DisplacementConfiguration
from nbodykit_sr.training.distributed import Ranks
from nbodykit_sr.training.features import energy_score, ordered
from nbodykit_sr.training.loop import Trainer
from nbodykit_sr.training.losses import shell_power
from nbodykit_sr.training.pairs import describe_pair
from nbodykit_sr.training.samples import Samples

CPU = torch.device("cpu")
# What operations are called in the profile, by part of the step
PARTS = {
    "convolutions": ("conv",),
    "painting and read-out": ("index_", "grid_sampler"),
    "sorting": ("sort", "gather", "scatter"),
    "Fourier transforms": ("_fft",),
    "copies and fills": ("copy_", "fill_", "cat"),
}


def settings(folder, chan_base, device):
    """Score with PDFs and redshift space, and a critic with penalty."""
    stage = dict(steps=1000, score=1.0, statistics=30.0)
    stage |= dict(adversarial="relativistic", adversarial_weight=0.05)
    return {
        "run": str(folder / "run"),
        "batch": 2,
        "device": device.type,
        "precision": "bfloat16",
        "pairs": {"train": [str(folder / "pair")]},
        "sample": {"crop": 6},
        "generator": dict(chan_base=chan_base, chan_min=32, noise_std=0.3, length=2.0),
        "critic": dict(blocks=3, chan_base=128, chan_min=16, density_factor=2, log_density=True),
        "score": dict(pdf=15.0, redshift=1.0, velocity=1.0, meshes=6),
        "stage": [dict(stage, learning_rate=4e-4)],
    }


def make_pair(folder, Nmesh=16, factor=8):
    """A smooth random displacement with small scales added, and a velocity like it [Mpc/h]."""
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(6, 4, 4, 4))
    smooth = F.interpolate(torch.from_numpy(coarse)[None], Nmesh * factor, mode="nearest")[0]
    hr = smooth.numpy() + 0.1 * rng.normal(size=smooth.shape)
    lr = hr.reshape(6, Nmesh, factor, Nmesh, factor, Nmesh, factor).mean((2, 4, 6))
    folder.mkdir()
    np.save(folder / "lr.npy", lr.astype("f4"))
    np.save(folder / "hr.npy", hr.astype("f4"))
    describe_pair(folder, LagrangianLattice(Nmesh, 25.0), factor, 1 / 3, 0.28, "random", seed=1)


def seconds_of(work, device=CPU, repeats=3):
    """Median seconds of a call, after one to warm up: of the CPU, or of the GPU's work."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    spent = []
    for _ in range(repeats + 1):
        begun = clock()
        work()
        if cuda:
            torch.cuda.synchronize()
        spent.append(clock() - begun)
    return statistics.median(spent[1:])


def forward_and_backward(function, *inputs):
    """A call that computes `function` and the gradient of its sum."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    return lambda: function(*inputs).float().sum().backward()


def plain_energy_score(members, truth):
    one, other = members.chunk(2)

    def distance(a, b):
        return torch.sqrt((a - b).square().sum(1) + 1e-4).mean()

    return (distance(one, truth) + distance(other, truth) - distance(one, other)) / 2


def plain_power(field):
    modes = torch.fft.rfftn(field, dim=(2, 3, 4))
    return modes.real.square() + modes.imag.square()


def pieces():
    """Name, plain way and ours of the pieces that have gradients of their own, with inputs."""
    last = dict(memory_format=torch.channels_last_3d)
    features = torch.randn(4, 32, 30, 30, 30).bfloat16().contiguous(**last)
    convolution = torch.nn.Conv3d(32, 32, 3).bfloat16().to(**last)
    seen = torch.randn(4, 32, 44, 44, 44).bfloat16().contiguous(**last)
    fields, truth = torch.randn(4, 6, 48, 48, 48), torch.randn(2, 6, 48, 48, 48)
    mesh = torch.randn(4, 1, 96, 96, 96)
    return [
        (
            "upsampled convolution",
            lambda x: convolution(upsample(x)),
            lambda x: upsampled_convolution(x, convolution),
            [features],
        ),
        ("critic's pooling", lambda x: F.avg_pool3d(x.float(), 2), halve, [seen]),
        (
            "energy score",
            lambda x: plain_energy_score(x, truth),
            lambda x: energy_score(x, truth),
            [fields],
        ),
        ("power spectra", plain_power, lambda x: shell_power(x, window=False), [mesh]),
        ("PDF", lambda x: x.flatten(1).sort(dim=1).values, ordered, [fields[:, 0]]),
    ]


def convolution_rate(device):
    """Floating-point operations a second of a bfloat16 convolution as the last level has."""
    last = dict(memory_format=torch.channels_last_3d)
    x = torch.randn(4, 32, 56, 56, 56, device=device).bfloat16().contiguous(**last)
    weight = torch.randn(32, 32, 3, 3, 3, device=device).bfloat16().contiguous(**last)
    return 2 * 4 * 54**3 * 32 * 32 * 27 / seconds_of(lambda: F.conv3d(x, weight), device)


def measure_step(device, chan_base=128, steps=3):
    """A training step: its seconds (of the CPU, on a CPU), operations, and the shares of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        make_pair(Path(folder) / "pair")
        configuration = build(DisplacementConfiguration, settings(Path(folder), chan_base, device))
        trainer = Trainer(DisplacementSystem(configuration), Ranks(device))
        trainer.wrapped = [trainer.generator, trainer.critic]
        samples = Samples(trainer.system.sample, 1, trainer.ranks)
        batches = samples.batches(trainer.schedule.batches(0))
        trainer._step(batches)  # has the penalty
        seconds = seconds_of(lambda: trainer._step(batches), device, steps)
        with FlopCounterMode(display=False) as counter:
            trainer._step(batches)
        activities = [ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU]
        with profile(activities=activities) as profiled:
            trainer._step(batches)
        samples.close()
    spent = dict.fromkeys([*PARTS, "the rest, element by element"], 0.0)
    for event in profiled.key_averages():
        part = next((p for p, names in PARTS.items() if any(n in event.key for n in names)), None)
        spent[part or "the rest, element by element"] += (
            event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        )
    return {
        "seconds": seconds,
        "operations": counter.get_total_flops(),
        "share at the rate of one convolution": counter.get_total_flops()
        / convolution_rate(device)
        / seconds,
        "shares": {part: time / max(sum(spent.values()), 1e-9) for part, time in spent.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--chan-base", type=int, default=128)
    args = parser.parse_args()
    print("| piece, forward and backward | plain [CPU ms] | ours | ratio |\n|---|---|---|---|")
    for name, plain, ours, inputs in pieces():
        times = [seconds_of(forward_and_backward(f, *inputs)) for f in (plain, ours)]
        print(
            f"| {name} | {times[0] * 1e3:.0f} | {times[1] * 1e3:.0f} | {times[0] / times[1]:.1f} |"
        )
    step = measure_step(CPU, args.chan_base, args.steps)
    print(f"\nA step: {step['seconds']:.2f} CPU s, {step['operations'] / 1e9:.0f} GFLOP.\n")
    for part, share in step["shares"].items():
        print(f"- {part}: {100 * share:.0f}%")
    share = step["share at the rate of one convolution"]
    print(f"\nAt the rate of one large convolution these would take {100 * share:.0f}% of it.")


if __name__ == "__main__":
    main()
