"""Counter-based noise on the periodic global lattices.

A chunk's noise is a piece of one fixed field: its value at a site is a function of the seed, the
layer and the site alone (Philox-4x32-10, Salmon et al. 2011). So neighbouring chunks agree in
their padding, and any cut of the box, on any device, gives the same universe.
"""

import math
from numbers import Integral

import torch
from jaxtyping import Float32
from torch import Tensor

from .errors import InputError, one_line

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

# Calls of Philox at a time on a CPU
_CACHED = 1 << 16


def philox(counter, key) -> tuple[torch.Tensor, ...]:
    """Philox-4x32 with 10 rounds: four int64 tensors of 32-bit words, from as many and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # the 64-bit products wrap into the sign bit of int64; masking after the shift undoes that
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((second >> 32) ^ c1 ^ k0) & _MASK, ((first >> 32) ^ c3 ^ k1) & _MASK
        c1, c3 = second & _MASK, first & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def site_noise(seed, layer, start, shape, Nmesh, device="cpu") -> Float32[Tensor, "x y z"]:
    """A cuboid of the standard-normal field of one noise layer.

    Parameters
    ----------
    seed : int
        0 <= seed < 2**64: the realisation.
    layer : int
        Noise layer of the generator; layers are independent.
    start, shape : three ints
        First site (any integers: the lattice is periodic) and sites along each axis.
    Nmesh : int
        Sites on a side of this layer's lattice.
    device : str or torch.device
    """
    seed = check_seed(seed)
    i, j, k = (
        (torch.arange(n, device=device) + s) % Nmesh for s, n in zip(start, shape, strict=True)
    )
    # one Philox call gives four words, so four normals: those of four neighbours along z
    if Nmesh % 4 or not len(k):
        block, place = torch.unique(k >> 2, return_inverse=True)
        chosen = 4 * place + (k & 3)
    else:  # neighbours all along, also over the edge of the box
        skip = start[2] % 4
        block = (start[2] % Nmesh // 4 + torch.arange(-(-(skip + len(k)) // 4), device=device)) % (
            Nmesh // 4
        )
        chosen = slice(skip, skip + len(k))
    key, level = (seed & _MASK, seed >> 32), torch.full((), layer, device=device)
    out = torch.empty(*map(len, (i, j, k)), device=device)
    step = len(i)
    if out.is_cpu:  # some planes at a time stay in the caches
        step = _CACHED // max(1, len(j) * len(block))
    for slab, planes in zip(out.split(max(1, step)), i.split(max(1, step))):
        words = philox((block, j[:, None], planes[:, None, None], level), key)
        four = torch.stack(_normal(*words[:2]) + _normal(*words[2:]), dim=-1).flatten(-2)
        slab.copy_(four[..., chosen])
    return out


def _normal(word0, word1):
    """Two standard normals from two 32-bit words (Box and Muller 1958)."""
    u = (word0.to(torch.float32) + 0.5) * 2**-32
    radius = torch.sqrt(-2 * torch.log(u))
    angle = word1.to(torch.float32) * (2 * math.pi * 2**-32)
    return radius * torch.cos(angle), radius * torch.sin(angle)


def check_seed(seed) -> int:
    """A seed as an int; InputError if it is no integer from 0 to 2^64 - 1."""
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not (whole and 0 <= seed < 2**64):
        raise InputError(
            f"seed is {one_line(repr(seed), 40)}: an integer from 0 to 2^64 - 1 is needed"
        )
    return int(seed)
