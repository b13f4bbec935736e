"""From a checkpoint to weights with their card."""

import logging
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..models.card import ModelCard, build, save_model
from .checkpoint import CheckpointFolder

# Settings that tell of the machine, not of the model
LOCAL = ("run", "start", "pairs", "triplets", "device", "workers", "log_every", "checkpoints")

log = logging.getLogger("nbodykit_sr.training")


def export(run, path, **description):
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
    if Path(path).exists():
        raise InputError(f"{path} exists: remove it or name another file")
    step, state = CheckpointFolder(Path(run) / "checkpoints").require()
    card = ModelCard.from_dict({**state["card"], **description})
    settings = _without(state["configuration"], LOCAL)
    training = {**card.training, "steps": step, "configuration": settings}
    card = replace(card, training=training, evaluation=state["evaluation"])
    network = build(card, state["average"] or state["generator"], run)
    save_model(path, network, card)
    log.info("%s: weights of step %d of %s", path, step, run)
    return card


def _without(table, names):
    """The table, and those in it, without the settings of these names."""
    return {
        key: _without(value, names) if isinstance(value, dict) else value
        for key, value in table.items()
        if key not in names
    }
