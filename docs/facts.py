"""What README and site say of models and speed, from model cards and benchmark results.

    python docs/facts.py        # writes the marked parts of README.md anew

The cards of the shipped models and the JSON files in benchmarks/results are the only places where
these numbers stand.
"""

import json
import re
from pathlib import Path

import numpy as np

from nbodykit_sr import weights
from nbodykit_sr.models.card import read_card

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"

# What examples/compare.py measures, as cards have it
BANDS = ("0.25-1", "1-2", "2-4", "4-8", "8-16")  # octaves of k [h/Mpc]
HALOS = (32, 100, 300, 1000)  # least particles
HR_HALOS = "HR halos of >= 32, 100, 300, 1000 particles"


def table(header, rows):
    """A markdown table."""

    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def cards():
    """Cards of the shipped models: displacement first, then by redshift."""
    found = [read_card(path) for path in weights.shipped()]
    return sorted(found, key=lambda card: (card.network == "density", *card.redshift))


def boxes(evaluation, where=()):
    """The (headings, measurements) of each box in a card on which SR was compared with HR."""
    if HR_HALOS in evaluation:
        yield where, evaluation
        return
    for name, part in evaluation.items():
        if isinstance(part, dict):
            yield from boxes(part, (*where, name))


def worth(card):
    """What a displacement model reaches on the first box of each redshift in its card.

    Returns
    -------
    dict of str to list of float
        For each redshift, means over noise seeds: "power" (over HR's at k = 4-8 h/Mpc),
        "correlation" (with HR at k = 2-4 h/Mpc) and "halos" (of at least 100 particles, over HR's).
    """
    first = {}
    for where, box in boxes(card.evaluation):
        first.setdefault(where[:-1], box)
    found = {"power": [], "correlation": [], "halos": []}
    for box in first.values():
        runs = [run for name, run in box.items() if name.startswith("model")]
        power, cross, halos = (
            np.mean([run[name] for run in runs], axis=0)
            for name in ("P_SR/P_HR", "cross-correlation", "halos")
        )
        found["power"].append(power[BANDS.index("4-8")])
        found["correlation"].append(cross[BANDS.index("2-4")])
        found["halos"].append(halos[HALOS.index(100)] / box[HR_HALOS][HALOS.index(100)])
    return found


def span(values):
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def redshifts(card):
    low, high = (f"{z:.3g}" for z in card.redshift)
    return f"z = {low}" if low == high else f"z = {low} to {high}"


def caution(card):
    """A card's caution, as part of a sentence."""
    return card.caution.removeprefix("Caution: ").removesuffix("; see the model card.")


def models():
    """The shipped displacement models as a table, and the density models in a sentence each."""
    rows, sentences = [], []
    for card in cards():
        valid = f"{redshifts(card)}, LR cell {card.cell:g} Mpc/h"
        if card.network == "density":
            box = list(card.evaluation.values())[-1]
            worst = box["transfer, largest deviation from 1 to k = 0.80"]["SR"]
            cross = box["correlation"][card.evaluation["k"].index(0.8)]
            sentences.append(
                f"\n`{card.name}` is for density fields ({valid}): transfer function within {worst:.1%} of 1 "
                f"up to k = 0.8 h/Mpc, r = {cross:.2f} there; empty cells are missing.\n"
            )
        else:
            reached = [span(values) for values in worth(card).values()]
            rows.append([f"`{card.name}`", valid, *reached, caution(card)])
    header = ["model", "for", "P / P_HR, k = 4-8 h/Mpc", "r with HR, k = 2-4 h/Mpc"]
    return table([*header, "halos >= 100 particles / HR's", "caution"], rows) + "".join(sentences)


def results():
    """The benchmark results, by the name of their file."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    return {file.stem: json.loads(file.read_text()) for file in files}


def speed():
    """Three numbers of the speed, in a sentence."""
    measured = results()["cpu"]
    m, chunks = measured["machine"], measured["network"]["cpu"]["chunks"]
    seconds = chunks["16"]["seconds per particle"]
    long = measured["end-to-end"]["long"]
    return (
        f"On {m['processor']} ({m['cores']} cores), with a network of the paper's size: "
        f"**{1e6 * seconds['bfloat16']:.2f} µs** a particle and core in bfloat16 (the published way: "
        f"{1e6 * seconds['plain']:.1f}), "
        f"**{long['gain']:.1f} times** as fast as that from command to catalogue "
        f"({long['particles'] / 1e6:.0f} million particles), "
        f"in **{long['memory ratio']:.2f}** of its memory.\n"
    )


PARTS = {"models": models, "speed": speed}


def readme(text):
    """The README with its marked parts as they have to be.

    A part stands between ``<!-- NAME -->`` and ``<!-- end NAME -->``.
    """
    for name, part in PARTS.items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
        text = marked.sub(lambda found, part=part: found[1] + part() + found[2], text)
    return text


if __name__ == "__main__":
    README.write_text(readme(README.read_text()))
