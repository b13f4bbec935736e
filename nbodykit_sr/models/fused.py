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

from .blocks import trim
from .generator import (
    GATE_GAIN,
    OUTPUT_TRIM,
    PSI_UNIT,
    Generator,
    layer_shapes,
    sites_to_channels,
)
from .planes import (
    SLOPE,
    Convolution,
    Filter,
    Gathered,
    Residual,
    Window,
    add_noise,
    ahead,
    double,
    phase_kernels,
)
from .upsampling import CORNERS, combine_planes, deformation, log_size
from .virial import SCATTER, directions

# Bytes of interleaved features in one slab: of the order of a cache on a CPU; on a GPU enough to
# fill it
SLAB_BYTES = {"cpu": 6 << 20, "cuda": 1 << 30}
SMALLEST_SLAB = 1 << 20

logger = logging.getLogger(__name__)


def fuse(generator, dtype=torch.float32, slab_bytes=None) -> nn.Module:
    """The fast equivalent of a generator; the generator itself where there is none."""
    if isinstance(generator, Generator):
        return FusedGenerator(generator, dtype, slab_bytes)
    return generator


class FusedGenerator(nn.Module):
    """A `Generator` for inference alone, on the device of its parameters.

    Parameters
    ----------
    generator : Generator
        Its weights are copied and folded; later changes of them are not seen.
    dtype : torch.float32 or torch.bfloat16
        Of the features and of the convolutions. float32 agrees with the generator to 1e-6 of the
        output's scale; bfloat16 to about 1e-3.
    slab_bytes : int, optional
        Of interleaved features in one slab; chosen for the device by default. Halved for later
        calls too where the memory of a GPU does not suffice.
    """

    padding: int
    noise_layers: list

    def __init__(self, generator, dtype=torch.float32, slab_bytes=None):
        super().__init__()
        self.dtype = dtype
        for name in ("arguments", "channels", "factor", "widths", "padding", "noise_layers"):
            setattr(self, name, getattr(generator, name))
        self.octaves, self.margin = generator.octaves, sum(generator.context)
        with torch.no_grad():
            self.stem = nn.Linear(*generator.stem[0].weight.shape[1::-1])
            self.stem.weight.copy_(generator.stem[0].weight.flatten(1))
            self.stem.bias.copy_(generator.stem[0].bias)
            self.trunk = nn.ModuleList(Residual(conv, dtype) for conv in generator.trunk)
            self.levels = nn.ModuleList(FusedLevel(level, dtype) for level in generator.levels)
        device = next(generator.parameters()).device
        self.slab_bytes = slab_bytes or SLAB_BYTES[device.type]
        self.to(device).requires_grad_(False)

    @torch.no_grad()
    def forward(self, x, noise, psi=()) -> torch.Tensor:
        """Super-resolve padded chunks: see `Generator.forward`.

        Returns
        -------
        (B, C, M, M, M) float32 tensor
        """
        y = [
            self._within_memory(
                x[b], [field[b, 0] for field in noise], [octave[b] for octave in psi]
            )
            for b in range(len(x))
        ]
        return torch.stack(y) if len(y) > 1 else y[0][None]

    def _within_memory(self, x, noise, psi):
        slab_bytes = self.slab_bytes
        while True:
            try:
                return self.chunk(x, noise, psi, slab_bytes)
            except torch.cuda.OutOfMemoryError:
                if slab_bytes <= SMALLEST_SLAB:
                    raise
            # outside the handler, which keeps the failed call's tensors alive
            slab_bytes //= 2
            # not halved twice by two threads that fail at the same time
            self.slab_bytes = min(self.slab_bytes, slab_bytes)
            torch.cuda.empty_cache()
            logger.warning("out of GPU memory: going on with slabs of %d MiB", slab_bytes >> 20)

    def chunk(self, x, noise, psi, slab_bytes) -> torch.Tensor:
        """One chunk: x (C, N0, N1, N2), noise a list of fields without channel axis, psi of fields
        (3, M0, M1, M2)."""
        x, psi = x.float(), [PSI_UNIT * octave for octave in psi]
        slabs = self.first(x, psi)
        for stage in self.trunk:
            slabs = stage.stream(slabs)
        coarse = trim(x, self.margin)
        heard = list(psi)
        if heard:
            heard[0] = trim(psi[0], 2 * self.padding - self.noise_layers[1][1])
        for b, level in enumerate(self.levels):
            lost = 6 + 2 * len(level.refine)
            fine = x.new_empty(x.shape[0], *(2 * n - lost for n in coarse.shape[1:]))
            fields = (coarse, fine, *noise[2 * b : 2 * b + 2], heard[b] if heard else None)
            slabs = level.stream(slabs, *fields, slab_bytes)
            coarse = fine
        for _ in slabs:
            pass
        return fine

    def first(self, x, psi) -> Iterator[torch.Tensor]:
        """Slabs of the stem's features, (D, H, W, C)."""
        if psi:
            x = torch.cat([x, sites_to_channels(psi[0][None])[0]])
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
    memory = sum(4 * prod(fields) for fields in layer_shapes(generator.noise_layers, shape))
    memory += sum(12 * prod(fields) for fields in layer_shapes(generator.octaves, shape))
    output = 4 * channels * prod(factor * n + 2 * OUTPUT_TRIM for n in shape)
    widths = getattr(generator, "widths", [channels, channels])
    if not isinstance(generator, FusedGenerator):
        # the last level's input upsampled, and its two convolutions
        features = widths[-2] + 2 * widths[-1]
        return memory + 2 * output + 4 * features * prod(factor * n + 8 for n in shape)
    size = generator.dtype.itemsize
    sides = [n + 2 * (generator.padding - generator.margin) for n in shape]
    for stage in generator.trunk:
        planes = 2 * int(stage.dilation) + 4
        memory += 2 * size * widths[0] * planes * prod(n + 2 * generator.padding for n in shape[1:])
    for p, n, level in zip(widths[:-1], widths[1:], generator.levels, strict=True):
        # coarse planes; eight phases, their interleaved planes twice filtered, conv1's two sides
        area = sides[1] * sides[2]
        planes = max(1, generator.slab_bytes // (8 * size * n * area))
        memory += size * area * ((planes + 1) * p + 8 * n * (6 * planes + 2))
        memory += len(level.refine) * size * area * 8 * n * (planes + 1)
        if level.gather is not None:  # fields, shifts and differences around the planes of a slab
            memory += 4 * 5 * channels * area * (planes + 4)
        sides = [2 * side - 6 - 2 * len(level.refine) for side in sides]
        memory += 4 * channels * prod(sides)
    return memory


class FusedLevel(nn.Module):
    """One doubling of the resolution: see `Level`."""

    deform: torch.Tensor | None
    hear: torch.Tensor | None
    linear: torch.Tensor | None
    of_size: torch.Tensor | None
    std1: torch.Tensor
    head: torch.Tensor
    head_bias: torch.Tensor

    def __init__(self, level, dtype):
        super().__init__()
        self.phases = nn.ModuleList(
            Convolution(weight, level.conv0.bias.repeat(2), dtype)
            for weight in phase_kernels(level.conv0.weight)
        )
        self.conv1 = Convolution(level.conv1.weight, level.conv1.bias, dtype, activated=True)
        self.refine = nn.ModuleList(Residual(conv, dtype) for conv in level.refine)
        width = level.conv1.out_channels
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.filter0 = Filter(taps[:, None], width, dtype)
        self.filter12 = Filter(taps[:, None] * taps, width, dtype, activated=not level.phases)
        hear = level.hear.weight.flatten(1).T.to(dtype) if level.phases else None
        self.register_buffer("hear", hear)
        linear = level.linear.weight.flatten(1) if level.phases else None
        self.register_buffer("linear", linear)
        self.spacing, self.sharpest = level.spacing, level.sharpest
        self.margin = 1 + len(
            level.refine
        )  # fine planes that noise1 and psi have more on each side
        self.gather = level.gather if self.spacing is not None else None
        # for even and odd sites alike, as the phases have them
        convex = self.spacing is not None
        deform = level.deform.weight.flatten(1).repeat(2, 1).T.to(dtype) if convex else None
        self.register_buffer("deform", deform)
        self.register_buffer("std0", (level.noise0.gain * level.noise0.std)[None].to(dtype))
        self.register_buffer("std1", (level.noise1.gain * level.noise1.std)[None].to(dtype))
        self._join_heads(level, convex)

    def _join_heads(self, level, convex):
        """One matrix that gives projected increments, then the logits of convex upsampling, and of
        gates, scatter and sharpness where the level has them; what these three owe to the size of
        the cells stays apart."""
        weights, biases = [level.proj.weight.flatten(1)], [level.proj.bias]
        self.parts, of_size = [len(level.proj.bias)], []
        if convex:
            weights.append(level.mix.weight.flatten(1))
            biases.append(level.mix.bias)
            self.parts.append(len(CORNERS))
            controls = ((level.gate, GATE_GAIN), (level.scatter, GATE_GAIN), (level.sharp, 1.0))
            for control, gain in controls:
                self.parts.append(0 if control is None else len(control.bias))
                if control is not None:
                    of_features, size = (gain * control.weight.flatten(1)).tensor_split([-1], 1)
                    weights.append(of_features)
                    biases.append(gain * control.bias)
                    of_size.append(size)
        self.register_buffer("head", torch.cat(weights))
        self.register_buffer("head_bias", torch.cat(biases)[:, None])
        self.register_buffer("of_size", torch.cat(of_size)[:, :, None, None] if of_size else None)

    def stream(
        self, slabs, coarse, fine, noise0, noise1, psi, slab_bytes
    ) -> Iterator[torch.Tensor]:
        """Turn slabs of coarse features (D, H, W, P) into slabs of fine ones, and fill `fine`.

        Parameters
        ----------
        slabs : iterable of (D, H, W, P) tensors
            Consecutive planes of the features of N planes in all.
        coarse, fine : (C, N, N, N) and (C, 2N - 6, 2N - 6, 2N - 6) float32 tensors
            Skip path before and after this level. `coarse` must be filled as far as `slabs` came.
        noise0, noise1 : (N, N, N) and (2N - 4, 2N - 4, 2N - 4) tensors
        psi : (3, 2N - 4, 2N - 4, 2N - 4) tensor or None
        slab_bytes : int
            Of interleaved features to work on at once.
        """
        slabs = self.convolved(slabs, coarse, noise0, noise1, psi, slab_bytes)
        for stage in self.refine:
            slabs = stage.stream(slabs)
        coarse, start = trim(coarse, len(self.refine) // 2), 0
        psi = None if psi is None else trim(psi, self.margin)
        near = Gathered(self.gather, coarse)
        for slab in ahead(slabs) if near.before else slabs:
            stop = start + len(slab)
            noise = noise1[start : stop + 2 * self.margin]
            self.project(slab, coarse, near, fine, psi, noise, start)
            start = stop
            yield slab

    def convolved(self, slabs, coarse, noise0, noise1, psi, slab_bytes) -> Iterator[torch.Tensor]:
        """Slabs of what the two convolutions make of coarse ones."""
        x, g, f = Window(1), Window(2), Window(2)
        at_x = at_f = 0  # planes done of the coarse features and of conv1's input
        pieces = (p for slab in slabs for p in slab.split(self.planes(slab, slab_bytes)))
        for piece in pieces:
            n = len(piece)
            add_noise(piece, noise0[at_x : at_x + n], self.std0, out=x.advance(n, piece))
            at_x += n
            if len(x.planes) < 2:
                continue
            shown = self.shown(coarse[:, at_x - len(x.planes) : at_x])
            for qd in range(2):
                for qh in range(2):
                    # (d, h, w, 2n): even and odd w
                    phase = self.phases[2 * qd + qh](x.planes, shown)
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
            if psi is not None:
                self.add_psi(a, psi[:, at_f : at_f + n])
            add_noise(a, noise1[at_f : at_f + n], self.std1, out=f.advance(n, a))
            at_f += n
            if len(f.planes) < 3:
                continue
            yield self.conv1(f.planes)

    def planes(self, slab, slab_bytes) -> int:
        """Coarse planes to work on at once."""
        plane = 8 * slab[0, :, :, 0].numel() * self.std1.shape[1] * slab.element_size()
        return max(1, slab_bytes // plane)

    def shown(self, coarse) -> torch.Tensor | None:
        """What the features learn from the deformation of the cells between some coarse planes,
        (d, h, w, 2n): see `Level`. It may go before the filter, as upsampling is that."""
        if self.deform is None:
            return None
        cells = deformation(coarse[None], self.spacing)[0]
        shown = cells.flatten(1).T.to(self.deform.dtype) @ self.deform
        return shown.view(*cells.shape[1:], -1)

    def add_psi(self, x, psi) -> None:
        """Add the response to psi (3, D, H, W) to features (D, H, W, N), and activate them."""
        rows = x.view(-1, x.shape[-1])
        torch.addmm(rows, psi.flatten(1).T.to(x.dtype), self.hear, out=rows)
        F.leaky_relu_(x, SLOPE)

    def project(self, x, coarse, near, fine, psi, noise, start) -> None:
        """Fill the planes of `fine` that go with the fine features `x` (D, H, W, N).

        Parameters
        ----------
        x : (D, H, W, N) tensor
        coarse : (C, N, N, N) float32 tensor
        near : Gathered
            Of the coarse fields.
        fine : (C, M, M, M) float32 tensor
        psi : (3, M, M, M) tensor or None
        noise : (D + 2 margin, ...) tensor
            Of these planes and `margin` sites around.
        start : int
            The first of these planes.
        """
        stop = start + len(x)
        # in float32: rounded increments would add white noise to the small scales
        p = torch.addmm(self.head_bias, self.head, x.view(-1, x.shape[-1]).float().T)
        p, *logits = p.view(-1, *x.shape[:3]).split(self.parts)
        if psi is None:
            F.leaky_relu_(p, SLOPE)
        else:
            p += torch.einsum("cp,pdhw->cdhw", self.linear, psi[:, start:stop])
        # plane j of `fine` is the (j + 3)th of x2 of all of `coarse`
        first, last = (start + 2) // 2, (stop + 5) // 2
        y, skip = near.planes(first, last), start + 2 - 2 * first
        if logits:
            mix, gates, widths, sharp = logits
            if self.of_size is not None:
                of_size = self.of_size * self.size(coarse, start, stop)
                for part, size in zip((gates, widths, sharp), of_size.split(self.parts[2:])):
                    part += size
            if len(gates):
                p.unflatten(0, (-1, 3)).mul_(2 * gates.sigmoid_()[:, None])
            if len(widths):
                offsets = directions(noise[None, None], self.margin, len(p))[0]
                widths = F.softplus(widths).mul_(SCATTER * self.spacing / 2)
                p += widths.repeat_interleave(3, 0) * offsets
            tau = sharp.tanh_().mul_(self.sharpest).exp_() if len(sharp) else None
            y = combine_planes(y, mix, skip, self.spacing, tau)
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
