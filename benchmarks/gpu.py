"""What a GPU makes of the generators and of training, and whether it agrees with the CPU: as JSON.

    python benchmarks/gpu.py [--device cpu|cuda] [--small]

Takes some minutes, and no more of the stack than torch, safetensors, scipy and tqdm: neither MPI nor
nbodykit. --device cpu goes through the same code, --small with small networks: to try it.
"""

import argparse
import json
from functools import partial

import numpy as np
import torch
from common import PAPER, SMALL, generator
from network import measure, timed
from training import measure_step

from nbodykit_sr.chunks import Chunk
from nbodykit_sr.inference import ChunkedInference, prepare
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.generator import PADDING, Generator


def agreement(device, arguments, side):
    """How far SR fields of one chunk made on a device lie from the CPU's in float32, and how long
    it takes: for each network and number format, relative to the largest value."""
    chunk = Chunk(index=0, start=(0, 0, 0), shape=(side,) * 3, offset=0)
    padded = np.random.default_rng(2).normal(size=(6, *3 * [side + 2 * PADDING])).astype("f4")
    lattice, cpu = LagrangianLattice(64, 100.0), torch.device("cpu")

    def inference(network, where, dtype):
        engine = prepare(network, where, dtype)
        return ChunkedInference(engine, network.factor, lattice, np.ones(6), 1, where)

    table = {}
    for name, options in (("published", {}), ("convex", {"convex": 3, "spacing": 0.5})):
        plain = generator(Generator, **arguments, **options)
        reference = inference(plain, cpu, "float32").fields(chunk, padded)
        rows = table[name] = {}
        for dtype in ("float32", "bfloat16"):
            here = inference(generator(Generator, **arguments, **options), device, dtype)
            fields = here.fields(chunk, padded).cpu()
            run = partial(here.fields, chunk, padded)
            seconds = min(timed(run, device) for _ in range(3))
            rows[dtype] = {
                "largest difference": float(
                    (fields - reference).abs().max() / reference.abs().max()
                ),
                "particles per second": fields[0].numel() / seconds,
            }
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    arguments, sides = (SMALL, [8]) if args.small else (PAPER, [16, 32])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    results = {
        "device": name,
        "torch": torch.__version__,
        "agreement": agreement(device, arguments, sides[0]),
        "generator": measure(device, sides, repeats=3, arguments=arguments),
        "training": measure_step(device, chan_base=16 if args.small else 256),
    }
    print(json.dumps(results, indent=1))
