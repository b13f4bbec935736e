"""The generator of displacements: the network of Li et al. 2021 (their Fig. 7), and what it can have more.

LR fields on their lattice become SR fields on one twice, four times, ... finer. Features are made
level by level; beside them the fields themselves are carried from level to level along the skip
path, and each level adds the increments that it finds in its features. With the defaults this is
the published network. Options add, each to what is there:

- ``convex``: the skip path is a convex combination of positions instead of an interpolation
  (`upsampling`), and features see how far the coarse positions have collapsed;
- ``gated``: increments are multiplied by gates that see how large a patch still is: a patch that
  has collapsed can be spared the scatter of its surroundings;
- ``sharp``: the combination has a sharpness, chosen for each site;
- ``virial``: coarse particles, but for LR's own, move towards their neighbours before they are
  upsampled, and fine ones are scattered evenly along all axes (`virial`);
- ``phases``: the network is given the linear displacement of the initial conditions that LR lacks
  (`nbodykit_sr.phases`), octave by octave, and its increments begin as a share of that;
- ``context``, ``refined``: more convolutions where sites are few, on the LR lattice and on the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from .blocks import Noise, activation, pointwise, trim, upsample, upsampled_convolution
from .upsampling import CORNERS, combine, deformation, log_size
from .virial import SCATTER, MeanShift, directions

# SR sites to trim off each side of the output
OUTPUT_TRIM = 3
# LR sites on each side of a chunk that the published network consumes (six 3^3 convolutions and
# three upsamplings for factor 8: 2.625 sites, rounded up)
PADDING = 3
# How much faster than other weights those of gates, sharpness and scatter act
GATE_GAIN = 8.0
# psi is given to the network in eighths of an LR cell, so that it is of order one, as all else is
PSI_UNIT = 8.0
# The share of psi that increments begin with, before training
LINEAR_SHARE = 0.7
# What the scatter begins with, before softplus
LEAST_SCATTER = -3.0
# The logarithm of the sharpness lies within this on either side of 0, at the last level and above
SHARPEST, SHARPEST_ABOVE = 1.0, 4.0


@dataclass(frozen=True)
class Options:
    """What a generator has besides the published network.

    Attributes
    ----------
    convex : int
        How many of the last levels upsample convexly; 0: the published network.
    spacing : float
        LR cell in units of the displacement, for convex levels.
    gated, sharp, virial : bool
        Convex levels have gates, a sharpness, mean shift and scatter.
    phases : bool
        The network is given psi, and its unit of length is the LR cell.
    context : sequence of int
        Dilations of residual convolutions on the LR lattice.
    refined : int
        Residual convolutions on the lattice of the first level; even.
    """

    convex: int = 0
    spacing: float = 1.0
    gated: bool = False
    sharp: bool = False
    virial: bool = False
    phases: bool = False
    context: Sequence[int] = ()
    refined: int = 0

    def arguments(self) -> dict:
        """Those that are on, for the card. Cards of older networks, which know of none, are the same."""
        names = ("convex", "gated", "sharp", "virial", "phases", "context", "refined")
        given = {"spacing": self.spacing} if self.convex else {}
        given |= {name: getattr(self, name) for name in names if getattr(self, name)}
        return given | ({"context": list(self.context)} if self.context else {})

    def spacing_of(self, level, levels) -> float | None:
        """Of the coarse lattice of a level in units of the displacement; None: it is trilinear."""
        return self.spacing / 2**level if level >= levels - self.convex else None

    def sharpest_of(self, level, levels) -> float:
        """Largest logarithm of the sharpness of a level; 0: it has none."""
        return (SHARPEST if level == levels - 1 else SHARPEST_ABOVE) if self.sharp else 0.0


class Level(nn.Module):
    """One doubling of the resolution: N -> 2N - 6 - 2 `refined` sites a side.

    Features pass through two noisy convolutions and `refined` residual ones; the projection of the
    features is added to the fields on the skip path. See the module for the options.

    Parameters
    ----------
    channels_in, channels_out, fields : int
    noise_gain : float
    options : Options
    number, levels : int
        Of this level, counted from 0, and of all levels.
    """

    def __init__(self, channels_in, channels_out, fields, noise_gain, options, number, levels):
        super().__init__()
        self.spacing = options.spacing_of(number, levels)
        self.sharpest = options.sharpest_of(number, levels)
        self.phases, refined = options.phases, 0 if number else options.refined
        self.noise0 = Noise(channels_in, noise_gain)
        self.conv0 = nn.Conv3d(channels_in, channels_out, 3)
        self.noise1 = Noise(channels_out, noise_gain)
        self.conv1 = nn.Conv3d(channels_out, channels_out, 3)
        self.refine = residuals(channels_out, [1] * refined)
        self.proj = nn.Conv3d(channels_out, fields, 1)
        self.act = activation()
        if self.phases:
            self.hear = nn.Conv3d(3, channels_out, 1, bias=False)
            # linear theory, where velocity equals displacement
            self.linear = nn.Conv3d(3, fields, 1, bias=False)
            share = torch.eye(3).repeat(fields // 3, 1) * LINEAR_SHARE / PSI_UNIT
            self.linear.weight = nn.Parameter(share[:, :, None, None, None])
        if self.spacing is None:
            return
        heads = {
            "mix": nn.Conv3d(channels_out, len(CORNERS), 1),
            "deform": nn.Conv3d(3 * fields, channels_out, 1, bias=False),
            "gate": nn.Conv3d(channels_out + 1, fields // 3, 1) if options.gated else None,
            "sharp": nn.Conv3d(channels_out + 1, 1, 1) if options.sharp else None,
            "scatter": nn.Conv3d(channels_out + 1, fields // 3, 1) if options.virial else None,
        }
        for name, head in heads.items():  # zero at first, so training starts from interpolation
            setattr(self, name, head)
            for parameter in head.parameters() if head else ():
                nn.init.zeros_(parameter)
        # LR's own particles stay where the simulation has them; and a second step at the last level
        # costs no padding, for OUTPUT_TRIM sites are cut off there
        steps = 1 + (number == levels - 1)
        self.gather = MeanShift(self.spacing, steps) if options.virial and number else None
        if self.scatter is not None:
            nn.init.constant_(self.scatter.bias, LEAST_SCATTER / GATE_GAIN)

    def forward(self, x, y, noise0, noise1, psi=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and fields of the finer lattice, from those of the coarser one."""
        x = self.noise0(x, noise0)
        # the same numbers: the paper's form to read and compare with, the faster one to train
        x = upsampled_convolution(x, self.conv0) if self.training else self.conv0(upsample(x))
        if self.spacing is not None:
            cells = deformation(y, self.spacing)
            x = x + pointwise(upsample(cells).to(x.dtype), self.deform)[0]
        if psi is not None:
            x = x + pointwise(psi.to(x.dtype), self.hear)[0]
        x = self.act(x)
        x = self.act(self.conv1(self.noise1(x, noise1)))
        x = apply_residuals(self.refine, x)
        margin = len(self.refine) // 2
        y = trim(y, margin)
        psi = None if psi is None else trim(psi, 1 + len(self.refine))
        if self.spacing is None:
            return x, trim(upsample(y), 2) + self.increments(pointwise(x, self.proj)[0], psi)
        size = trim(upsample(log_size(cells)), 1 + 2 * margin)
        return x, self.combined(x, y, size, psi, noise1)

    def increments(self, projected, psi) -> torch.Tensor:
        """Of projected features: the published network passes them through the activation; given
        psi, they are added to its linear theory, and their sign should not matter."""
        if psi is None:
            return F.leaky_relu(projected, 0.2)
        return projected + pointwise(psi, self.linear)[0]

    def combined(self, x, y, size, psi, noise) -> torch.Tensor:
        """The fields of the finer lattice, of features x, coarse fields y, log size of the cells,
        psi and noise."""
        projected, logits = pointwise(x, self.proj, self.mix)
        increments = self.increments(projected, psi)
        controls = {
            name: head
            for name in ("gate", "scatter", "sharp")
            if (head := getattr(self, name)) is not None
        }
        seen = torch.cat([x, size.to(x.dtype)], 1)
        chosen = dict(zip(controls, pointwise(seen, *controls.values()))) if controls else {}
        if "gate" in chosen:
            gates = 2 * torch.sigmoid(GATE_GAIN * chosen["gate"])
            increments = increments * gates.repeat_interleave(3, 1)
        if "scatter" in chosen:
            widths = F.softplus(GATE_GAIN * chosen["scatter"].float()).repeat_interleave(3, 1)
            margin = (noise.shape[2] - x.shape[2]) // 2
            unit = SCATTER * self.spacing / 2
            increments = increments + unit * widths * directions(noise, margin, y.shape[1])
        tau = None
        if "sharp" in chosen:
            tau = torch.exp(self.sharpest * torch.tanh(chosen["sharp"].float()))
        y = trim(y, 1) if self.gather is None else self.gather(y)
        return combine(y, logits, self.spacing, tau) + increments


def residuals(width, dilations) -> nn.ModuleList:
    """Residual convolutions 3^3 of these dilations, for `apply_residuals`."""
    return nn.ModuleList(nn.Conv3d(width, width, 3, dilation=d) for d in dilations)


def apply_residuals(convolutions, x) -> torch.Tensor:
    """x + act(conv(x)) of each in turn; a dilation d takes d sites off each side."""
    for convolution in convolutions:
        inner = trim(x, convolution.dilation[0])
        x = inner + F.leaky_relu(convolution(x), 0.2)
    return x


class Generator(nn.Module):
    """LR displacement (and velocity) to ``factor**3`` times more particles.

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
    **options
        See `Options`.

    Attributes
    ----------
    arguments : dict
        Of the constructor: with the state dict, all it takes to make the network again.
    """

    def __init__(
        self, channels=6, factor=8, chan_base=512, chan_min=64, chan_max=512, noise_gain=1.0, **options
    ):  # fmt: skip
        super().__init__()
        options = Options(**options)
        sizes = {"chan_base": chan_base, "chan_min": chan_min, "chan_max": chan_max}
        self.arguments = {"channels": channels, "factor": factor, **sizes, "noise_gain": noise_gain}
        self.arguments |= options.arguments()
        if channels not in (3, 6):
            raise InputError(f"channels is {channels}: 3 (displacement) or 6 (and velocity) needed")
        check_factor(factor)
        levels = int(log2(factor))
        if not 0 <= options.convex <= levels:
            raise InputError(
                f"convex is {options.convex}: from 0 to the {levels} levels of the generator"
            )
        if options.refined % 2:
            raise InputError(f"refined is {options.refined}: an even number is needed")
        self.channels, self.factor, self.phases = channels, factor, options.phases
        self.context, self.refined = tuple(options.context), options.refined
        self.widths = [min(max(chan_base >> b, chan_min), chan_max) for b in range(levels + 1)]
        seen = channels + 24 * self.phases  # psi of the eight sites in each cell
        self.stem = nn.Sequential(nn.Conv3d(seen, self.widths[0], 1), activation())
        self.trunk = residuals(self.widths[0], self.context)
        self.levels = nn.ModuleList(
            Level(*self.widths[b : b + 2], channels, noise_gain, options, b, levels)
            for b in range(levels)
        )

    @property
    def padding(self) -> int:
        """LR sites that it takes on each side of a chunk."""
        return PADDING + self.refined // 2 + sum(self.context)

    @property
    def noise_layers(self) -> list[tuple[int, int]]:
        """Where the noise fields live: one (refinement, padding) for each.

        The field of a layer lives on the lattice `refinement` times finer than LR and reaches
        `padding` of its own sites beyond the chunk on each side.
        """
        layers, margin = [], PADDING + self.refined // 2
        for b in range(len(self.levels)):
            layers += [(2**b, margin), (2 ** (b + 1), 2 * margin - 2)]
            margin = PADDING
        return layers

    @property
    def octaves(self) -> list[tuple[int, int]]:
        """Where the octaves of psi live, as `noise_layers`; none without phases."""
        if not self.phases:
            return []
        first, *others = self.noise_layers[1::2]
        return [(2, 2 * self.padding), *others]

    def coarser(self, factor) -> "Generator":
        """The first levels of this generator alone, for a smaller factor."""
        if factor == self.factor:
            return self
        check_factor(factor)
        levels = int(log2(factor))
        if factor > self.factor:
            raise InputError(f"factor is {factor}: the model goes up to {self.factor}")
        dropped = len(self.levels) - levels
        changed = {"factor": factor, "convex": max(0, self.arguments.get("convex", 0) - dropped)}
        with torch.device("meta"):
            first = Generator(**{**self.arguments, **changed})
        first.stem, first.trunk, first.levels = self.stem, self.trunk, self.levels[:levels]
        return first.train(self.training)

    def forward(
        self, x: Float[Tensor, "b c _ _ _"], noise, psi=(), every_level=False
    ) -> Float[Tensor, "b c x y z"] | list[Float[Tensor, "b c _ _ _"]]:
        """Super-resolve a padded chunk.

        Parameters
        ----------
        x : (B, C, N, N, N) float tensor, in units of the model's normalisation
            Sides may differ. ``N = n + 2 * padding`` for a chunk of n LR sites.
        noise : list of (B, 1, M, M, M) float tensors
            Standard normal, of the sizes that `noise_layers` tells.
        psi : list of (B, 3, M, M, M) float tensors
            Linear displacement of each octave [LR cells], as `octaves` tells.
        every_level : bool
            Return the fields after every level, not of the last alone.

        Returns
        -------
        (B, C, M, M, M) float tensor with ``M = factor * n + 2 * OUTPUT_TRIM``
            SR fields of the chunk with `OUTPUT_TRIM` extra sites on each side, to be trimmed; or a list
            of such tensors, whose factors are 2, 4, ..., `factor`.
        """
        y, levels = x, []
        if self.phases:
            psi = [PSI_UNIT * octave for octave in psi]
            x = torch.cat([x, sites_to_channels(psi[0])], 1)
            psi = [trim(psi[0], 2 * self.padding - self.noise_layers[1][1]), *psi[1:]]
        x = apply_residuals(self.trunk, self.stem(x))
        y = trim(y, sum(self.context))
        for b, level in enumerate(self.levels):
            heard = psi[b] if self.phases else None
            x, y = level(x, y, noise[2 * b], noise[2 * b + 1], heard)
            levels.append(y)
        return levels if every_level else y


def sites_to_channels(psi: Float[Tensor, "b c _ _ _"]) -> Float[Tensor, "b 8*c x y z"]:
    """The fields of the eight fine sites in each cell as channels: (B, 3, 2N, ...) -> (B, 24, N, ...)."""
    batch, fields, *sides = psi.shape
    x, y, z = (side // 2 for side in sides)
    psi = psi.reshape(batch, fields, x, 2, y, 2, z, 2)
    return psi.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, 8 * fields, x, y, z)


def check_factor(factor) -> None:
    """Raise InputError unless a resolution ratio is a power of 2 above 1."""
    if not isinstance(factor, Integral) or factor < 2 or factor & (factor - 1):
        raise InputError(f"factor is {factor}: a power of 2 from 2 up is needed")


class InterpolatingGenerator(nn.Module):
    """The skip path alone: trilinear interpolation, the baseline without parameters.

    Takes and returns what `Generator` does; the noise is ignored.
    """

    padding = PADDING
    octaves = ()

    def __init__(self, channels=6, factor=8):
        super().__init__()
        check_factor(factor)
        self.channels, self.factor = channels, int(factor)  # of numpy's types too
        self.arguments = {"channels": channels, "factor": self.factor}

    noise_layers = ()

    def forward(
        self, x: Float[Tensor, "b c _ _ _"], noise=None, psi=()
    ) -> Float[Tensor, "b c x y z"]:
        for _ in range(int(log2(self.factor))):
            x = trim(upsample(x), 2)
        return x


def layer_shapes(layers, shape) -> list[tuple[int, ...]]:
    """Spatial shapes of the fields of `layers`, (refinement, padding) each, for a chunk of `shape`
    LR sites."""
    return [tuple(refinement * n + 2 * padding for n in shape) for refinement, padding in layers]


def standard_noise(generator, x: Float[Tensor, "b _ _ _ _"]) -> list[Float[Tensor, "b 1 _ _ _"]]:
    """Fresh noise fields for a padded input x (B, C, N, N, N) of a generator, where seams are no
    matter."""
    shape = [n - 2 * generator.padding for n in x.shape[2:]]
    return [
        torch.randn((len(x), 1, *sides), device=x.device, dtype=x.dtype)
        for sides in layer_shapes(generator.noise_layers, shape)
    ]
