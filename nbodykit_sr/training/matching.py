"""Building pairs of fields from matched snapshots, over MPI: the one part of training that uses nbodykit."""

import logging

import numpy as np
from mpi4py import MPI

from ..chunks import default_grid
from ..domain import LatticeDomain
from ..errors import InputError, agreement
from ..io.atomic import disk
from ..io.preflight import PAIR, prepare_output
from ..io.snapshot import open_snapshot
from ..io.staging import staged
from ..particles import find_lattice
from ..universe import Universe
from .pairs import Manifest, alignment, describe_pair, new_field

log = logging.getLogger("nbodykit_sr.training")

# Largest relative difference of two headers' values that are meant to be equal
SAME = 1e-4


def build_pair(
    lr, hr, folder, comm, channels=6, dataset=None, source="unknown", seed=None
) -> Manifest:
    """Make a pair folder of an LR and an HR snapshot of one box, time, cosmology and seed.

    Collective.

    Parameters
    ----------
    lr, hr : path
        Snapshots, as `open_snapshot` takes them.
    folder : path
        To be made.
    comm : mpi4py.MPI.Comm
    channels : int
        3 (displacement) or 6 (and velocity).
    dataset : str, optional
        Prefix of the columns of both.
    source : str
        What made the runs: "TreePM", "particle-mesh", ...
    seed : int, optional
        Of the initial conditions.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        On every rank: box, time, cosmology, lattices or phases do not match, or a file does not
        match its checksum.
    """
    prepare_output(folder, comm, PAIR, inputs=(lr, hr), parents=True)
    catalogs = [open_snapshot(path, comm, dataset) for path in (lr, hr)]
    with agreement(comm):
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
    lr, hr = (find_lattice(catalog) for catalog in catalogs)
    with agreement(comm):
        shift = alignment(lr.lattice, ratio, hr.lattice.offset)
    manifest, first = None, universes[0]
    with staged(folder, PAIR, comm) as partial:
        # HR sites are renumbered so that sites i * ratio ... belong to LR site i
        for name, particles in (("lr", lr), ("hr", hr.renumbered(shift))):
            domain = LatticeDomain(default_grid(particles.lattice.Nmesh, comm.size), comm, 0)
            _write(partial / f"{name}.npy", particles.field(domain, channels == 6), comm)
        with agreement(comm):
            if comm.rank == 0:
                with disk(partial):
                    manifest = describe_pair(
                        partial, lr.lattice, ratio, first.a, first.Omega0, source, seed
                    )
    if comm.rank == 0:
        log.info("%s: low-k cross-correlation %.5f", folder, manifest.cross_correlation)
    return comm.bcast(manifest)


def _check_headers(lr, hr):
    """Raise InputError unless box, time and cosmology agree."""
    for field, name, remedy in (
        ("BoxSize", "BoxSize", "run both in one box"),
        ("a", "Time", "choose snapshots of one time"),
        ("Omega0", "Omega0", "run both in one cosmology"),
        ("h", "HubbleParam", "run both in one cosmology"),
    ):
        one, other = (getattr(universe, field) for universe in (lr, hr))
        if abs(one - other) > SAME * abs(one):
            raise InputError(f"{name} is {one:.8g} in LR and {other:.8g} in HR: {remedy}")


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
    block = MPI.FLOAT.Create_subarray(shape[1:], sides.tolist(), first.tolist()).Commit()
    file = MPI.File.Open(comm, str(path), MPI.MODE_WRONLY)
    for c, channel in enumerate(field.data):  # one by one: a count of MPI is an int
        file.Set_view(start + 4 * c * size**3, MPI.FLOAT, block)
        file.Write_all(np.ascontiguousarray(channel))
    file.Close()
    block.Free()
