"""Time reading an LR snapshot and sharing it among the ranks: as JSON on rank 0, for run.py.

mpirun -n 4 python benchmarks/exchange.py PART_000
"""

import json
import resource
import sys
import time

from mpi4py import MPI

from nbodykit_sr.chunks import default_grid
from nbodykit_sr.domain import LatticeDomain
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.models.generator import PADDING
from nbodykit_sr.particles import find_lattice

comm = MPI.COMM_WORLD
comm.Barrier()
begun = time.perf_counter()
snapshot = open_snapshot(sys.argv[1], comm)
particles = find_lattice(snapshot)
located = time.perf_counter()
grid = default_grid(particles.lattice.Nmesh, comm.size)
field = particles.field(LatticeDomain(grid, comm, PADDING), True)
seconds = comm.allreduce(time.perf_counter() - begun, MPI.MAX)
peak = comm.allreduce(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, MPI.MAX) * 1024
if comm.rank == 0:
    result = dict(
        Nmesh=particles.lattice.Nmesh,
        ranks=comm.size,
        seconds=seconds,
        locating=located - begun,
        field=field.data.nbytes,
        memory=peak,
    )
    print(json.dumps(result))
