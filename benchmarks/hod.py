"""Galaxies in SR, HR and interpolated halos by one halo occupation: their P(k), for explanation/galaxies.md.

    python benchmarks/hod.py SIMULATIONS BOX [BOX ...]  # measures; some 2 minutes of one core a box
    python benchmarks/hod.py                            # draws explanation/galaxies.png anew

A box is a folder of `examples/make_pairs.py` with LR_z2 and HR_z2, of the same phases: cosmic variance
drops out of the ratios. What is left are the draws of galaxies, `POPULATIONS` for each catalogue, and
of the small scales, `SEEDS` for SR. Writes hod.json beside this file, from which the page is made.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from nbodykit.hod import Zheng07Model
from nbodykit.lab import FOF, FFTPower

from nbodykit_sr import SRCatalog, cosmology, open_snapshot
from nbodykit_sr.diagnostics import particle_mass

FIGURE = Path(__file__).parents[1] / "docs" / "explanation" / "galaxies.png"
RESULT = Path(__file__).with_suffix(".json")
MODEL, SEEDS, POPULATIONS = "phases", (1, 2, 3), 10
# central galaxies in halos above 10^11 Msun/h, some 170 particles of these boxes
OCCUPATION = {"logMmin": 11.0, "sigma_logM": 0.2, "logM0": 11.0, "logM1": 12.0, "alpha": 1.0}
BANDS = np.array([0.25, 1, 2, 4])  # [h/Mpc]
STEP, LAST = 0.5, 16  # of the curves [h/Mpc], and how many


def spectrum(galaxies):
    """P(k) of galaxies less their shot noise [(Mpc/h)^3], in steps and in bands of k."""
    mesh = galaxies.to_mesh(Nmesh=128, resampler="cic", compensated=True)
    fine = FFTPower(mesh, mode="1d", dk=2 * np.pi / galaxies.attrs["BoxSize"][0], kmin=0.12)
    k, modes = fine.power["k"], fine.power["modes"]
    power = fine.power["power"].real - fine.attrs["shotnoise"]

    def mean(edges):
        sums = [np.histogram(k, edges, weights=modes * values)[0] for values in (power, k, 1)]
        return sums[0] / sums[2], sums[1] / sums[2]

    return *mean(0.12 + STEP * np.arange(LAST + 1)), mean(BANDS)[0]


def populated(catalogue):
    """Galaxies of a catalogue's halos: how many and their P(k), mean over the draws and its error."""
    halos = FOF(catalogue, linking_length=0.2, nmin=31).to_halos(
        particle_mass(catalogue), cosmology(catalogue.attrs), redshift=catalogue.attrs["Redshift"]
    )
    draws = {"galaxies": [], "satellites": [], "power": [], "bands": []}
    for seed in range(1, POPULATIONS + 1):
        galaxies = halos.populate(Zheng07Model, seed=seed, **OCCUPATION)
        power, k, bands = spectrum(galaxies)
        draws["galaxies"].append(galaxies.csize)
        draws["satellites"].append(int((galaxies["gal_type"] == 1).sum().compute()))
        draws["power"].append(power)
        draws["bands"].append(bands)
    print(halos.csize, "halos", draws["galaxies"], np.round(draws["bands"], 2).tolist(), flush=True)
    told = {"k": np.round(k, 4).tolist()}
    for name, values in draws.items():
        values = np.array(values, dtype="f8")
        told[name] = np.round(values.mean(axis=0), 3).tolist()
        told[f"{name}, error"] = np.round(
            values.std(axis=0, ddof=1) / len(values) ** 0.5, 3
        ).tolist()
    return told


def measure(box):
    low = open_snapshot(box / "LR_z2")
    made = {
        "HR": populated(open_snapshot(box / "HR_z2")),
        "interpolation": populated(SRCatalog(low, model="interpolate")),
    }
    for seed in SEEDS:
        sr = SRCatalog(low, model=MODEL, seed=seed, dtype="bfloat16")
        made[f"SR, seed {seed}"] = populated(sr)
    return made


def draw(found):
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 5.6), sharex=True, sharey="row")
    for (name, box), (above, below) in zip(found["boxes"].items(), axes.T):
        true = np.array(box["HR"]["power"])
        for label, told in box.items():
            k, power, error = (np.array(told[n]) for n in ("k", "power", "power, error"))
            style = {"HR": "k", "interpolation": "0.6"}.get(label, "C0")
            once = {"label": label if style != "C0" else MODEL} if label[-1] not in "23" else {}
            above.errorbar(k, power, error, color=style, lw=1, **once)
            if label != "HR":
                below.errorbar(k, power / true, error / true, color=style, lw=1)
        above.set(title=f"box {name}", yscale="log", ylim=(10, 4000))
        below.axhline(1, color="k", lw=0.8)
        below.set(xlabel="k [h/Mpc]", xlim=(0, 5), ylim=(0, 3))
    axes[0, 0].set_ylabel("P of galaxies [(Mpc/h)$^3$]")
    axes[1, 0].set_ylabel("P / P of HR")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(FIGURE, dpi=90)


def main(simulations=None, *boxes):
    if simulations:
        found = {name: measure(Path(simulations) / name) for name in boxes}
        settings = {"model": MODEL, "populations": POPULATIONS, "occupation": OCCUPATION}
        settings["bands"] = BANDS.tolist()
        RESULT.write_text(json.dumps({**settings, "boxes": found}) + "\n")
    draw(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main(*sys.argv[1:])
