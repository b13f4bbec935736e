"""A light cone: does `--plan` foretell its time and memory, and does memory grow with its length?

    python benchmarks/lightcone.py [--angle 2] [--model phases] [--ranks 1] [--output FILE.json]

From the five snapshots of 32^3 particles in 100 Mpc/h of examples/data, or --snapshots, with twice as
many SR particles on a side, by ranks of one thread. Seconds are of CPU time a rank, so that it can be
measured on a machine that others use; those of imports, before the command begins, are not foretold.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import run
from run import finish, machine, save

from nbodykit_sr.io.checks import BlockHeader
from nbodykit_sr.io.preflight import SUMMARY, prepare_output
from nbodykit_sr.version import __version__

SERIES = Path(__file__).parents[1] / "examples" / "data" / "series32_100"
SNAPSHOTS = [str(SERIES / f"z{z}") for z in ("1", "0.75", "0.5", "0.25", "0")]
ENDS = (0.25, 0.5, 1.0)  # redshifts

# The command, whose clock is that of the CPU
COMMAND = (
    "import time; time.perf_counter = time.process_time; import nbodykit_sr.__main__ as m; m.run()"
)


def foretold(command):
    """What `--plan` says: particles, seconds, bytes of a rank."""
    text = subprocess.run([*command, "--plan"], check=True, capture_output=True, text=True).stdout
    hours, minutes, seconds = map(int, re.search(r"(\d+):(\d+):(\d+)", text).groups())
    return {
        "particles": int(re.search(r"particles +(\d+)", text)[1]),
        "seconds": 3600 * hours + 60 * minutes + seconds,
        "memory": 1e9 * float(re.search(r"memory a rank +([\d.]+)", text)[1]),
    }


def measure(given, zmax):
    """A cone, foretold and made."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "CONE")
        command = ["mpirun", "-n", str(given.ranks)] if given.ranks > 1 else []
        command += [sys.executable, "-c", COMMAND, "lightcone", *given.snapshots, output]
        command += ["--model", given.model, "--factor=2", f"--zmax={zmax}"]
        command += [f"--angle={given.angle}", f"--subsample={given.subsample}"]
        plan, made = foretold(command), run(command, threads=1)
        made["cpu"] /= given.ranks
        size = sum(BlockHeader.read(str(Path(output) / "Position")).rows)
        return {"plan": plan, "made": made, "particles": size, "zmax": zmax}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", help="JSON file of the results")
    parser.add_argument("--angle", type=float, default=2.0, help="degrees from the axis (2)")
    parser.add_argument("--model", default="phases")
    parser.add_argument("--snapshots", nargs="+", default=SNAPSHOTS, help="those of examples/data")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--subsample", type=float, default=1.0)
    args = parser.parse_args()
    if args.output:
        prepare_output(args.output, None, SUMMARY, overwrite=True)
    cones = []
    for zmax in ENDS:
        cones.append(measure(args, zmax))
        print(cones[-1], flush=True)
        names = ("model", "angle", "ranks", "subsample")
        given = {name: getattr(args, name) for name in names} | {"cones": cones}
        results = {"nbodykit_sr": __version__, "machine": machine(), "lightcone": given}
        save(args.output, results)


if __name__ == "__main__":
    finish(main)
