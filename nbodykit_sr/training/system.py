"""What the training loop asks of a system: the displacement GAN and the density GAN are two."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from ..models.card import ModelCard
from .configuration import Configuration


class System(Protocol):
    """A generator, its critic, and where their samples come from.

    The loop owns optimisation, schedule, checkpoints and logs, and knows of fields only what
    these methods tell. A batch is a dict of tensors, samples along the first axis, on the device.

    Attributes
    ----------
    configuration : Configuration
    objective : callable
        ``objective(batch, fields, names)`` gives those terms of the loss of generated fields that
        are named, a dict of scalars; ``objective.members(names)`` how many fields of each sample
        they want.
    """

    configuration: Configuration
    objective: Callable

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """(generator, critic), on the CPU; their first weights come from torch's random state."""

    @property
    def samples_per_epoch(self) -> float:
        """Crops that fill the training boxes once: float."""

    def sample(self, rng) -> dict:
        """One training sample, all of it drawn from `rng` (numpy.random.Generator).

        Returns a dict of numpy arrays and scalars, without batch axis: "hr" are the true
        fields (C, M, M, M); a scalar int64 "noise" seeds what the generator draws. Called from
        threads.
        """

    def prepare(self, batch) -> dict:
        """The batch, with what several of the methods below derive from it."""

    def generate(self, generator, batch, members=1) -> torch.Tensor:
        """Fields (nB, C, M, M, M) that `generator` (perhaps wrapped) makes of a batch: n members of
        each sample, one member of all after the other. What else the objective needs of them goes
        into the batch."""

    def critic_fields(self, batch, fields) -> torch.Tensor:
        """What the critic sees of generated or true `fields`: (B, C', M, M, M), differentiable."""

    def evaluate(self, generator, evaluation, device) -> tuple[dict, Any]:
        """Compare held-out fields: (dict of floats, matplotlib figure or None)."""

    def card(self, generator) -> ModelCard:
        """The ModelCard of the generator; `export` fills in training and evaluation."""
