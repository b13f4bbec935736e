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

from .cic import density, mesh_position, read_out
from .configuration import require
from .displacement import DisplacementSystem
from .displacement_configuration import DisplacementConfiguration
from .features import difference, energy_score, log_distance, log_radius, pdf_distance
from .losses import statistics_loss

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

    def open_pairs(self, patterns):
        pairs, factor = super().open_pairs(patterns), self.configuration.score.factor
        # pairs that are there several times are held once
        lower = {pair: coarse(pair, factor) if factor else pair for pair in {*pairs}}
        return [lower[pair] for pair in pairs]

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
        drawn = int(batch["noise"][0])
        unit = batch["unit"].view(-1, 1, 1, 1, 1) * (self.factor / self.cell)
        with torch.no_grad():
            interpolated = unit * batch["interpolated"]
            truth = _Crop(s, unit * batch["hr"], interpolated, batch["rate"], drawn)
        twice = [torch.cat([x, x]) for x in (unit, interpolated, batch["rate"])]
        members = _Crop(s, twice[0] * fields.contiguous(), *twice[1:], drawn)
        loss = 0.0
        for (weight, compare, ours), (_, _, real) in zip(members.features(), truth.features()):
            loss = loss + weight * compare(ours, real)
        if s.spectra:
            loss = loss + s.spectra * statistics_loss(
                list(zip(members.residuals(), truth.residuals())),
                list(zip(members.painted[:2], truth.painted[:2])),
            )
        return loss


class _Crop:
    """Fields of some samples in SR cells, and the features that are scored of them.

    Parameters
    ----------
    score : ScoreTable
    fields, interpolated : (B, C, M, M, M) float tensors [cells]
    rate : (B,) float tensor
        Growth rate.
    drawn : int
        Chooses axes.
    """

    def __init__(self, score, fields, interpolated, rate, drawn):
        self.settings, self.fields, self.interpolated = score, fields, interpolated
        self.rate, self.drawn = rate, drawn
        self.bulk = interpolated.mean((2, 3, 4), keepdim=True)

    def features(self):
        """Yield the weight, how it is compared, and the value (B, ...) of each feature."""
        s, displacement = self.settings, self.fields[:, :3]
        both = self.scaled(self.fields)
        for vector in both.split(3, dim=1):
            yield s.field, energy_score, vector
        for number, lag in enumerate(s.lags):
            axis = (self.drawn + number) % 3
            step = difference(both, lag, axis)
            yield s.difference / lag**0.5, energy_score, step
            yield s.distance, energy_score, log_distance(step, lag, axis)
        self.painted = list(densities(displacement, self.bulk[:, :3].flatten(1), s.meshes))
        yield from self.matter(1.0, displacement, self.bulk[:, :3].flatten(1), self.painted)
        if s.redshift:
            moved, bulk = (
                redshift_space(x, self.rate, self.drawn % 3) for x in (self.fields, self.bulk)
            )
            shift = bulk.flatten(1)
            painted = densities(moved, shift, s.meshes)
            yield from self.matter(s.redshift, moved, shift, list(painted))

    def matter(self, weight, displacement, shift, painted):
        """Features of the distribution of particles in space, less a bulk motion `shift` (B, 3)."""
        s = self.settings
        logs = [torch.log(x + EMPTY) for x in painted]
        for mesh in logs:
            yield weight * s.density / 2, energy_score, mesh
        if s.pdf:
            collapsed = list(collapse(displacement, logs, shift))
            for feature in collapsed:
                yield weight * s.pdf / len(collapsed), pdf_distance, feature

    def residuals(self):
        """What the fields add to interpolated LR: of displacement, and of velocity."""
        return self.scaled(self.fields - self.interpolated).split(3, dim=1)

    def scaled(self, fields):
        """Fields with their velocities, if any, multiplied by the setting."""
        if fields.shape[1] == 3:
            return fields
        return torch.cat([fields[:, :3], self.settings.velocity * fields[:, 3:]], 1)


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
    # what `read_out` wants: the last axis first, and last in memory
    position = position.flip(1).permute(0, 2, 3, 4, 1).contiguous()
    for level, mesh in enumerate(logs[:FINEST]):
        yield read_out(mesh, position, 2 / 2**level)
