"""A light cone: does `--plan` foretell its time and memory, and does memory grow with its length?

    python benchmarks/lightcone.py [--angle 2] [--model phases] [--output FILE.json]

From the five snapshots of 32^3 particles in 100 Mpc/h of examples/data, with twice as many SR particles
on a side, by one rank of one thread. Seconds are of CPU time, so that it can be measured on a machine
that others use; those of imports, before the command begins, are not foretold.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from common import run
from run import finish, machine, save

from nbodykit_sr.io.cones import open_cone
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


def measure(model, angle, zmax):
    """A cone, foretold and made."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "CONE")
        command = [sys.executable, "-c", COMMAND, "lightcone", *SNAPSHOTS, output]
        command += ["--model", model, "--factor=2", f"--zmax={zmax}", f"--angle={angle}"]
        plan, made = foretold(command), run(command, threads=1)
        return {"plan": plan, "made": made, "particles": int(open_cone(output).csize), "zmax": zmax}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", help="JSON file of the results")
    parser.add_argument("--angle", type=float, default=2.0, help="degrees from the axis (2)")
    parser.add_argument("--model", default="phases")
    args = parser.parse_args()
    if args.output:
        prepare_output(args.output, None, SUMMARY, overwrite=True)
    cones = []
    for zmax in ENDS:
        cones.append(measure(args.model, args.angle, zmax))
        print(cones[-1], flush=True)
        given = {"model": args.model, "angle": args.angle, "cones": cones}
        results = {"nbodykit_sr": __version__, "machine": machine(), "lightcone": given}
        save(args.output, results)


if __name__ == "__main__":
    finish(main)
