"""The displacement generator (Li et al. 2021) as a system for the training loop."""

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..models.blocks import trim
from ..models.card import NETWORKS, ModelCard
from ..models.critic import Critic, smallest_input
from ..models.displacement import (
    OUTPUT_TRIM,
    PADDING,
    InterpolatingGenerator,
    noise_layers,
    noise_shapes,
)
from ..noise import site_noise
from ..normalization import Normalization
from ..universe import growth_rate
from .augmentation import ELEMENTS, periodic_crop, transform
from .cic import density, space_to_depth
from .configuration import Configuration, require
from .evaluation import Spectra, figure
from .features import log_distance
from .memory import smaller_settings
from .objectives import Objective
from .pairs import open_pairs
from .samples import seeded_normal


class DisplacementSystem:
    """Super-resolution of displacement and velocity fields, trained on pairs.

    See `System` for the methods.

    Parameters
    ----------
    configuration : DisplacementConfiguration

    Raises
    ------
    InputError
        If the pairs do not serve the configuration.
    """

    def __init__(self, configuration):
        self.configuration = configuration
        g, where = configuration.generator, configuration.pairs
        self.train, self.held_out = (
            open_pairs(patterns, g.channels, where.factor) if patterns else []
            for patterns in (where.train, where.held_out)
        )
        first = self.train[0].manifest
        self.factor, self.cell = first.factor, first.cell
        self.normalization = Normalization(first.Omega_m, g.length)
        self.crop = configuration.sample.crop
        self.bulk = configuration.sample.bulk / g.length
        times = sorted({pair.manifest.a for pair in self.train})
        require(
            g.styled or times[-1] - times[0] < 0.05 * times[-1],
            f"the pairs have scale factors from {times[0]:.3f} to {times[-1]:.3f}: set "
            "generator.styled = true, or train on one time",
        )
        critic = configuration.critic
        smallest = smallest_input(critic.blocks)
        require(
            self.factor * self.crop >= smallest
            or all(stage.adversarial == "none" for stage in configuration.stage),
            f"sample.crop is {self.crop}, so {self.factor * self.crop} SR sites: a critic of "
            f"{critic.blocks} blocks needs {smallest}; lower critic.blocks or raise sample.crop",
        )
        self.interpolation = InterpolatingGenerator(g.channels, self.factor)
        self.objective = Objective(configuration.score, self.cell / self.factor)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        g, c = self.configuration.generator, self.configuration.critic
        generator = self._generator()
        with torch.no_grad():
            for level in generator.levels:
                for noise in (level.noise0, level.noise1):
                    noise.std.fill_(g.noise_std)
        densities = c.density_factor**3 + 1 if c.density_factor else 0
        seen = 2 * g.channels + densities + 3 * c.distances + g.styled
        critic = Critic(seen, c.blocks, c.chan_base, c.chan_min, c.chan_max)
        return generator, critic

    def _generator(self):
        g, manifest = self.configuration.generator, self.train[0].manifest
        network = NETWORKS[self._network_name]
        options = {}
        if g.convex:
            unit = g.length if g.styled else self.normalization.displacement(manifest.a)
            options = {"spacing": float(self.cell / unit), "mixed": g.convex, "gated": g.gated}
            if g.styled:
                options["Omega_m"] = manifest.Omega_m
        return network(g.channels, self.factor, g.chan_base, g.chan_min, g.chan_max, **options)

    @property
    def _network_name(self):
        """Its key in `NETWORKS`."""
        g = self.configuration.generator
        return "styled " * g.styled + "convex " * (g.convex > 0) + "displacement"

    @property
    def samples_per_epoch(self) -> float:
        return sum((pair.manifest.Nmesh / self.crop) ** 3 for pair in self.train)

    def sample(self, rng) -> dict:
        pair = self.train[rng.integers(len(self.train))]
        start = rng.integers(pair.manifest.Nmesh, size=3)
        element = ELEMENTS[rng.integers(len(ELEMENTS))]
        noise = rng.integers(2**62)
        motion = rng.normal(0, self.bulk, 3)
        return self._cut(pair, start, [self.crop] * 3, element, noise, motion)

    def _cut(self, pair, start, size, element, noise, motion=(0, 0, 0)):
        """One crop of a pair, `size` (3) LR sites from `start` (3) on, normalised, with a bulk
        `motion` (3) added."""
        channels, factor = self.configuration.generator.channels, self.factor
        a = pair.manifest.a
        units = self.normalization.units(a, channels).astype(np.float32)
        lr = periodic_crop(pair.lr[:channels], start - PADDING, [n + 2 * PADDING for n in size])
        hr = periodic_crop(pair.hr[:channels], start * factor, [n * factor for n in size])
        if element is not None:
            lr, hr = transform(lr, element), transform(hr, element)
        motion = np.resize(np.asarray(motion, np.float32), channels)[:, None, None, None]
        return {
            "lr": lr / units[:, None, None, None] + motion,
            "hr": hr / units[:, None, None, None] + motion,
            "a": np.float32(a),
            "unit": np.float32(units[0]),
            "rate": np.float32(growth_rate(a, pair.manifest.Omega_m)),
            "noise": np.int64(noise),
        }

    @torch.no_grad()
    def prepare(self, batch) -> dict:
        c = self.configuration.critic
        interpolated = trim(self.interpolation(batch["lr"]), OUTPUT_TRIM)
        bulk = interpolated.mean((2, 3, 4))
        batch = {**batch, "interpolated": interpolated, "bulk": bulk}
        if c.density_factor:
            batch["interpolated density"] = self._density(batch, interpolated, 1)
        return batch

    def generate(self, generator, batch, members=1) -> torch.Tensor:
        seeds = torch.cat([batch["noise"] + member for member in range(members)])
        inputs = {k: torch.cat([batch[k]] * members) for k in ("lr", "a")}
        shapes = noise_shapes(self.factor, inputs["lr"].shape[2:])
        noise = [
            seeded_normal(shape, seeds, layer, inputs["lr"].device)
            for layer, shape in enumerate(shapes)
        ]
        *batch["coarser"], fields = self._apply(generator, inputs, noise)
        return fields

    def _apply(self, generator, batch, noise):
        """The fields after every level."""
        style = (batch["a"],) if self.configuration.generator.styled else ()
        lr = batch["lr"].contiguous(memory_format=torch.channels_last_3d)
        levels = generator(lr, noise, *style, every_level=True)
        return [trim(fields, OUTPUT_TRIM) for fields in levels]

    def critic_fields(self, batch, fields) -> torch.Tensor:
        c = self.configuration.critic
        parts = [fields, batch["interpolated"]]
        if c.density_factor:
            painted = space_to_depth(
                self._density(batch, fields, c.density_factor), c.density_factor
            )
            painted = torch.cat([painted, batch["interpolated density"]], 1)
            parts.append(torch.log1p(painted) if c.log_density else painted)
        if c.distances:
            unit = batch["unit"].view(-1, 1, 1, 1, 1) * (self.factor / self.cell)
            parts.append(log_distances(unit * fields[:, :3]))
        if self.configuration.generator.styled:
            style = batch["a"].view(-1, 1, 1, 1, 1) - 0.5
            parts.append(style.expand(-1, 1, *fields.shape[2:]))
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last_3d)

    def _density(self, batch, fields, factor):
        """1 + delta of fields of a batch, whose bulk motion is taken off."""
        unit = batch["unit"].view(-1, 1, 1, 1, 1)
        shift = batch["unit"].view(-1, 1) * batch["bulk"][:, :3]
        return density(unit * fields[:, :3], self.cell / self.factor, factor, shift=shift)

    def evaluate(self, generator, evaluation, device) -> tuple[dict, Any]:
        if not self.held_out:
            return {}, None
        rng = np.random.default_rng(0)  # the same regions and noise at each evaluation
        sums, squares, slices = {}, [], {}
        for number in range(evaluation.crops):
            pair = self.held_out[number % len(self.held_out)]
            size = min(evaluation.sites, pair.manifest.Nmesh)
            start = rng.integers(pair.manifest.Nmesh, size=3)
            region = self._region(generator, pair, start, size, int(rng.integers(2**62)), device)
            periodic = size == pair.manifest.Nmesh
            length = size * self.cell
            shift = region["LR"].mean((2, 3, 4))
            painted = {
                name: density(field, self.cell / self.factor, 1, periodic, shift)[0, 0]
                for name, field in region.items()
            }
            for name in ("SR", "LR"):
                s = Spectra.of(painted[name], painted["HR"], length, periodic)
                sums[name] = sums[name] + s if name in sums else s
            squares.append(float((region["SR"] - region["HR"]).square().mean()))
            if number == 0:
                depth = max(1, painted["HR"].shape[0] // 8)
                slices = {name: painted[name][:, :, :depth].mean(2) for name in ("LR", "SR", "HR")}
        metrics = sums["SR"].summary()
        metrics["power error of LR"] = sums["LR"].summary()["power error"]
        metrics["rms difference"] = float(np.sqrt(np.mean(squares)))
        return metrics, figure(slices, sums)

    @torch.no_grad()
    def _region(self, generator, pair, start, size, seed, device):
        """Displacements [Mpc/h] of a region of `size` LR sites: dict of (1, 3, M, M, M), SR made
        chunk by chunk with one noise field."""
        factor = self.factor
        whole = torch.empty((2, 1, 3) + (size * factor,) * 3)
        for corner in product(range(0, size, self.crop), repeat=3):
            side = [min(self.crop, size - c) for c in corner]
            first = start + corner
            cut = self._cut(pair, first, side, None, 0)
            batch = {k: torch.from_numpy(np.asarray(v))[None].to(device) for k, v in cut.items()}
            noise = [
                site_noise(
                    seed,
                    layer,
                    [int(refinement * s) - padding for s in first],
                    [refinement * n + 2 * padding for n in side],
                    pair.manifest.Nmesh * refinement,
                    device,
                )[None, None]
                for layer, (refinement, padding) in enumerate(noise_layers(factor))
            ]
            where = tuple(
                slice(c * factor, (c + n) * factor) for c, n in zip(corner, side, strict=True)
            )
            interpolated = trim(self.interpolation(batch["lr"]), OUTPUT_TRIM)
            made = self._apply(generator, batch, noise)[-1], interpolated
            for i, fields in enumerate(made):
                whole[(i, ..., *where)] = (batch["unit"] * fields[:, :3].float()).cpu()
        hr = periodic_crop(pair.hr[:3], start * factor, [size * factor] * 3)
        return {"SR": whole[0], "LR": whole[1], "HR": torch.from_numpy(hr)[None]}

    def smaller(self) -> Iterator[tuple[str, Configuration]]:
        c = self.configuration
        least = 1
        if any(stage.adversarial != "none" for stage in c.stage):
            least = -(-smallest_input(c.critic.blocks) // self.factor)
        base = c.generator.chan_base
        return smaller_settings(
            c,
            [
                ("sample", "crop", range(self.crop - 1, least - 1, -1)),
                ("generator", "chan_base", [base >> n for n in range(1, 6)]),
            ],
        )

    def card(self, generator) -> ModelCard:
        first = self.train[0].manifest
        redshifts = [1 / pair.manifest.a - 1 for pair in self.train]
        return ModelCard(
            name=Path(self.configuration.run).name,
            network=self._network_name,
            arguments=generator.arguments,
            factor=self.factor,
            channels=self.configuration.generator.channels,
            cell=self.cell,
            redshift=(min(redshifts), max(redshifts)),
            Omega_m=first.Omega_m,
            length=self.configuration.generator.length,
            displacement_range=self._displacement_range(),
            simulation=", ".join(sorted({pair.manifest.source for pair in self.train})),
            training={"boxes": dict(Counter(pair.folder.name for pair in self.train))},
        )

    def _displacement_range(self):
        """Largest LR displacement along an axis in the training pairs, and two widths of the bulk
        motion added [LR cells]."""
        largest = max(
            np.abs(pair.lr[:3]).max()
            + 2 * self.bulk * self.normalization.displacement(pair.manifest.a)
            for pair in self.train
        )
        return float(largest / self.cell)


def log_distances(displacement) -> torch.Tensor:
    """Log distances to the next site along each axis, zero where there is none.

    Parameters
    ----------
    displacement : (B, 3, N, N, N) float tensor [cells]

    Returns
    -------
    (B, 3, N, N, N) float tensor
    """
    parts = []
    for axis in range(3):
        distance = log_distance(displacement.diff(dim=2 + axis), 1, axis)
        end = [0] * 6  # what to add before and after, last axis first
        end[2 * (2 - axis) + 1] = 1
        parts.append(F.pad(distance, end))
    return torch.cat(parts, 1)
