"""The course of a command that writes chunks: begin or go on, compute what is missing, complete."""

import sys
import time
from dataclasses import dataclass
from itertools import takewhile

from tqdm import tqdm

from ..command import UNFINISHED, RankError
from ..errors import one_line, out_of_memory
from .writer import WrongValues


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Attributes
    ----------
    status : int
        Of the command: 0, or `UNFINISHED` if a rank was told to stop.
    resumed : int or None
        Chunks that were there already; None: the output was complete.
    seconds : float
        That computing and writing took.
    """

    status: int
    resumed: int | None = None
    seconds: float = 0.0


def write_chunks(
    command, writer, chunks, compute, write, stopped, overwrite, resume, unit
) -> Outcome:
    """Write an output of chunks. Collective.

    Parameters
    ----------
    command : str
        Its name, for what is printed.
    writer : ChunkWriter
    chunks : list
        Of this rank, with index and size.
    compute : callable
        Of an iterator of chunks; yields (chunk, values) of each.
    write : callable
        Of a chunk and its values.
    stopped : list
        Not empty once the run is to stop: what is being computed is still written.
    overwrite, resume : bool
    unit : str
        What the rows are.

    Returns
    -------
    Outcome

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
    mine = [chunk for chunk in chunks if chunk.index not in progress.done]
    left = len(mine)
    if any(comm.allgather(left)):
        with tqdm(
            total=writer.store.size,
            unit=unit,
            unit_scale=True,
            disable=comm.rank != 0,
            mininterval=0.5 if sys.stderr.isatty() else 30,
        ) as bar:
            share = writer.store.size / max(sum(chunk.size for chunk in chunks), 1)
            before = (chunk.size for chunk in chunks if chunk.index in progress.done)
            bar.update(share * sum(before))
            going = takewhile(lambda chunk: not stopped, mine)
            for chunk in _guarded(compute(going), write, writer.partial):
                left -= 1
                bar.update(chunk.size * share)
        if any(comm.allgather(left)):
            writer.close()
            if comm.rank == 0:
                print(
                    f"{command}: stopped on a signal; go on with --resume ({writer.partial})",
                    file=sys.stderr,
                )
            return Outcome(UNFINISHED)
    writer.finish(overwrite)
    return Outcome(0, len(progress.done), time.perf_counter() - started)


def _guarded(results, write, partial):
    """Write each result; gives its chunk. What one rank meets is told as a RankError."""
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
