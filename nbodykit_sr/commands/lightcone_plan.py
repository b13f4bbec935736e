"""What a light cone takes: time, memory and disk, from a piece of it that is computed."""

import numpy as np

from ..lightcone.worldlines import BATCH, PIECE
from .plan import BASE_MEMORY, Plan

# Bytes of a particle that is looked at, at both ends of an interval, and of one that is seen
_LOOKED, _SEEN = 400, 3
# Seconds of a particle that is written, and copied to its place in the end
_WRITTEN = 1.3e-6


def lightcone_plan(light, selection, particle_bytes, start_seconds) -> Plan:
    """The cost of a cone. Collective.

    Parameters
    ----------
    light : LightCone
    selection : Selection
    particle_bytes : int
        Of a row of the catalogue.
    start_seconds : float
        What opening the snapshots and starting up took.
    """
    comm, particles = light.comm, light.expected * selection.subsample
    runs = sum(light.runs(chunk) for chunk in light.chunks)
    seconds, row = light.timed(selection)
    mine = runs * seconds + particles / comm.size * (row + _WRITTEN)
    busiest = comm.allreduce(len(light.chunks), op=max)
    total, begun = max(comm.allgather(mine)), max(comm.allgather(start_seconds))
    chunk = light.chunks[0]
    fine = chunk.size * light.model.card.factor**3
    fields = 4 * light.model.card.channels * fine * (light.workers + 3)
    seen = min(PIECE, particles / comm.size / max(len(light.chunks), 1))
    memory = fields + _LOOKED * BATCH + _SEEN * seen * particle_bytes
    return Plan(
        particles=int(particles),
        chunks=int(np.prod(light.grid.counts)),
        busiest=busiest,
        ranks=comm.size,
        chunk_seconds=total / busiest,
        start_seconds=begun,
        rank_memory=BASE_MEMORY + light.memory + memory,
        network=0.0,
        disk=2 * particles * particle_bytes,
        dtype=light.model.dtype,
    )
