"""Loading a displacement generator, whoever trained it."""

from pathlib import Path

from torch import nn

from ..errors import InputError
from .card import ModelCard, load_model
from .map2map import import_checkpoint


def load_generator(path, flavour=None) -> tuple[nn.Module, ModelCard]:
    """Load a displacement generator and its card.

    Parameters
    ----------
    path : str or Path
        A `.safetensors` file of `save_model`, or a public map2map `.pt` checkpoint.
    flavour : {"map2map", "srs"}, optional
        Which code a `.pt` file goes with: SRS-map2map adds the scaled noise twice, and the file
        cannot tell. Needed for `.pt` files, refused for others.

    Returns
    -------
    (generator, ModelCard)
        ``generator(x, noise)`` is a `DisplacementGenerator` or a `StyledGenerator`.

    Raises
    ------
    InputError
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model {path} does not exist: give a .safetensors or .pt file")
    if path.suffix in (".pt", ".pth"):
        return import_checkpoint(path, flavour)
    if flavour is not None:
        raise InputError(
            f"flavour {flavour!r} goes with .pt checkpoints: {path.name} has its own card"
        )
    network, card = load_model(path)
    if not card.moves_particles:
        raise InputError(f"model {path} is a {card.network} network: a displacement one is needed")
    return network, card
