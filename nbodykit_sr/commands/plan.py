"""Estimates of a run's time, memory, network traffic and disk space."""

import math
import os
import shutil
from dataclasses import dataclass

from ..errors import InputError, agreement

# Resident memory of a rank with the libraries loaded, before any data [bytes]
BASE_MEMORY = 0.36e9

# Margin for allocator and file system
_MARGIN = 1.05


@dataclass(frozen=True)
class Plan:
    """The cost of a run."""

    particles: int  # in the whole output
    chunks: int  # of all ranks
    busiest: int  # chunks of the rank with most
    ranks: int
    chunk_seconds: float  # time of one chunk on one rank
    start_seconds: float  # time of starting up, reading and exchanging particles
    rank_memory: float  # peak resident memory of a rank [bytes]
    network: float  # LR particles exchanged, all ranks together [bytes]
    disk: float  # size of the output [bytes]
    dtype: str = "float32"  # number format of the network
    other: "Plan | None" = None  # the same run in another dtype

    @property
    def seconds(self) -> float:
        """Wall-clock time."""
        return self.start_seconds + self.busiest * self.chunk_seconds

    @property
    def clock(self) -> str:
        """Wall-clock time, as hours:minutes:seconds."""
        minutes, seconds = divmod(math.ceil(self.seconds), 60)
        return f"{minutes // 60:d}:{minutes % 60:02d}:{seconds:02d}"

    def __str__(self):
        other, more = self.other, ""
        if other:
            more = f"; {other.dtype}: {other.clock}, {other.rank_memory / 1e9:.2f} GB a rank"
        lines = [
            f"particles        {self.particles}",
            f"chunks           {self.chunks}, up to {self.busiest} on each of {self.ranks} ranks",
            f"time             {self.clock} ({self.chunk_seconds:.3g} s a chunk, measured here)",
            f"memory a rank    {self.rank_memory / 1e9:.2f} GB",
            f"dtype            {self.dtype}{more}",
            f"network          {self.network / 1e9:.3g} GB, once",
            f"disk             {self.disk / 1e9:.3g} GB",
        ]
        return "\n".join(lines)


def plan(grid, ranks, card, written, chunk_seconds, start_seconds, working_memory, padding) -> Plan:
    """The cost of a run from the pieces measured for it.

    An SR particle takes `written` bytes on the disk; the network and its outputs take `working_memory`
    bytes for a chunk, whose padding is in LR sites.
    """
    blocks = grid.blocks(ranks)
    sizes = [math.prod(last - first for first, last in block) for block in blocks]
    padded = [
        math.prod(
            int(widths[first:last].sum()) + 2 * padding
            for widths, (first, last) in zip(grid.widths, block, strict=True)
        )
        for block in blocks
    ]
    field = 4 * card.channels * max(padded)
    # read, displaced, packed and unpacked: the slice passes through about 3.5 times its size
    slice_memory = 3.5 * (24 + 8 + 4 * card.channels) * grid.Nmesh**3 / ranks
    return Plan(
        particles=grid.size * card.factor**3,
        chunks=math.prod(grid.counts),
        busiest=max(sizes),
        ranks=ranks,
        chunk_seconds=chunk_seconds,
        start_seconds=start_seconds,
        rank_memory=BASE_MEMORY + field + max(slice_memory, working_memory),
        network=(24 + 4 * card.channels) * (sum(padded) if ranks > 1 else 0),
        disk=written * grid.size * card.factor**3,
    )


def check_room(writer, needed, resume) -> None:
    """`check_disk` for the bytes that a writer needs, unless it goes on with a run that was killed."""
    begun = resume and os.path.isdir(writer.partial)
    check_disk(writer.path, needed, writer.comm, already=begun)


def check_disk(path, needed, comm, already=False) -> None:
    """Refuse a run whose output takes more bytes than the disk has. Collective.

    Nothing is checked if part of the output is there `already`.
    """
    with agreement(comm):
        if comm.rank == 0 and not already:
            folder = os.path.dirname(os.path.abspath(path))
            free = shutil.disk_usage(folder).free
            if needed * _MARGIN > free:
                raise InputError(
                    f"the output takes {needed / 1e9:.3g} GB but {folder} has {free / 1e9:.3g} GB free: "
                    "choose another disk, or a --region"
                )
