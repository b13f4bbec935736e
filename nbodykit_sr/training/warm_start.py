"""Warm start: first weights of a run from another run or a model."""

import logging
from pathlib import Path

from ..errors import InputError
from ..models.card import ModelCard, load_model
from .checkpoint import CheckpointFolder

log = logging.getLogger("nbodykit_sr.training")


def start_from(path, generator, critic, card) -> None:
    """Give the networks of a new run the weights of another.

    The generator takes the levels that both have: the other may be for a smaller or larger factor.
    The critic takes the other's weights if that was
    trained and has the same shape.

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
    weights, trained, origin = read_weights(Path(path))
    if origin.length != card.length:
        raise InputError(
            f"the weights of {path} have generator.length = {origin.length:g}, this run has "
            f"{card.length:g}: the units must be the same"
        )
    own = generator.state_dict()
    shared = {name: weight for name, weight in weights.items() if name in own}
    for name, weight in shared.items():
        if own[name].shape != weight.shape:
            raise InputError(
                f"the weights of {path} do not fit this generator ({name} has shape "
                f"{tuple(weight.shape)}, not {tuple(own[name].shape)}): keep the other's widths"
            )
    if not shared:
        raise InputError(f"the weights of {path} are for another kind of generator")
    generator.load_state_dict(shared, strict=False)
    own = {name: weight.shape for name, weight in critic.state_dict().items()}
    if {name: weight.shape for name, weight in trained.items()} == own:
        critic.load_state_dict(trained)
        log.info("the critic starts from %s too", path)


def read_weights(path) -> tuple[dict, dict, ModelCard]:
    """Weights of the generator and of the critic ({} if it is not trained), and the card, of a run
    (the averaged generator if it has one) or of a ``.safetensors`` file."""
    if path.suffix == ".safetensors":
        network, card = load_model(path)
        return network.state_dict(), {}, card
    _, state = CheckpointFolder(path / "checkpoints").require()
    card = ModelCard.from_dict(state["card"])
    trained = state["critic"] if state["critic_updates"] else {}
    return state["average"] or state["generator"], trained, card
