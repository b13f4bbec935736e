"""The displacement generator of Li et al. 2021 (their Fig. 7)."""

from math import log2
from numbers import Integral

import torch
from torch import nn

from ..errors import InputError
from .blocks import Noise, activation, trim, upsample, upsampled_convolution

# LR sites on each side of a chunk that the generator consumes (six 3^3 convolutions and three
# upsamplings for factor 8: 2.625 sites, rounded up), and SR sites to trim off each side of its
# output: a padded chunk of n sites gives factor * (n + 6) - 6 * (factor - 1) = factor * n + 6.
PADDING = 3
OUTPUT_TRIM = 3


class Level(nn.Module):
    """One doubling of the resolution: N -> 2N - 6 sites a side.

    Features pass through two noisy convolutions; on the skip path the fields are interpolated
    trilinearly and the projection of the features is added.
    """

    def __init__(self, channels_in, channels_out, fields, noise_gain):
        super().__init__()
        self.noise0 = Noise(channels_in, noise_gain)
        self.conv0 = nn.Conv3d(channels_in, channels_out, 3)
        self.noise1 = Noise(channels_out, noise_gain)
        self.conv1 = nn.Conv3d(channels_out, channels_out, 3)
        self.proj = nn.Conv3d(channels_out, fields, 1)
        self.act = activation()

    def forward(self, x, y, noise0, noise1, spacing=None) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.noise0(x, noise0)
        # the same numbers: the paper's form to read and compare with, the faster one to train
        x = upsampled_convolution(x, self.conv0) if self.training else self.conv0(upsample(x))
        cells = self.cells(y, spacing)
        x = self.act(self.informed(x, cells))
        x = self.act(self.conv1(self.noise1(x, noise1)))
        return x, self.skip(y, x, spacing) + self.increments(x, cells)

    def cells(self, y, spacing) -> torch.Tensor | None:
        """What the network is told of the cells between the coarse particles: nothing here."""
        return None

    def informed(self, x, cells) -> torch.Tensor:
        """The features `x` between the convolutions, with what the `cells` tell them."""
        return x

    def skip(self, y, x, spacing) -> torch.Tensor:
        """The coarse fields `y` on the finer lattice, features `x` and LR spacing at hand."""
        return trim(upsample(y), 2)

    def increments(self, x, cells) -> torch.Tensor:
        """What the features `x` add to the skip path, the `cells` at hand."""
        return self.act(self.proj(x))


class DisplacementGenerator(nn.Module):
    """LR displacement (and velocity) to ``factor**3`` times more, Li et al. 2021, Fig. 7.

    Parameters
    ----------
    channels : int
        3 (displacement) or 6 (displacement, velocity), in and out.
    factor : int
        Resolution ratio on a side, a power of 2.
    chan_base, chan_min, chan_max : int
        Level b works with ``clip(chan_base >> b, chan_min, chan_max)`` channels. The paper's
        network: 512, 64, 512.
    noise_gain : float
        Factor on the learned noise amplitudes; 2 for weights of SRS-map2map.
    """

    def __init__(
        self, channels=6, factor=8, chan_base=512, chan_min=64, chan_max=512, noise_gain=1.0
    ):
        super().__init__()
        if channels not in (3, 6):
            raise InputError(f"channels is {channels}: 3 (displacement) or 6 (and velocity) needed")
        check_factor(factor)
        self.channels, self.factor = channels, factor
        self.chan_base, self.chan_min, self.chan_max = chan_base, chan_min, chan_max
        self.noise_gain = noise_gain
        widths = self.widths
        self.stem = nn.Sequential(nn.Conv3d(channels, widths[0], 1), activation())
        self.levels = nn.ModuleList(
            Level(p, n, channels, noise_gain) for p, n in zip(widths[:-1], widths[1:])
        )

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and of each level's output."""
        levels = int(log2(self.factor))
        return [
            min(max(self.chan_base >> b, self.chan_min), self.chan_max) for b in range(levels + 1)
        ]

    @property
    def arguments(self) -> dict:
        """Constructor arguments: with the state dict, all it takes to make this network again."""
        names = ("channels", "factor", "chan_base", "chan_min", "chan_max", "noise_gain")
        return {name: getattr(self, name) for name in names}

    def spacing_at(self, level, spacing=None) -> float | None:
        """The lattice spacing before a level, where the network needs to know: `ConvexGenerator`."""
        return None

    def at(self, a) -> nn.Module:
        """The generator for scale factor `a`: itself, which was trained at one."""
        return self

    def forward(
        self, x, noise, spacing=None, every_level=False
    ) -> torch.Tensor | list[torch.Tensor]:
        """Super-resolve a padded chunk.

        Parameters
        ----------
        x : (B, C, N, N, N) float tensor, in units of the model's normalisation
            Sides may differ. ``N = n + 2 * PADDING`` for a chunk of n LR sites.
        noise : list of (B, 1, M, M, M) float tensors
            Standard normal, two for each level, of the sizes `noise_shapes` gives.
        spacing : float, optional
            For `ConvexGenerator`: LR cell in units of the displacement.
        every_level : bool
            Return the fields after every level, not of the last alone.

        Returns
        -------
        (B, C, M, M, M) float tensor with ``M = factor * N - 6 * (factor - 1)``
            SR fields of the chunk with `OUTPUT_TRIM` extra sites on each side; or a list of such
            tensors, whose factors are 2, 4, ..., `factor`.
        """
        y, levels = x, []
        x = self.stem(x)
        for b, level in enumerate(self.levels):
            x, y = level(x, y, noise[2 * b], noise[2 * b + 1], self.spacing_at(b, spacing))
            levels.append(y)
        return levels if every_level else y


def check_factor(factor) -> None:
    if not isinstance(factor, Integral) or factor < 2 or factor & (factor - 1):
        raise InputError(f"factor is {factor}: a power of 2 from 2 up is needed")


class InterpolatingGenerator(nn.Module):
    """The skip path alone: trilinear interpolation, the baseline without parameters.

    Takes and returns what `DisplacementGenerator` does; the noise is ignored.
    """

    def __init__(self, channels=6, factor=8):
        super().__init__()
        check_factor(factor)
        self.channels, self.factor = channels, factor
        self.arguments = {"channels": channels, "factor": factor}

    def at(self, a) -> nn.Module:
        """The generator for scale factor `a`: itself, as it knows of none."""
        return self

    def forward(self, x, noise=None) -> torch.Tensor:
        for _ in range(int(log2(self.factor))):
            x = trim(upsample(x), 2)
        return x


def noise_layers(factor) -> list[tuple[int, int]]:
    """Where the noise fields live: one (refinement, padding) for each noise layer.

    The field of a layer lives on the lattice `refinement` times finer than LR and reaches
    `padding` of its own sites beyond the chunk on each side.
    """
    layers = []
    for b in range(int(log2(factor))):
        layers += [(2**b, 3), (2 ** (b + 1), 4)]
    return layers


def noise_shapes(factor, shape) -> list[tuple[int, ...]]:
    """Spatial shapes of the noise fields for a padded input of spatial `shape`."""
    core = [n - 2 * PADDING for n in shape]
    return [
        tuple(refinement * n + 2 * padding for n in core)
        for refinement, padding in noise_layers(factor)
    ]


def standard_noise(factor, x, generator=None) -> list[torch.Tensor]:
    """Fresh noise fields for an input `x` (B, C, N, N, N): for training, where no seams matter."""
    return [
        torch.randn((x.shape[0], 1, *shape), device=x.device, dtype=x.dtype, generator=generator)
        for shape in noise_shapes(factor, x.shape[2:])
    ]
