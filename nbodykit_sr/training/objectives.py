"""What a displacement generator is trained for besides a critic: terms that the stages weigh.

**l2**, the mean squared error, is the papers'. The other two are not.

**score**: the generator makes two fields of each sample, from two noise seeds, and is scored by

    E|f(SR) - f(HR)| - E|f(SR) - f(SR')| / 2,

the energy score (Gneiting & Raftery 2007), which is least when SR is distributed as HR is, given
LR. The features f are what halos and power spectra are made of: displacements and velocities,
their differences between sites, distances of neighbours, and densities. It is steadier than a
critic and needs no second network, so it suits small budgets.

**statistics**: the power spectra of what is added to interpolated LR, and those and the one-point
distributions of the densities, straight from each field.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from .cic import density, mesh_position, read_out
from .configuration import Table, Weight
from .features import (
    difference,
    energy_score,
    log_distance,
    log_radius,
    log_shape,
    pdf_distance,
)
from .losses import statistics_loss

# Weights of the score: of displacement and velocity at each site, of their differences between two sites
# as one vector, of the log distance of these two particles, and of the log density on each mesh
FIELD, DIFFERENCE, DISTANCE, DENSITY = 0.3, 0.5, 2.0, 3.0
# How far apart these sites are, along an axis that changes from step to step [SR sites]
LAGS = (1, 2, 4, 8)
# What `pdf` compares: the radii of cubes of these sides [SR sites], and on how many of the meshes densities
CUBES = (2, 4, 8)
FINEST = 4
# What keeps the logarithm of a density finite [mean density]
EMPTY = 0.1


class EnergyScore(Table):
    """The energy score, and the weights of its terms besides those of the fields and their densities."""

    pdf: Weight = 0.0
    """Of the one-point distributions in each crop, compared as wholes: of the log density that every
    eighth particle finds on the finest meshes, and of the log rms radius of cubes of sites. They tell
    how much mass has collapsed, and in what portions, wherever that is."""
    shape: Weight = 0.0
    """Of the log radii of cubes of sites, three for each: whether what has collapsed is round, and not
    smaller than it should be."""
    redshift: Weight = 0.0
    """Times the density and PDF terms once more, in redshift space along a random axis: they tell how
    fast particles of halos move."""
    levels: Weight = 0.0
    """Times the score of the fields of each coarser level of the generator once more, against averages of
    HR's over blocks of sites, lengths in cells of its lattice. Otherwise the last level alone collapses
    halos, from too far away."""
    meshes: Annotated[int, Field(ge=2)] = 4
    """How many meshes of the density: of half an SR cell, one, two, four, ..."""
    velocity: Weight = 0.5
    """Velocities are multiplied by this, in units in which linear theory has velocity equal to
    displacement."""

    def __call__(self, made, true):
        """The energy score of `Fields` of two members of each sample, a scalar."""
        pairs = zip(self.features(made), self.features(true))
        return sum(weight * compare(ours, real) for (weight, compare, ours), (_, _, real) in pairs)

    def features(self, fields) -> Iterator[tuple[float, Callable, torch.Tensor]]:
        """Yield the weight, how it is compared, and the value (nB, ...) of each feature."""
        both = fields.cells
        drawn = int(fields.batch["noise"][0])  # chooses axes and particles
        if both.shape[1] > 3:
            both = torch.cat([both[:, :3], self.velocity * both[:, 3:]], 1)
        for vector in both.split(3, dim=1):
            yield FIELD, energy_score, vector
        for number, lag in enumerate(LAGS):
            if lag >= both.shape[-1]:
                break
            axis = (drawn + number) % 3
            step = difference(both, lag, axis)
            yield DIFFERENCE / lag**0.5, energy_score, step
            yield DISTANCE, energy_score, log_distance(step, lag, axis)
        if self.shape:
            position = mesh_position(fields.cells[:, :3], 1.0)
            for side in CUBES:
                yield self.shape, energy_score, log_shape(position, side)
        displacement, shift = fields.cells[:, :3], fields.bulk[:, :3]
        yield from self.matter(1.0, displacement, shift, fields.painted, drawn)
        if self.redshift:
            displacement, shift = fields.in_redshift_space(drawn % 3)
            painted = densities(displacement, shift)
            yield from self.matter(self.redshift, displacement, shift, painted, drawn)

    def matter(
        self, weight, displacement, shift, painted, drawn
    ) -> Iterator[tuple[float, Callable, torch.Tensor]]:
        """Features of the distribution of particles in space, less a bulk motion `shift` (nB, 3),
        and of their finest meshes; `drawn` chooses particles."""
        logs = log_densities(painted, self.meshes)
        for mesh in logs:
            yield weight * DENSITY / 2, energy_score, mesh
        if self.pdf:
            position = mesh_position(displacement, 1.0, shift=shift)
            collapsed = list(collapse(position, logs, [drawn >> bit & 1 for bit in range(3)]))
            for feature in collapsed:
                yield weight * self.pdf / len(collapsed), pdf_distance, feature


class Objective:
    """The terms of the loss of fields: `objective(batch, fields, names)`.

    Parameters
    ----------
    score : EnergyScore
    spacing : float
        Of SR sites [Mpc/h].
    """

    def __init__(self, score, spacing):
        self.spacing, self.score = spacing, score
        self.terms = {"l2": l2, "score": self.score_of_levels, "statistics": statistics}

    def members(self, names) -> int:
        """Fields of each sample that the terms `names` compare."""
        return 2 if "score" in names else 1

    def __call__(self, batch, fields, names):
        made, true = (Fields(batch, x, self.spacing) for x in (fields, batch["hr"]))
        return {name: self.terms[name](made, true) for name in names}

    def score_of_levels(self, made, true) -> torch.Tensor:
        """The energy score of the fields and, weighed by `EnergyScore.levels`, of coarser ones."""
        total = self.score(made, true)
        if not self.score.levels:
            return total
        for number, fields in enumerate(reversed(made.batch["coarser"]), 1):
            hr = F.avg_pool3d(made.batch["hr"], 2**number)
            batch, spacing = {**made.batch, "hr": hr}, 2**number * self.spacing
            score = self.score.model_copy(update={"meshes": max(2, self.score.meshes - number)})
            both = (Fields(batch, x.float(), spacing) for x in (fields, hr))
            total = total + self.score.levels * score(*both)
        return total


class Fields:
    """Fields that terms compare, and what several terms make of them.

    Parameters
    ----------
    batch : dict
        Of B samples, as `DisplacementSystem.prepare` gives it.
    fields : (nB, C, M, M, M) float tensor, normalised
        One member of all samples after the other.
    spacing : float
        Of SR sites [Mpc/h].

    Attributes
    ----------
    normalised : (n, B, C, M, M, M) float tensor
    cells : (nB, C, M, M, M) float tensor [SR cells]
    bulk : (nB, C) float tensor [SR cells]
        Bulk motions of the samples.
    """

    def __init__(self, batch, fields, spacing):
        self.batch = batch
        self.normalised = fields.contiguous().unflatten(0, (-1, len(batch["hr"])))
        unit = batch["unit"].view(-1, 1) / spacing
        self.cells = (unit.view(-1, 1, 1, 1, 1) * self.normalised).flatten(0, 1)
        self.bulk = (unit * batch["bulk"]).repeat(len(self.normalised), 1)

    @cached_property
    def painted(self) -> list[torch.Tensor]:
        """`densities` of the fields."""
        return densities(self.cells[:, :3], self.bulk[:, :3])

    def residuals(self) -> tuple[torch.Tensor, ...]:
        """What the fields add to interpolated LR: of displacement, and of velocity."""
        return (self.normalised - self.batch["interpolated"]).flatten(0, 1).split(3, dim=1)

    def in_redshift_space(self, axis) -> tuple[torch.Tensor, torch.Tensor]:
        """Displacements seen along an axis, and their bulk motions (nB, 3) [SR cells]."""
        rate = self.batch["rate"].repeat(len(self.normalised))
        bulk = redshift_space(self.bulk[..., None, None, None], rate, axis)
        return redshift_space(self.cells, rate, axis), bulk.flatten(1)


def l2(made, true) -> torch.Tensor:
    """The mean squared error, in normalised units."""
    return (made.normalised - true.normalised).square().mean()


def statistics(made, true) -> torch.Tensor:
    """The statistics loss, with the densities on meshes of half an SR cell and one."""
    return statistics_loss(
        list(zip(made.residuals(), true.residuals())),
        list(zip(made.painted, true.painted)),
    )


def redshift_space(fields, rate, axis) -> torch.Tensor:
    """Displacements (B, 3, N, N, N) as seen from afar along a lattice axis, of displacements and
    velocities (B, 6, N, N, N) and growth rates (B): see `Normalization` for the units."""
    moved = fields[:, :3].clone()
    moved[:, axis] += rate.view(-1, 1, 1, 1) * fields[:, 3 + axis]
    return moved


def densities(displacement, shift) -> list[torch.Tensor]:
    """1 + delta on meshes of half a cell and one, of displacements [cells] less `shift` (B, 3)."""
    return [density(displacement, 1.0, factor, shift=shift) for factor in (2, 1)]


def log_densities(painted, meshes) -> list[torch.Tensor]:
    """Logs of densities on `meshes` meshes: of those `painted`, and of means of their cells."""
    ladder = [*painted]
    while len(ladder) < meshes:
        ladder.append(F.avg_pool3d(ladder[-1], 2))
    return [torch.log(x + EMPTY) for x in ladder]


def collapse(position, logs, chosen) -> Iterator[torch.Tensor]:
    """Log radii of cubes of sites, and what particles find of `logs` of densities: those at every second
    site along each axis, from site 0 or 1 on as `chosen` (3) says. `position` [cells]."""
    for side in CUBES:
        yield log_radius(position, side)
    i, j, k = chosen
    position = position[..., i::2, j::2, k::2]
    # what `read_out` wants: the last axis first, and last in memory
    position = position.flip(1).permute(0, 2, 3, 4, 1).contiguous()
    for level, mesh in enumerate(logs[:FINEST]):
        yield read_out(mesh, position, 2 / 2**level)
