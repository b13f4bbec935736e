"""Training the displacement generator by a proper score, without a critic.

The generator makes two fields of each sample, from two noise seeds, and is scored by

    E|f(SR) - f(HR)| - E|f(SR) - f(SR')| / 2,

the energy score (Gneiting & Raftery 2007), which is least when SR is distributed as HR is, given
LR. The features f are what halos and power spectra are made of: displacements and velocities,
their differences between sites, distances of neighbours, and densities. The papers do not do
this. It is steadier than a critic and needs no second network, so it suits small budgets.
"""

from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn import functional as F

from ..models.displacement import InterpolatingGenerator
from .cic import density, mesh_position, read_out
from .configuration import require
from .displacement import DisplacementSystem
from .displacement_configuration import DisplacementConfiguration
from .losses import log_distance, log_radius, statistics_loss

# What `pdf` compares: the radii of cubes of these sides [SR sites], the densities of so many meshes
CUBES = (2, 4, 8)
FINEST = 4
# What keeps the logarithm of a density finite [mean density]
EMPTY = 0.1


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """The features and their weights; lengths are in SR cells.

    Attributes
    ----------
    field : float
        Of the displacement, and of the velocity, at each site.
    difference : float
        Of the differences of both between two sites, as one vector, at each of `lags`.
    distance : float
        Of the log distance of these two particles.
    density : float
        Of the log density on each of `meshes`.
    pdf : float
        Of the one-point distributions in each crop, compared as wholes: of the log density that
        each particle finds on the finest meshes, and of the log rms radius of cubes of sites.
        They tell how much mass has collapsed, and in what portions, wherever that is. Like the
        next one it is no proper score.
    redshift : float
        Times the density and PDF terms once more, in redshift space along a random axis: they tell
        how fast particles of halos move.
    spectra : float
        Of `losses.statistics_loss` of each member, on the meshes of half a cell and one: it sees
        power spectra and one-point distributions by volume directly.
    meshes : int
        How many meshes of the density: of half an SR cell, one, two, four, ...
    lags : tuple of int
        Separations of the sites along an axis [SR sites]; the axis changes from step to step.
    velocity : float
        Velocities are multiplied by this, in units in which linear theory has velocity equal to
        displacement.
    factor : int
        Train for this smaller factor, on HR fields averaged to its lattice, which are held in
        memory; 0 for the pairs' own factor. Steps cost several times less for each halving.
    """

    field: float = 0.3
    difference: float = 0.5
    distance: float = 2.0
    density: float = 3.0
    pdf: float = 0.0
    redshift: float = 0.0
    spectra: float = 0.0
    meshes: int = 4
    lags: tuple[int, ...] = (1, 2, 4, 8)
    velocity: float = 0.5
    factor: int = 0

    def __post_init__(self):
        require(self.meshes > 1, f"score.meshes is {self.meshes}: two or more needed")


@dataclass(frozen=True, kw_only=True)
class ScoreConfiguration(DisplacementConfiguration):
    """A run of the displacement generator by the energy score.

    The stages give it by their `statistics` weight; those with a critic add its loss to it.

    Attributes
    ----------
    score : ScoreTable
    """

    score: ScoreTable = field(default_factory=ScoreTable)

    def __post_init__(self):
        super().__post_init__()
        redshift, channels = self.score.redshift, self.generator.channels
        require(
            not redshift or channels == 6,
            f"score.redshift is {redshift}: velocities are needed for it, set generator.channels = 6",
        )


class ScoreSystem(DisplacementSystem):
    """Super-resolution of displacement and velocity fields by the energy score.

    Parameters
    ----------
    configuration : ScoreConfiguration

    Raises
    ------
    InputError
        If the pairs do not serve the configuration.
    """

    def __init__(self, configuration):
        super().__init__(configuration)
        factor = configuration.score.factor
        if factor:
            # pairs that are there several times are held once
            lower = {pair: coarse(pair, factor) for pair in {*self.train, *self.held_out}}
            self.train = [lower[pair] for pair in self.train]
            self.held_out = [lower[pair] for pair in self.held_out]
            self.factor = factor
            self.interpolation = InterpolatingGenerator(configuration.generator.channels, factor)

    def generate(self, generator, batch):
        """Two members of each sample, one after the other: (2B, C, M, M, M)."""
        twice = {k: torch.cat([batch[k]] * 2) for k in ("lr", "a", "noise")}
        twice["noise"][len(batch["noise"]) :] += 1
        return super().generate(generator, twice)

    def target(self, batch):
        return torch.cat([batch["hr"]] * 2)

    def critic_fields(self, batch, fields):
        """As the paper's, of the first member alone: one field for each sample."""
        return super().critic_fields(batch, fields[: len(batch["lr"])])

    def statistics(self, batch, fields):
        """The energy score of the two members, a scalar."""
        s = self.configuration.score
        unit = batch["unit"].view(-1, 1, 1, 1, 1) * (self.factor / self.cell)
        interpolated = unit * self._interpolated(batch)
        bulk = interpolated.mean((2, 3, 4), keepdim=True).repeat(3, 1, 1, 1, 1)
        fields = torch.cat([fields, batch["hr"]]) * unit.repeat(3, 1, 1, 1, 1)
        displacement, velocity = fields[:, :3], s.velocity * fields[:, 3:]
        loss = s.field * energy_score(displacement)
        if velocity.shape[1]:
            loss = loss + s.field * energy_score(velocity)
        both = torch.cat([displacement, velocity], 1)
        drawn = int(batch["noise"][0])
        for number, lag in enumerate(s.lags):
            axis = (drawn + number) % 3
            size = both.shape[2] - lag
            step = both.narrow(2 + axis, lag, size) - both.narrow(2 + axis, 0, size)
            loss = loss + s.difference * energy_score(step) / lag**0.5
            loss = loss + s.distance * energy_score(log_distance(step[:, :3], lag, axis))
        matter, painted = self._matter(displacement, bulk[:, :3])
        loss = loss + matter
        if s.redshift:
            rate = batch["rate"].repeat(3)
            moved = [redshift_space(x, rate, drawn % 3) for x in (fields, bulk)]
            loss = loss + s.redshift * self._matter(*moved)[0]
        if s.spectra:
            interpolated = interpolated.repeat(3, 1, 1, 1, 1)
            residuals = [displacement - interpolated[:, :3]]
            if velocity.shape[1]:
                residuals.append(velocity - s.velocity * interpolated[:, 3:])
            loss = loss + s.spectra * statistics_loss(
                [members_and_truth(x) for x in residuals],
                [members_and_truth(x) for x in painted[:2]],
            )
        return loss

    def _matter(self, displacement, bulk):
        """What is scored of the distribution of particles in space; and its densities.

        Parameters
        ----------
        displacement : (3B, 3, M, M, M) float tensor [cells]
            Of the members and the truth.
        bulk : (3B, 3, 1, 1, 1) float tensor [cells]
            Their bulk motion, taken off.
        """
        s = self.configuration.score
        shift = bulk.flatten(1)
        painted = list(densities(displacement, shift, s.meshes))
        logs = [torch.log(x + EMPTY) for x in painted]
        loss = s.density / 2 * sum(map(energy_score, logs))
        if s.pdf:
            distances = [pdf_distance(x) for x in collapse(displacement, logs, shift)]
            loss = loss + s.pdf * sum(distances) / len(distances)
        return loss, painted


def redshift_space(fields, rate, axis):
    """Displacements (B, 3, N, N, N) as seen from afar along a lattice axis, of displacements and
    velocities (B, 6, N, N, N) and growth rates (B): see `Normalization` for the units."""
    moved = fields[:, :3].clone()
    moved[:, axis] += rate.view(-1, 1, 1, 1) * fields[:, 3 + axis]
    return moved


def coarse(pair, factor):
    """The pair with its HR field averaged to a lattice `factor` times finer than LR."""
    manifest = pair.manifest
    require(
        factor < manifest.factor and manifest.factor % factor == 0,
        f"score.factor is {factor}: a divisor of the pairs' factor {manifest.factor} needed",
    )
    ratio, size = manifest.factor // factor, factor * manifest.Nmesh
    out = copy(pair)
    out.manifest = replace(manifest, factor=factor)
    out.hr = np.empty((len(pair.hr), size, size, size), np.float32)
    for averaged, channel in zip(out.hr, pair.hr):
        averaged[:] = channel.reshape(size, ratio, size, ratio, size, ratio).mean((1, 3, 5))
    return out


def pdf_distance(fields):
    """Mean Wasserstein distance of the one-point distributions of the members to the truth's, of
    (3B, ...) fields: two members, then the truth."""
    members, truth = members_and_truth(fields.flatten(1).sort(dim=1).values)
    return (members - truth).abs().mean()


def members_and_truth(fields):
    """(2B, ...) members and, twice, the truth, of (3B, ...) fields."""
    one, other, truth = fields.chunk(3)
    return torch.cat([one, other]), torch.cat([truth, truth])


def densities(displacement, shift, meshes):
    """1 + delta on meshes of 1/2, 1, 2, ... cells, of displacements [cells] less `shift` (B, 3)."""
    yield density(displacement, 1.0, 2, shift=shift)
    painted = density(displacement, 1.0, 1, shift=shift)
    yield painted
    for _ in range(meshes - 2):
        painted = F.avg_pool3d(painted, 2)
        yield painted


def collapse(displacement, logs, shift):
    """Log radii of cubes of sites, and log densities at the particles, of displacements [cells]
    with the logs of their `densities`."""
    position = mesh_position(displacement, 1.0, shift=shift)
    for side in CUBES:
        yield log_radius(position, side)
    for level, mesh in enumerate(logs[:FINEST]):
        yield read_out(mesh, (position + 0.5) * (2 / 2**level) - 0.5)


def energy_score(fields, softening=1e-2):
    """The fair energy score of vectors (3B, C, ...): two members, then the truth; a scalar.

    Parameters
    ----------
    fields : (3B, C, N, N, N) float tensor
    softening : float
        Added to the distances in quadrature, so that their gradient is finite.
    """
    one, other, truth = fields.chunk(3)

    def distance(a, b):
        return torch.sqrt((a - b).square().sum(1) + softening**2).mean()

    return (distance(one, truth) + distance(other, truth) - distance(one, other)) / 2
