"""What a model card says that the model is worth, from what `validate` found on held-out boxes."""

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..provenance import NAMES

REPORTS = "validate"  # entry of a card's evaluation: what reports found, by redshift
DIGITS = 4  # of numbers in a card


def from_reports(documents: list[dict], card) -> dict:
    """The entry `REPORTS` of the card of a model.

    Parameters
    ----------
    documents : list of dict
        What `validate` wrote as report.json, one for each redshift, with HR.
    card : ModelCard
        Of the model.

    Returns
    -------
    dict of str to dict
        For each redshift the boxes, as the last two parts of HR's paths, the number of catalogues,
        the verdicts, the summary, and halos over HR's by their least number of particles.

    Raises
    ------
    InputError
        If a catalogue was made by another model or training, or two reports are of one redshift.
    """
    found = {}
    for document in documents:
        made = [one for one in document["catalogues"] if one["kind"] == "SR"]
        for one in made:
            told = one["made"].get(NAMES["card"]) or {}
            if told.get("name") != card.name:
                raise InputError(
                    f"{one['path']} was made by {told.get('name')}, and the card is that of {card.name}"
                )
            if told.get("training") != card.training:
                raise InputError(
                    f"{one['path']} was made by a {card.name} of another training: generate it anew"
                )
        key = f"z = {round(made[0]['redshift'], 2) + 0.0:g}"
        if key in found:
            raise InputError(f"two reports are of {key}: give several boxes to one validate")
        found[key] = _rounded(
            {
                "boxes": [
                    "/".join(Path(one["path"]).parts[-2:])
                    for one in document["catalogues"]
                    if one["kind"] == "HR"
                ],
                "catalogues": len(made),
                "BoxSize": made[0]["BoxSize"],
                "particles": made[0]["particles"],
                "halos over HR's": _halos(document["statistics"]),
                "verdicts": document["verdicts"],
                "summary": {row["quantity"]: row["value"] for row in document["summary"]},
            }
        )
    return found


def worth(card) -> dict[str, list[float]]:
    """What a displacement model reaches at each redshift in its card.

    Returns
    -------
    dict of str to list of float
        "power" (over HR's, mean over k = 4-8 h/Mpc), "correlation" (with HR, k = 2-4 h/Mpc) and
        "halos" (of at least 100 particles, over HR's). Empty lists where nothing was measured.
    """
    found = {"power": [], "correlation": [], "halos": []}
    for one in card.evaluation.get(REPORTS, {}).values():
        found["power"].append(_mean(one["verdicts"]["power"], 4, 8))
        found["correlation"].append(_mean(one["verdicts"]["correlation"], 2, 4))
        found["halos"].append(one["halos over HR's"].get("100", np.nan))
    return found


def card_rows(card) -> dict[str, str]:
    """What a card says in short, a dict: what the model is for, where from and what it is worth."""
    return {
        "for": card.validity,
        "network": f"{card.network}, factor {card.factor}, channels: {card.channels}",
        "trained on": card.simulation,
        "licence": card.licence,
        **summary(card),
        "caution": card.caution.removeprefix("Caution: "),
    }


def summary(card) -> dict[str, str]:
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


def _halos(statistics):
    """Halos of SR over those of HR of the same box, mean over catalogues, by least particles."""
    counts = {one["attrs"]["box"]: one["attrs"]["at_least"] for one in statistics["HR"]["halos"]}
    found = {}
    for one in statistics["SR"]["halos"]:
        for least, number in one["attrs"]["at_least"].items():
            there = counts[one["attrs"]["box"]].get(least)
            if there:
                found.setdefault(least, []).append(number / there)
    return {least: float(np.mean(ratios)) for least, ratios in found.items()}


def _mean(verdict, low, high):
    """Mean of a ratio to HR over low <= x < high; NaN where that was not measured."""
    x, deviation = np.array(verdict["x"]), np.array(verdict["deviation"])
    inside = (x >= low) & (x < high)
    return 1 + float(deviation[inside].mean()) if inside.any() else np.nan


def _rounded(value):
    """Plain data with numbers of few digits."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _span(values):
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
