"""Export of a checkpoint, or of weights that are there, as weights with a model card."""

import logging
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..io.preflight import WEIGHTS, prepare_output
from ..models.card import ModelCard, build, load_model, save_model
from ..models.evaluation import REPORTS, from_reports, summary
from .checkpoint import CheckpointFolder
from .warm_start import read_weights

# Settings that tell of the machine, not of the model
LOCAL = ("run", "start", "pairs", "triplets", "device", "workers", "log_every", "checkpoints")

log = logging.getLogger("nbodykit_sr.training")


def export(run, path, mean_with=(), **description) -> ModelCard:
    """Write the generator of a run's last checkpoint, the average if it has one, as weights.

    Parameters
    ----------
    run : path
        The run's folder.
    path : path
        A ``.safetensors`` file to be made.
    mean_with : sequence of paths, optional
        Other runs, or ``.safetensors`` files, of the same networks: the mean of all is written.
        They may be of other redshifts.
        Where they started from the same weights, or one from the other's, that is often better
        than each (Wortsman et al. 2022, "Model soups"), and it is as fast as one.
    **description
        Entries of the card: name, licence, notes, ...

    Returns
    -------
    ModelCard

    Raises
    ------
    InputError
        If the run has no sound checkpoint, `path` exists, or the others' weights do not match.
    """
    prepare_output(path, None, WEIGHTS)
    step, state = CheckpointFolder(Path(run) / "checkpoints").require()
    card = ModelCard.from_dict({**state["card"], **description})
    weights, other = state["average"] or state["generator"], {}
    if mean_with:
        weights, other = _mean(run, weights, card, mean_with)
    settings = _without(state["configuration"], LOCAL)
    training = {**card.training, "steps": step, "configuration": settings, **other}
    card = replace(card, training=training, evaluation=state["evaluation"])
    network = build(card, weights, run)
    save_model(path, network, card)
    log.info("%s: weights of step %d of %s", path, step, run)
    return card


def evaluate(path, documents) -> ModelCard:
    """Put what `validate` found into the card of weights that are there; the rest of it stays.

    Parameters
    ----------
    path : path
        A ``.safetensors`` file, written anew.
    documents : list of dict
        See `from_reports`.

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
    card = replace(card, evaluation={**card.evaluation, REPORTS: found})
    save_model(path, network, card)
    told = [f"{quantity} {value}" for quantity, value in summary(card).items()]
    log.info("%s: card filled at %s: %s", path, ", ".join(found), "; ".join(told))
    return card


def _mean(run, weights, card, others):
    """The mean of the run's weights and the others', and what the card is to say of these."""
    told, total = [], dict(weights)
    for path in others:
        more, _, origin = read_weights(Path(path))
        if _kind(card) != _kind(origin):
            raise InputError(
                f"the weights of {path} are of another network or length than those of {run}: "
                "a mean needs weights of one kind"
            )
        total = {name: weight + more[name] for name, weight in total.items()}
        told.append({"name": origin.name, **origin.training})
    number = 1 + len(told)
    return {name: weight / number for name, weight in total.items()}, {"mean with": told}


def _kind(card):
    """What weights must share to have a mean. The LR cell in units of the displacement, which
    follows the redshift, is no matter of theirs."""
    return card.network, _without(card.arguments, ("spacing",)), card.length


def _without(table, names):
    """The table, and those in it, without the settings of these names."""
    return {
        key: _without(value, names) if isinstance(value, dict) else value
        for key, value in table.items()
        if key not in names
    }
