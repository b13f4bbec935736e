"""Fill the cards of models by what `validate` finds on boxes that they were not trained on.

    python examples/make_pairs.py SIMS --unitary --seeds 410001 410002 --redshifts 4 3 2 1 0
    python examples/evaluate.py SIMS FOLDER --seeds 410001 410002

At each redshift of a model's card for which there is SIMS/SEED/LR_zZ, a catalogue is generated of each
box and compared with HR_zZ; the report goes to FOLDER/NAME_zZ and, when all are there, into the card, with
what bfloat16 changes in the first box.
A model that is given the phases makes two, by drawn ones and by those of SIMS/SEED/HR_IC. What is there
already is kept: after a new model is shipped under its name, remove its reports.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from nbodykit_sr import weights
from nbodykit_sr.models.card import REDSHIFT_TOLERANCE, read_card

REDSHIFTS = (4, 3, 2, 1.5, 1, 0.5, 0)


def run(*words):
    """A command of this package."""
    subprocess.run([sys.executable, "-m", "nbodykit_sr", *map(str, words)], check=True)


def report(model, card, z, boxes, folder, phases):
    """Compare one redshift of all boxes with HR, with HR's phases if so; the report's path."""
    name = f"{card.name}_z{z}" + "_phases" * phases
    out = folder / name
    if not (out / "report.json").exists():
        words, made = [], []
        for box in boxes:
            catalogue = folder / f"{name}_{box.name}"
            options = ["--model", model, "--seed", 1, "--overwrite"]
            options += ["--power", box / "power.txt"] if card.amplitude else []
            options += ["--phases", box / "HR_IC"] if phases else []
            run("generate", box / f"LR_z{z}", catalogue, *options)
            words += ["--sr", catalogue, "--hr", box / f"HR_z{z}"]
            made.append(catalogue)
        run("validate", *words, "--out", out, "--overwrite")
        for catalogue in made:
            shutil.rmtree(catalogue)
    return out / "report.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sims", type=Path, help="folder of make_pairs.py")
    parser.add_argument("folder", type=Path, help="for catalogues and reports")
    parser.add_argument("--seeds", nargs="+", required=True, help="boxes in it")
    parser.add_argument("--models", nargs="+", type=Path, default=weights.shipped())
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    boxes = [options.sims / seed for seed in options.seeds]
    for model in options.models:
        card = read_card(model)
        if not card.moves_particles:
            continue
        low, high = card.redshift or (min(REDSHIFTS), max(REDSHIFTS))
        there = [
            z
            for z in REDSHIFTS
            if low - REDSHIFT_TOLERANCE <= z <= high + REDSHIFT_TOLERANCE
            and all((box / f"LR_z{z}").exists() for box in boxes)
        ]
        if there:
            found = [
                report(model, card, z, boxes, options.folder, phases)
                for z in there
                for phases in (False, True)[: 1 + (card.amplitude is not None)]
            ]
            snapshots = [boxes[0] / f"LR_z{z}" for z in there]
            run("evaluate", model, *found, "--bfloat16", *snapshots)


if __name__ == "__main__":
    main()
