"""Building blocks shared by the networks. Convolutions are unpadded throughout: a chunk with
enough padding gives exactly the interior of the whole box."""

import torch
from torch import nn
from torch.nn import functional as F


def trim(x, width):
    """Drop `width` voxels on every side of the three spatial axes."""
    if width == 0:
        return x
    return x[..., width:-width, width:-width, width:-width]


def upsample(x):
    """Cell-centred trilinear x2, less the outer voxel that needs a neighbour: N -> 2N - 2."""
    return trim(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False), 1)


class Noise(nn.Module):
    """Adds a given standard-normal field, scaled for each channel: (B, C, ...) + std * (B, 1, ...).

    Parameters
    ----------
    channels : int
    gain : float
        1, or 2 for weights of the code that added the scaled noise twice.
    """

    def __init__(self, channels, gain=1.0):
        super().__init__()
        self.std = nn.Parameter(torch.zeros(channels))
        self.gain = gain

    def forward(self, x, noise):
        return x + (self.gain * self.std).view(-1, 1, 1, 1) * noise


def activation():
    return nn.LeakyReLU(0.2)
