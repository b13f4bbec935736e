"""Convolutions and filters of planes of features, channels last: what `fused` streams slabs through."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

SLOPE = 0.2  # of the LeakyReLU


class Convolution(nn.Module):
    """Unpadded convolution (D, H, W, C) -> (D', H', W', C').

    Another field may be added to the result; LeakyReLU follows if `activated`.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight, bias, dtype, activated=False, dilation=1):
        super().__init__()
        weight = weight.to(dtype, memory_format=torch.channels_last_3d)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.to(dtype))
        self.activated, self.dilation = activated, dilation
        self.packed = None  # the weights in oneDNN's own order

    def forward(self, x, added=None) -> torch.Tensor:
        x = x.permute(3, 0, 1, 2)[None]
        if added is not None:
            added = added.permute(3, 0, 1, 2)[None]
        if with_onednn(x):
            if self.packed is None:
                # packed for one fixed shape, so that all processes pack in the same way
                shape = [1, x.shape[1], 8, 40, 40]
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, [0] * 3, [1] * 3, [self.dilation] * 3, 1, shape
                )
            x = pointwise(x, self.packed, self.bias, 1, self.activated, added, self.dilation)
        else:
            x = F.conv3d(x, self.weight, self.bias, dilation=self.dilation)
            if added is not None:
                x += added
            if self.activated:
                F.leaky_relu_(x, SLOPE)
        return x[0].permute(1, 2, 3, 0).contiguous()


class Filter(nn.Module):
    """The same unpadded filter for each channel, and LeakyReLU: (B, H, W, C) -> (B, H', W', C)."""

    weight: torch.Tensor

    def __init__(self, taps, channels, dtype, activated=False):
        super().__init__()
        self.register_buffer("weight", taps.to(dtype).expand(channels, 1, *taps.shape).clone())
        self.activated = activated

    def forward(self, x) -> torch.Tensor:
        x = x.permute(0, 3, 1, 2)
        if with_onednn(x):
            x = pointwise(x, self.weight, None, len(self.weight), self.activated)
        else:
            x = F.conv2d(x, self.weight, groups=len(self.weight))
            if self.activated:
                F.leaky_relu_(x, SLOPE)
        return x.permute(0, 2, 3, 1).contiguous()


def with_onednn(x) -> bool:
    """Whether oneDNN can be called itself for this input: it fuses, and takes packed weights."""
    ours = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not ours or not hasattr(torch.ops.mkldnn, "_reorder_convolution_weight"):
        return False
    return x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def pointwise(x, weight, bias, groups, activated, added=None, dilation=1) -> torch.Tensor:
    """oneDNN's convolution with an addition, or its activation, in one pass."""
    axes = x.dim() - 2
    geometry = ([0] * axes, [1] * axes, [dilation] * axes, groups)
    convolution = torch.ops.mkldnn._convolution_pointwise
    if added is not None:
        return convolution.binary(x, added, weight, bias, *geometry, "add", 1.0, None, [], None)
    activation = ("leaky_relu", [SLOPE]) if activated else ("none", [])
    return convolution(x, weight, bias, *geometry, *activation, "")


class Residual(nn.Module):
    """x + act(conv(x)) of a stream of slabs: see `generator.apply_residuals`."""

    def __init__(self, convolution, dtype):
        super().__init__()
        self.dilation = convolution.dilation[0]
        self.convolution = Convolution(
            convolution.weight, convolution.bias, dtype, activated=True, dilation=self.dilation
        )

    def stream(self, slabs) -> Iterator[torch.Tensor]:
        """Slabs (D, H, W, C) into slabs whose last axes have `dilation` sites less on each side."""
        d = self.dilation
        window = Window(2 * d)
        for slab in slabs:
            window.advance(len(slab), slab).copy_(slab)
            if len(window.planes) > 2 * d:
                yield self.convolution(window.planes) + window.planes[d:-d, d:-d, d:-d]


class Window:
    """The last `keep` planes of a stream with the next ones behind them, in one buffer."""

    def __init__(self, keep):
        self.keep = keep
        self.buffer = self.planes = None

    def advance(self, count, like, *shape) -> torch.Tensor:
        """Drop all but the last `keep` planes; returns where the next `count` are to be written.

        `like` gives dtype and device, and the shape of a plane where that is not given.
        """
        shape = shape or like.shape[1:]
        if self.planes is None:
            self.planes = like.new_empty(0, *shape)
        kept = min(self.keep, len(self.planes))
        tail = self.planes[len(self.planes) - kept :]
        if self.buffer is None or len(self.buffer) < kept + count:
            self.buffer = like.new_empty(self.keep + count, *shape)
            self.buffer[:kept] = tail
        else:
            self.buffer[:kept] = tail.clone()
        self.planes = self.buffer[: kept + count]
        return self.planes[kept:]


def phase_kernels(weight) -> list[torch.Tensor]:
    """Kernels for nearest-neighbour x2 and the convolution `weight`, on the coarse lattice.

    Coarse sites m and m + 1 make the fine sites 2m + 1 (from k0 + k1 and k2) and 2m + 2 (from k0
    and k1 + k2) along each axis.

    Parameters
    ----------
    weight : (N, P, 3, 3, 3) tensor

    Returns
    -------
    list of four (2N, P, 2, 2, 2) tensors
        One for each parity along the first two axes; that along the last is in the channels.
    """
    odd = weight.new_tensor([[1, 1, 0], [0, 0, 1]])
    even = weight.new_tensor([[1, 0, 0], [0, 1, 1]])
    fold = torch.stack([odd, even])  # (parity, coarse tap, tap)
    kernels = torch.einsum("npijk,aIi,bJj,cKk->abcnpIJK", weight, fold, fold, fold)
    return list(kernels.flatten(2, 3).flatten(0, 1))


def add_noise(x, noise, std, out) -> None:
    """out = x + noise * std for x (D, H, W, C), noise (D, H, W), std (1, C)."""
    width = x.shape[-1]
    noise = noise.to(x.dtype).reshape(-1, 1)
    torch.addmm(x.view(-1, width), noise, std, out=out.view(-1, width))


def double(y) -> torch.Tensor:
    """Cell-centred trilinear x2 of fields (C, D, H, W), less the outer sites: N -> 2N - 2. Seven times as
    fast as `blocks.upsample` on a core, but without a gradient."""
    for axis in (3, 2, 1):
        n = y.shape[axis] - 1
        left, right = y.narrow(axis, 0, n), y.narrow(axis, 1, n)
        out = y.new_empty(*left.shape[: axis + 1], 2, *left.shape[axis + 1 :])
        torch.lerp(left, right, 0.25, out=out.select(axis + 1, 0))
        torch.lerp(left, right, 0.75, out=out.select(axis + 1, 1))
        y = out.flatten(axis, axis + 1)
    return y


class Gathered:
    """The coarse fields of a level as they are upsampled: by mean shift where the level has it, less
    the outermost sites.

    Parameters
    ----------
    shift : MeanShift or None
    coarse : (C, N, N, N) float32 tensor
        May be filled while planes are taken, if as many planes ahead as there are steps.
    steps : int, optional
        Of the mean shift; all of them by default.
    """

    def __init__(self, shift, coarse, steps=None):
        self.shift, self.coarse = shift, coarse
        steps = steps or (shift.steps if shift else 1)
        self.before = Gathered(shift, coarse, steps - 1) if steps > 1 else None
        self.kept, self.first = coarse[:, :0, 1:-1, 1:-1], 1  # the planes made, from `first` on

    def planes(self, first, last) -> torch.Tensor:
        """Coarse planes `first` to `last`, without the outermost sites of the other axes; `first` must
        not go back."""
        if self.shift is None:
            return self.coarse[:, first:last, 1:-1, 1:-1]
        made, kept = self.first + self.kept.shape[1], self.kept[:, first - self.first :]
        if last > made:
            new = self.shift.step(self._around(made, last)[None])[0]
            kept = torch.cat([kept, new], 1)
        self.kept, self.first = kept, first
        return kept[:, : last - first]

    def _around(self, first, last):
        """These planes and their neighbours, before the last step."""
        if self.before is None:
            return self.coarse[:, first - 1 : last + 1]
        end = self.coarse.shape[1] - 1
        around = self.before.planes(max(first - 1, 1), min(last + 1, end))
        ends = [int(first == 1), int(last == end)]
        return F.pad(around[None], [1, 1, 1, 1, *ends], mode="replicate")[0]


def ahead(slabs) -> Iterator[torch.Tensor]:
    """Slabs one behind what is drawn from their stream, so that the level before is further."""
    held = None
    for slab in slabs:
        if held is not None:
            yield held
        held = slab
    if held is not None:
        yield held
