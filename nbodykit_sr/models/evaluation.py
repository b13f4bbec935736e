"""What a model card says that the model is worth: measurements on held-out boxes, in three numbers."""

import numpy as np

# What is measured of a box, as cards have it
BANDS = ("0.25-1", "1-2", "2-4", "4-8", "8-16")  # octaves of k [h/Mpc]
HALOS = (32, 100, 300, 1000)  # least particles
HR_HALOS = "HR halos of >= 32, 100, 300, 1000 particles"


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
        Empty lists where the card has no such measurements.
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


def card_rows(card):
    """What a card says in short, a dict: what the model is for, where from and what it is worth."""
    return {
        "for": card.validity,
        "network": f"{card.network}, factor {card.factor}, channels: {card.channels}",
        "trained on": card.simulation,
        "licence": card.licence,
        **summary(card),
        "caution": card.caution.removeprefix("Caution: "),
    }


def summary(card):
    """What a model is worth in a few numbers: a dict of quantity to text, empty if not measured."""
    if card.network == "density":
        return _density(card.evaluation)
    names = {
        "power": "P / P_HR, k = 4-8 h/Mpc",
        "correlation": "r with HR, k = 2-4 h/Mpc",
        "halos": "halos >= 100 particles / HR's",
    }
    return {names[name]: _span(values) for name, values in worth(card).items() if values}


def _density(evaluation):
    found = [box for box in evaluation.values() if isinstance(box, dict) and "correlation" in box]
    if not found:
        return {}
    worst = found[-1]["transfer, largest deviation from 1 to k = 0.80"]["SR"]
    cross = found[-1]["correlation"][evaluation["k"].index(0.8)]
    return {
        "transfer function, k < 0.8 h/Mpc": f"within {worst:.1%} of 1",
        "r with HR, k = 0.8 h/Mpc": f"{cross:.2f}",
    }


def _span(values):
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
