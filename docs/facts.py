"""What README and site say of models and speed, from model cards and benchmark results.

    python docs/facts.py        # writes the marked parts of README.md anew

The cards of the shipped models, the JSON files in benchmarks/results and those beside the scripts of
this folder are the only places where these numbers stand.
"""

import json
import re
from pathlib import Path

import numpy as np

from nbodykit_sr import weights
from nbodykit_sr.models.card import read_card
from nbodykit_sr.models.evaluation import summary

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
    return sorted(found, key=lambda card: (card.network == "density", *card.redshift))


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
                f"up to k = 0.8 h/Mpc, r = {cross} there; empty cells are missing.\n"
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


def measured(name):
    """What the script ``docs/NAME.py`` measured."""
    return json.loads((ROOT / "docs" / f"{name}.json").read_text())


SIZES = ("32 to 100", "to 300", "to 1000", "more particles")


def shares(found):
    """The share of a halo's particles that stay together, over all halos of several boxes, by size."""
    halos = np.array([one["halos"] for one in found])
    share = (halos * [one["share"] for one in found]).sum(axis=0) / halos.sum(axis=0)
    return [f"{s:.2f} ({n})" for s, n in zip(share, halos.sum(axis=0), strict=True)]


def rms(values):
    return f"{np.mean(np.square(values)) ** 0.5:.2f}"


def together():
    """How halos hold together from snapshot to snapshot, in HR, by one model and by the defaults."""
    boxes = list(measured("series")["boxes"].values())
    names = {"HR": ["HR"], "one": [f"`{boxes[0]['meetings']['0']['models'][0]}`"]}
    rows = []
    for step, told in boxes[0]["steps"].items():
        for which in told:
            found = [box["steps"][step][which] for box in boxes]
            models = names.get(which) or [f"`{name}`" for name in found[0]["models"]]
            wrong = "" if which == "HR" else rms([one["moved wrongly"] for one in found])
            rows.append([step, ", then ".join(dict.fromkeys(models)), *shares(found), wrong])
    return table(["z", "", *SIZES, "motion wrong by [Mpc/h]"], rows)


def meetings():
    """How far apart two shipped models put the same particles at one redshift."""
    boxes = list(measured("series")["boxes"].values())
    rows = []
    for z in boxes[0]["meetings"]:
        found = [box["meetings"][z] for box in boxes]
        models = " and ".join(f"`{name}`" for name in found[0]["models"])
        from_hr = [rms(values) for values in zip(*(one["from HR"] for one in found), strict=True)]
        apart = rms([one["apart"] for one in found])
        rows.append([z, models, apart, ", ".join(from_hr), *shares(found)])
    return table(["z", "models", "apart [Mpc/h]", "from HR [Mpc/h]", *SIZES], rows)


def in_cards():
    """What the cards say of particles that stay together, by the model's name."""
    entries = {}
    for box, found in measured("series")["boxes"].items():
        for step, told in found["steps"].items():
            one = found["meetings"]["0"]["models"][0]
            for models, made in ([one], told["one"]), (told["default"]["models"], told["default"]):
                for name in set(models):
                    entry = entries.setdefault(name, {"what": TOGETHER, "seed": 7})
                    then = f" by {models[0]}, then {models[1]}" if len(set(models)) > 1 else ""
                    entry[f"box {box}, z = {step}{then}"] = made["share"]
                    entry[f"box {box}, z = {step}{then}, error of the mean"] = made["error"]
                    entry[f"box {box}, z = {step}, HR"] = told["HR"]["share"]
    return entries


def galaxies():
    """Galaxies of one halo occupation in HR, SR and interpolated halos: how many, and P over HR's."""
    found = measured("hod")
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


IN_CARDS = "particles of a halo that stay together"  # the entry of a card's evaluation
TOGETHER = (
    "mean share of a halo's particles that are in one halo at the later of two redshifts, for halos of 32 "
    "to 100, to 300, to 1000 and more particles at the earlier; particle-mesh boxes of 25 Mpc/h that were "
    "not trained on, but looked at to choose"
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
