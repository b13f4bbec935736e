"""The shipped models: one ``.safetensors`` file each, with its model card inside.

The card, with training and measured accuracy, good and bad, is part of the
model: ``models.card.read_card(path)`` shows it.
"""

import os
from pathlib import Path

import numpy as np

from ..errors import InputError

FOLDER = Path(__file__).parent


def shipped() -> list[Path]:
    """Paths of the shipped models, sorted by name."""
    return sorted(FOLDER.glob("[!.]*.safetensors"))  # macOS leaves hidden files beside them


def named(model) -> str | Path:
    """The path of a shipped model of this name; other paths unchanged."""
    path = FOLDER / f"{model}.safetensors"
    return path if path in shipped() and not os.path.exists(model) else model


def choose(cell, redshift, channels=None) -> Path:
    """The shipped displacement model that fits a snapshot, or all of several.

    Where several fit, the one for the narrowest range of redshifts is taken.

    Parameters
    ----------
    cell : float
        Spacing of the LR lattice, comoving [Mpc/h].
    redshift : float, or several
    channels : int, optional
        Channels the snapshot has: 3 (displacement) or 6 (and velocity). A model must not need
        more.

    Raises
    ------
    InputError
        If none fits; the message lists the shipped models.
    """
    from ..models.card import read_card

    redshifts, fitting, there = np.ravel(redshift).tolist(), [], []
    for path in shipped():
        card = read_card(path)
        if not card.moves_particles:
            continue
        there.append(f"{card.name} ({card.validity}, {card.channels} channels)")
        apart = any(card.disagreement(cell, z) for z in redshifts)
        if not apart and (channels or 6) >= card.channels:
            low, high = card.redshift or (0.0, float("inf"))
            fitting.append((round(high - low, 4), -card.channels, path))
    if fitting:
        return min(fitting)[-1]
    each = "one for each snapshot, " if len(redshifts) > 1 else ""
    raise InputError(
        f"no shipped model fits an LR cell of {cell:.6g} Mpc/h at redshift "
        f"{', '.join(f'{z:.4g}' for z in redshifts)}"
        f"{f' with {channels} channels' if channels else ''}: there are "
        f"{'; '.join(there) or 'none'}; name your own weights, {each}or the model 'interpolate'"
    )
