"""Densities by LR, the network and particles against HR's, for explanation/densities.md.

    python benchmarks/density.py BOX [BOX ...] [--also NAME=WEIGHTS ...]  # measures; minutes a box
    python benchmarks/density.py                    # draws explanation/densities.png anew

A BOX is FOLDER/SEED of `examples/density_triplet.py`, never used to fit or to choose. Those of one FOLDER
are of one cosmology; the figure is of the FOLDER of most boxes. `--also` measures the network of other
weights too. What density.json beside this file has of a box is kept; the page is made from it.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from mpi4py import MPI

from nbodykit_sr import SRCatalog, SRMesh
from nbodykit_sr.density.mesh import open_source
from nbodykit_sr.density.painting import paint

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from density_compare import BANDS, EDGES, measure, phases, ratio  # noqa: E402

FIGURE = ROOT / "docs" / "explanation" / "densities.png"
RESULT = Path(__file__).with_suffix(".json")
STYLE = {"LR": "0.6", "network": "C0", "particles": "C1", "particles, drawn phases": "C2"}


def densities(lr, initial, also):
    """What makes each density, by its name: functions without arguments."""
    Nmesh = 2 * round(lr.csize ** (1 / 3))
    made = {
        "LR": lambda: paint(lr, Nmesh),
        "network": lambda: SRMesh(lr, initial, by="network", force=True).compute(),
        "particles": lambda: SRMesh(lr, initial, by="particles", dtype="float32").compute(),
        "particles, drawn phases": lambda: paint(
            SRCatalog(lr, "phases", factor=2, dtype="float32"), Nmesh
        ),
    }
    for name, path in also.items():
        made[name] = lambda path=path: SRMesh(lr, initial, path, by="network", force=True).compute()
    return made


def add(box, found, also):
    """Measure what is not yet in `found` of a box."""
    lr, initial, hr = (
        open_source(f"{box}-{kind}", MPI.COMM_WORLD) for kind in ("LR", "initial", "HR")
    )
    truth = paint(hr, 2 * round(lr.csize ** (1 / 3)))
    if "HR" not in found:
        found["Omega_m"] = round(float(lr.attrs["Omega0"]), 4)
        found["HR"] = rounded(measure(truth))
    for name, make in densities(lr, initial, also).items():
        if name not in found:
            field = make()
            found[name] = rounded(measure(field) | phases(field, truth))
            print(box, name, found[name]["transfer"], found[name]["correlation"], flush=True)


def rounded(measured):
    return {
        name: np.vectorize(lambda x: float(f"{x:.5g}"))(x).tolist() for name, x in measured.items()
    }


def spread(boxes, name, column):
    """Mean of a statistic over boxes, over HR's where HR has it, and the error of the mean."""
    values = np.array(
        [
            ratio(box[name], box["HR"], column) if column in box["HR"] else box[name][column]
            for box in boxes
        ]
    )
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5


def fiducial(found):
    """The boxes of the cosmology that has most of them."""
    names = list(found)
    folder = max(
        (name.split("/")[0] for name in names), key=lambda one: sum(one in n for n in names)
    )
    return [found[name] for name in names if name.startswith(folder + "/")]


def draw(found):
    """All statistics over scale, means over the boxes of one cosmology."""
    boxes = fiducial(found)
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 6), layout="constrained")
    truth, middle = boxes[0]["HR"], (BANDS[1:] + BANDS[:-1]) / 2
    panels = (
        ("transfer", middle, "transfer function", "k [h/Mpc]", (0.8, 1.1)),
        ("correlation", middle, "correlation with HR", "k [h/Mpc]", (0.5, 1.02)),
        ("pdf", np.sqrt(EDGES[1:] * EDGES[:-1]), "cells of a density, over HR's", "1 + δ", (0, 2)),
        ("equilateral", truth["k"], "equilateral bispectrum, over HR's", "k [h/Mpc]", (0.5, 1.5)),
        ("angle", truth["theta"], "bispectrum of 0.15 and 0.25 h/Mpc", "θ", (0.5, 1.5)),
        ("voids", truth["radius"], "voids, over HR's", "radius [Mpc/h]", (0, 2)),
    )
    for ax, (column, x, title, label, limits) in zip(axes.flat, panels):
        for name, colour in STYLE.items():
            mean, error = spread(boxes, name, column)
            ax.errorbar(x, mean, error, color=colour, lw=1, marker=".", label=name)
        ax.axhline(1, color="k", lw=0.8)
        ax.set(title=title, xlabel=label, ylim=limits)
    axes[0, 2].set_xscale("log")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(FIGURE, dpi=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("boxes", nargs="*", type=Path)
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=WEIGHTS")
    args = parser.parse_args()
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for box in args.boxes:
        add(
            box,
            found.setdefault("/".join(box.parts[-2:]), {}),
            dict(a.split("=") for a in args.also),
        )
        RESULT.write_text(json.dumps(found) + "\n")
    draw(found)


if __name__ == "__main__":
    main()
