"""The plain way to super-resolve, the rival that the benchmarks measure against.

    python benchmarks/plain.py INPUT OUTPUT --weights W.safetensors [--chunk 16] [--sites X Y Z]

As the public scripts of Li et al. (2021) and Ni et al. (2021) do it: the network in its published
form and in float32, one chunk after another, noise drawn for each, the whole SR displacement and
velocity kept as float64 arrays, and one process that writes them at the end. It is given every
advantage that does not change this: all cores, inference mode, and arrays of the part asked for.
"""

import argparse
from itertools import product

import bigfile
import numpy as np
import torch
from common import published

from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.models.blocks import trim
from nbodykit_sr.models.card import load_model
from nbodykit_sr.models.generator import OUTPUT_TRIM, PADDING, standard_noise


def read(path, units_of):
    """LR displacement and velocity in the network's units, (6, N, N, N) float32; the lattice."""
    with bigfile.File(path) as file:
        attrs = file["Header"].attrs
        BoxSize, a, Omega_m = (float(attrs[n][0]) for n in ("BoxSize", "Time", "Omega0"))
        ids, position, velocity = (file[f"1/{n}"][:] for n in ("ID", "Position", "Velocity"))
    Nmesh = round(len(ids) ** (1 / 3))
    lattice = LagrangianLattice(Nmesh, BoxSize / 1e3)
    site = lattice.site(ids.ravel())
    values = np.empty((6, Nmesh, Nmesh, Nmesh), dtype="f4")
    units = units_of(Omega_m).units(a, 6)
    values[(slice(None), *site.T)] = (
        np.hstack([lattice.displacement(site, position / 1e3), velocity]) / units
    ).T
    return values, lattice, units


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--sites", type=int, nargs=3, help="only this many LR sites from (0, 0, 0)")
    args = parser.parse_args()

    network, card = load_model(args.weights)
    network.eval()
    lr, lattice, units = read(args.input, card.normalization)
    fine = lattice.refine(card.factor)
    sites = args.sites or 3 * [lattice.Nmesh]
    sr = np.zeros((6, *(card.factor * n for n in sites)))
    for start in product(*(range(0, n, args.chunk) for n in sites)):
        shape = [min(args.chunk, n - s) for s, n in zip(start, sites)]
        rows = [
            np.arange(s - PADDING, s + n + PADDING) % lattice.Nmesh for s, n in zip(start, shape)
        ]
        x = torch.from_numpy(lr[(slice(None), *np.ix_(*rows))])[None]
        y = published(network, x, standard_noise(network, x))[0]
        where = [slice(card.factor * s, card.factor * (s + n)) for s, n in zip(start, shape)]
        sr[(slice(None), *where)] = trim(y, OUTPUT_TRIM).numpy()

    sr *= units[:, None, None, None]
    for axis in range(3):
        grid = fine.site_position(np.arange(sr.shape[1 + axis]))
        sr[axis] += grid.reshape([-1 if i == axis else 1 for i in range(3)])
    sr[:3] %= fine.BoxSize
    ids = np.ravel_multi_index(np.ix_(*map(np.arange, sr.shape[1:])), 3 * (fine.Nmesh,)) + 1
    with bigfile.File(args.output, create=True) as file:
        columns = sr.reshape(6, -1).T
        file.create_from_array("Position", columns[:, :3].astype("f4"), Nfile=1)
        file.create_from_array("Velocity", columns[:, 3:].astype("f4"), Nfile=1)
        file.create_from_array("ID", ids.ravel().astype("u8"), Nfile=1)


if __name__ == "__main__":
    main()
