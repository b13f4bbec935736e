"""Loading a displacement generator, whoever trained it."""

from pathlib import Path

from torch import nn

from ..errors import InputError
from ..io.atomic import readable
from .card import ModelCard, load_model
from .map2map import import_checkpoint


def model_file(path, *endings) -> Path:
    """The path of a model's file; InputError if it does not exist or is a folder, naming a model in it."""
    path, wanted = Path(path), " or ".join(endings)
    if path.is_dir():
        inside = sorted(file.name for end in endings for file in path.glob(f"[!.]*{end}"))
        held = f"one in it, such as {inside[0]}" if inside else f"a {wanted} file"
        raise InputError(f"model {path} is a folder: give {held}")
    if not path.is_file():
        raise InputError(f"model {path} does not exist: give a {wanted} file")
    return path


def load_generator(path, flavour=None) -> tuple[nn.Module, ModelCard]:
    """Load a displacement generator and its card.

    Parameters
    ----------
    path : str or Path
        A `.safetensors` file of `save_model`, or a public map2map `.pt` checkpoint.
    flavour : {"map2map", "srs"}, optional
        Code that a `.pt` file comes from: SRS-map2map adds the scaled noise twice, which the file
        does not show. Needed for `.pt` files, refused for others.

    Returns
    -------
    (generator, ModelCard)
        ``generator(x, noise)`` is a `Generator`.
    """
    with readable(path):
        return _load(model_file(path, ".safetensors", ".pt"), flavour)


def _load(path, flavour):
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
