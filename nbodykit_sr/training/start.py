"""Starting a run from the weights of another run, or of a model."""

import logging
from pathlib import Path

from ..errors import InputError
from ..models.card import ModelCard, load_model
from .checkpoint import CheckpointFolder

log = logging.getLogger("nbodykit_sr.training")


def start_from(path, generator, critic, card):
    """Give the networks of a new run the weights of another.

    The generator may have more rungs than the other, which keep their first weights, and may be
    styled where the other is plain. The critic keeps its first weights if the other has none of
    its shape.

    Parameters
    ----------
    path : path
        Folder of a run, whose averaged generator is taken if it has one, or a ``.safetensors``
        file with a model card.
    generator, critic : torch.nn.Module
    card : ModelCard
        Of the new run.

    Raises
    ------
    InputError
        If there are no weights, the generator's do not fit, or they were trained in other units.
    """
    weights, judge, origin = _read(Path(path))
    if origin.length != card.length:
        raise InputError(
            f"the weights of {path} have generator.length = {origin.length:g}, this run has "
            f"{card.length:g}: the units must be the same"
        )
    plain = not any(name.startswith("base.") for name in weights)
    target = generator.base if plain and hasattr(generator, "base") else generator
    own = target.state_dict()
    for name, weight in weights.items():
        if name not in own or own[name].shape != weight.shape:
            shape = tuple(own[name].shape) if name in own else "none"
            raise InputError(
                f"the weights of {path} do not fit this generator ({name} has shape "
                f"{tuple(weight.shape)}, not {shape}): keep the widths of the other"
            )
    target.load_state_dict(weights, strict=False)
    own = {name: weight.shape for name, weight in critic.state_dict().items()}
    if {name: weight.shape for name, weight in judge.items()} == own:
        critic.load_state_dict(judge)
    else:
        log.info("the critic starts anew: %s has none of its shape", path)


def _read(path):
    """Weights of a generator and of its critic ({} if there is none), and the card."""
    if path.suffix == ".safetensors":
        network, card = load_model(path)
        return network.state_dict(), {}, card
    _, state = CheckpointFolder(path / "checkpoints").require()
    card = ModelCard.from_dict(state["card"])
    return state["average"] or state["generator"], state["critic"], card
