"""Measure this machine: the plain way against nbodykit_sr, and the pieces of a run.

    python benchmarks/run.py [--output FILE.json] [--chunks 8 16] [--repeats 3] [--only PART ...]

Prints tables in markdown; --output keeps every number. Parts: network (kernels, noise; on the
GPU too where there is one), end-to-end (whole commands, alternating), memory (against box size),
ranks (the same work on 1 rank with all threads and on one rank for each core), plan (what --plan
says against what a run takes), exchange (LR reading and sharing), disk (against dd). From plan and
exchange follows what the largest boxes would take. Weights are random, of the paper's size.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from common import PAPER, make_snapshot, median, run, save_weights
from stages import tables

from nbodykit_sr.chunks import ChunkGrid
from nbodykit_sr.commands.plan import BASE_MEMORY, plan
from nbodykit_sr.errors import InputError
from nbodykit_sr.io.atomic import atomic_file, disk
from nbodykit_sr.io.layout import NBODYKIT
from nbodykit_sr.io.preflight import SUMMARY, prepare_output
from nbodykit_sr.models.generator import PADDING
from nbodykit_sr.version import __version__

HERE = Path(__file__).parent
CELL = 1.5625  # LR spacing of the snapshots [Mpc/h]
CORES = len(os.sched_getaffinity(0))
MPIRUN = ["mpirun", "--oversubscribe", "-n"]


class Benchmark:
    """The parts, on snapshots and weights in a scratch folder."""

    def __init__(self, folder, chunks, repeats):
        self.folder, self.chunks, self.repeats = Path(folder), chunks, repeats
        self.paper = save_weights(self.folder / "paper.safetensors", PAPER)

    def snapshot(self, Nmesh):
        path = self.folder / f"LR_{Nmesh}"
        return path if path.exists() else make_snapshot(str(path), Nmesh, CELL)

    def generate(self, Nmesh, sites=None, ranks=0, dtype="bfloat16", chunk=16, options=()):
        """Run the command; what `run` measures, and what the command itself says."""
        summary = self.folder / "summary.json"
        command = [sys.executable, "-m", "nbodykit_sr.generate", str(self.snapshot(Nmesh))]
        command += [str(self.folder / "SR"), "--model", str(self.paper), "--overwrite"]
        command += ["--dtype", dtype, "--chunk", str(chunk), "--json", str(summary), "--device=cpu"]
        command += options
        if sites:
            region = ",".join(f"0:{n * CELL}" for n in sites)
            command += ["--region", region]
        if ranks:
            command = [*MPIRUN, str(ranks), *command]
        measured = run(command, threads=max(1, CORES // max(ranks, 1)))
        return measured | json.loads(summary.read_text())

    def plain(self, Nmesh, sites, chunk):
        output = self.folder / f"plain_{time.monotonic_ns()}"
        command = [sys.executable, str(HERE / "plain.py"), str(self.snapshot(Nmesh)), str(output)]
        command += ["--weights", str(self.paper), "--chunk", str(chunk)]
        measured = run(command + ["--sites", *map(str, sites)], threads=CORES)
        subprocess.run(["rm", "-r", str(output)], check=True)
        return measured

    def network(self):
        """Kernels of the network, on the CPU and on a GPU."""
        result = {}
        for device, sides in (("cpu", self.chunks), ("cuda", [16, 32, 64])):
            if device == "cuda" and not torch.cuda.is_available():
                continue
            command = [sys.executable, str(HERE / "network.py"), "--device", device]
            command += ["--repeats", str(self.repeats), "--chunks", *map(str, sides)]
            result[device] = told(command, threads=CORES)
        return result

    @property
    def part(self):
        """LR sites of a part of a 64^3 box that keeps all cores busy with equal shares."""
        side = max(self.chunks)
        return (side, side, min(2 * CORES * side, 64))

    def end_to_end(self):
        """Whole commands for the same part of a 64^3 box, one after the other."""
        sites = self.part
        runs = {f"plain {chunk}": [] for chunk in self.chunks}
        runs |= {"float32": [], "bfloat16": []}
        for _ in range(self.repeats):
            for name, results in runs.items():
                if name.startswith("plain"):
                    results.append(self.plain(64, sites, int(name.split()[1])))
                else:
                    results.append(self.generate(64, sites, dtype=name, chunk=max(self.chunks)))
        particles = 512 * sites[0] * sites[1] * sites[2]
        rows = {
            name: {
                "seconds": median(results),
                "cpu seconds": median(results, "cpu"),
                "particles/s": particles / median(results),
                "memory": median(results, "memory"),
            }
            for name, results in runs.items()
        }
        best = min(
            (name for name in runs if name.startswith("plain")), key=lambda n: median(runs[n])
        )
        return {
            "particles": particles,
            "ways": rows,
            "gain": {t: median(runs[best]) / median(runs[t]) for t in ("float32", "bfloat16")},
            "memory ratio": median(runs["bfloat16"], "memory") / median(runs[best], "memory"),
            "long": self.long_run(int(best.split()[1])),
        }

    def long_run(self, chunk):
        """One command each way for a part so large that starting up does not count."""
        sites = (32, 32, 64)
        plain = self.plain(64, sites, chunk)
        ours = self.generate(64, sites, chunk=max(self.chunks))
        return {
            "particles": 512 * sites[0] * sites[1] * sites[2],
            "plain": plain,
            "bfloat16": ours,
            "gain": plain["wall"] / ours["wall"],
            "memory ratio": ours["memory"] / plain["memory"],
        }

    def memory(self):
        """Peak memory of a rank against the box it reads; and time to a first chunk."""
        boxes = {
            Nmesh: self.generate(Nmesh, (16, 16, 32), chunk=16)["memory"] for Nmesh in (32, 64, 128)
        }
        first = self.generate(64, (4, 4, 4), chunk=4)
        return {"box": boxes, "first chunk": first["wall"]}

    def ranks(self):
        """The same work by one rank with all threads and by one rank for each core."""
        layouts = {f"1 x {CORES}": 1, f"{CORES} x 1": CORES}
        runs = {name: [] for name in layouts}
        for _ in range(self.repeats):
            for name, ranks in layouts.items():
                runs[name].append(self.generate(64, self.part, ranks, chunk=max(self.chunks)))
        return {name: median(results, "particles_per_second") for name, results in runs.items()}

    def plan(self):
        """What --plan foretells for a run, and what the run takes."""
        chunk = max(self.chunks)
        foretold, took = (
            [
                self.generate(64, self.part, CORES, chunk=chunk, options=options)
                for _ in range(self.repeats)
            ]
            for options in (["--plan"], [])
        )
        return {
            "chunk": chunk,
            "chunk seconds": median(foretold, "chunk_seconds"),
            "start seconds": median(foretold, "start_seconds"),
            "foretold": median(foretold, "seconds"),
            "took": median(took, "seconds"),
            "memory foretold": median(foretold, "rank_memory"),
        }

    def exchange(self):
        """Reading and sharing LR snapshots."""
        rows = []
        for Nmesh in (64, 128, 256):
            for ranks in (1, 2, 4):
                command = [*MPIRUN, str(ranks), sys.executable, str(HERE / "exchange.py")]
                rows.append(told([*command, str(self.snapshot(Nmesh))], threads=1))
        return rows

    def disk(self):
        """Seconds to write a chunk's particles as a catalogue, and as plain bytes."""
        return told([sys.executable, str(HERE / "writing.py"), str(self.folder)], threads=CORES)


PARTS = {
    "network": Benchmark.network,
    "end-to-end": Benchmark.end_to_end,
    "memory": Benchmark.memory,
    "ranks": Benchmark.ranks,
    "plan": Benchmark.plan,
    "exchange": Benchmark.exchange,
    "disk": Benchmark.disk,
}


def told(command, threads):
    """What a script prints as JSON."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
    return json.loads(done.stdout)


def big_boxes(results):
    """Plans for the largest boxes, on many cores such as these and, where measured, GPUs.

    Returns
    -------
    list of dict
        LR Nmesh, what computes and how many of it, hours, and memory a rank, network and disk
        [bytes]. The time of reading and sharing is that of the part exchange, which grows with
        the LR particles of a rank.
    """
    pieces = results["plan"]
    largest = max(results["exchange"], key=lambda row: (row["Nmesh"], row["ranks"]))
    sharing = largest["seconds"] * largest["ranks"] / largest["Nmesh"] ** 3
    runs = [("cores", pieces["chunk"], pieces["chunk seconds"], (64, 1024), (4096, 65536))]
    if gpu := results.get("network", {}).get("cuda"):
        side, chunk = max(gpu["chunks"].items(), key=lambda item: int(item[0]))
        seconds = chunk["seconds per particle"]["bfloat16"] * (8 * int(side)) ** 3
        runs.append(("GPUs", int(side), seconds, (1, 8), (64, 1024)))
    boxes = []
    for what, side, seconds, *numbers in runs:
        for Nmesh, counts in zip((640, 2560), numbers):
            for ranks in counts:
                cost = plan(
                    ChunkGrid(Nmesh, side),
                    ranks,
                    SimpleNamespace(**PAPER),
                    written=NBODYKIT.particle_bytes(("Position", "Velocity", "ID")),
                    chunk_seconds=seconds,
                    start_seconds=pieces["start seconds"] + sharing * Nmesh**3 / ranks,
                    working_memory=pieces["memory foretold"] - BASE_MEMORY,
                    padding=PADDING,
                )
                bytes_ = {name: getattr(cost, name) for name in ("rank_memory", "network", "disk")}
                box = {"Nmesh": Nmesh, "what": what, "ranks": ranks, "hours": cost.seconds / 3600}
                boxes.append(box | bytes_)
    return boxes


def machine():
    """What the numbers belong to."""
    name = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        name = names[0] if names else name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "processor": name,
        "cores": CORES,
        "vectors": capability,
        "gpu": gpu,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def table(header, rows):
    """A markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|" + " --- |" * len(header), *lines[1:]]) + "\n"


def report(results):
    """The results as markdown."""
    m = results["machine"]
    text = [f"{m['processor']}, {m['cores']} cores, {m['gpu'] or 'no GPU'}, torch {m['torch']}\n"]
    for name, result in results.get("network", {}).items():
        rows = []
        for side, chunk in result["chunks"].items():
            us = {k: f"{v * 1e6:.3g}" for k, v in chunk["seconds per particle"].items()}
            rows.append(
                [f"{side}^3", us["plain"], us["float32"], us["bfloat16"]]
                + [f"{chunk['gain'][t]:.1f}" for t in ("float32", "bfloat16")]
                + [f"{chunk['roofline'][t]:.2f}" for t in ("float32", "bfloat16")]
                + [f"{100 * chunk['noise share']:.1f}%"]
            )
        header = [f"chunk ({name})", "plain [us a particle]", "float32", "bfloat16"]
        header += ["gain", "gain, bfloat16", "roofline", "roofline, bfloat16", "noise"]
        text.append(table(header, rows))
    if "end-to-end" in results:
        result = results["end-to-end"]
        rows = [
            [name, f"{row['seconds']:.1f}", f"{row['particles/s'] / 1e6:.3f}"]
            + [f"{row['memory'] / 1e9:.2f}"]
            for name, row in result["ways"].items()
        ]
        text.append(
            table(["whole command", "seconds", "million particles/s", "memory [GB]"], rows)
            + f"\nGain {result['gain']['bfloat16']:.1f} in bfloat16, {result['gain']['float32']:.1f} in "
            f"float32; memory {result['memory ratio']:.2f} of the plain way's. For "
            f"{result['long']['particles'] / 1e6:.0f} million particles: gain {result['long']['gain']:.1f} "
            f"({result['long']['plain']['wall']:.0f} s to {result['long']['bfloat16']['wall']:.0f} s), "
            f"memory {result['long']['memory ratio']:.2f}.\n"
        )
    if "memory" in results:
        boxes = results["memory"]["box"]
        text.append(
            table(
                ["LR box", "memory [GB]"], [[f"{n}^3", f"{b / 1e9:.2f}"] for n, b in boxes.items()]
            )
        )
        text.append(
            f"From command to a first chunk on disk: {results['memory']['first chunk']:.1f} s.\n"
        )
    if "ranks" in results:
        rows = [[name, f"{rate / 1e6:.3f}"] for name, rate in results["ranks"].items()]
        text.append(table(["ranks x threads", "million particles/s"], rows))
    if "exchange" in results:
        rows = [
            [f"{r['Nmesh']}^3", r["ranks"], f"{r['seconds']:.2f}", f"{r['memory'] / 1e9:.2f}"]
            for r in results["exchange"]
        ]
        text.append(table(["LR read and shared", "ranks", "seconds", "memory a rank [GB]"], rows))
    if "plan" in results:
        p = results["plan"]
        text.append(
            f"`--plan` foretells {p['foretold']:.1f} s, the run takes {p['took']:.1f} s: "
            f"{100 * (p['foretold'] / p['took'] - 1):+.0f}%.\n"
        )
    if "foretold" in results:
        rows = [
            [f"{box['Nmesh']}^3 -> {8 * box['Nmesh']}^3", f"{box['ranks']} {box['what']}"]
            + [f"{box['hours']:.2g}"]
            + [f"{box[name] / 1e9:.3g}" for name in ("rank_memory", "network", "disk")]
            for box in results["foretold"]
        ]
        header = ["foretold", "on as many as", "hours", "memory a rank [GB]", "network [GB]"]
        text.append(table([*header, "disk [GB]"], rows))
    if "analysis" in results:
        text += tables(results["analysis"], table)
    if "lightcone" in results:
        given = results["lightcone"]
        rows = [
            [f"z < {one['zmax']:g}", f"{one['particles'] / 1e6:.2f}"]
            + [f"{one['plan']['seconds']:.0f}", f"{one['made']['cpu']:.0f}"]
            + [f"{one[name]['memory'] / 1e9:.2f}" for name in ("plan", "made")]
            for one in given["cones"]
        ]
        part, ranks = given.get("subsample", 1), given.get("ranks", 1)
        name = f"light cone, {given['angle']:g} deg, {given['model']}"
        name += f", {ranks} ranks" if ranks > 1 else ""
        name += f", {part:g} of the particles" if part < 1 else ""
        header = [name, "million particles"]
        header += ["CPU seconds foretold", "taken", "memory foretold [GB]", "taken"]
        text.append(table(header, rows))
    if "disk" in results:
        d = results["disk"]
        text.append(
            f"Writing: {d['catalogue']:.2f} GB/s as a catalogue with checksums, {d['plain']:.2f} GB/s "
            f"by dd; {d['seconds per particle'] * 1e9:.0f} ns a particle.\n"
        )
    return "\n".join(text)


def save(path, results):
    """Write the results so far, if a file is wanted."""
    if path:
        with disk(path), atomic_file(path) as file:
            file.write(json.dumps(results, indent=1).encode() + b"\n")


def finish(main):
    """Run a benchmark's main; a refusal is one line and status 2."""
    try:
        main()
    except InputError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", help="JSON file of all results")
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16], help="sides [LR sites]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    if args.output:
        prepare_output(args.output, None, SUMMARY, overwrite=True)
    results = {"nbodykit_sr": __version__, "machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(folder, args.chunks, args.repeats)
        for name in args.only:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            results[name] = PARTS[name](benchmark)
            if {"plan", "exchange"} <= results.keys():
                results["foretold"] = big_boxes(results)
            save(args.output, results)
    print(report(results))


if __name__ == "__main__":
    finish(main)
