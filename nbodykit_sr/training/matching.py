"""Building pairs of fields from matched snapshots, over MPI: the one part of training that uses nbodykit."""

import logging
import os
from dataclasses import replace

import numpy as np

from ..chunks import default_grid
from ..domain import LatticeDomain
from ..errors import InputError, agreement
from ..io.atomic import disk
from ..io.preflight import PAIR, prepare_output
from ..io.snapshot import open_snapshot
from ..io.staging import staged
from ..particles import find_lattice
from ..physics.power import LinearPower
from ..physics.universe import Universe
from .pairs import POWER, Manifest, alignment, describe_pair, new_field

log = logging.getLogger("nbodykit_sr.training")

# Largest relative difference of two headers' values that are meant to be equal
SAME = 1e-4


def build_pair(options, comm) -> Manifest:
    """Make a pair folder of an LR and an HR snapshot of one box, time, cosmology and seed.

    With `ic` and `power` HR's initial conditions are kept too, their displacement by linear theory.

    Collective.

    Parameters
    ----------
    options : PairsOptions
        See `commands.train`; `power` is a file for `LinearPower.read`.
    comm : mpi4py.MPI.Comm

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        On every rank: box, time, cosmology, lattices or phases do not match, or a file does not
        match its checksum.
    """
    folder, power = options.folder, options.power
    paths = [path for path in (options.lr, options.hr, options.ic) if path is not None]
    prepare_output(folder, comm, PAIR, inputs=paths, parents=True)
    catalogs = [open_snapshot(path, comm, options.dataset) for path in paths]
    with agreement(comm):
        if (options.ic is None) != (power is None):
            raise InputError(
                "phases need both: HR's initial conditions, ic, and their linear power spectrum, power"
            )
        universes = [Universe.of(c.attrs, "BoxSize", "a", "Omega0", "h") for c in catalogs]
        _check_headers(*universes)
        ratio = round((catalogs[1].csize / catalogs[0].csize) ** (1 / 3))
        if ratio < 2 or ratio & (ratio - 1) or ratio**3 * catalogs[0].csize != catalogs[1].csize:
            raise InputError(
                f"LR has {catalogs[0].csize} and HR {catalogs[1].csize} particles: 2^3, 4^3, 8^3 "
                "or another power of 2 cubed times as many are needed"
            )
    for catalog in catalogs:
        catalog.check_sums()
    lr, *fine = (find_lattice(catalog) for catalog in catalogs)
    with agreement(comm):
        # HR sites are renumbered so that sites i * ratio ... belong to LR site i
        fine = [
            particles.renumbered(alignment(lr.lattice, ratio, particles.lattice.offset))
            for particles in fine
        ]
        if len({particles.lattice.Nmesh for particles in fine}) > 1:
            raise InputError(
                f"HR is of {fine[0].lattice.Nmesh}^3 particles and its initial conditions of "
                f"{fine[1].lattice.Nmesh}^3: give those that HR was started from"
            )
    manifest, first = None, universes[0]
    with staged(folder, PAIR, comm) as partial:
        for name, particles in zip(("lr", "hr", "ic"), (lr, *fine)):
            domain = LatticeDomain(default_grid(particles.lattice.Nmesh, comm.size), comm, 0)
            field = particles.field(domain, options.channels == 6 and name != "ic")
            if name == "ic":  # by linear theory to the time of the pair
                growth = first.growth / particles.universe.growth
                field = replace(field, data=field.data * np.float32(growth))
            _write(partial / f"{name}.npy", field, comm)
        with agreement(comm):
            if comm.rank == 0:
                with disk(partial):
                    if power is not None:
                        _write_power(partial / POWER, power, first)
                    manifest = describe_pair(
                        partial,
                        lr.lattice,
                        ratio,
                        first.a,
                        first.Omega0,
                        options.source,
                        options.seed,
                    )
    if comm.rank == 0:
        log.info("%s: low-k cross-correlation %.5f", folder, manifest.cross_correlation)
    return comm.bcast(manifest)


def _write_power(path, power, universe):
    """The linear power spectrum at the time of a universe, as rows k and P."""
    table = LinearPower.read(power, lambda z: replace(universe, a=1 / (1 + z)).growth)
    np.save(path, np.stack([table.k, table.table * universe.growth**2]))


def _check_headers(lr, hr, initial=None):
    """Raise InputError unless box, time and cosmology agree."""
    for field, name, remedy in (
        ("BoxSize", "BoxSize", "run both in one box"),
        ("a", "Time", "choose snapshots of one time"),
        ("Omega0", "Omega0", "run both in one cosmology"),
        ("h", "HubbleParam", "run both in one cosmology"),
    ):
        others = (
            {"HR": hr} if initial is None or field == "a" else {"HR": hr, "HR's start": initial}
        )
        for of, universe in others.items():
            ours, theirs = getattr(lr, field), getattr(universe, field)
            if abs(ours - theirs) > SAME * abs(ours):
                raise InputError(f"{name} is {ours:.8g} in LR and {theirs:.8g} in {of}: {remedy}")
    for universe in (lr, hr):
        if abs(universe.pace - 1) > SAME:
            raise InputError(
                f"linear velocities are {universe.pace:.4g} of those of flat LCDM, in whose units "
                "networks are trained: run both with a cosmological constant, no curvature and "
                "massless neutrinos"
            )


def _write(path, field, comm):
    """Write the ranks' blocks as one .npy file. Collective."""
    size = field.lattice.Nmesh
    shape = (len(field.data), size, size, size)
    start = None
    with agreement(comm):
        if comm.rank == 0:
            with disk(path):
                start = new_field(path, shape).offset
    start = comm.bcast(start)
    first, sides = field.domain.primary(comm.rank)
    data = np.ascontiguousarray(field.data, np.float32)
    with agreement(comm), disk(path), open(path, "r+b") as file:
        for c, i, j in np.ndindex(data.shape[:3]):
            row = np.ravel_multi_index((c, first[0] + i, first[1] + j, first[2]), shape)
            os.pwrite(file.fileno(), data[c, i, j], start + 4 * int(row))
