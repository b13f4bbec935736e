"""Time the network's pieces in one process: as JSON, for run.py.

    python benchmarks/network.py [--device cpu|cuda] [--chunks 8 16] [--repeats 3] [--cpu-time]

Rates are of all threads together: one chunk for each of them at a time. Repeats of the different
ways alternate, so that a change of the machine's speed meets them all. Where others use the
machine too, --cpu-time counts the CPU seconds of all threads instead of the time that passes; rates
are then those of one core.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from common import PAPER, generator, published
from torch.nn import functional as F

from nbodykit_sr.chunks import Chunk
from nbodykit_sr.inference import ChunkedInference, one_thread, prepare
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.generator import PADDING, standard_noise

clock = time.perf_counter


def timed(function, device):
    """Seconds of a call, all of its work done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def multiplications(generator, shape):
    """Multiply-adds of the fused convolutions for a chunk.

    Parameters
    ----------
    generator : Generator or FusedGenerator
    shape : three ints
        LR sites of the chunk, without padding.
    """
    widths, channels = generator.widths, generator.channels
    sides = [n + 2 * PADDING for n in shape]
    total = prod(sides) * channels * widths[0]
    for p, n in zip(widths[:-1], widths[1:], strict=True):
        total += 64 * p * n * prod(side - 1 for side in sides)
        sides = [2 * side - 6 for side in sides]
        total += (27 * n + channels) * n * prod(sides)
    return total


def everywhere(function, workers):
    """Run a function in each of the worker threads at once, one core for each on a CPU."""

    def alone(_):
        with torch.inference_mode(), one_thread():
            function()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(alone, range(workers)))


def peaks(device, workers, repeats):
    """Largest rate of a matrix product and of a 3^3 convolution, all cores at once [FLOP/s]."""
    n, width = (2048, 64) if device.type == "cpu" else (16384, 512)

    def rate(function, flop):
        everywhere(function, workers)
        took = [timed(lambda: everywhere(function, workers), device) for _ in range(repeats)]
        return workers * flop / min(took)

    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(n, n, device=device).to(dtype)
        x = torch.randn(1, width, 8, 134, 134, device=device).to(dtype)
        w = torch.randn(width, width, 3, 3, 3, device=device).to(dtype)
        x, w = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, w))
        name = str(dtype).removeprefix("torch.")
        rates[f"matrix product {name}"] = rate(lambda a=a: a @ a, 2 * n**3)
        rates[f"convolution {name}"] = rate(
            lambda x=x, w=w: F.conv3d(x, w), 2 * 27 * width**2 * 6 * 132**2
        )
    return rates


def measure(device, sides, repeats, arguments=PAPER):
    """Seconds per SR particle for each way and chunk side, and what follows from them."""
    plain = generator(**arguments).eval().to(device)
    lattice = LagrangianLattice(64, 100.0)
    engines = {}
    for dtype in ("float32", "bfloat16"):
        fused = prepare(generator(**arguments), device, dtype)
        engines[dtype] = ChunkedInference(fused, fused.factor, lattice, np.ones(6), 1, device)
    workers = engines["float32"].workers
    rates = peaks(device, workers, repeats)
    chunks = {side: measure_chunk(side, plain, engines, rates, repeats) for side in sides}
    return {"device": device.type, "workers": workers, "peaks": rates, "chunks": chunks}


@torch.inference_mode()
def measure_chunk(side, plain, engines, rates, repeats):
    """One chunk side: see `measure`."""
    device, workers = engines["float32"].device, engines["float32"].workers
    chunk = Chunk(index=0, start=(0, 0, 0), shape=(side,) * 3, offset=0)
    lr = torch.randn(6, *3 * [side + 2 * PADDING])
    x, padded = lr[None].to(device), lr.numpy()
    noise = engines["float32"].noise(chunk)
    ways = {  # name: (what is run, chunks it makes)
        "plain": (lambda: published(plain, x, standard_noise(plain, x)).cpu(), 1),
        "noise": (lambda: everywhere(lambda: engines["float32"].noise(chunk), workers), workers),
    }
    for dtype, engine in engines.items():
        network = engine.generator
        ways[dtype] = (
            lambda e=engine: list(e.stream([chunk] * workers, lambda _: padded)),
            workers,
        )
        ways[f"network {dtype}"] = (
            lambda f=network: everywhere(lambda: f(x, noise), workers),
            workers,
        )
    particles = (plain.factor * side) ** 3
    seconds = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, (function, count) in ways.items():
            took = timed(function, device) / (count * particles)
            if repeat:  # the first one warms up
                seconds[name].append(took)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    best = {t: max(rate for name, rate in rates.items() if name.endswith(t)) for t in engines}
    flop = 2 * multiplications(plain, chunk.shape) / particles
    return {
        "seconds per particle": middle,
        "flop per particle": flop,
        "roofline": {t: flop / middle[f"network {t}"] / best[t] for t in engines},
        "gain": {t: middle["plain"] / middle[t] for t in engines},
        "noise share": middle["noise"] / middle["bfloat16"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    if args.cpu_time:
        clock = time.process_time
    print(json.dumps(measure(torch.device(args.device), args.chunks, args.repeats), indent=1))
