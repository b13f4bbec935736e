"""Measure how far halos hold together in time, in SR and in HR, for howto/series.md and the cards.

    python docs/series.py SIMULATIONS BOX [BOX ...]     # measures; half a minute of one core a redshift
    python docs/series.py                               # writes what the cards say of it anew

A box is a folder of `examples/make_pairs.py` with LR_z4 to LR_z0 and HR_z4 to HR_z0. All
super-resolved catalogues are of one seed, so the same ID is the same particle. Writes series.json
beside this file.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import facts
import numpy as np
from safetensors.torch import load_file, save

from nbodykit_sr import SRCatalog, open_snapshot, weights
from nbodykit_sr.diagnostics import find_halos
from nbodykit_sr.diagnostics.descendants import descendants
from nbodykit_sr.models.card import digest, read_card

RESULT = Path(__file__).with_suffix(".json")
REDSHIFTS = (4, 3, 2, 1, 0)
SEED = 7
EDGES = (32, 100, 300, 1000, 1 << 62)  # halos [particles]
ONE = weights.FOLDER / "z0to4-small.safetensors"


class Moment:
    """A catalogue at one redshift: positions by ID, and the particles of its halos."""

    def __init__(self, catalog):
        self.comm, self.box = catalog.comm, catalog.attrs["BoxSize"][0]
        position, ids = catalog.compute(catalog["Position"], catalog["ID"])
        self.position = np.empty_like(position, dtype="f4")
        self.position[ids.astype("i8") - 1] = position
        halos = find_halos(catalog, nmin=EDGES[0])
        group = np.repeat(halos.index + 1, halos.length[halos.index])
        self.members = {"ID": halos.members["ID"], "GroupID": group}

    def motion(self, later):
        """How far each particle goes until a later moment, (n, 3) [Mpc/h]."""
        away = later.position - self.position
        return away - self.box * np.rint(away / self.box)

    def together(self, later):
        """Mean share of a halo's particles that one later halo has, by the halo's size."""
        found = descendants(self.members, later.members, self.comm)
        sizes = np.digitize(found["Length"], EDGES) - 1
        share = [found["Share"][sizes == size] for size in range(len(EDGES) - 1)]
        return {
            "share": [round(float(s.mean()), 3) for s in share],
            "error": [round(float(s.std() / np.sqrt(len(s))), 3) for s in share],
            "halos": [len(s) for s in share],
        }


def rms(vectors):
    return round(float(np.sqrt((vectors.astype("f8") ** 2).sum(axis=1).mean())), 4)


def moments(box, z):
    """HR, one model and the default model at a redshift, and the name of the last."""
    low = open_snapshot(box / f"LR_z{z}")
    made = {"HR": Moment(open_snapshot(box / f"HR_z{z}"))}
    made["one"] = Moment(SRCatalog(low, model=ONE, seed=SEED, dtype="bfloat16"))
    default = SRCatalog(low, seed=SEED, dtype="bfloat16")
    return {**made, "default": Moment(default)}, default.card.name


def measure(box):
    steps, meetings, early, name = {}, {}, None, None
    for z in REDSHIFTS:
        late, model = moments(box, z)
        met = late["one"].motion(late["default"])
        meetings[f"{z}"] = {
            "models": [ONE.stem, model],
            "apart": rms(met),
            "from HR": [rms(late["HR"].motion(late[one])) for one in ("one", "default")],
            **late["one"].together(late["default"]),
        }
        if early:
            true = early["HR"].motion(late["HR"])
            steps[f"{z + 1} to {z}"] = {"HR": {"moved": rms(true)}, "one": {}, "default": {}}
            for which, step in steps[f"{z + 1} to {z}"].items():
                step |= early[which].together(late[which])
                if which != "HR":
                    step["moved wrongly"] = rms(early[which].motion(late[which]) - true)
            steps[f"{z + 1} to {z}"]["default"]["models"] = [name, model]
        early, name = late, model
        print(box, z, json.dumps([steps, meetings]), flush=True)
    return {"steps": steps, "meetings": meetings}


def write_cards():
    """Put what was measured into the cards of the shipped models; their weights stay as they are."""
    for path in weights.shipped():
        card, state = read_card(path), load_file(path)
        if entry := facts.in_cards().get(card.name):
            card = replace(card, evaluation={**card.evaluation, facts.IN_CARDS: entry})
            metadata = {"card": json.dumps(card.entries), "sha256": digest(state, card)}
            path.write_bytes(save(state, metadata=metadata))


def main(simulations=None, *boxes):
    if simulations:
        found = {name: measure(Path(simulations) / name) for name in boxes}
        RESULT.write_text(json.dumps({"seed": SEED, "boxes": found}) + "\n")
    write_cards()


if __name__ == "__main__":
    main(*sys.argv[1:])
