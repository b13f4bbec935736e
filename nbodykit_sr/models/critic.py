"""The critic of Li et al. 2021 (their Fig. 8)."""

from itertools import pairwise

import torch
from torch import nn

from ..errors import InputError
from .blocks import activation, halve


class CriticBlock(nn.Module):
    """A residual block that halves the resolution: N -> (N - 4) / 2 voxels a side."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv0 = nn.Conv3d(channels_in, channels_in, 3)
        self.conv1 = nn.Conv3d(channels_in, channels_out, 3)
        self.skip = nn.Conv3d(channels_in, channels_out, 1)
        self.act = activation()

    def forward(self, x) -> torch.Tensor:
        y = self.act(self.conv1(self.act(self.conv0(x))))
        # linear downsampling by 2 is the mean of the two voxels, axis by axis; it commutes with skip
        return halve(y) + self.skip(halve(x, 2))


class Critic(nn.Module):
    """Scores of patches of SR or HR fields, conditioned on the LR field (Li et al. 2021, Fig. 8).

    Parameters
    ----------
    channels : int
        Channels of the input: SR or HR fields, upsampled LR fields and the densities of both.
    blocks : int
        Halvings of the resolution. The paper's has 4.
    chan_base, chan_min : int
        Width ``max(chan_base >> b, chan_min)`` after the block that leaves b halvings to do.
    """

    def __init__(self, channels, blocks=4, chan_base=512, chan_min=64):
        super().__init__()
        if blocks < 1:
            raise InputError(f"critic.blocks is {blocks}: one or more needed")
        widths = [max(chan_base >> b, chan_min) for b in range(blocks, -1, -1)]
        self.blocks = blocks
        self.stem = nn.Sequential(nn.Conv3d(channels, widths[0], 1), activation())
        self.body = nn.Sequential(*(CriticBlock(p, n) for p, n in pairwise(widths)))
        self.head = nn.Sequential(
            nn.Conv3d(widths[-1], widths[-1], 1), activation(), nn.Conv3d(widths[-1], 1, 1)
        )

    def forward(self, x) -> torch.Tensor:
        """Mean scores of the patches of fields (B, channels, N, N, N), (B,)."""
        return self.head(self.body(self.stem(x))).mean((1, 2, 3, 4))


def smallest_input(blocks) -> int:
    """The least voxels on a side that a critic of `blocks` blocks can score."""
    size = 1
    for _ in range(blocks):
        size = 2 * size + 4
    return size
