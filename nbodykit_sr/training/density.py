"""The density emulator (Kodi Ramanah et al. 2020) as a system for the training loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..models.blocks import trim
from ..models.card import ModelCard
from ..models.density import PADDING, PADDING_HR, DensityCritic, DensityEmulator
from .augmentation import ELEMENTS, periodic_crop, transform
from .configuration import Configuration, Stage, require
from .evaluation import Spectra, figure
from .losses import shell_power, squared_difference
from .memory import smaller_settings
from .triplets import open_triplets

# Section 3.3: half a million updates, ten of the critic for each
PAPER_STAGES = (
    Stage(
        name="WGAN-GP",
        steps=500_000,
        adversarial="wasserstein",
        learning_rate=1e-4,
        critic_learning_rate=1e-4,
        critic_steps=10,
        penalty=10.0,
        penalty_every=1,
        batch_doubles_every=100_000,
    ),
)


@dataclass(frozen=True, kw_only=True)
class TripletsTable:
    """Where the fields are.

    Attributes
    ----------
    train, held_out : tuple of str
        Glob patterns of triplet folders.
    held_out_part : float
        Part of each training box, along x from its end, that is not trained on; what is
        evaluated on if no whole box is held out.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    held_out_part: float = 0.25

    def __post_init__(self):
        require(
            0 <= self.held_out_part < 1,
            f"triplets.held_out_part is {self.held_out_part}: a part within [0, 1) is needed",
        )


@dataclass(frozen=True, kw_only=True)
class SampleTable:
    """The sub-volumes; each is turned into one of its 48 orientations.

    Attributes
    ----------
    size : int
        LR cells on a side, padding included: 20 makes 28 HR cells.
    """

    size: int = 20

    def __post_init__(self):
        require(
            self.size >= 16,
            f"sample.size is {self.size}: the critic needs the 20 HR cells that 16 make, or more",
        )


@dataclass(frozen=True, kw_only=True)
class EmulatorTable:
    """The emulator, see `DensityEmulator`.

    Attributes
    ----------
    filters : int
        Of each convolution.
    initial_kmin : float
        Modes of the initial conditions below this wavenumber [h/Mpc] are taken out; 0 keeps all.
    """

    filters: int = 6
    initial_kmin: float = 0.0

    def __post_init__(self):
        require(self.filters > 0, f"emulator.filters is {self.filters}: one or more needed")
        require(
            self.initial_kmin >= 0,
            f"emulator.initial_kmin is {self.initial_kmin}: zero or more needed [h/Mpc]",
        )


@dataclass(frozen=True, kw_only=True)
class CriticTable:
    """The critic.

    Attributes
    ----------
    log_density : bool
        Score log(1 + density) instead of density; not in the paper.
    """

    log_density: bool = False


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The statistics loss, which the paper does not have: weights of its terms.

    Attributes
    ----------
    power : float
        Squared difference of log power in shells of k.
    residual : float
        Power of the difference over that of HR in shells of k, so that all scales count alike.
    mean : float
        Squared difference of the mean density of a sample.
    pdf : float
        Squared difference of the sorted log(1 + density).
    log_density : float
        Squared difference of log(1 + density), cell by cell.
    """

    power: float = 1.0
    residual: float = 0.5
    mean: float = 20.0
    pdf: float = 1.0
    log_density: float = 1.0

    def __call__(self, fields, real):
        """The loss of densities (B, 1, M, M, M), a scalar."""
        power = shell_power(real) + 1e-10
        one, other = torch.log1p(fields), torch.log1p(real)
        terms = {
            "power": ((shell_power(fields) + 1e-10) / power).log().square(),
            "residual": shell_power(fields - real) / power,
            "mean": (fields - real).mean((1, 2, 3, 4)).square(),
            "log_density": (one - other).square(),
            "pdf": (one.flatten(1).sort().values - other.flatten(1).sort().values).square(),
        }
        return sum(getattr(self, name) * term.mean() for name, term in terms.items())


@dataclass(frozen=True, kw_only=True)
class DensityConfiguration(Configuration):
    """A run of the density emulator; the defaults are those of Kodi Ramanah et al. 2020."""

    triplets: TripletsTable
    system: str = "density"
    betas: tuple[float, float] = (0.5, 0.999)
    stage: tuple[Stage, ...] = PAPER_STAGES
    sample: SampleTable = field(default_factory=SampleTable)
    emulator: EmulatorTable = field(default_factory=EmulatorTable)
    critic: CriticTable = field(default_factory=CriticTable)
    statistics: Statistics = field(default_factory=Statistics)

    def __post_init__(self):
        super().__post_init__()
        require(
            not any(stage.score for stage in self.stage),
            "score is set in a stage: the density emulator draws nothing, set statistics instead",
        )


class DensityObjective:
    """The terms of the loss of densities, see `System`; one of each sample, as nothing is drawn."""

    def __init__(self, statistics):
        self.terms = {"l2": squared_difference, "statistics": statistics}

    def members(self, names) -> int:
        return 1

    def __call__(self, batch, fields, names):
        return {name: self.terms[name](fields, batch["hr"]) for name in names}


class DensitySystem:
    """Super-resolution of densities with the initial conditions known, trained on triplets.

    See `System` for the methods.

    Parameters
    ----------
    configuration : DensityConfiguration

    Raises
    ------
    InputError
        If the triplets do not serve the configuration.
    """

    def __init__(self, configuration):
        self.configuration = configuration
        self.objective = DensityObjective(configuration.statistics)
        where = configuration.triplets
        self.train = open_triplets(where.train)
        self.held_out = open_triplets(where.held_out) if where.held_out else []
        kmin = configuration.emulator.initial_kmin
        self.initial = {t.folder: t.small_scales(kmin) for t in self.train + self.held_out}
        for triplet in self.train:
            require(
                self._rows(triplet) >= configuration.sample.size,
                f"{triplet.folder} has {self._rows(triplet)} LR cells along x to train on: lower "
                f"sample.size ({configuration.sample.size}) or triplets.held_out_part",
            )

    def _rows(self, triplet):
        """LR cells along x that are trained on."""
        return round(triplet.manifest.Nmesh * (1 - self.configuration.triplets.held_out_part))

    def networks(self) -> tuple[nn.Module, nn.Module]:
        e, size = self.configuration.emulator, self.configuration.sample.size
        critic = DensityCritic(2 * size - 2 * PADDING_HR)
        return DensityEmulator(e.filters, e.initial_kmin), critic

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
        sample = {name: transform(array, element) for name, array in sample.items()}
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
        if self.configuration.critic.log_density:
            fields = torch.log1p(fields)
        return torch.cat([fields, trim(batch["initial"], PADDING_HR)], dim=1)

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

    def smaller(self) -> Iterator[tuple[str, Configuration]]:
        sizes = range(self.configuration.sample.size - 1, 15, -1)
        return smaller_settings(self.configuration, [("sample", "size", sizes)])

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
