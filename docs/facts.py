"""What README and site say of models and speed, from model cards and benchmark results.

    python docs/facts.py        # writes the marked parts of README.md anew

The cards of the shipped models and the JSON files in benchmarks/results are the only places where
these numbers stand.
"""

import json
import re
from pathlib import Path

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
