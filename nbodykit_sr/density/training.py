"""The density emulator (Kodi Ramanah et al. 2020) as a system for the training loop."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from ..models.blocks import trim
from ..models.card import ModelCard
from ..models.density import PADDING, PADDING_HR, DensityCritic, DensityEmulator
from ..training.augmentation import ELEMENTS, periodic_crop, transform
from ..training.configuration import Configuration, Count, Decay, Stage, Table, Weight
from ..training.evaluation import Spectra, figure
from ..training.losses import shell_power, squared_difference
from .moved import LENGTHS
from .triplets import open_triplets

# Section 3.3: half a million updates, ten of the critic for each
PAPER_STAGES = (
    Stage(
        name="WGAN-GP",
        steps=500_000,
        adversarial="wasserstein",
        learning_rate=1e-4,
        critic_steps=10,
        penalty=10.0,
        penalty_every=1,
        batch_doubles_every=100_000,
    ),
)


# The statistics loss, which the paper does not have: weights of its terms
STATISTICS = {"power": 4.0, "residual": 0.5, "mean": 100.0, "log_density": 0.3, "pdf": 1.0}
# What keeps the logarithm of a density finite [mean density]
EMPTY = 0.05


class TripletsTable(Table):
    """Where the fields are."""

    train: tuple[str, ...]
    """Glob patterns of triplet folders."""
    held_out: tuple[str, ...] = ()
    """The same of triplets that are not trained on."""
    held_out_part: Decay = 0.25
    """Part of each training box, along x from its end, that is not trained on; what is evaluated on if
    no whole box is held out."""


class SampleTable(Table):
    """The sub-volumes; each is turned into one of its 48 orientations."""

    size: Annotated[int, Field(ge=16)] = 20
    """LR cells on a side, padding included: 20 makes 28 HR cells, and 16 the 20 that the critic needs."""


class EmulatorTable(Table):
    """The emulator, see `DensityEmulator`."""

    filters: Count = 6
    """Of each convolution."""
    initial_kmin: Weight = 0.0
    """Modes of the initial conditions below this wavenumber [h/Mpc] are taken out; 0 keeps all."""
    moved: bool = False
    """The network is also given the initial conditions moved with the particles of LR (not in the paper)."""


class DensityConfiguration(Configuration):
    """A run of the density emulator; the defaults are those of Kodi Ramanah et al. 2020."""

    triplets: TripletsTable
    system: str = "density"
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    stage: Annotated[tuple[Stage, ...], Field(min_length=1)] = PAPER_STAGES
    sample: SampleTable = SampleTable()
    emulator: EmulatorTable = EmulatorTable()

    @model_validator(mode="after")
    def _has_no_score(self):
        if any(stage.score for stage in self.stage):
            raise ValueError(
                "score is set in a stage: the density emulator draws nothing, set statistics instead"
            )
        return self


def statistics(fields, real) -> torch.Tensor:
    """The statistics loss of densities (B, 1, M, M, M), a scalar: squared differences of log power in
    shells of k, of the mean, of log(`EMPTY` + density) cell by cell and of its sorted values, and the
    power of the difference over HR's in shells of k, so that all scales count alike."""
    power = shell_power(real) + 1e-10
    log_made, log_real = torch.log(EMPTY + fields), torch.log(EMPTY + real)
    terms = {
        "power": ((shell_power(fields) + 1e-10) / power).log().square(),
        "residual": shell_power(fields - real) / power,
        "mean": (fields - real).mean((1, 2, 3, 4)).square(),
        "log_density": (log_made - log_real).square(),
        "pdf": (log_made.flatten(1).sort().values - log_real.flatten(1).sort().values).square(),
    }
    return sum(STATISTICS[name] * term.mean() for name, term in terms.items())


class DensityObjective:
    """The terms of the loss of densities, see `System`; one of each sample, as nothing is drawn."""

    terms = {"l2": squared_difference, "statistics": statistics}

    def members(self, names) -> int:
        return 1

    def __call__(self, batch, fields, names):
        return {name: self.terms[name](fields, batch["hr"]) for name in names}


class DensitySystem:
    """Super-resolution of densities with the initial conditions known, trained on triplets.

    See `System` for the methods.

    Raises
    ------
    InputError
        If the triplets do not serve the configuration.
    """

    def __init__(self, configuration):
        self.configuration = configuration
        self.objective = DensityObjective()
        where = configuration.triplets
        self.train = open_triplets(where.train)
        self.held_out = open_triplets(where.held_out) if where.held_out else []
        kmin = configuration.emulator.initial_kmin
        self.initial = {t.folder: t.small_scales(kmin) for t in self.train + self.held_out}
        if configuration.emulator.moved:
            for t in self.train + self.held_out:
                self.initial[t.folder] = np.concatenate([self.initial[t.folder], t.moved])
        for triplet in self.train:
            if self._rows(triplet) < configuration.sample.size:
                raise InputError(
                    f"{triplet.folder} has {self._rows(triplet)} LR cells along x to train on: lower "
                    f"sample.size ({configuration.sample.size}) or triplets.held_out_part"
                )

    def _rows(self, triplet):
        """LR cells along x that are trained on."""
        return round(triplet.manifest.Nmesh * (1 - self.configuration.triplets.held_out_part))

    def networks(self) -> tuple[nn.Module, nn.Module]:
        e, size = self.configuration.emulator, self.configuration.sample.size
        critic = DensityCritic(2 * size - 2 * PADDING_HR)
        return DensityEmulator(e.filters, e.initial_kmin, LENGTHS if e.moved else ()), critic

    @property
    def samples_per_epoch(self) -> float:
        inner = self.configuration.sample.size - 2 * PADDING
        return sum(self._rows(t) * t.manifest.Nmesh**2 / inner**3 for t in self.train)

    def sample(self, rng) -> dict:
        triplet = self.train[rng.integers(len(self.train))]
        size, N, rows = self.configuration.sample.size, triplet.manifest.Nmesh, self._rows(triplet)
        # where nothing is held out a sub-volume may reach over the edge
        first = rng.integers(N if rows == N else rows - size + 1)
        start = np.array([first, *rng.integers(N, size=2)])
        sample = self._cut(triplet, start, [size] * 3)
        element = ELEMENTS[rng.integers(len(ELEMENTS))]
        for name, scalars in sample.items():
            sample[name] = np.concatenate([transform(one[None], element) for one in scalars])
        return {**sample, "noise": np.int64(rng.integers(2**62))}

    def _cut(self, triplet, start, size):
        """A sub-volume of `size` (3) LR cells from `start` (3) on, and the HR cells within."""
        fine = [2 * n for n in size]
        core = [n - 2 * PADDING_HR for n in fine]
        return {
            "lr": periodic_crop(triplet.lr, start, size),
            "initial": periodic_crop(self.initial[triplet.folder], 2 * start, fine),
            "hr": periodic_crop(triplet.hr, 2 * start + PADDING_HR, core),
        }

    def prepare(self, batch) -> dict:
        return batch

    def generate(self, generator, batch, members=1) -> torch.Tensor:
        return generator(batch["lr"], batch["initial"])

    def critic_fields(self, batch, fields) -> torch.Tensor:
        return torch.cat([fields, trim(batch["initial"][:, :1], PADDING_HR)], dim=1)

    def evaluate(self, generator, evaluation, device) -> tuple[dict, Any]:
        """Transfer functions sqrt(P / P_HR) of SR and of the upsampled LR density."""
        places = self._places(evaluation)
        regions = [self._region(generator, t, start, n, device) for t, start, n in places]
        sums = {}
        for region, length, periodic in regions:
            for name in ("SR", "LR"):
                spectra = Spectra.of(region[name], region["HR"], length, periodic)
                sums[name] = sums[name] + spectra if name in sums else spectra
        metrics = {}
        for name, label in (("SR", ""), ("LR", " of LR")):
            spectra = sums[name]
            inside = spectra.k <= spectra.k.max() / 2  # half the HR Nyquist wavenumber
            metrics["transfer error" + label] = float(
                (spectra.ratio.sqrt() - 1)[inside].abs().max()
            )
            metrics["correlation at half Nyquist" + label] = float(spectra.correlation[inside][-1])
        metrics["mean density"] = float(np.mean([region["SR"].mean() for region, _, _ in regions]))
        first = regions[0][0]
        depth = max(1, first["HR"].shape[0] // 16)
        slices = {name: first[name][:, :, :depth].mean(2) for name in ("LR", "SR", "HR")}
        return metrics, figure(slices, sums)

    def _places(self, evaluation):
        """(triplet, first LR cell (3), LR cells a side) of the regions that are compared."""
        part = self.configuration.triplets.held_out_part
        rng = np.random.default_rng(0)
        triplets = self.held_out or (self.train if part else [])
        for triplet in triplets[: evaluation.crops]:
            N = triplet.manifest.Nmesh
            rows = N if self.held_out else N - self._rows(triplet)
            start = [0 if self.held_out else self._rows(triplet), *rng.integers(N, size=2)]
            yield triplet, np.array(start), min(rows, evaluation.sites)

    @torch.no_grad()
    def _region(self, generator, triplet, start, size, device, side=16):
        """Densities (M, M, M) of a region of `size` LR cells, its length, whether it is periodic."""
        sr = torch.empty((2 * size,) * 3)
        for corner in product(range(0, size, side), repeat=3):
            shape = [min(side, size - c) for c in corner]
            padded = [n + 2 * PADDING for n in shape]
            cut = self._cut(triplet, start + corner - PADDING, padded)
            lr, initial = (
                torch.from_numpy(cut[name])[None].to(device) for name in ("lr", "initial")
            )
            where = tuple(slice(2 * c, 2 * (c + n)) for c, n in zip(corner, shape, strict=True))
            sr[where] = generator(lr, initial)[0, 0].float().cpu()
        lr = torch.from_numpy(periodic_crop(triplet.lr, start, [size] * 3))[None]
        hr = torch.from_numpy(periodic_crop(triplet.hr, 2 * start, [2 * size] * 3))
        fields = {"SR": sr, "LR": F.interpolate(lr, scale_factor=2)[0, 0], "HR": hr[0]}
        N = triplet.manifest.Nmesh
        return fields, size * triplet.manifest.cell, size == N

    def card(self, generator) -> ModelCard:
        first = self.train[0].manifest
        redshifts = [1 / triplet.manifest.a - 1 for triplet in self.train]
        return ModelCard(
            name=Path(self.configuration.run).name,
            network="density",
            arguments=generator.arguments,
            factor=2,
            channels=1,
            cell=first.cell,
            redshift=(min(redshifts), max(redshifts)),
            Omega_m=first.Omega_m,
            simulation=", ".join(sorted({t.manifest.source for t in self.train})),
        )
