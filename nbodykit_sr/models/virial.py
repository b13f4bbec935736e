"""Mean shift and scatter: how convex levels make round halos.

A convex combination puts a fine particle between coarse ones, so a patch that should become one
halo is left as several clumps, or as a string between two coarse particles. Two steps that know no
direction mend that:

- **mean shift** (Fukunaga & Hostetler 1975): before they are upsampled, coarse particles move
  towards the mean of those of their neighbours that are near in space by now, so that clumps close
  to each other meet;
- **scatter**: afterwards each fine particle is given a random offset, the same along all axes, as
  wide as the network wants it there. Where particles are on their orbits in a halo is chance, for
  the initial conditions do not tell.
"""

from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import trim

# How much faster than other weights those of the mean shift act
SHIFT_GAIN = 8.0
# The first width of its kernel, and the unit of the scatter, in sites of their lattice
KERNEL, SCATTER = 0.25, 0.25
NEIGHBOURS = [offset for offset in product((-1, 0, 1), repeat=3) if any(offset)]


class MeanShift(nn.Module):
    """Mean shift among the 27 particles around each site of the lattice: N -> N - 2.

    With the vectors d_j from a particle to its neighbours, its displacement moves by

        s sum_j w_j d_j / sum_j w_j,    w_j = exp(-d_j^2 / 2 h^2),    s = a + b log sum_j w_j,

    and its velocity in the same way towards theirs, with another s. h, a and b are learnt.

    Parameters
    ----------
    spacing : float
        Of the lattice, in units of the displacement.
    steps : int
        1 or 2. A second step lacks neighbours for the outermost sites, which take the nearest ones
        instead; so of the finer lattice the outermost two sites on each side are only roughly right.
    """

    def __init__(self, spacing, steps=1):
        super().__init__()
        self.spacing, self.steps = spacing, steps
        self.width = nn.Parameter(torch.zeros(()))
        # a and b, of displacement and velocity
        self.strength = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 0.0]]) / SHIFT_GAIN)

    def forward(self, y: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x-2 y-2 z-2"]:
        """Shifted fields: displacement, and velocity if c is 6."""
        y = self.step(y.float())
        for _ in range(self.steps - 1):
            y = self.step(F.pad(y, [1] * 6, mode="replicate"))
        return y

    def step(self, y) -> torch.Tensor:
        """One step: N -> N - 2."""
        place = self.placed(y)
        centre = _inner(place, (0, 0, 0))
        falloff = -0.5 / (KERNEL * self.spacing) ** 2 * torch.exp(-2 * SHIFT_GAIN * self.width)
        weights, total = torch.ones_like(centre[:, :1]), centre.clone()
        for offset in NEIGHBOURS:
            there = _inner(place, offset)
            square = (there[:, :3] - centre[:, :3]).square().sum(1, keepdim=True)
            weight = torch.exp(falloff * square)
            weights = weights + weight
            total = torch.addcmul(total, weight, there)
        strength = torch.log(weights) * self._parameters_of(1, y) + self._parameters_of(0, y)
        return _inner(y, (0, 0, 0)) + strength * (total / weights - centre)

    def placed(self, y) -> torch.Tensor:
        """Fields with positions, from the middle of the lattice, in place of displacements."""
        axes = (self.spacing * (torch.arange(n, device=y.device) - n // 2) for n in y.shape[2:])
        sites = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return torch.cat([y[:, :3] + sites, y[:, 3:]], 1)

    def _parameters_of(self, number, y):
        """a or b, for every channel of y."""
        both = SHIFT_GAIN * self.strength[: y.shape[1] // 3, number]
        return both.repeat_interleave(3).view(1, -1, 1, 1, 1)


def _inner(x, offset):
    """x at the neighbours, `offset` sites away, of all sites but the outermost."""
    return x[(..., *(slice(1 + i, n - 1 + i) for i, n in zip(offset, x.shape[2:])))]


def directions(
    noise: Float[Tensor, "b 1 x y z"], margin, channels
) -> Float[Tensor, "b {channels} x-2*{margin} y-2*{margin} z-2*{margin}"]:
    """Isotropic random vectors at the sites of a noise field, less `margin` on each side.

    The components of a site are the noise of its neighbours: the next ones along the three axes for
    the displacement, the ones before for the velocity. Of two sites no components along the same
    axis are the same number.
    """
    noise = trim(noise, margin - 1)
    axes = torch.eye(3, dtype=torch.int).tolist()
    steps = [*axes, *([-step for step in axis] for axis in axes)]
    return torch.cat([_inner(noise, step) for step in steps[:channels]], 1)
