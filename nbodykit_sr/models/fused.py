"""The displacement generators at speed: `FusedGenerator` gives what the plain one gives.

- Trilinear x2 is nearest-neighbour x2 followed by the filter [1, 2, 1]/4 along each axis, and that
  filter commutes with a convolution. So the upsampling and the 3^3 convolution after it become
  eight 2^3 convolutions on the coarse lattice, one for each parity of the fine site, whose results
  are interleaved and then filtered: 8 multiplications instead of 27, and no large input. The
  filter sums to 1, so the bias may go before it.
- A chunk streams through the network slab by slab along its first axis: each level holds only the
  few planes that the next slab needs again. So working memory follows a chunk's cross-section.
- Features are stored with the channel last, in `dtype`; the skip path is float32 throughout.

What holds, bit for bit: a call made on one thread (`torch.set_num_threads(1)` in the thread that
calls; calls may run concurrently) gives the same in any process. On several threads oneDNN divides
its sums otherwise for each number of them, which changes float32 by 1e-7 and bfloat16 by up to
3e-4, so `nbodykit_sr.inference` computes whole chunks side by side instead.
"""

import logging
from collections.abc import Iterator
from math import prod

import torch
from torch import nn
from torch.nn import functional as F

from .convex import CORNERS, GATE_GAIN, ConvexLevel, combine_planes, deformation, log_size
from .displacement import PADDING, DisplacementGenerator, noise_shapes
from .planes import SLOPE, Convolution, Filter, Window, add_noise, double, phase_kernels

# Bytes of interleaved features in one slab: of the order of a cache on a CPU; on a GPU enough to
# fill it
SLAB_BYTES = {"cpu": 6 << 20, "cuda": 1 << 30}
SMALLEST_SLAB = 1 << 20

logger = logging.getLogger(__name__)


def fuse(generator, dtype=torch.float32, slab_bytes=None) -> nn.Module:
    """The fast equivalent of a generator; the generator itself where there is none."""
    if isinstance(generator, DisplacementGenerator):
        return FusedGenerator(generator, dtype, slab_bytes)
    return generator


class FusedGenerator(nn.Module):
    """A `DisplacementGenerator` for inference alone, on the device of its parameters.

    Parameters
    ----------
    generator : DisplacementGenerator or ConvexGenerator
        Its weights are copied and folded; later changes of them are not seen.
    dtype : torch.float32 or torch.bfloat16
        Of the features and of the convolutions. float32 agrees with the generator to 1e-6 of the
        output's scale; bfloat16 to about 1e-3.
    slab_bytes : int, optional
        Of interleaved features in one slab; chosen for the device by default. Halved for later
        calls too where the memory of a GPU does not suffice.
    """

    def __init__(self, generator, dtype=torch.float32, slab_bytes=None):
        super().__init__()
        self.dtype = dtype
        self.arguments = generator.arguments
        self.channels, self.factor = generator.channels, generator.factor
        self.widths = generator.widths
        with torch.no_grad():
            self.stem = nn.Linear(*generator.stem[0].weight.shape[1::-1])
            self.stem.weight.copy_(generator.stem[0].weight.flatten(1))
            self.stem.bias.copy_(generator.stem[0].bias)
            self.levels = nn.ModuleList(
                FusedLevel(level, dtype, generator.spacing_at(b))
                for b, level in enumerate(generator.levels)
            )
        device = next(generator.parameters()).device
        self.slab_bytes = slab_bytes or SLAB_BYTES[device.type]
        self.to(device).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x, noise) -> torch.Tensor:
        """Super-resolve padded chunks: see `DisplacementGenerator.forward`.

        Returns
        -------
        (B, C, M, M, M) float32 tensor
        """
        y = [self._within_memory(x[b], [field[b, 0] for field in noise]) for b in range(len(x))]
        return torch.stack(y) if len(y) > 1 else y[0][None]

    def _within_memory(self, x, noise):
        slab_bytes = self.slab_bytes
        while True:
            try:
                return self.chunk(x, noise, slab_bytes)
            except torch.cuda.OutOfMemoryError:
                if slab_bytes <= SMALLEST_SLAB:
                    raise
            # outside the handler, which keeps the failed call's tensors alive
            slab_bytes //= 2
            # not halved twice by two threads that fail at the same time
            self.slab_bytes = min(self.slab_bytes, slab_bytes)
            torch.cuda.empty_cache()
            logger.warning("out of GPU memory: going on with slabs of %d MiB", slab_bytes >> 20)

    def chunk(self, x, noise, slab_bytes) -> torch.Tensor:
        """One chunk: x (C, N0, N1, N2), noise a list of fields without channel axis."""
        x = x.float()
        fields = [x]
        for _ in self.levels:
            fields.append(x.new_empty(x.shape[0], *(2 * n - 6 for n in fields[-1].shape[1:])))
        slabs = self.first(x)
        for b, level in enumerate(self.levels):
            fine_noise = noise[2 * b : 2 * b + 2]
            slabs = level.stream(slabs, *fields[b : b + 2], *fine_noise, slab_bytes)
        for _ in slabs:
            pass
        return fields[-1]

    def first(self, x) -> Iterator[torch.Tensor]:
        """Slabs of the stem's features, (D, H, W, C)."""
        for slab in x.split(4, dim=1):
            yield F.leaky_relu_(self.stem(slab.movedim(0, -1)), SLOPE).to(self.dtype)


def working_memory(generator, shape) -> float:
    """Bytes that one call takes for a chunk, its noise and its output included: an estimate.

    Parameters
    ----------
    generator : torch.nn.Module
        As `fuse` returns it.
    shape : three ints
        LR sites of the chunk, without padding.
    """
    channels, factor = generator.channels, generator.factor
    sides = [n + 2 * PADDING for n in shape]
    memory = sum(4 * prod(fields) for fields in noise_shapes(factor, sides))
    output = 4 * channels * prod(factor * n + 6 for n in shape)
    widths = getattr(generator, "widths", [channels, channels])
    if not isinstance(generator, FusedGenerator):
        # the last level's input upsampled, and its two convolutions
        features = widths[-2] + 2 * widths[-1]
        return memory + 2 * output + 4 * features * prod(factor * n + 8 for n in shape)
    size = generator.dtype.itemsize
    for p, n in zip(widths[:-1], widths[1:], strict=True):
        # coarse planes; eight phases, their interleaved planes twice filtered, conv1's two sides
        area = sides[1] * sides[2]
        planes = max(1, generator.slab_bytes // (8 * size * n * area))
        memory += size * area * ((planes + 1) * p + 8 * n * (6 * planes + 2))
        sides = [2 * side - 6 for side in sides]
        memory += 4 * channels * prod(sides)
    return memory


class FusedLevel(nn.Module):
    """One doubling of the resolution, N -> 2N - 6 sites a side: see `Level`."""

    deform: torch.Tensor | None
    gate: torch.Tensor | None
    proj: torch.Tensor
    proj_bias: torch.Tensor

    def __init__(self, level, dtype, spacing):
        super().__init__()
        self.phases = nn.ModuleList(
            Convolution(weight, level.conv0.bias.repeat(2), dtype)
            for weight in phase_kernels(level.conv0.weight)
        )
        self.conv1 = Convolution(level.conv1.weight, level.conv1.bias, dtype, activated=True)
        width = level.conv1.out_channels
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.filter0 = Filter(taps[:, None], width, dtype)
        convex = isinstance(level, ConvexLevel)
        self.filter12 = Filter(taps[:, None] * taps, width, dtype, activated=True)
        # for even and odd sites alike, as the phases have them
        deform = level.deform.weight.flatten(1).repeat(2, 1).T.to(dtype) if convex else None
        self.register_buffer("deform", deform)
        self.register_buffer("std0", (level.noise0.gain * level.noise0.std)[None].to(dtype))
        self.register_buffer("std1", (level.noise1.gain * level.noise1.std)[None].to(dtype))
        # projected increments, then the logits of convex upsampling and of gates where the level
        # has them; what the size of the cells adds to those of the gates stays apart
        heads = [level.proj, level.mix] if convex else [level.proj]
        weights = [head.weight.flatten(1) for head in heads]
        biases = [head.bias for head in heads]
        gate = None
        if convex and level.gate is not None:
            of_features, gate = level.gate.weight.flatten(1).tensor_split([-1], 1)
            weights.append(GATE_GAIN * of_features)
            biases.append(GATE_GAIN * level.gate.bias)
            gate = GATE_GAIN * gate
        self.register_buffer("proj", torch.cat(weights))
        self.register_buffer("proj_bias", torch.cat(biases)[:, None])
        self.register_buffer("gate", gate)
        self.spacing = spacing

    def stream(self, slabs, coarse, fine, noise0, noise1, slab_bytes) -> Iterator[torch.Tensor]:
        """Turn slabs of coarse features (D, H, W, P) into slabs of fine ones, and fill `fine`.

        Parameters
        ----------
        slabs : iterable of (D, H, W, P) tensors
            Consecutive planes of the features of N planes in all.
        coarse, fine : (C, N, N, N) and (C, 2N - 6, 2N - 6, 2N - 6) float32 tensors
            Skip path before and after this level. `coarse` must be filled as far as `slabs` came.
        noise0, noise1 : (N, N, N) and (2N - 4, 2N - 4, 2N - 4) tensors
        slab_bytes : int
            Of interleaved features to work on at once.
        """
        x, g, f = Window(1), Window(2), Window(2)
        at_x = at_f = at_y = 0  # planes done of the coarse features, conv1's input and its output
        pieces = (p for slab in slabs for p in slab.split(self.planes(slab, slab_bytes)))
        for piece in pieces:
            n = len(piece)
            add_noise(piece, noise0[at_x : at_x + n], self.std0, out=x.advance(n, piece))
            at_x += n
            if len(x.planes) < 2:
                continue
            told = self.told(coarse[:, at_x - len(x.planes) : at_x])
            for qd in range(2):
                for qh in range(2):
                    # (d, h, w, 2n): even and odd w
                    phase = self.phases[2 * qd + qh](x.planes, told)
                    if qd == qh == 0:
                        d, h, w, n = phase.shape
                        new = g.advance(2 * d, phase, 2 * h, w * 2, n // 2)
                        new = new.view(d, 2, h, 2, w, n)
                    new[:, qd, :, qh] = phase
            if len(g.planes) < 3:
                continue
            d, h, w, n = g.planes.shape
            a = self.filter0(g.planes.view(1, d, h * w, n)).view(-1, h, w, n)
            a = self.filter12(a)
            n = len(a)
            add_noise(a, noise1[at_f : at_f + n], self.std1, out=f.advance(n, a))
            at_f += n
            if len(f.planes) < 3:
                continue
            a = self.conv1(f.planes)
            self.project(a, coarse, fine, at_y)
            at_y += len(a)
            yield a

    def planes(self, slab, slab_bytes) -> int:
        """Coarse planes to work on at once."""
        plane = 8 * slab[0, :, :, 0].numel() * self.proj.shape[1] * slab.element_size()
        return max(1, slab_bytes // plane)

    def told(self, coarse) -> torch.Tensor | None:
        """What the features learn from the deformation of the cells between some coarse planes,
        (d, h, w, 2n): see `ConvexLevel`. It may go before the filter, as upsampling is that."""
        if self.deform is None:
            return None
        cells = deformation(coarse[None], self.spacing)[0]
        told = cells.flatten(1).T.to(self.deform.dtype) @ self.deform
        return told.view(*cells.shape[1:], -1)

    def project(self, x, coarse, fine, start) -> None:
        """Fill the planes of `fine` that go with the fine features `x` (D, H, W, N)."""
        stop = start + len(x)
        # in float32: rounded increments would add white noise to the small scales
        p = torch.addmm(self.proj_bias, self.proj, x.view(-1, x.shape[-1]).float().T)
        p = p.view(-1, *x.shape[:3])
        p, logits, gates = p.tensor_split([len(fine), len(fine) + len(CORNERS)])
        F.leaky_relu_(p, SLOPE)
        if self.gate is not None:
            gates += self.gate[:, :, None, None] * self.size(coarse, start, stop)
            p.unflatten(0, (-1, 3)).mul_(2 * gates.sigmoid_()[:, None])
        # plane j of `fine` is the (j + 3)th of x2 of all of `coarse`
        first, last = (start + 2) // 2, (stop + 5) // 2
        y, skip = coarse[:, first:last, 1:-1, 1:-1], start + 2 - 2 * first
        if len(logits):
            y = combine_planes(y, logits, skip, self.spacing)
        else:
            y = double(y)[:, skip : skip + len(x)]
        torch.add(y, p, out=fine[:, start:stop])

    def size(self, coarse, start, stop) -> torch.Tensor:
        """Log size of the cells between coarse planes, at the fine planes `start` to `stop`:
        (1, D, H, W), see `log_size`."""
        first, last = (start + 1) // 2, stop // 2 + 3
        size = double(log_size(deformation(coarse[None, :, first:last], self.spacing))[0])
        skip = start + 1 - 2 * first
        return size[:, skip : skip + stop - start, 1:-1, 1:-1]
