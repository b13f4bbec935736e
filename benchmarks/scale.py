"""Simulate how a large run shares its snapshot, one rank after the other in this process.

    python benchmarks/scale.py [--Nmesh 4096] [--ranks 1024] [--sample 8] [--output FILE.json]

What `--plan` tells of such a run is of its network and disk; here is what a rank does besides: bisecting
the grid, finding who gets which of its LR particles, packing, unpacking and cutting chunks. Seconds are
CPU time measured here; messages and bytes are what the rank sends and receives in the exchange. "lattice"
has the particles in the order of their IDs, "shuffled" in none: a snapshot's lies between.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from run import finish, machine, save

from nbodykit_sr.chunks import _shared, default_grid
from nbodykit_sr.domain import LatticeDomain
from nbodykit_sr.io.preflight import SUMMARY, prepare_output
from nbodykit_sr.models.generator import PADDING


@dataclass(frozen=True)
class Rank:
    """What a domain asks of a communicator."""

    rank: int
    size: int


class Timer:
    """CPU seconds by step."""

    def __init__(self):
        self.seconds = {}

    def __call__(self, step, function, *words):
        begun = time.process_time()
        result = function(*words)
        self.seconds[step] = self.seconds.get(step, 0) + time.process_time() - begun
        return result


def share(rank, ranks, Nmesh, order):
    """Sites of a rank's slice of the snapshot, (n, 3) int64."""
    first, last = (Nmesh**3 * (rank + n) // ranks for n in (0, 1))
    row = np.arange(first, last)
    if order == "shuffled":  # a bijection: an odd number and a power of two have no common factor
        row = row * 0x9E3779B1 % Nmesh**3
    return np.stack(np.unravel_index(row, (Nmesh,) * 3), axis=-1)


def simulate(rank, grid, ranks, order, channels=6):
    """What one rank does: seconds of each step, messages and bytes."""
    _shared.cache_clear()
    timer, width = Timer(), 24 + 4 * channels
    domain = LatticeDomain(grid, Rank(rank, ranks), PADDING)
    timer("bisect", domain.primary, rank)
    site = share(rank, ranks, grid.Nmesh, order)
    counts, indices = timer("who gets what", domain.destinations, site)
    values = np.zeros((len(site), channels), dtype="f4")
    timer("pack", lambda: (site[indices], values[indices]))
    start, shape = domain.padded(rank)
    shape = np.minimum(shape, grid.Nmesh)  # each site comes once
    came = np.stack(
        np.meshgrid(*(np.arange(n) + a for a, n in zip(start, shape)), indexing="ij"), -1
    )
    came = came.reshape(-1, 3) % grid.Nmesh
    field = timer("unpack", domain.fill, came, np.zeros((len(came), channels), dtype="f4"))
    chunks = domain.chunks
    timer("cut", lambda: [domain.cut(field, chunk) for chunk in chunks])
    others = np.delete(counts, rank)
    return {
        "seconds": timer.seconds,
        "messages": int((others > 0).sum()),
        "sent": int(others.sum()) * width,
        "received": (len(came) - int(counts[rank])) * width,
        "chunks": len(chunks),
    }


def measure(Nmesh, ranks, sample, factor=8):
    """The means over some ranks, and the largest of messages and bytes."""
    grid, found = default_grid(Nmesh // factor, ranks), {}
    for order in ("lattice", "shuffled"):
        some = [
            simulate(int(rank), grid, ranks, order)
            for rank in np.linspace(0, ranks - 1, sample).astype(int)
        ]
        steps = some[0]["seconds"]
        found[order] = {
            "seconds": {
                name: float(np.mean([one["seconds"][name] for one in some])) for name in steps
            }
        } | {name: max(one[name] for one in some) for name in some[0] if name != "seconds"}
    return {"Nmesh": Nmesh, "ranks": ranks, "chunk": grid.side, "orders": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--Nmesh", type=int, default=4096, help="SR particles a side")
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--sample", type=int, default=8, help="ranks that are simulated")
    parser.add_argument("--output", help="JSON file of the results")
    options = parser.parse_args()
    if options.output:
        prepare_output(options.output, None, SUMMARY, overwrite=True)
    found = measure(options.Nmesh, options.ranks, options.sample)
    for order, one in found["orders"].items():
        steps = ", ".join(f"{name} {seconds:.3f}" for name, seconds in one["seconds"].items())
        print(
            f"{order}: {sum(one['seconds'].values()):.2f} CPU s ({steps}); up to {one['messages']} "
            f"messages, {one['sent'] / 1e6:.1f} MB sent, {one['received'] / 1e6:.1f} MB received; "
            f"{one['chunks']} chunks"
        )
    save(options.output, {"machine": machine(), "scale": found})


if __name__ == "__main__":
    finish(main)
