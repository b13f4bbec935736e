"""The course of a command that writes chunks: begin or go on, compute what is missing, complete."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from tqdm import tqdm

from ..errors import RankError, agreement, one_line, out_of_memory
from ..inference import DTYPES
from ..io.writer import WrongValues, recorded_dtype
from ..preparation import AUTO, bfloat16_everywhere
from .command import stop_status


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run."""

    status: int  # exit status: 0, or that of `command.stop_status` if a rank was asked to stop
    resumed: int | None = None  # chunks of an earlier run; None if the output was complete already
    seconds: float = 0.0  # time of computing and writing


@dataclass(frozen=True)
class Work:
    """The chunks that a rank has to compute and write."""

    chunks: list  # this rank's chunks, with index and size
    compute: Callable[[Iterator], Iterator]  # of chunks; yields (chunk, values) for each
    write: Callable  # ``write(chunk, values)``
    unit: str  # what is counted by the progress bar, such as "particles"


def own_dtype(options, kind, comm) -> str:
    """The dtype of a run: the user's choice, or that recorded in the output that is resumed. Collective.

    InputError on every rank, if an output is there and cannot be read.
    """
    dtype = None
    with agreement(comm):
        if comm.rank == 0 and options.resume and options.dtype == AUTO:
            dtype = recorded_dtype(options.output, kind)
    return comm.bcast(dtype) or options.dtype


def print_plan(measure, options, comm) -> Any:
    """Print the time, memory and disk that a run takes; of both dtypes where the machine has
    instructions for bfloat16. ``measure(options)`` gives a `plan.Plan` and the device. Collective."""
    cost, device = measure(options)
    if bfloat16_everywhere(device, comm):
        [other] = {*DTYPES} - {cost.dtype}
        cost = replace(cost, other=measure(replace(options, dtype=other))[0])
    if comm.rank == 0:
        print(cost)
    return cost


def write_chunks(command, writer, work, stopped, overwrite, resume) -> Outcome:
    """Write an output of chunks. Collective.

    Parameters
    ----------
    command : str
        Name of the command, for messages.
    writer : ChunkWriter
    work : Work
    stopped : list
        Of `command.stop_requests`. Once it is not empty, the chunks in flight are written and the run stops.
    overwrite, resume : bool

    Raises
    ------
    InputError
        On every rank.
    RankError
        On the rank whose disk or memory failed midway; what is recorded can be resumed.
    """
    comm = writer.comm
    begin = writer.resume if resume else writer.create
    progress = begin(overwrite)
    if progress.complete:
        if comm.rank == 0:
            print(f"{command}: {writer.path} is complete")
        return Outcome(0)
    started = time.perf_counter()
    mine = [chunk for chunk in work.chunks if chunk.index not in progress.done]
    left = len(mine)
    if any(comm.allgather(left)):
        with tqdm(
            total=writer.store.size,
            unit=work.unit,
            unit_scale=True,
            disable=comm.rank != 0,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        ) as bar:
            share = writer.store.size / max(sum(chunk.size for chunk in work.chunks), 1)
            before = (chunk.size for chunk in work.chunks if chunk.index in progress.done)
            bar.update(share * sum(before))
            going = takewhile(lambda chunk: not stopped, mine)
            for chunk in _guarded(work.compute(going), work.write, writer.partial):
                left -= 1
                bar.update(chunk.size * share)
        if any(comm.allgather(left)):
            writer.close()
            return Outcome(stop_status(command, stopped, comm, writer.partial))
    writer.finish(overwrite)
    return Outcome(0, len(progress.done), time.perf_counter() - started)


def _guarded(results, write, partial):
    """Write each result and give its chunk; raise RankError for a failure of this rank alone."""
    while True:
        try:
            chunk, values = next(results)
            write(chunk, values)
        except StopIteration:
            return
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise RankError(
                f"{partial} can't be written ({reason}): make room there, then --resume"
            ) from None
        except WrongValues as error:
            raise RankError(f"{error}: weights, --dtype and input do not fit together") from None
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise RankError(
                "out of memory: use a smaller --chunk, or fewer ranks on a node"
            ) from None
        yield chunk
