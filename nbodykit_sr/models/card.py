"""Model cards, and weights with their card inside one safetensors file."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..errors import InputError, one_line
from ..io.atomic import atomic_file, readable
from ..physics.normalization import Normalization
from .card_summary import card_rows, html_table
from .density import DensityEmulator
from .generator import Generator, InterpolatingGenerator

NETWORKS = {
    "displacement": Generator,
    "interpolate": InterpolatingGenerator,
    "density": DensityEmulator,
}

# The largest card that is read; shipped ones have up to 24,000 characters and 6 levels of tables
CARD_SIZE, CARD_DEPTH = 2**20, 20

# How far a snapshot may be from what a card says before that is a disagreement
CELL_TOLERANCE = 0.01
REDSHIFT_TOLERANCE = 0.05
# in Omega0: linear velocities differ by 6% then, and the public weights, trained at 0.2814 with units
# of 0.31, are within it
MATTER_TOLERANCE = 0.1
# in the rms of the phases
AMPLITUDE_TOLERANCE = 0.1


@dataclass(frozen=True)
class ModelCard:
    """Description of a model: its network, what it was trained on and how accurate it is.

    Attributes
    ----------
    name : str
    network : str
        A key of `NETWORKS`.
    arguments : dict
        Constructor arguments of the network.
    factor, channels : int
        Resolution ratio on a side; 3 (displacement) or 6 (displacement, velocity), 1 for density.
    cell : float or None
        Spacing of the LR lattice it was trained at, comoving [Mpc/h]; None: any.
    redshift : (float, float) or None
        Lowest and highest redshift it is for; None: any.
    Omega_m : float or None
        Matter density of the normalisation (see `Normalization`) and of the training runs; a
        snapshot's Omega0 must be near. None: the snapshot's is used.
    length : float
        Unit of displacement at z = 0, comoving [Mpc/h].
    amplitude : (float, float) or None
        Smallest and largest rms of the phases (psi along an axis) that it was trained with [LR cells];
        None for models that are not given them.
    displacement_range : float or None
        Largest displacement from LR seen in training [LR cells]; larger ones are warned of.
    simulation : str
        Code of the training runs: "TreePM", "particle-mesh", ...
    licence : str
    training, evaluation : dict
        Summaries: configuration, boxes, steps; numbers measured on held-out boxes.
    notes : str
    caution : str
        A warning for whoever uses the model: a line.
    """

    name: str
    network: str
    arguments: dict
    factor: int
    channels: int
    cell: float | None = None
    redshift: tuple[float, float] | None = None
    Omega_m: float | None = None
    length: float = 6.0
    amplitude: tuple[float, float] | None = None
    displacement_range: float | None = None
    simulation: str = "unknown"
    licence: str = "unknown"
    training: dict = field(default_factory=dict)
    evaluation: dict = field(default_factory=dict)
    notes: str = ""
    caution: str = ""

    def __post_init__(self):
        if not isinstance(self.network, str) or self.network not in NETWORKS:
            raise InputError(
                f"the card's network is {str(self.network)[:40]!r}: this version knows {sorted(NETWORKS)}"
            )
        if not isinstance(self.arguments, dict):
            raise InputError("the card's network arguments are no table of names and values")
        # it comes to stand in messages and headers
        if not (isinstance(self.name, str) and len(self.name) < 200 and self.name.isprintable()):
            raise InputError(f"the card's name is {str(self.name)[:40]!r}: a short line is needed")
        optional = ("cell", "Omega_m", "displacement_range")
        for name in ("factor", "channels", "length", *optional):
            value = getattr(self, name)
            kind = int if name in ("factor", "channels") else (int, float)
            if name in optional and value is None:
                continue
            if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < 1e6:
                raise InputError(
                    f"the card's {name} is {str(value)[:40]!r}: a positive number is needed"
                )
        for name, least in (("redshift", -1), ("amplitude", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            try:
                low, high = (float(x) for x in value)
                if not least < low <= high < 1e6:
                    raise ValueError
            except (TypeError, ValueError):
                raise InputError(
                    f"the card's {name} is {str(value)[:40]!r}: (lowest, highest) is needed"
                ) from None
            object.__setattr__(self, name, (low, high))
        if not (isinstance(self.caution, str) and (self.caution + " ").isprintable()):
            raise InputError(f"the card's caution is {str(self.caution)[:40]!r}: a line is needed")

    @classmethod
    def from_dict(cls, entries) -> "ModelCard":
        """A card from plain data, see `entries`; unknown ones are refused."""
        known = {f.name for f in fields(cls)}
        if not isinstance(entries, dict) or set(entries) - known:
            raise InputError("the model card has unknown entries: it was made by a newer version")
        try:
            return cls(**entries)
        except TypeError:
            raise InputError(
                "the model card lacks entries: it was not made by save_model"
            ) from None

    def _repr_html_(self):
        return html_table(f"ModelCard: {self.name}", card_rows(self))

    def units(self, universe, cell) -> np.ndarray:
        """Units of the network's fields: displacement [Mpc/h], then velocity [km/s], along each axis.

        `universe` and `cell` [Mpc/h] are those of the snapshot.
        """
        if self.network == "interpolate":
            return np.ones(self.channels)
        if self.amplitude is not None:
            return np.repeat([cell, cell * universe.linear_rate], 3)[: self.channels]
        normalization = Normalization(self.Omega_m or universe.Omega0, self.length, universe.pace)
        return normalization.units(universe.a, self.channels)

    @property
    def moves_particles(self) -> bool:
        """Whether the network gives displacements, not densities."""
        return self.channels in (3, 6)

    @property
    def entries(self) -> dict:
        """The card as plain data, for storage and hash; `from_dict` reads it."""
        return asdict(self)

    @property
    def validity(self) -> str:
        """The snapshots that the model is for, in words."""
        if self.amplitude is not None:
            span = "{:.2g} to {:.2g}".format(*self.amplitude)
            return f"any LR cell, z and cosmology with phases of {span} LR cells rms"
        cell = "any LR cell" if self.cell is None else f"LR cell {self.cell:.6g} Mpc/h"
        if self.redshift is None:
            return f"any z, {cell}"
        low, high = (f"{z:.4g}" for z in self.redshift)
        return f"z = {low if low == high else f'{low} to {high}'}, {cell}"

    def disagreement(self, cell, redshift, Omega0=None, amplitude=None) -> str | None:
        """Why a snapshot of LR spacing `cell` [Mpc/h], `redshift` and `Omega0`, with phases of rms
        `amplitude` [LR cells], does not fit the model; None if it fits."""
        if self.amplitude is not None and amplitude is not None:
            low, high = self.amplitude
            if not low * (1 - AMPLITUDE_TOLERANCE) <= amplitude <= high * (1 + AMPLITUDE_TOLERANCE):
                return (
                    f"the missing initial conditions have an rms displacement of {amplitude:.3g} LR cells "
                    f"but model {self.name} was trained with {low:.2g} to {high:.2g}"
                )
        if self.cell is not None and abs(cell / self.cell - 1) > CELL_TOLERANCE:
            return (
                f"the snapshot's LR cell is {cell:.6g} Mpc/h but model {self.name} was trained "
                f"at {self.cell:.6g} Mpc/h"
            )
        if self.redshift is not None:
            low, high = self.redshift
            if not low - REDSHIFT_TOLERANCE <= redshift <= high + REDSHIFT_TOLERANCE:
                return (
                    f"the snapshot is at redshift {redshift:.4g} but model {self.name} is for "
                    f"{self.validity}"
                )
        if Omega0 is not None and self.Omega_m is not None:
            if abs(Omega0 / self.Omega_m - 1) > MATTER_TOLERANCE:
                return (
                    f"the snapshot's Omega0 is {Omega0:.4g} but model {self.name} is for "
                    f"{self.Omega_m:.4g}, to {MATTER_TOLERANCE:.0%}"
                )
        return None


def save_model(path, network, card) -> None:
    """Write weights and card, with a checksum of both, as one safetensors file.

    InputError if it cannot be written; nothing is left of it then.
    """
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"card": json.dumps(card.entries), "sha256": fingerprint(network, card)}
    # not by save_file: its files are readable by their owner alone, whatever the umask
    try:
        with atomic_file(path) as file:
            file.write(save(state, metadata=metadata))
    except OSError as error:
        raise InputError(
            f"model {path} can't be written ({one_line(error)}): name a file in a folder that is "
            "there, may be written to and has room"
        ) from error


def load_model(path) -> tuple[torch.nn.Module, ModelCard]:
    """Read a file of `save_model`: the network in float32, in evaluation mode, on the CPU, and its card.

    InputError if the file cannot be read, has no card, or holds weights that do not fit its card or
    its checksum.
    """
    with readable(path):
        card = read_card(path)
        try:
            with safe_open(str(path), framework="pt") as file:
                checksum = file.metadata().get("sha256")
                state = {name: file.get_tensor(name).float() for name in file.keys()}
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"model {path} is unreadable: {one_line(error)}") from None
    if checksum not in (None, digest(state, card)):
        raise InputError(f"model {path} does not match its checksum: it was damaged or changed")
    return build(card, state, path), card


def read_card(path) -> ModelCard:
    """The card of a safetensors file, without reading its weights."""
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("card")
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"model {path} is unreadable: {one_line(error)}") from None
    if text is None:
        raise InputError(f"model {path} has no model card: write it with nbodykit_sr's save_model")
    if len(text) > CARD_SIZE:
        raise InputError(
            f"the card of model {path} has {len(text)} characters: at most {CARD_SIZE} are read"
        )
    try:
        entries = json.loads(text)
        nested = _depth(entries)
    except RecursionError:
        nested = CARD_DEPTH + 1
    except ValueError as error:
        raise InputError(f"the card of model {path} is no JSON: {one_line(error)}") from None
    if nested > CARD_DEPTH:
        raise InputError(
            f"the card of model {path} has tables within tables more than {CARD_DEPTH} deep"
        )
    return ModelCard.from_dict(entries)


def _depth(entries):
    """Levels of tables and lists within each other."""
    if not isinstance(entries, dict | list):
        return 0
    inner = entries.values() if isinstance(entries, dict) else entries
    return 1 + max(map(_depth, inner), default=0)


def build(card, state, path) -> torch.nn.Module:
    """The network of a card with a state dict put in, checked for shape and finiteness.

    The network is first laid out without memory, so that a card that lies about its size is
    refused before anything of that size is allocated.
    """
    try:
        with torch.device("meta"):
            network = NETWORKS[card.network](**card.arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"the card of model {path} has bad arguments: {one_line(error)}") from None
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise InputError(
                f"model {path}: weight {name!r} has shape {given.get(name)}, its card wants "
                f"{wanted.get(name)}: the file is damaged or not for this version"
            )
        if not torch.isfinite(state[name]).all():
            raise InputError(f"model {path}: weight {name!r} is not finite: the file is damaged")
    network.load_state_dict(state, assign=True)
    if (card.factor, card.channels) != (network.factor, network.channels):
        raise InputError(
            f"model {path}: its card says factor {card.factor}, {card.channels} channels but the "
            f"network has {network.factor}, {network.channels}: the file is damaged"
        )
    return network.eval().requires_grad_(False)


def fingerprint(network, card) -> str:
    """SHA-256 of weights and card: the model's identity in provenance and on resume."""
    return digest(network.state_dict(), card)


def digest(state, card) -> str:
    """SHA-256 of a state dict and a card."""
    total = hashlib.sha256(json.dumps(card.entries, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def interpolating(channels, factor=8) -> tuple[torch.nn.Module, ModelCard]:
    """The baseline model `interpolate` and its card: no parameters, for any snapshot."""
    network = InterpolatingGenerator(channels, factor).eval()
    card = ModelCard(
        name="interpolate",
        network="interpolate",
        arguments=network.arguments,
        factor=network.factor,
        channels=channels,
        licence="none needed",
        notes="Trilinear interpolation of the displacement: adds no small-scale structure.",
    )
    return network, card
