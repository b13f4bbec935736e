"""Make matched LR and HR simulations without MP-Gadget, by the particle-mesh solver fastpm.

    pip install --no-deps --no-build-isolation fastpm==0.0.10
    mpirun -n 2 python examples/make_pairs.py pairs --seeds 1 2 3 --redshifts 2

writes ``pairs/SEED/LR_z2`` and ``pairs/SEED/HR_z2``, snapshots in MP-Gadget's layout, started
from the same phases on cell-centred lattices: LR 16^3 and HR 128^3 in 25 Mpc/h by default, the
resolutions of Li et al. 2021; and ``pairs/SEED/HR_IC``, HR's initial conditions, with the linear
power spectrum at z = 0 that they were drawn from in ``pairs/SEED/power.txt``. One box takes about a
minute on one core. The cosmology is that of Li et al. 2021, or one in a TOML file:

    h = 0.6711
    Omega0_b = 0.049
    Omega0_cdm = 0.2685
    n_s = 0.9624
    sigma8 = 0.834

Two things make a particle-mesh run of this size agree with MP-Gadget's TreePM from the same seed.
The initial displacements come from a mesh of twice the lattice, as in MP-GenIC, so the modes
that alias onto the lattice are the same; and the HR forces have the window of the painting
divided out. At z = 2 the HR power is then within 2% of TreePM's to k = 8 h/Mpc, 5% low at 8 to
10 and 19% low at 14 to 16 h/Mpc (without: 6, 11 and 33%), and the halo counts agree to 7%.
"""

import argparse
import sys
import tomllib
from pathlib import Path

import numpy as np
from fastpm.background import MatterDominated
from fastpm.core import FastPMStep, Solver, StateVector, leapfrog
from fastpm.force.kernels import gradient, laplace
from mpi4py import MPI
from nbodykit.cosmology import Cosmology, LinearPower
from pmesh.pm import ParticleMesh

from nbodykit_sr.errors import InputError, agreement
from nbodykit_sr.io.blocks import write_header, write_rows
from nbodykit_sr.io.checks import attributes
from nbodykit_sr.io.preflight import SNAPSHOT, prepare_output
from nbodykit_sr.io.staging import staged
from nbodykit_sr.lattice import LagrangianLattice
from nbodykit_sr.physics.universe import RHO_CRITICAL

# WMAP9, as in Li et al. 2021
COSMOLOGY = {
    "h": 0.697, "Omega0_b": 0.0464, "Omega0_cdm": 0.235, "n_s": 0.971, "sigma8": 0.8256
}  # fmt: skip
A_START = 0.01
OFFSET = 0.5
# Particle-mesh cells per particle cell, on a side: LR has few particles and can afford a mesh
# that resolves what TreePM does
FORCE_MESH = {"LR": 8, "HR": 2}


class DeconvolvedStep(FastPMStep):
    """Leapfrog steps whose forces have the cloud-in-cell window of the density divided out.

    The four-point gradient still takes the force to zero at the mesh's Nyquist frequency, which
    keeps the noise of the lattice down.
    """

    def Force(self, state, ai, ac, af):
        layout, position, density = self.prepare_force(state, smoothing=None)
        cell = self.pm.BoxSize / self.pm.Nmesh

        def potential(k, v):
            out = laplace(k, v)
            for axis in range(3):
                out = out / np.sinc(k[axis] * cell[axis] / (2 * np.pi)) ** 2
            return out

        field = density.r2c(out=Ellipsis).apply(potential, out=Ellipsis)
        for axis in range(3):
            force = field.apply(gradient(axis, order=1)).c2r(out=Ellipsis)
            state.F[..., axis] = layout.gather(force.readout(position))
        state.F[...] *= 1.5 * self.cosmology.Om0
        state.a["F"] = af


def make_cosmology(entries):
    """The flat cosmology of a table with the keys of `COSMOLOGY`."""
    if set(entries) != set(COSMOLOGY):
        raise InputError(f"the cosmology has {sorted(entries)}: {sorted(COSMOLOGY)} are needed")
    entries = dict(entries)
    sigma8 = entries.pop("sigma8")
    return Cosmology(**entries, m_ncdm=[]).match(sigma8=sigma8)


def read_cosmology(path):
    """The cosmology of a TOML file, or that of Li et al. 2021 if `path` is None."""
    if path is None:
        return make_cosmology(COSMOLOGY)
    try:
        return make_cosmology(tomllib.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): a TOML file is needed") from None


def power_table(cosmology):
    """The linear power spectrum at z = 0: wavenumbers [h/Mpc] and power [(Mpc/h)^3]."""
    k = np.geomspace(1e-4, 1e3, 2000)
    return k, LinearPower(cosmology, 0.0)(k)


def interpolated(k, power):
    """A table of the power spectrum as a fast function of k [h/Mpc]; zero at k = 0."""
    log_k, log_p = np.log(k), np.log(power)

    def function(k):
        with np.errstate(divide="ignore"):
            return np.where(k > 0, np.exp(np.interp(np.log(k), log_k, log_p)), 0.0)

    return function


def initial_state(solver, sites, power, seed, unitary, a):
    """Second-order Lagrangian perturbation theory with exact gradients.

    The field lives on a mesh of twice the lattice, of which centred sites are nodes.
    """
    pm = solver.pm.reshape(solver.pm.Nmesh * 2)
    layout = pm.decompose(sites)
    nodes = layout.exchange(sites)

    def linear(k, v):
        field = v * np.sqrt(power(np.sqrt(sum(ki**2 for ki in k))) / v.BoxSize.prod())
        for axis in range(3):
            field = field * (v.i[axis] != v.Nmesh[axis] // 2)
        return field

    def derivative(*axes):
        def kernel(k, v):
            factor = 1.0
            for axis in axes:
                factor = factor * 1j * k[axis]
            return v * factor

        return kernel

    def displacement(potential):
        fields = (potential.apply(derivative(axis)).c2r() for axis in range(3))
        return np.stack([layout.gather(field.readout(nodes)) for field in fields], axis=-1)

    noise = pm.generate_whitenoise(seed, type="complex", unitary=unitary)
    potential = noise.apply(linear).apply(laplace)
    first = displacement(potential)
    source = 0.0
    for i, j in ((0, 1), (0, 2), (1, 2)):
        product = potential.apply(derivative(i, i)).c2r() * potential.apply(derivative(j, j)).c2r()
        source = source + product - potential.apply(derivative(i, j)).c2r() ** 2
    second = displacement((source * (3 / 7)).r2c().apply(laplace))

    growth = MatterDominated(solver.cosmology.Om0, a=[a], a_normalize=1.0)
    first, second = growth.D1(a) * first, growth.D2(a) * second
    state = StateVector(solver, sites)
    state.S[...] = first + second
    state.P[...] = a**2 * growth.E(a) * (growth.f1(a) * first + growth.f2(a) * second)
    state.a["S"] = state.a["P"] = a
    return state


def time_steps(outputs, step):
    """Scale factors from A_START through all `outputs`: steps of a/4, at most `step`."""
    stages = [A_START]
    for output in sorted(outputs):
        while stages[-1] < output:
            a = stages[-1] + min(stages[-1] / 4, step)
            stages.append(output if a > output - 1e-3 * step else a)
    return np.array(stages)


def simulate(lattice, force_mesh, cosmology, seed, outputs, step, comm, unitary=False, sharp=False):
    """Run one simulation; yields the synchronised state at each scale factor of `outputs`.

    Parameters
    ----------
    lattice : LagrangianLattice
    force_mesh : int
        Force mesh cells per particle cell, on a side; even.
    cosmology : nbodykit.cosmology.Cosmology
    seed : int
    outputs : sequence of float
        Scale factors.
    step : float
        Largest step in the scale factor.
    comm : mpi4py.MPI.Comm
    unitary : bool
        Fixed amplitudes, MP-GenIC's default.
    sharp : bool
        Divide the painting window out of the forces.

    Yields
    ------
    float, fastpm.core.StateVector
        Scale factor; a state with ``Q`` and ``S`` [Mpc/h] and ``V`` [km/s, peculiar].
    """
    pm = ParticleMesh([lattice.Nmesh] * 3, lattice.BoxSize, dtype="f4", comm=comm, resampler="cic")
    solver = Solver(pm, cosmology, B=force_mesh)
    sites = pm.generate_uniform_particle_grid(shift=lattice.offset, dtype="f4")
    power = interpolated(*power_table(cosmology))
    state = initial_state(solver, sites, power, seed, unitary, A_START)
    if A_START in outputs:
        yield A_START, state
    stepper = DeconvolvedStep(solver) if sharp else FastPMStep(solver)
    for action, start, at, end in leapfrog(time_steps(outputs, step)):
        stepper.run(action, start, at, end, state, None)
        if action == "K" and end == state.a["S"] and end in outputs:
            yield end, state


def header(lattice, a, cosmology, seed, unitary):
    """What MP-Gadget would say of a snapshot at scale factor `a`."""
    total, mass = np.zeros(6, "u8"), np.zeros(6)
    total[1] = lattice.size
    mass[1] = cosmology.Om0 * (RHO_CRITICAL / 1e10) * lattice.BoxSize**3 / lattice.size
    return {
        "BoxSize": np.array([lattice.BoxSize * 1e3]),
        "Time": np.array([a]),
        "TotNumPart": total,
        "TotNumPartInit": total,
        "MassTable": mass,
        "Omega0": np.array([cosmology.Om0]),
        "OmegaLambda": np.array([1 - cosmology.Om0]),
        "OmegaBaryon": np.array([cosmology.Ob0]),
        "HubbleParam": np.array([cosmology.h]),
        "UnitLength_in_cm": np.array([3.085678e21]),
        "UnitMass_in_g": np.array([1.989e43]),
        "UnitVelocity_in_cm_per_s": np.array([1e5]),
        "UsePeculiarVelocity": np.array([1], "i4"),
        "Seed": np.array([seed]),
        "UnitaryAmplitude": np.array([int(unitary)], "i4"),
    }


def is_there(path, wanted, comm):
    """Whether a snapshot with the header `wanted` is there, or can be made. Collective.

    Raises
    ------
    InputError
        On every rank, if another one is there, or anything else.
    """
    there = None
    with agreement(comm):
        if comm.rank == 0:
            there = (path / "Header").is_dir()
            found = attributes(str(path / "Header")) if there else wanted
            for name, value in wanted.items():
                is_now = np.ravel(found.get(name, "unknown"))
                if is_now.shape != value.shape or not np.allclose(is_now, value, rtol=1e-6):
                    raise InputError(
                        f"{path} is there with {name} {is_now}, {value} was asked for: remove it "
                        "or name another folder"
                    )
    there = comm.bcast(there)
    if not there:
        prepare_output(path, comm, SNAPSHOT, parents=True)
    return there


def write_snapshot(path, state, lattice, header, comm):
    """Write a snapshot as MP-Gadget does: kpc/h, km/s, IDs from 1 in the order of the sites."""
    site = np.rint(state.Q / lattice.cell - lattice.offset).astype(int)
    columns = {
        "1/Position": lattice.position(site, state.S) * 1e3,
        "1/Velocity": state.V.astype("f4"),
        "1/ID": lattice.id(site),
    }
    with staged(path, SNAPSHOT, comm) as folder:
        write_rows(folder, columns, comm)
        write_header(folder, header, comm)


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for the snapshots")
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="one box for each")
    parser.add_argument("--redshifts", type=float, nargs="+", default=[2.0])
    parser.add_argument("--boxsize", type=float, default=25.0, help="Mpc/h (25)")
    parser.add_argument("--nmesh", type=int, default=16, help="LR particles on a side (16)")
    parser.add_argument("--factor", type=int, default=8, help="HR per LR particle, on a side (8)")
    parser.add_argument("--step", type=float, default=0.01, help="largest step in a (0.01)")
    parser.add_argument("--cosmology", type=Path, help="TOML file (that of Li et al. 2021)")
    parser.add_argument(
        "--unitary", action="store_true", help="fixed amplitudes, as MP-GenIC's default"
    )
    args = parser.parse_args(argv)
    for name in ("boxsize", "nmesh", "factor", "step"):
        if not getattr(args, name) > 0:
            raise InputError(f"--{name} is {getattr(args, name)}: more than zero is needed")
    for z in args.redshifts:
        if not 0 <= z < 1 / A_START - 1:
            raise InputError(f"redshift {z} cannot be reached: the runs go from 99 to 0")
    return args


def main(argv=None, comm=MPI.COMM_WORLD):
    """Make one LR and one HR snapshot for each seed and redshift; finished ones are kept."""
    args = arguments(argv)
    with agreement(comm):
        cosmology = read_cosmology(args.cosmology)
    times = {1 / (1 + z): f"z{z:g}" for z in args.redshifts}
    coarse = LagrangianLattice(args.nmesh, args.boxsize, OFFSET)
    lattices = {"LR": coarse, "HR": coarse.refine(args.factor)}
    for seed in args.seeds:
        for kind, lattice in lattices.items():
            names = times | {A_START: "IC"} if kind == "HR" else times
            wanted = {
                a: (
                    args.output / f"{seed}" / f"{kind}_{name}",
                    header(lattice, a, cosmology, seed, args.unitary),
                )
                for a, name in names.items()
            }
            missing = [a for a, snapshot in wanted.items() if not is_there(*snapshot, comm)]
            if not missing:
                continue
            run = simulate(
                lattice, FORCE_MESH[kind], cosmology, seed, list(names), args.step, comm,
                args.unitary, sharp=kind == "HR",
            )  # fmt: skip
            for a, state in run:
                if a in missing:
                    path, one = wanted[a]
                    write_snapshot(path, state, lattice, one, comm)
                    if comm.rank == 0:
                        print(f"{path}: {lattice.Nmesh}^3 particles at a = {a:.4f}", flush=True)
        if comm.rank == 0:
            table = np.transpose(power_table(cosmology))
            title = "k [h/Mpc]  P [(Mpc/h)^3] at z = 0"
            np.savetxt(args.output / f"{seed}" / "power.txt", table, header=title)


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        if MPI.COMM_WORLD.rank == 0:
            print(f"make_pairs: {error}", file=sys.stderr)
        sys.exit(2)
