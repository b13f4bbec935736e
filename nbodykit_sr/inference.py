"""Running a generator over chunks: a padded LR chunk in, the chunk's SR particles out."""

from dataclasses import dataclass

import numpy as np
import torch

from .errors import InputError
from .lattice import LagrangianLattice
from .models.blocks import trim
from .models.displacement import noise_layers, output_trim
from .noise import site_noise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ChunkedInference:
    """A generator with everything that defines one SR universe but the LR field.

    Attributes
    ----------
    generator : torch.nn.Module
        ``generator(x, noise)``, on `device`.
    factor : int
    lattice : LagrangianLattice
        Of the LR field.
    units : (C,) array
        What is 1 to the network: displacement [Mpc/h], velocity [km/s].
    seed : int
    device : torch.device
    """

    generator: torch.nn.Module
    factor: int
    lattice: LagrangianLattice
    units: np.ndarray
    seed: int
    device: torch.device

    def noise(self, chunk):
        """The noise fields of a chunk, with the padding the generator wants."""
        fields = []
        for layer, (refinement, padding) in enumerate(noise_layers(self.factor)):
            start = [refinement * s - padding for s in chunk.start]
            shape = [refinement * n + 2 * padding for n in chunk.shape]
            Nmesh = refinement * self.lattice.Nmesh
            field = site_noise(self.seed, layer, start, shape, Nmesh, self.device)
            fields.append(field[None, None])
        return fields

    @torch.inference_mode()
    def fields(self, chunk, padded):
        """SR displacement (and velocity) of a chunk.

        Parameters
        ----------
        chunk : Chunk
        padded : (C, X, Y, Z) float32 array
            LR fields of the chunk with its padding, [Mpc/h] and [km/s].

        Returns
        -------
        (C, factor * nx, ...) float32 tensor on the device, [Mpc/h] and [km/s]
        """
        units = torch.as_tensor(self.units, dtype=torch.float32, device=self.device)
        units = units.view(-1, 1, 1, 1)
        x = torch.from_numpy(np.ascontiguousarray(padded)).to(self.device) / units
        y = self.generator(x[None], self.noise(chunk))
        return trim(y[0].float(), output_trim(self.factor)) * units

    @torch.inference_mode()
    def particles(self, chunk, padded, position_dtype="f4"):
        """SR particles of a chunk, in the order of their lattice sites (x slowest).

        Returns
        -------
        dict of arrays
            Position (n, 3) `position_dtype`, comoving [Mpc/h] in [0, BoxSize); Velocity (n, 3)
            float32 [km/s] where the model has it; ID (n,) uint64 from 1.
        """
        fields = self.fields(chunk, padded)
        fine = self.lattice.refine(self.factor)
        position = torch.empty((*fields.shape[1:], 3), dtype=torch.float64, device=self.device)
        for axis, (start, n) in enumerate(zip(chunk.start, chunk.shape, strict=True)):
            sites = torch.arange(self.factor * start, self.factor * (start + n), device=self.device)
            along = ((sites + fine.offset) * fine.cell).view(
                [-1 if i == axis else 1 for i in range(3)]
            )
            position[..., axis] = along + fields[axis]
        position = torch.remainder(position, fine.BoxSize).view(-1, 3)
        position = position.to(getattr(torch, np.dtype(position_dtype).name))
        # a float64 just under BoxSize can become BoxSize itself in the cast
        position[position >= fine.BoxSize] = 0
        columns = {"Position": position.cpu().numpy()}
        if len(fields) == 6:
            columns["Velocity"] = fields[3:].permute(1, 2, 3, 0).reshape(-1, 3).cpu().numpy()
        columns["ID"] = fine.id(chunk.sites(self.factor))
        return columns


def prepare(generator, device, dtype="float32"):
    """The generator as it is run: on its device, in its number format."""
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}: {' or '.join(DTYPES)} is needed")
    generator = generator.to(device)
    try:
        from .models.fused import fuse
    except ImportError:
        return generator
    return fuse(generator, DTYPES[dtype])


def working_memory(generator, shape):
    """Bytes that a generator takes for a chunk of `shape` LR sites, its output included.

    An estimate: the widest rung's input, upsampled and convolved, are held at a time.
    """
    widths = getattr(generator, "widths", None) or [generator.channels]
    largest = 0
    for b in range(1, len(widths)):
        sites = np.prod([2**b * n + 8 for n in shape])
        largest = max(largest, 4 * sites * (widths[b - 1] + 2 * widths[b]))
    sites = generator.factor**3 * np.prod(shape)
    weights = sum(p.numel() * 4 for p in generator.parameters())
    return float(largest + weights + sites * (8 * generator.channels + 80))
