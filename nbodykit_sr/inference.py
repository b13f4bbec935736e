"""Inference: padded LR chunks in, their SR particles out.

Several chunks are in flight at a time, each in a thread of its own, while the caller writes those
that are done. On a CPU one thread alone computes a chunk, so results do not depend on how many
threads there are. On a GPU each thread has its own stream: noise, network and transfers of
different chunks overlap.
"""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from .chunks import DEFAULT_SIDE, Chunk
from .errors import InputError
from .lattice import LagrangianLattice
from .models import fused
from .models.blocks import trim
from .models.generator import OUTPUT_TRIM
from .noise import site_noise
from .phases import Phases

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# Chunks computed at a time on a GPU: one fills it, the other is on its way in or out
GPU_STREAMS = 2
# and their sides to choose from
GPU_SIDES = (32, 24, 16, 8)


@dataclass(frozen=True)
class ChunkedInference:
    """A generator with everything that defines one SR universe but the LR field."""

    generator: Any  # ``generator(x, noise, psi)``, on `device`: see `Generator`
    factor: int
    lattice: LagrangianLattice  # of the LR field
    units: np.ndarray  # (C,), of the network's fields: displacement [Mpc/h], velocity [km/s]
    seed: int
    device: torch.device
    phases: Any = None  # `Phases` or `OwnPhases`, for a generator that takes them

    def noise(self, chunk) -> list[Float32[Tensor, "1 1 _ _ _"]]:
        """The noise fields of a chunk, with the padding the generator wants."""
        fields = []
        for layer, (refinement, padding) in enumerate(self.generator.noise_layers):
            start = [refinement * s - padding for s in chunk.start]
            shape = [refinement * n + 2 * padding for n in chunk.shape]
            Nmesh = refinement * self.lattice.Nmesh
            field = site_noise(self.seed, layer, start, shape, Nmesh, self.device)
            fields.append(field[None, None])
        return fields

    @torch.inference_mode()
    def fields(self, chunk, padded: Float[np.ndarray, "c _ _ _"]) -> Float32[Tensor, "c x y z"]:
        """SR displacement [Mpc/h] (and velocity [km/s]) of a chunk, from LR's with its padding."""
        units = torch.as_tensor(self.units, dtype=torch.float32, device=self.device)
        units = units.view(-1, 1, 1, 1)
        x = torch.from_numpy(np.ascontiguousarray(padded)).to(self.device) / units
        with one_thread():
            psi = []
            if self.phases is not None:
                psi = self.phases.fields(chunk.start, chunk.shape, self.generator.octaves)
            y = self.generator(x[None], self.noise(chunk), [one[None] for one in psi])
            return trim(y[0].float(), OUTPUT_TRIM).mul_(units)

    @torch.inference_mode()
    def particles(self, chunk, padded, position_dtype="f4") -> dict[str, np.ndarray]:
        """SR particles of a chunk, in the order of their lattice sites (x slowest).

        Returns
        -------
        dict of arrays
            Position (n, 3) `position_dtype`, comoving [Mpc/h] in [0, BoxSize); Velocity (n, 3)
            float32 [km/s] where the model has it; ID (n,) uint64 from 1.
        """
        fields = self.fields(chunk, padded)
        fine = self.lattice.refine(self.factor)
        sites = [
            np.arange(self.factor * first, self.factor * (first + n))
            for first, n in zip(chunk.start, chunk.shape, strict=True)
        ]
        with one_thread():
            position = fields.new_empty(
                (*fields.shape[1:], 3), dtype=getattr(torch, np.dtype(position_dtype).name)
            )
            grid = [torch.from_numpy(fine.site_position(axis)).to(self.device) for axis in sites]
            for i, plane in enumerate(position):  # a plane at a time stays in the caches
                for axis, along in enumerate((grid[0][i], grid[1][:, None], grid[2])):
                    wrapped = torch.remainder(fields[axis, i] + along, fine.BoxSize)
                    plane[..., axis] = wrapped
            # a float64 just under BoxSize can become BoxSize itself in the cast
            position.masked_fill_(position >= fine.BoxSize, 0)
            columns: dict[str, np.ndarray] = {"Position": host(position).reshape(-1, 3)}
            if len(fields) == 6:
                columns["Velocity"] = host(fields[3:].movedim(0, -1).contiguous()).reshape(-1, 3)
        # lattice.id, without a table of the three indices of each site
        ids = np.ravel_multi_index(np.ix_(*sites), 3 * (fine.Nmesh,), mode="wrap") + 1
        columns["ID"] = ids.astype(np.uint64).ravel()
        return columns

    def stream(self, chunks, padded, position_dtype="f4") -> Iterator[tuple[Chunk, dict]]:
        """The `particles` of many chunks, in order, each computed while others are written.

        ``padded(chunk)`` gives the padded LR fields of a chunk.
        """

        def compute(chunk):
            return self.particles(chunk, padded(chunk), position_dtype)

        return side_by_side(compute, chunks, self.workers, self._own_stream)

    @property
    def workers(self) -> int:
        """Chunks computed at a time."""
        return GPU_STREAMS if self.device.type == "cuda" else torch.get_num_threads()

    def working_memory(self, shape) -> float:
        """Bytes that the chunks in flight take, for chunks of `shape` LR sites: an estimate."""
        particles = self.factor**3 * int(np.prod(shape))
        columns = particles * (40 if self.generator.channels == 6 else 28)
        network = fused.working_memory(self.generator, shape)
        if isinstance(self.phases, Phases):
            network += self.phases.working_memory(shape, self.generator.octaves)
        return float(self.workers * network + (self.workers + 1) * columns)

    def _own_stream(self):
        if self.device.type == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream(self.device))


def side_by_side(compute, chunks, workers, initializer=None) -> Iterator[tuple[Chunk, Any]]:
    """Compute chunks in threads; yields (chunk, ``compute(chunk)``) in order, while others are computed.

    Parameters
    ----------
    workers : int
        Chunks computed at a time.
    initializer : callable, optional
        Run first in each thread.
    """
    with ThreadPoolExecutor(workers, initializer=initializer) as pool:
        flight = deque()
        try:
            for chunk in chunks:
                flight.append((chunk, pool.submit(compute, chunk)))
                if len(flight) > workers:  # one chunk more than threads, so that no thread waits
                    chunk, task = flight.popleft()
                    yield chunk, task.result()
            while flight:
                chunk, task = flight.popleft()
                yield chunk, task.result()
        finally:
            for _, task in flight:
                task.cancel()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in this thread alone: the order of sums must not depend on the number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def host(tensor) -> np.ndarray:
    """The array of a tensor, through pinned memory from a GPU: other streams go on meanwhile."""
    if tensor.device.type != "cpu":
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        tensor = pinned.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream().synchronize()
    return tensor.numpy()


def widest_side(generator, device) -> int:
    """The largest chunk side worth choosing [LR sites], for a generator as `prepare` gives it.

    On a GPU wider chunks waste less on the padding: the widest whose chunks in flight take no
    more than half of the memory that is free now.
    """
    if device.type != "cuda":
        return DEFAULT_SIDE
    free, _ = torch.cuda.mem_get_info(device)
    for side in GPU_SIDES:
        if 2 * GPU_STREAMS * fused.working_memory(generator, (side,) * 3) < free:
            return side
    return GPU_SIDES[-1]


def prepare(generator, device, dtype="float32") -> torch.nn.Module:
    """The generator as it is run: on its device, in its number format."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: {' or '.join(DTYPES)} is needed")
    return fused.fuse(generator.to(device), DTYPES[dtype])
