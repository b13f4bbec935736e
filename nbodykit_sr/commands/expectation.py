"""A check of the displacements of SR particles, as they are written and when they are verified."""

from dataclasses import dataclass

import numpy as np

from ..lattice import FARTHEST, LagrangianLattice, nearest_image

# SR particles may move this much further than LR ones, which the card's range is of [LR cells]
_SMALL_SCALES = 1.0


@dataclass(frozen=True)
class Expectation:
    """How large the displacements of SR particles may be."""

    lattice: LagrangianLattice  # of the SR particles
    factor: int
    range: float | None  # largest LR displacement that the model was trained on [LR cells]

    def displacement(self, chunk, position) -> tuple[float, float]:
        """Largest and rms displacement along each axis [LR cells], of every second particle of a chunk.

        Positions, (n, 3) comoving [Mpc/h], are in the order of the chunk's sites.
        """
        shape = [self.factor * n for n in chunk.shape]
        box, cell = self.lattice.BoxSize, self.factor * self.lattice.cell
        sample = position.reshape(*shape, 3)[::2, ::2, ::2]
        largest, squares = 0.0, 0.0
        for axis in range(3):
            sites = self.factor * chunk.start[axis] + np.arange(0, shape[axis], 2)
            along = self.lattice.site_position(sites).astype(position.dtype)
            moved = sample[..., axis] - along.reshape([-1 if i == axis else 1 for i in range(3)])
            moved = nearest_image(moved, box)
            largest = max(largest, float(moved.max()), -float(moved.min()))
            squares += float(np.mean(moved * moved, dtype="f8"))
        return largest / cell, np.sqrt(squares) / cell

    def complaint(self, chunk, position) -> str | None:
        """A warning if displacements of a chunk are larger than the model was trained on, else None."""
        largest, rms = self.displacement(chunk, position)
        reach = FARTHEST * self.lattice.Nmesh / self.factor
        limit = reach if self.range is None else min(self.range + _SMALL_SCALES, reach)
        if largest <= limit:
            return None
        start, cell = chunk.start, self.factor * self.lattice.cell
        edges = ", ".join(
            f"{cell * x:.4g}-{cell * (x + n):.4g}" for x, n in zip(start, chunk.shape)
        )
        far = (
            f"further than the {self.range:.3g} the model was trained on: compare this region with LR"
            if limit < reach
            else "too near to half the box to tell through which side they went: don't use this region"
        )
        return (
            f"chunk {chunk.index} (Lagrangian region {edges} Mpc/h): particles are up to {largest:.3g} LR "
            f"cells (rms {rms:.3g}) from their lattice sites, {far}"
        )
