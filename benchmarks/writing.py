"""Time writing a chunk's particles: as JSON, for run.py.

python benchmarks/writing.py FOLDER
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np
from mpi4py import MPI

from nbodykit_sr.io.layout import NBODYKIT
from nbodykit_sr.io.particles import SnapshotWriter
from nbodykit_sr.physics.universe import Universe

SIZE, REPEATS = 128**3, 5


def timed(function):
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


folder = sys.argv[1]
rng = np.random.default_rng(0)
columns = {
    "Position": rng.random((SIZE, 3), dtype="f4"),
    "Velocity": rng.random((SIZE, 3), dtype="f4"),
    "ID": np.arange(SIZE, dtype="u8"),
}
nbytes = sum(values.nbytes for values in columns.values())
writer = SnapshotWriter(
    path=os.path.join(folder, "WRITING"),
    comm=MPI.COMM_SELF,
    layout=NBODYKIT,
    size=SIZE * REPEATS,
    names=tuple(columns),
    header={},
    identity={},
    universe=Universe(BoxSize=1.0),
)
writer.create()
target = os.path.join(folder, "plain")
dd = ["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={nbytes >> 20}", "conv=notrunc"]
plain, catalogue = [], []
for i in range(REPEATS):
    offset = [f"seek={i * (nbytes >> 20)}"]  # new pages each time, as the catalogue's are
    plain.append(
        timed(lambda o=offset: subprocess.run(dd + o, check=True, stderr=subprocess.DEVNULL))
    )
    catalogue.append(timed(lambda i=i: writer.write(i, i * SIZE, columns)))
writer.close()
shutil.rmtree(writer.partial)
os.remove(target)
result = {
    "plain": nbytes / statistics.median(plain) / 1e9,
    "catalogue": nbytes / statistics.median(catalogue) / 1e9,
    "seconds per particle": statistics.median(catalogue) / SIZE,
}
print(json.dumps(result))
