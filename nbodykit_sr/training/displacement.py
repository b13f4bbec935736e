"""The displacement generator (Li et al. 2021) as a system for the training loop."""

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..models.blocks import trim
from ..models.card import ModelCard
from ..models.critic import Critic, smallest_input
from ..models.generator import (
    OUTPUT_TRIM,
    PADDING,
    Generator,
    InterpolatingGenerator,
    layer_shapes,
)
from ..noise import site_noise
from ..phases import Phases
from ..physics.background import growth_factor, growth_rate
from ..physics.normalization import Normalization
from ..physics.universe import Universe
from .augmentation import ELEMENTS, periodic_crop, transform
from .cic import density, space_to_depth
from .evaluation import Spectra, figure
from .objectives import Objective
from .octaves import REALISATIONS, Octaves
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
            open_pairs(patterns, g.channels, g.phases) if patterns else []
            for patterns in (where.train, where.held_out)
        )
        first = self.train[0].manifest
        self.factor = first.factor
        self.normalization = Normalization(first.Omega_m, g.length)
        self.crop, self.bulk = configuration.sample.crop, configuration.sample.bulk
        self.octaves = Octaves([*self.train, *self.held_out])
        with torch.device("meta"):
            plain = self._generator()
        self.padding, self.layers, self.octave_layers = (
            plain.padding,
            plain.noise_layers,
            plain.octaves,
        )
        times = sorted({pair.manifest.a for pair in self.train})
        if not g.phases and times[-1] - times[0] >= 0.05 * times[-1]:
            raise InputError(
                f"the pairs have scale factors from {times[0]:.3f} to {times[-1]:.3f}: set "
                "generator.phases = true, or train on one time"
            )
        critic = configuration.critic
        smallest = smallest_input(critic.blocks)
        judged = any(stage.adversarial != "none" for stage in configuration.stage)
        if judged and self.factor * self.crop < smallest:
            raise InputError(
                f"sample.crop is {self.crop}, so {self.factor * self.crop} SR sites: a critic of "
                f"{critic.blocks} blocks needs {smallest}; lower critic.blocks or raise sample.crop"
            )
        self.interpolation = InterpolatingGenerator(g.channels, self.factor)
        self.objective = Objective(configuration.score, 1 / self.factor)

    def networks(self) -> tuple[nn.Module, nn.Module]:
        g, c = self.configuration.generator, self.configuration.critic
        generator = self._generator()
        with torch.no_grad():
            for level in generator.levels:
                level.proj.weight.mul_(g.increments)
                for noise in (level.noise0, level.noise1):
                    noise.std.fill_(g.noise_std)
        densities = c.density_factor**3 + 1 if c.density_factor else 0
        critic = Critic(2 * g.channels + densities, c.blocks, c.chan_base, c.chan_min)
        return generator, critic

    def _generator(self):
        g, manifest = self.configuration.generator, self.train[0].manifest
        sizes = g.channels, self.factor, g.chan_base, g.chan_min, g.chan_max
        unit = manifest.cell if g.phases else self.normalization.displacement(manifest.a)
        return Generator(
            *sizes,
            convex=g.convex,
            spacing=float(manifest.cell / unit),
            gated=g.gated,
            sharp=g.sharp,
            virial=g.virial,
            phases=g.phases,
            context=g.context,
            refined=g.refined,
        )

    def _units(self, manifest):
        """What is 1 to the network in a pair's fields: displacement [Mpc/h], velocity [km/s]."""
        g = self.configuration.generator
        if not g.phases:
            return self.normalization.units(manifest.a, g.channels).astype(np.float32)
        rate = Universe(a=manifest.a, Omega0=manifest.Omega_m).linear_rate
        cell = manifest.cell
        return np.repeat([cell, cell * rate], 3)[: g.channels].astype(np.float32)

    @property
    def samples_per_epoch(self) -> float:
        return sum((pair.manifest.Nmesh / self.crop) ** 3 for pair in self.train)

    def sample(self, rng) -> dict:
        index = int(rng.integers(len(self.train)))
        manifest = self.train[index].manifest
        start = rng.integers(manifest.Nmesh, size=3)
        element = ELEMENTS[rng.integers(len(ELEMENTS))]
        noise = rng.integers(2**62)
        growth = growth_factor(manifest.a, manifest.Omega_m)
        motion = rng.normal(0, self.bulk * growth / self._units(manifest)[0], 3)
        number = int(rng.integers(REALISATIONS))
        return self._cut(index, start, [self.crop] * 3, element, noise, number, motion)

    def _cut(self, index, start, size, element, noise, number=0, motion=(0, 0, 0)):
        """One crop of pair `index`, `size` (3) LR sites from `start` (3) on, normalised, with phases of
        realisation `number` and a bulk `motion` (3) added."""
        channels, factor = self.configuration.generator.channels, self.factor
        pair = [*self.train, *self.held_out][index]
        manifest = pair.manifest
        units = self._units(manifest)
        padded = [n + 2 * self.padding for n in size]
        fields = {
            "lr": periodic_crop(pair.lr[:channels], start - self.padding, padded),
            "hr": periodic_crop(pair.hr[:channels], start * factor, [n * factor for n in size]),
        }
        psi = {}
        if self.octave_layers:
            octaves = self.octaves(index, number)
            for field, (ratio, padding) in zip(octaves, self.octave_layers):
                wanted = [ratio * n + 2 * padding for n in size]
                psi[f"psi{ratio}"] = periodic_crop(field, start * ratio - padding, wanted)
        if element is not None:
            fields = {name: transform(field, element) for name, field in fields.items()}
            psi = {name: transform(field, element) for name, field in psi.items()}
        motion = np.resize(np.asarray(motion, np.float32), channels)[:, None, None, None]
        scaled = {name: x / units[:, None, None, None] + motion for name, x in fields.items()}
        return {
            **scaled,
            **psi,
            "unit": np.float32(units[0] / manifest.cell),
            "rate": np.float32(growth_rate(manifest.a, manifest.Omega_m)),
            "noise": np.int64(noise),
        }

    @torch.no_grad()
    def prepare(self, batch) -> dict:
        c = self.configuration.critic
        interpolated = self._interpolated(batch)
        bulk = interpolated.mean((2, 3, 4))
        batch = {**batch, "interpolated": interpolated, "bulk": bulk}
        if c.density_factor:
            batch["interpolated density"] = self._density(batch, interpolated, 1)
        return batch

    def generate(self, generator, batch, members=1) -> torch.Tensor:
        seeds = torch.cat([batch["noise"] + member for member in range(members)])
        names = ["lr", *(f"psi{ratio}" for ratio, _ in self.octave_layers)]
        inputs = {k: torch.cat([batch[k]] * members) for k in names}
        shapes = layer_shapes(self.layers, [n - 2 * self.padding for n in batch["lr"].shape[2:]])
        noise = [
            seeded_normal(shape, seeds, layer, inputs["lr"].device)
            for layer, shape in enumerate(shapes)
        ]
        *batch["coarser"], fields = self._apply(generator, inputs, noise)
        return fields

    def _apply(self, generator, batch, noise):
        """The fields after every level."""
        last = torch.channels_last_3d
        psi = [batch[f"psi{ratio}"] for ratio, _ in self.octave_layers]
        psi = [field.contiguous(memory_format=last) for field in psi]
        lr = batch["lr"].contiguous(memory_format=last)
        levels = generator(lr, noise, psi, every_level=True)
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
        return torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last_3d)

    def _density(self, batch, fields, factor):
        """1 + delta of fields of a batch, whose bulk motion is taken off."""
        unit = batch["unit"].view(-1, 1, 1, 1, 1)
        shift = batch["unit"].view(-1, 1) * batch["bulk"][:, :3]
        return density(unit * fields[:, :3], 1 / self.factor, factor, shift=shift)

    def _interpolated(self, batch):
        """LR on SR's lattice, normalised."""
        lr = trim(batch["lr"], self.padding - PADDING)
        return trim(self.interpolation(lr), OUTPUT_TRIM)

    def evaluate(self, generator, evaluation, device) -> tuple[dict, Any]:
        if not self.held_out:
            return {}, None
        rng = np.random.default_rng(0)  # the same regions and noise at each evaluation
        sums, squares, slices = {}, [], {}
        for number in range(evaluation.crops):
            index = number % len(self.held_out)
            pair = self.held_out[index]
            size = min(evaluation.sites, pair.manifest.Nmesh)
            start = rng.integers(pair.manifest.Nmesh, size=3)
            index += len(self.train)
            region = self._region(generator, index, start, size, int(rng.integers(2**62)), device)
            periodic = size == pair.manifest.Nmesh
            length = size * pair.manifest.cell
            shift = region["LR"].mean((2, 3, 4))
            painted = {
                name: density(field, 1 / self.factor, 1, periodic, shift)[0, 0]
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
    def _region(self, generator, index, start, size, seed, device):
        """Displacements [LR cells] of a region of `size` LR sites of a pair: dict of (1, 3, M, M, M),
        SR made chunk by chunk with one noise field."""
        pair, factor = self.held_out[index - len(self.train)], self.factor
        whole = torch.empty((2, 1, 3) + (size * factor,) * 3)
        for corner in product(range(0, size, self.crop), repeat=3):
            side = [min(self.crop, size - c) for c in corner]
            first = start + corner
            cut = self._cut(index, first, side, None, 0)
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
                for layer, (refinement, padding) in enumerate(self.layers)
            ]
            where = tuple(
                slice(c * factor, (c + n) * factor) for c, n in zip(corner, side, strict=True)
            )
            interpolated = self._interpolated(batch)
            made = self._apply(generator, batch, noise)[-1], interpolated
            for i, fields in enumerate(made):
                whole[(i, ..., *where)] = (batch["unit"] * fields[:, :3].float()).cpu()
        hr = periodic_crop(pair.hr[:3], start * factor, [size * factor] * 3) / pair.manifest.cell
        return {"SR": whole[0], "LR": whole[1], "HR": torch.from_numpy(hr)[None]}

    def card(self, generator) -> ModelCard:
        first, g = self.train[0].manifest, self.configuration.generator
        redshifts = [1 / pair.manifest.a - 1 for pair in self.train]
        fits = {"cell": first.cell, "Omega_m": first.Omega_m, "length": g.length}
        fits["redshift"] = (min(redshifts), max(redshifts))
        if g.phases:
            fits = {"amplitude": self._amplitudes()}
        return ModelCard(
            name=Path(self.configuration.run).name,
            network="displacement",
            arguments=generator.arguments,
            factor=self.factor,
            channels=g.channels,
            displacement_range=self._displacement_range(),
            simulation=", ".join(sorted({pair.manifest.source for pair in self.train})),
            training={"boxes": dict(Counter(pair.folder.name for pair in self.train))},
            **fits,
        )

    def _amplitudes(self):
        """The smallest and the largest rms of psi in the training pairs [LR cells]."""
        rms = [
            Phases(pair.manifest.lattice, pair.power, self.factor, 0).rms for pair in self.train
        ]  # fmt: skip
        return min(rms), max(rms)

    def _displacement_range(self):
        """Largest LR displacement along an axis in the training pairs, and two widths of the bulk
        motion added [LR cells]."""
        return max(
            float(
                np.abs(pair.lr[:3]).max()
                + 2 * self.bulk * growth_factor(pair.manifest.a, pair.manifest.Omega_m)
            )
            / pair.manifest.cell
            for pair in self.train
        )
