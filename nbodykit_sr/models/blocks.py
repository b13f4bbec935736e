"""Building blocks shared by the networks. Convolutions are unpadded throughout: a chunk with
enough padding gives exactly the interior of the whole box."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def trim(x, width) -> torch.Tensor:
    """Drop `width` voxels on every side of the three spatial axes."""
    if width == 0:
        return x
    return x[..., width:-width, width:-width, width:-width]


def upsample(x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c 2*x-2 2*y-2 2*z-2"]:
    """Cell-centred trilinear x2, less the outer voxel that needs a neighbour: N -> 2N - 2."""
    return trim(F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False), 1)


def upsampled_convolution(
    x: Float[Tensor, "b _ x y z"], convolution
) -> Float[Tensor, "b _ 2*x-4 2*y-4 2*z-4"]:
    """A 3^3 convolution of `upsample`d x, without the large upsampled field: N -> 2N - 4.

    Trilinear x2 is nearest-neighbour x2 followed by the filter [1, 2, 1]/4 along each axis, and
    that filter commutes with a convolution. What remains of a convolution of nearest neighbours is
    a transposed one of stride 2 and four taps: 8 multiplications for each fine site instead of 27.
    """
    weight = convolution.weight / 64
    taps = weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
    weight = torch.einsum("ai,bj,ck,npijk->pnabc", taps, taps, taps, weight)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    return _Smooth.apply(F.conv_transpose3d(x, weight, None, 2, 2), convolution.bias)


class _Smooth(torch.autograd.Function):
    """The filter [1, 2, 1] along each axis, N -> N - 2, and a bias (C,), as one convolution channel
    by channel. It is symmetric, so its gradient is the same convolution, padded: twenty times
    faster on CPUs than what autograd makes of it."""

    @staticmethod
    def forward(ctx, x, bias):
        return _Smooth.filter(x, bias=bias.to(x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        return _Smooth.filter(gradient, padding=2), gradient.sum((0, 2, 3, 4))

    @staticmethod
    def filter(x, **options):
        row = x.new_tensor([1, 2, 1])
        kernel = (row[:, None, None] * row[:, None] * row).expand(x.shape[1], 1, 3, 3, 3)
        kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(x, kernel, groups=len(kernel), **options)


def pointwise(x: Float[Tensor, "b _ x y z"], *convolutions) -> list[Float[Tensor, "b _ x y z"]]:
    """Several 1x1x1 convolutions of the same x, as one product of matrices: 20 times faster on CPUs."""
    weight = torch.cat([c.weight.flatten(1) for c in convolutions])
    biases = [x.new_zeros(len(c.weight)) if c.bias is None else c.bias for c in convolutions]
    out = F.linear(x.movedim(1, -1), weight, torch.cat(biases)).movedim(-1, 1)
    return list(out.split([len(c.weight) for c in convolutions], 1))


def halve(x, width=0) -> torch.Tensor:
    """Mean of each block of 2^3 voxels of x, less `width` voxels on every side: N -> N // 2 - width."""
    return _Halve.apply(x, width)


class _Halve(torch.autograd.Function):
    """A convolution channel by channel, and its gradient the blocks of nearest neighbours. Both
    keep the channels last in memory, where pooling is thirty times slower on CPUs; and slices
    have gradients that do not."""

    @staticmethod
    def forward(ctx, x, width):
        ctx.pads = [side for n in reversed(x.shape[2:]) for side in (width, width + n % 2)]
        kernel = x.new_full((x.shape[1], 1, 2, 2, 2), 1 / 8)
        kernel = kernel.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(trim(x, width), kernel, stride=2, groups=len(kernel))

    @staticmethod
    def backward(ctx, gradient):
        return F.pad(F.interpolate(gradient / 8, scale_factor=2), ctx.pads), None


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

    def forward(self, x, noise) -> torch.Tensor:
        return _AddNoise.apply(x, (self.gain * self.std).to(x.dtype), noise.to(x.dtype))


class _AddNoise(torch.autograd.Function):
    """x + std * noise; the gradient of std (C,) is one matrix product over all sites."""

    @staticmethod
    def forward(ctx, x, std, noise):
        ctx.save_for_backward(noise)
        return torch.addcmul(x, std.view(-1, 1, 1, 1), noise)

    @staticmethod
    def backward(ctx, gradient):
        (noise,) = ctx.saved_tensors
        sites = gradient.movedim(1, -1).flatten(0, 3)
        return gradient, noise.flatten() @ sites, None


def activation() -> nn.Module:
    # in place: what comes before, a convolution, does not need its output for the gradient
    return nn.LeakyReLU(0.2, inplace=True)
