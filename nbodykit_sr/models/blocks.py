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


def upsampled_convolution(x, convolution):
    """A 3^3 convolution of `upsample`d x, without the large upsampled field: N -> 2N - 4.

    Trilinear x2 is nearest-neighbour x2 followed by the filter [1, 2, 1]/4 along each axis, and
    that filter commutes with a convolution. So this is one 2^3 convolution on the coarse lattice
    for each parity of the fine site, interleaved and filtered: 8 multiplications instead of 27.
    """
    weight = convolution.weight / 64
    parity = weight.new_tensor([[[1, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]])
    folded = torch.einsum("xai,ybj,zck,npijk->xyznpabc", parity, parity, parity, weight)
    y = F.conv3d(x, folded.flatten(0, 3).contiguous(memory_format=torch.channels_last_3d))
    y = y.unflatten(1, (2, 2, 2, len(weight)))  # (B, 2, 2, 2, n, N, N, N)
    y = y.permute(0, 5, 1, 6, 2, 7, 3, 4).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return _Smooth.apply(y.movedim(-1, 1)) + convolution.bias.to(y.dtype).view(-1, 1, 1, 1)


class _Smooth(torch.autograd.Function):
    """The filter [1, 2, 1] along each axis, N -> N - 2; its own gradient saves half the time."""

    @staticmethod
    def forward(ctx, x):
        for axis in (2, 3, 4):
            size = x.shape[axis] - 2
            sides = x.narrow(axis, 0, size) + x.narrow(axis, 2, size)
            x = torch.add(sides, x.narrow(axis, 1, size), alpha=2)
        return x

    @staticmethod
    def backward(ctx, gradient):
        # the last axis in memory is the channels: pad the three before it
        padded = F.pad(gradient.movedim(1, -1), (0, 0, 2, 2, 2, 2, 2, 2)).movedim(-1, 1)
        return _Smooth.forward(ctx, padded)


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
        std = (self.gain * self.std).to(x.dtype).view(-1, 1, 1, 1)
        return torch.addcmul(x, std, noise.to(x.dtype))


def activation():
    return nn.LeakyReLU(0.2)
