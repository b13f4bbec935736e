"""A model prepared for a snapshot: loaded, checked against it, with its units and phases."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource

from .domain import node_ranks
from .errors import InputError, agreement, require_same
from .inference import ChunkedInference, prepare, widest_side
from .initial_conditions import OwnPhases
from .models.card import ModelCard, fingerprint, interpolating
from .models.card_summary import SMALL_CHANGE, bfloat16_change
from .models.device import choose_device, computes_bfloat16
from .models.loading import load_generator
from .phases import Phases
from .physics.power import LinearPower, linear_power
from .weights import choose, named

logger = logging.getLogger(__name__)

# The dtype that is bfloat16 or float32, whichever suits machine and model
AUTO = "auto"


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is to be run: see `SRCatalog`, whose arguments these are."""

    model: str | None = None
    flavour: str | None = None
    factor: int | None = None
    device: str = "auto"
    dtype: str = AUTO
    force: bool = False
    phases: CatalogSource | None = None
    power: str | None = None
    sigma8: float | None = None
    n_s: float | None = None

    @property
    def about_phases(self) -> list[str]:
        """Names of the given options that only models with phases take."""
        names = ("phases", "power", "sigma8", "n_s")
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True)
class PreparedModel:
    """A model at a snapshot's redshift and in its units, on this rank's device."""

    card: ModelCard
    hash: str  # SHA-256 of weights and card
    generator: torch.nn.Module
    units: np.ndarray  # (C,), of the network's fields: displacement [Mpc/h], velocity [km/s]
    device: torch.device
    dtype: str  # number format of the generator
    widest: int  # largest chunk side worth choosing [LR sites]
    power: LinearPower | None  # that the phases are drawn from, for models that take phases
    phases: Phases | None  # those of seed 0

    def inference(self, particles, grid, seed, initial) -> ChunkedInference:
        """Everything that defines the SR universe but the LR field. Collective.

        `initial` are initial conditions whose phases are taken; None: they are drawn.
        """
        lattice, device = particles.lattice, self.device
        phases: Phases | OwnPhases | None = None
        if self.phases is not None:
            phases = replace(self.phases, seed=seed)
            if initial is not None:
                layers, power = self.generator.octaves, self.phases.power
                phases = OwnPhases.of(initial, particles, grid, layers, power, seed, device)
        return ChunkedInference(
            self.generator, self.card.factor, lattice, self.units, seed, device, phases
        )


def prepare_model(particles, options) -> PreparedModel:
    """Load a model, check its card against a snapshot and prepare its network. Collective.

    Raises
    ------
    InputError
        On every rank, if the model does not fit the snapshot, or options do not fit the model.
    """
    comm, universe, cell = particles.catalog.comm, particles.universe, particles.lattice.cell
    node = node_ranks(comm)
    with agreement(comm):
        channels = 6 if "Velocity" in particles.catalog.columns else 3
        network, card = load_model(options, cell, universe.redshift, channels)
        if card.amplitude is None and options.about_phases:
            raise InputError(
                f"{', '.join(options.about_phases)} go with models that are given the phases of the "
                f"initial conditions, and {card.name} is not: leave them out, or choose another model"
            )
        if card.amplitude is not None and options.factor not in (None, card.factor):
            network = network.coarser(options.factor)
            card = replace(card, factor=options.factor, arguments=network.arguments)
        _check_fit(card, particles, channels, options)
        device = choose_device(options.device, *node)
    dtype = _choose_dtype(card, device, comm) if options.dtype == AUTO else options.dtype
    with agreement(comm):
        generator = prepare(network, device, dtype)
        widest = widest_side(generator, device)
        identity = fingerprint(network, card)
    require_same(comm, model=identity, device=device.type)
    power = phases = None
    if card.amplitude is not None:
        power = linear_power(particles, options.power, options.sigma8, options.n_s, options.force)
        phases = Phases(particles.lattice, _power_now(power, particles), card.factor, 0, device)
        _check_amplitude(card, power, phases, particles, options.force)
    if card.caution and comm.rank == 0:
        logger.warning("%s: %s", card.name, card.caution)
    units, widest = card.units(universe, cell), comm.allreduce(widest, MPI.MIN)
    return PreparedModel(card, identity, generator, units, device, dtype, widest, power, phases)


def load_model(options, cell, redshift, channels) -> tuple[Any, ModelCard]:
    """The network and card that a user's options stand for, for a snapshot of this LR cell [Mpc/h], redshift
    and number of channels, 3 or 6 with velocities."""
    model, flavour = options.model, options.flavour
    interpolate = str(model) == "interpolate"
    if (model is None or interpolate) and flavour is not None:
        raise InputError(f"flavour {flavour!r} goes with a .pt checkpoint: name it")
    if interpolate:
        return interpolating(channels, 8 if options.factor is None else options.factor)
    model = choose(cell, redshift, channels) if model is None else named(model)
    return load_generator(model, flavour)


def _check_fit(card, particles, channels, options):
    universe = particles.universe
    problem = card.disagreement(particles.lattice.cell, universe.redshift, universe.Omega0)
    if options.factor not in (None, card.factor):
        problem = (
            f"factor {options.factor} was asked for but model {card.name} has factor {card.factor}"
        )
    if card.channels > channels:
        raise InputError(
            f"model {card.name} has 6 channels but the snapshot has no Velocity, so 3: use a 3-channel model"
        )
    _object(problem, options.force, particles)


def bfloat16_everywhere(device, comm) -> bool:
    """Whether all ranks, each on its device, have instructions for bfloat16. Collective."""
    return comm.allreduce(computes_bfloat16(device), MPI.LAND)


def _choose_dtype(card, device, comm):
    """bfloat16 where all ranks have instructions for it and the card says that P(k) stays; or float32.
    Collective."""
    change, there = bfloat16_change(card), bfloat16_everywhere(device, comm)
    small = change is not None and change <= SMALL_CHANGE
    dtype = "bfloat16" if there and small else "float32"
    if comm.rank == 0:
        logger.info(
            "%s is computed in %s: this machine has %sinstructions for bfloat16, which changes P(k) by %s",
            *(card.name, dtype, "" if there else "no "),
            "an amount that nobody measured" if change is None else f"up to {change:.2g}",
        )
    return dtype


def _check_amplitude(card, power, phases, particles, force):
    """Check the rms of psi against the model card. Collective."""
    lattice, comm, rms = particles.lattice, particles.catalog.comm, phases.rms
    if comm.rank == 0:
        logger.info("linear power: %s; phases of %.3g LR cells rms", power.source, rms)
    with agreement(comm):
        problem = card.disagreement(lattice.cell, particles.universe.redshift, amplitude=rms)
        _object(problem, force, particles)


def _power_now(power, particles):
    """The linear power spectrum at the time of a snapshot, a function of k [h/Mpc]."""
    growth = particles.universe.growth
    return lambda k: power(k) * growth**2


def _object(problem, force, particles):
    if problem and not force:
        raise InputError(f"{problem}: choose a model that fits, or force it")
    if problem and particles.catalog.comm.rank == 0:
        logger.warning("%s: going on as forced", problem)
