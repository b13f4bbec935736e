"""Export of a checkpoint, or of weights that are there, as weights with a model card."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..io.preflight import WEIGHTS, prepare_output
from ..models.card import ModelCard, build, load_model, save_model
from ..models.card_summary import BFLOAT16, REPORTS, summary
from ..provenance import NAMES
from .checkpoint import CheckpointFolder

# Settings that tell of the machine, not of the model
LOCAL = ("run", "start", "pairs", "triplets", "device", "workers", "log_every", "checkpoints")

DIGITS = 4  # of numbers in a card

log = logging.getLogger("nbodykit_sr.training")


def export(run, path, **description) -> ModelCard:
    """Write the generator of a run's last checkpoint, the average if it has one, as weights.

    Parameters
    ----------
    run : path
        The run's folder.
    path : path
        A ``.safetensors`` file to be made.
    **description
        Entries of the card: name, licence, notes, ...

    Returns
    -------
    ModelCard

    Raises
    ------
    InputError
        If the run has no sound checkpoint, or `path` exists.
    """
    prepare_output(path, None, WEIGHTS)
    step, state = CheckpointFolder(Path(run) / "checkpoints").require()
    card = ModelCard.from_dict({**state["card"], **description})
    settings = {key: value for key, value in state["configuration"].items() if key not in LOCAL}
    training = {**card.training, "steps": step, "configuration": settings}
    card = replace(card, training=training, evaluation=state["evaluation"])
    network = build(card, state["average"] or state["generator"], run)
    save_model(path, network, card)
    log.info("%s: weights of step %d of %s", path, step, run)
    return card


def evaluate(path, documents, changes=None) -> ModelCard:
    """Put what was measured into the card of weights that are there; the rest of it stays.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, written anew.
    documents : list of dict
        See `from_reports`.
    changes : dict of str to float, optional
        Largest relative change of P(k) by bfloat16, by redshift.

    Returns
    -------
    ModelCard

    Raises
    ------
    InputError
        If the file has no sound model, or the documents are not of it.
    """
    network, card = load_model(path)
    found = from_reports(documents, card)
    measured = {REPORTS: found, BFLOAT16: _rounded(changes or {})}
    filled = {name: values for name, values in measured.items() if values}
    card = replace(card, evaluation=card.evaluation | filled)
    save_model(path, network, card)
    worth = "; ".join(f"{quantity} {value}" for quantity, value in summary(card).items())
    log.info("%s: card filled at %s: %s", path, ", ".join(found | (changes or {})), worth)
    return card


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
        For each `case` the boxes, as the last two parts of HR's paths, the number of catalogues,
        the verdicts, the summary, and halos over HR's by their least number of particles.

    Raises
    ------
    InputError
        If a catalogue was made by another model or training, or two reports are of one case.
    """
    found = {}
    for document in documents:
        if {"--only", "--quick"} & set(document["command"].split()):
            raise InputError(
                "a report of a part, or a quick one, says too little: validate in full"
            )
        made = [entry for entry in document["catalogues"] if entry["kind"] == "SR"]
        for catalogue in made:
            path, model = catalogue["path"], catalogue["made"].get(NAMES["card"]) or {}
            if model.get("name") != card.name:
                raise InputError(
                    f"{path} was made by {model.get('name')}, and the card is that of {card.name}"
                )
            if model.get("training") != card.training:
                raise InputError(
                    f"{path} was made by a {card.name} of another training: generate it anew"
                )
        key = case(made[0], card)
        if key in found:
            raise InputError(f"two reports are of {key}: give several boxes to one validate")
        found[key] = _rounded(
            {
                "boxes": [
                    "/".join(Path(entry["path"]).parts[-2:])
                    for entry in document["catalogues"]
                    if entry["kind"] == "HR"
                ],
                "catalogues": len(made),
                "BoxSize": made[0]["BoxSize"],
                "particles": made[0]["particles"],
                "factor": made[0]["made"][NAMES["factor"]],
                "phases": "HR's" if NAMES["initial"] in made[0]["made"] else "drawn",
                "halos over HR's": _halos(document["statistics"]),
                "verdicts": document["verdicts"],
                "summary": {row["quantity"]: row["value"] for row in document["summary"]},
            }
        )
    return found


def at(redshift) -> str:
    """A redshift, as entries of a card are named by it."""
    return f"z = {round(redshift, 2) + 0.0:g}"


def case(catalogue, card) -> str:
    """What a report is of, in words: the redshift, and what else the card leaves open.

    Parameters
    ----------
    catalogue : dict
        An SR catalogue as report.json describes it.
    card : ModelCard
    """
    made = catalogue["made"]
    parts = [at(catalogue["redshift"])]
    if card.cell is None:
        sites = made[NAMES["Nmesh"]] // made[NAMES["factor"]]
        parts.append(f"LR cell {catalogue['BoxSize'] / sites:.4g} Mpc/h")
    if card.Omega_m is None:
        parts.append(f"Omega_m {catalogue['Omega0']:.3g}")
    if made[NAMES["factor"]] != card.factor:
        parts.append(f"factor {made[NAMES['factor']]}")
    if NAMES["initial"] in made:
        parts.append("phases of HR")
    return ", ".join(parts)


def _halos(statistics):
    """Halos of SR over those of HR of the same box, mean over catalogues, by least particles."""
    halos = {kind: [entry["attrs"] for entry in statistics[kind]["halos"]] for kind in ("HR", "SR")}
    counts = {attrs["box"]: attrs["at_least"] for attrs in halos["HR"]}
    found = {}
    for attrs in halos["SR"]:
        for least, number in attrs["at_least"].items():
            there = counts[attrs["box"]].get(least)
            if there:
                found.setdefault(least, []).append(number / there)
    return {least: float(np.mean(ratios)) for least, ratios in found.items()}


def _rounded(value):
    """Plain data with numbers of few digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
