"""Measure `generate`, `halos` and `validate` against the size of the box, and where their time goes.

    python benchmarks/analysis.py LR_SNAPSHOT ... [--ranks 2] [--output FILE.json] [--scratch FOLDER]

Each snapshot is super-resolved by the shipped model that fits it, and SR is compared with LR: seconds
and peak memory of a rank of whole commands, and CPU seconds of all ranks in each stage.
"""

import argparse
import json
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from run import MPIRUN, finish, machine, report, save
from stages import Clock

from nbodykit_sr.io.preflight import SUMMARY, prepare_output

KB = 1024


def rank(folder, command, *words):
    """One rank of a command, which leaves what it took in a file of its own in `folder`."""
    sys.argv = ["nbodykit-sr", command, *words]
    clock = Clock()
    if command != "generate":  # whose time is the network's
        clock.watch()
    try:
        runpy.run_module("nbodykit_sr", run_name="__main__", alter_sys=True)
    finally:
        clock.change()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KB
        took = {"memory": peak, "stages": clock.seconds}
        Path(tempfile.mkstemp(dir=folder)[1]).write_text(json.dumps(took))


def measured(ranks, *words):
    """What a command took on so many ranks: seconds, the largest peak memory of a rank [bytes], and
    CPU seconds of all ranks by stage."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        command = [*MPIRUN, ranks, sys.executable, __file__, "--rank", folder, *words]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        took = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
    stages = sum((Counter(one["stages"]) for one in took), Counter())
    memory = max(one["memory"] for one in took)
    return {"seconds": seconds, "memory": memory, "stages": dict(stages)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("snapshots", nargs="+", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--scratch", help="folder for the catalogues, 40 bytes a particle")
    options = parser.parse_args()
    if options.output:
        prepare_output(options.output, None, SUMMARY, overwrite=True)
    boxes = []
    results = {"machine": machine(), "analysis": {"ranks": options.ranks, "boxes": boxes}}
    for snapshot in options.snapshots:
        print(f"measuring {snapshot}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            made, summary = Path(folder) / "SR", Path(folder) / "summary.json"
            words = ("generate", snapshot, made, "--seed", 1, "--json", summary)
            generate = measured(options.ranks, *words)
            del generate["stages"]
            halos = measured(options.ranks, "halos", made, Path(folder) / "HALOS")
            words = ("validate", "--sr", made, "--lr", snapshot, "--out", Path(folder) / "report")
            validate = measured(options.ranks, *words)
            particles = json.loads(summary.read_text())["particles"]
        commands = {"generate": generate, "halos": halos, "validate": validate}
        boxes.append({"particles": particles, **commands})
        save(options.output, results)
    print(report(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank(*sys.argv[2:])
    else:
        finish(main)
