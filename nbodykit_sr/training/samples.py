"""Batches for every rank, each sample a function of seed, step and position alone."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


class Samples:
    """Prepares the batches of a rank ahead of their use, in threads.

    Sample `position` of the global batch of a step is drawn from ``(seed, step, part,
    position)``; rank r of R takes positions r, r + R, ... So a run resumes anywhere, and any
    number of ranks sees the same samples.

    Parameters
    ----------
    draw : callable
        ``draw(rng)`` gives one sample: a dict of arrays and scalars.
    seed : int
    ranks : Ranks
    workers : int
        Threads.
    """

    def __init__(self, draw, seed, ranks, workers=1):
        self.draw, self.seed, self.ranks = draw, seed, ranks
        self.pool = ThreadPoolExecutor(workers)

    def batches(self, plan) -> Iterator[tuple]:
        """Yield the batches of `plan`, an iterable of (step, part, size of the global batch)."""
        waiting = deque()
        plan = iter(plan)
        while True:
            while len(waiting) < 3:
                key = next(plan, None)
                if key is None:
                    break
                waiting.append(self._submit(*key))
            if not waiting:
                return
            yield self._collect(waiting.popleft())

    def _submit(self, step, part, size):
        positions = range(self.ranks.rank, size, self.ranks.size)
        seeds = [(self.seed, step, part, position) for position in positions]
        return [self.pool.submit(lambda s: self.draw(np.random.default_rng(s)), s) for s in seeds]

    def _collect(self, futures):
        samples = [future.result() for future in futures]
        batch = {}
        for name in samples[0]:
            values = torch.from_numpy(np.stack([sample[name] for sample in samples]))
            batch[name] = values.to(self.ranks.device, non_blocking=True)
        return batch

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def seeded_normal(shape, seeds, layer, device) -> torch.Tensor:
    """Standard normal (B, 1, *shape) float32, each sample from its own seed (B) int64."""
    out = torch.empty((len(seeds), 1, *shape), device=device)
    if out.is_meta:
        return out
    generator = torch.Generator(device)
    for sample, seed in zip(out, seeds.tolist(), strict=True):
        generator.manual_seed((seed + 0x9E3779B97F4A7C15 * (layer + 1)) % 2**63)
        sample.normal_(generator=generator)
    return out
