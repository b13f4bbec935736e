"""The density emulator of Kodi Ramanah et al. 2020 (their Fig. 1), and its critic."""

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import InputError
from .blocks import trim

KERNELS = (7, 5, 3, 1)
# HR cells on each side that the emulator consumes (two levels of 7^3 kernels: 40 -> 28), and the
# same in LR cells
PADDING_HR = 6
PADDING = 3


class InceptionBlock(nn.Module):
    """Parallel unpadded convolutions and a residual: N -> N - 6 voxels a side.

    The branches with kernels 7, 5 and 3 each follow a 1x1x1 convolution, the last one is a 1x1x1
    by itself. All are trimmed to the same centre and joined; the residual is the input, of which
    the first channel is added to every output.
    """

    def __init__(self, channels_in, filters):
        super().__init__()
        self.filters = filters
        # the 1x1x1 convolutions before the three large kernels, in one
        self.reduce = nn.Conv3d(channels_in, 3 * filters, 1)
        self.conv = nn.ModuleList(
            nn.Conv3d(channels_in if k == 1 else filters, filters, k) for k in KERNELS
        )

    def forward(self, x) -> torch.Tensor:
        if x.shape[1] == 1:
            y = F.conv3d(x, *self.merged())
        else:
            inputs = [*self.reduce(x).split(self.filters, dim=1), x]
            branches = [
                conv(trim(z, (KERNELS[0] - kernel) // 2))
                for kernel, conv, z in zip(KERNELS, self.conv, inputs, strict=True)
            ]
            y = torch.cat(branches, dim=1)
        return y + trim(x[:, :1], KERNELS[0] // 2)

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole block, which is linear, as one 7^3 convolution: (weight, bias).

        For a single input channel that takes less than half the multiplications.
        """
        reduce = self.reduce.weight[:, :, 0, 0, 0].split(self.filters)
        shift = self.reduce.bias.split(self.filters)
        weights, biases = [], []
        for branch, (kernel, conv) in enumerate(zip(KERNELS, self.conv, strict=True)):
            weight, bias = conv.weight, conv.bias
            if branch < len(reduce):
                bias = bias + torch.einsum("omxyz,m->o", weight, shift[branch])
                weight = torch.einsum("omxyz,mi->oixyz", weight, reduce[branch])
            weights.append(F.pad(weight, ((KERNELS[0] - kernel) // 2,) * 6))
            biases.append(bias)
        return torch.cat(weights), torch.cat(biases)


class DensityEmulator(nn.Module):
    """LR density and HR initial conditions to HR density, Kodi Ramanah et al. 2020, Fig. 1.

    Parameters
    ----------
    filters : int
        Filters of each convolution; 6 in the paper, which makes 54,811 parameters.
    initial_kmin : float
        Wavenumber [h/Mpc] below which the modes of the initial conditions are taken out before
        they go in, so that the large scales come from LR alone (the paper's section 4.5); 0
        keeps them all. Who prepares the fields does this, not `forward`.
    moved : sequence of float
        Further inputs: the initial conditions moved with the particles of LR (see `density.moved`),
        each smoothed on one of these lengths [HR cells]. None in the paper.
    """

    factor, channels = 2, 1

    def __init__(self, filters=6, initial_kmin=0.0, moved=()):
        super().__init__()
        if filters < 1:
            raise InputError(f"filters is {filters}: one or more needed")
        if not 0 <= initial_kmin < 1e3:
            raise InputError(f"initial_kmin is {initial_kmin}: a wavenumber [h/Mpc] is needed")
        self.filters, self.initial_kmin, self.moved = filters, initial_kmin, tuple(moved)
        self.evolved = InceptionBlock(1, filters)
        self.initial = InceptionBlock(1, filters)
        both = len(KERNELS) * filters
        if moved:
            self.carried = InceptionBlock(len(moved), filters)
        self.joint = InceptionBlock((3 if moved else 2) * both, filters)
        self.out = nn.Conv3d(both, 1, 1)
        # begin as a copy of the upsampled LR density, so that the output ReLU is alive
        nn.init.constant_(self.out.weight, 1 / both)
        nn.init.zeros_(self.out.bias)

    @property
    def arguments(self) -> dict:
        """Constructor arguments: with the state dict, all it takes to make this network again."""
        arguments = {"filters": self.filters, "initial_kmin": self.initial_kmin}
        return arguments | ({"moved": list(self.moved)} if self.moved else {})

    def forward(self, lr, initial) -> torch.Tensor:
        """Super-resolve a padded chunk.

        Parameters
        ----------
        lr : (B, 1, n, n, n) float tensor
            LR density 1 + delta; sides may differ.
        initial : (B, 1 + m, 2n, 2n, 2n) float tensor
            Linear overdensity of the initial conditions, extrapolated to z = 0; after it, the same
            moved with LR's particles, for each of the m lengths of `moved`.

        Returns
        -------
        (B, 1, 2n - 12, 2n - 12, 2n - 12) float tensor
            HR density 1 + delta, not negative, `PADDING_HR` cells in from each side.
        """
        lr = F.interpolate(lr, scale_factor=2, mode="nearest")
        evolved = F.leaky_relu(self.evolved(lr), 0.1)
        layers = [evolved, F.leaky_relu(self.initial(initial[:, :1]), 0.1)]
        if self.moved:
            layers.append(F.leaky_relu(self.carried(initial[:, 1:]), 0.1))
        joint = F.relu(self.joint(torch.cat(layers, dim=1)))
        return F.relu(self.out(joint))


class DensityCritic(nn.Module):
    """Scores HR densities given their initial conditions, Kodi Ramanah et al. 2020, section 3.

    Four unpadded convolutions with kernels 7, 5, 3, 1, filters 8, 16, 32, 64 and strides
    2, 1, 2, 1, each with a leaky ReLU, and one linear unit on all that is left.

    Parameters
    ----------
    size : int
        Voxels on a side of the scored fields; 28 in the paper.
    """

    def __init__(self, size=28):
        super().__init__()
        left = ((size - 7) // 2 + 1 - 4 - 3) // 2 + 1
        if left < 1:
            raise InputError(f"the critic is given {size} voxels a side: 19 or more are needed")
        self.size = size
        self.conv = nn.Sequential(
            *(
                nn.Sequential(nn.Conv3d(p, n, kernel, stride), nn.LeakyReLU(0.1))
                for p, n, kernel, stride in (
                    (2, 8, 7, 2),
                    (8, 16, 5, 1),
                    (16, 32, 3, 2),
                    (32, 64, 1, 1),
                )
            )
        )
        self.head = nn.Linear(64 * left**3, 1)

    def forward(self, x) -> torch.Tensor:
        """Scores, (B,), of density and initial conditions, (B, 2, size, size, size)."""
        return self.head(self.conv(x).flatten(1))[:, 0]
