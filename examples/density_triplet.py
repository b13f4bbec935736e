"""Make triplets for the density emulator: initial conditions, LR and HR density at z = 0.

    pip install --no-deps --no-build-isolation fastpm==0.0.10
    mpirun -n 2 python examples/density_triplet.py triplets --seeds 1 2

writes ``triplets/SEED``, what ``system = "density"`` is trained on (see recipes/density_small.toml), and
beside it what `emulate` takes: the snapshot ``SEED-LR`` and the mesh ``SEED-initial``, the linear
overdensity at z = 99; and ``SEED-HR``, the truth. LR has 64^3 and HR 128^3 particles in 250 Mpc/h
by default: the resolutions of Kodi Ramanah et al. 2020, in a 64th of their volume. One triplet
takes about four minutes on one core. The cosmology is that of Li et al. 2021, or one in a TOML file
as make_pairs.py has it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from make_pairs import (
    A_START,
    OFFSET,
    header,
    interpolated,
    is_there,
    power_table,
    read_cosmology,
    simulate,
    write_snapshot,
)
from mpi4py import MPI
from nbodykit.lab import FieldMesh
from pmesh.pm import ParticleMesh

from nbodykit_sr.density.moved import moved_overdensity
from nbodykit_sr.density.painting import LR_ORIGIN, initial_overdensity, paint
from nbodykit_sr.density.triplets import write_triplet
from nbodykit_sr.errors import InputError, agreement
from nbodykit_sr.io.preflight import SNAPSHOT
from nbodykit_sr.io.snapshot import open_snapshot
from nbodykit_sr.io.staging import staged
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.physics.universe import growth_factor
from nbodykit_sr.training.pairs import Manifest

# Particle-mesh cells per particle cell, on a side: both runs have the same force mesh
FORCE_MESH = {"LR": 4, "HR": 2}


def initial_mesh(lattice, cosmology, seed, comm):
    """Linear overdensity at a = A_START on the points of an HR mesh, an nbodykit mesh.

    pmesh's white noise of a seed is the same on every mesh, so this is what `simulate` starts
    from.
    """
    pm = ParticleMesh([lattice.Nmesh] * 3, lattice.BoxSize, dtype="f4", comm=comm)
    power = interpolated(*power_table(cosmology))
    growth = growth_factor(A_START, cosmology.Om0)

    def linear(k, v):
        field = v * np.sqrt(power(np.sqrt(sum(ki**2 for ki in k))) / v.BoxSize.prod()) * growth
        for axis in range(3):
            field = field * (v.i[axis] != v.Nmesh[axis] // 2)
        return field

    mesh = FieldMesh(pm.generate_whitenoise(seed, type="complex").apply(linear).c2r())
    mesh.attrs.update(Redshift=1 / A_START - 1, seed=seed)
    return mesh


def whole(field):
    """A distributed field on rank 0, (N, N, N); None on others."""
    parts = field.pm.comm.gather((tuple(field.slices), np.asarray(field.value, dtype="f4")))
    if parts is None:
        return None
    array = np.empty(tuple(field.cshape), dtype="f4")
    for where, values in parts:
        array[where] = values
    return array


def make(folder, seed, coarse, cosmology, step, comm):
    """Run both simulations of one seed and write its triplet."""
    fine = coarse.refine(2)
    paths = {kind: folder / f"{seed}-{kind}" for kind in ("LR", "HR", "initial")}
    triplet = folder / str(seed)
    for kind, lattice in (("LR", coarse), ("HR", fine)):
        wanted = header(lattice, 1.0, cosmology, seed, False)
        if is_there(paths[kind], wanted, comm) or comm.bcast(triplet.exists()):
            continue
        run = simulate(
            lattice, FORCE_MESH[kind], cosmology, seed, [1.0], step, comm, sharp=kind == "HR"
        )
        for _, state in run:
            write_snapshot(paths[kind], state, lattice, wanted, comm)
    if comm.bcast(triplet.exists()):
        return
    initial = initial_mesh(fine, cosmology, seed, comm)
    if not comm.bcast(paths["initial"].exists()):
        with staged(paths["initial"], SNAPSHOT, comm) as partial:
            initial.save(str(partial), dataset="Field", mode="real")
    growth = growth_factor(A_START, cosmology.Om0)
    low = open_snapshot(paths["LR"], comm)
    linear = initial_overdensity(initial, fine.Nmesh, growth)
    fields = [
        whole(paint(low, coarse.Nmesh, LR_ORIGIN)),
        whole(linear),
        whole(paint(open_snapshot(paths["HR"], comm), fine.Nmesh)),
    ]
    moved = [whole(field) for field in moved_overdensity(low, linear)]
    with agreement(comm):
        if comm.rank == 0:
            manifest = Manifest(
                BoxSize=coarse.BoxSize,
                a=1.0,
                Omega_m=float(cosmology.Om0),
                Nmesh=coarse.Nmesh,
                factor=2,
                channels=1,
                source="particle-mesh",
                seed=seed,
            )
            write_triplet(triplet, manifest, *fields, moved=moved)
            print(f"{triplet}: {coarse.Nmesh}^3 to {fine.Nmesh}^3", flush=True)


def main(argv=None, comm=MPI.COMM_WORLD):
    """Make one triplet for each seed; finished ones are kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for the triplets")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="one box for each")
    parser.add_argument("--boxsize", type=float, default=250.0, help="Mpc/h (250)")
    parser.add_argument("--nmesh", type=int, default=64, help="LR particles on a side (64)")
    parser.add_argument("--step", type=float, default=0.04, help="largest step in a (0.04)")
    parser.add_argument("--cosmology", type=Path, help="TOML file (that of Li et al. 2021)")
    args = parser.parse_args(argv)
    with agreement(comm):
        cosmology = read_cosmology(args.cosmology)
    coarse = LagrangianLattice(args.nmesh, args.boxsize, OFFSET)
    for seed in args.seeds:
        make(args.output, seed, coarse, cosmology, args.step, comm)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"density_triplet: {error}", file=sys.stderr)
        sys.exit(2)
