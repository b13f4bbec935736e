"""What README and site say of models and speed, from model cards and benchmark results.

    python docs/facts.py        # writes the marked parts of README.md anew

The cards of the shipped models, and the JSON files in benchmarks and benchmarks/results, are the only
places where these numbers stand.
"""

import json
import re
from pathlib import Path

import numpy as np

from nbodykit_sr import weights
from nbodykit_sr.models.card import read_card
from nbodykit_sr.models.card_summary import summary

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def table(header, rows):
    """A markdown table."""

    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)]) + "\n"


def cards():
    """Cards of the shipped models: displacement first, then by redshift."""
    found = [read_card(path) for path in weights.shipped()]
    # those for any redshift after those for some, the density emulator last
    order = (99.0, 99.0)
    return sorted(found, key=lambda card: (card.network == "density", *(card.redshift or order)))


def caution(card):
    """A card's caution, as part of a sentence."""
    return card.caution.removeprefix("Caution: ").removesuffix("; see the model card.")


def models():
    """The shipped displacement models as a table, and the density models in a sentence each."""
    rows, sentences = [], []
    for card in cards():
        if card.network == "density":
            transfer, cross = summary(card).values()
            sentences.append(
                f"\n`{card.name}` is for density fields ({card.validity}): transfer function {transfer} "
                f"up to k = 0.8 h/Mpc, r = {cross} there.\n"
            )
        else:
            rows.append([f"`{card.name}`", card.validity, *summary(card).values(), caution(card)])
    return table(["model", "for", *summary(cards()[0]), "caution"], rows) + "".join(sentences)


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
        f"a particle takes **{1e6 * seconds['bfloat16']:.2f} µs** of one core in bfloat16 (the published "
        f"way: {1e6 * seconds['plain']:.1f} µs). From command to catalogue "
        f"({long['particles'] / 1e6:.0f} million particles) it is **{long['gain']:.1f} times** as fast as "
        f"the published way, in **{long['memory ratio']:.2f}** of its memory.\n"
    )


def galaxies():
    """Galaxies of one halo occupation in HR, SR and interpolated halos: how many, and P over HR's."""
    found = json.loads((ROOT / "benchmarks" / "hod.json").read_text())
    rows = []
    for box, made in found["boxes"].items():
        groups = {"HR": [made["HR"]], "interpolation": [made["interpolation"]]}
        groups[f"`{found['model']}`"] = [one for name, one in made.items() if name[:2] == "SR"]
        for name, group in groups.items():
            cells = [box, name]
            for what in ("galaxies", "satellites"):
                cells.append("{:.0f} ± {:.0f}".format(*spread(group, what)))
            true, of_true = spread([made["HR"]], "bands")
            power, error = spread(group, "bands")
            error = np.hypot(error / true, of_true * power / true**2)
            ratios = [f"{p:.2f} ± {e:.2f}" for p, e in zip(power / true, error, strict=True)]
            cells += [""] * len(true) if name == "HR" else ratios
            rows.append(cells)
    edges = [f"{edge:g}" for edge in found["bands"]]
    bands = [f"k = {low} to {high}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return table(["box", "halos of", "galaxies", "satellites", *bands], rows)


def spread(group, what):
    """Mean over realisations and its error; of a single one, from its populations."""
    values = np.array([one[what] for one in group])
    if len(group) == 1:
        return values[0], np.array(group[0][f"{what}, error"])
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(group) ** 0.5


def densities():
    """Densities by several ways against HR's: means over the boxes of one cosmology, with their errors."""
    found = json.loads((ROOT / "benchmarks" / "density.json").read_text())
    boxes = list(cosmologies(found).values())[0]
    rows = [["HR", "", "", "", f"{mean_error([one['HR']['empty'] for one in boxes])}", "", "", ""]]
    for name in [name for name in boxes[0] if name not in ("HR", "Omega_m")]:
        made, true = [one[name] for one in boxes], [one["HR"] for one in boxes]
        cells = [name, f"{off(np.mean([one['transfer'][:5] for one in made], axis=0)):.1%}"]
        cells += [mean_error([one["correlation"][band] for one in made]) for band in (3, 4)]
        cells.append(mean_error([one["empty"] for one in made]))
        for column, first in (("equilateral", 4), ("angle", 0)):  # the largest triangles are few
            ratios = [np.divide(a[column], b[column])[first:] for a, b in zip(made, true)]
            cells.append(f"{off(np.mean(ratios, axis=0)):.1%}")
        cells.append(mean_error([sum(a["voids"]) / sum(b["voids"]) for a, b in zip(made, true)]))
        rows.append(cells)
    header = ["", "√P off HR's by at most, k < 1", "r, k = 0.6-0.8", "r, k = 0.8-1", "empty cells"]
    header += ["equilateral bispectrum off by at most", "that of the paper", "voids / HR's"]
    return table(header, rows)


def density_cosmologies():
    """How far √P is off HR's, to k = 1 h/Mpc, in each cosmology."""
    found = json.loads((ROOT / "benchmarks" / "density.json").read_text())
    by_matter = cosmologies(found)
    names = [name for name in list(by_matter.values())[0][0] if name not in ("HR", "Omega_m")]
    rows = []
    for matter, boxes in sorted(by_matter.items()):
        worst = [
            f"{off(np.mean([one[name]['transfer'][:5] for one in boxes], axis=0)):.1%}"
            for name in names
        ]
        rows.append([f"{matter:g}", len(boxes), *worst])
    return table(["Ω_m", "boxes", *names], rows)


def cosmologies(found):
    """Boxes by their Omega_m, those of which there are most first."""
    by_matter = {}
    for box in found.values():
        by_matter.setdefault(box["Omega_m"], []).append(box)
    return dict(sorted(by_matter.items(), key=lambda one: -len(one[1])))


def off(ratio):
    """The largest deviation from 1."""
    return np.abs(np.asarray(ratio) - 1).max()


def mean_error(values):
    """Mean over boxes and its error, as text."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}"


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
