"""From catalogues to density fields: painting, smoothing, and asking for memory first."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI
from nbodykit.base.mesh import MeshSource
from pmesh.pm import ComplexField, ParticleMesh, RealField

from ..errors import InputError
from ..universe import Universe

ROWS = 2**21  # of a column, read at once

logger = logging.getLogger("nbodykit_sr.diagnostics")


def real_field(source, Nmesh=None, position="Position") -> RealField:
    """Density 1 + delta on a mesh, in float64, so that results agree between rank counts.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
        A catalogue is painted by cloud-in-cell without deconvolution, as in Li et al. 2021
        (Eq. 1 and Fig. 3). A mesh or field is taken as it is.
    Nmesh : int
        Cells a side; for catalogues only.
    position : str
        Column with the positions, comoving [Mpc/h].

    Returns
    -------
    pmesh.pm.RealField
        (Nmesh, Nmesh, Nmesh) float64, distributed.
    """
    if isinstance(source, ComplexField):
        return source.c2r()
    if isinstance(source, RealField):
        return source
    if isinstance(source, MeshSource):
        return source.compute(mode="real")
    if Nmesh is None:
        raise InputError("a catalogue is painted on a mesh: give Nmesh, the cells a side")
    Universe.of(source.attrs, "BoxSize")
    mesh = source.to_mesh(
        Nmesh=Nmesh, resampler="cic", dtype="f8", position=position, compensated=False
    )
    return mesh.compute(mode="real")


def complex_field(source, Nmesh=None, position="Position") -> ComplexField:
    """Fourier transform of `real_field`, with the mean (the zero mode) as it is."""
    if isinstance(source, ComplexField):
        return source
    return real_field(source, Nmesh, position).r2c()


def top_hat(delta_k, radius) -> RealField:
    """A field smoothed by a spherical top-hat of `radius` [Mpc/h], as a RealField."""

    def window(k, value):
        x = radius * sum(ki**2 for ki in k) ** 0.5
        small = x < 1e-3
        x = np.where(small, 1.0, x)
        return value * np.where(small, 1.0, 3 * (np.sin(x) - x * np.cos(x)) / x**3)

    return delta_k.apply(window).c2r()


def pieces(catalog, *names) -> Iterator[list[np.ndarray]]:
    """Columns of this rank piece by piece, so that no more than one is in memory. Not collective.

    Yields
    ------
    list of ndarray
        The rows of each column, at most `ROWS`.
    """
    for start in range(0, catalog.size, ROWS):
        rows = [catalog[name][start : start + ROWS] for name in names]
        found = catalog.compute(*rows)
        yield found if len(names) > 1 else [found]


def read(catalog, name) -> np.ndarray:
    """A column of this rank, in memory once."""
    column = catalog[name]
    whole, start = np.empty(column.shape, column.dtype), 0
    for (rows,) in pieces(catalog, name):
        whole[start : start + len(rows)] = rows
        start += len(rows)
    return whole


def spread(array, comm) -> np.ndarray:
    """Rows redistributed evenly over the ranks, their global order kept. Collective."""
    counts = np.array(comm.allgather(len(array)))
    ends = np.cumsum(counts)
    start, total = ends[comm.rank] - counts[comm.rank], int(ends[-1])
    cuts = np.array([rank * total // comm.size for rank in range(1, comm.size)], dtype=int)
    if np.array_equal(ends[:-1], cuts):
        return array
    parts = comm.alltoall(np.split(array, np.clip(cuts - start, 0, len(array))))
    return np.concatenate(parts)


def require_memory(comm, needed, purpose) -> None:
    """Refuse what would not fit, before it is taken. Collective.

    Parameters
    ----------
    needed : float
        Bytes on this rank.
    purpose : str
        What for, with the option that lowers it.

    Raises
    ------
    InputError
        If the ranks of any one node need together more than nine tenths of what it has free.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    together = node.allreduce(float(needed))
    free = node.bcast(available_memory())
    node.Free()
    wanted, free = max(comm.allgather((together, free)), key=lambda pair: pair[0] / pair[1])
    if wanted > 0.9 * free:
        raise InputError(
            f"{purpose} needs {wanted / 2**30:.1f} GiB on a node with {free / 2**30:.1f} GiB "
            "free: use more nodes or lower it"
        )
    if comm.rank == 0:
        logger.info("%s: %.2f GiB of %.1f GiB free", purpose, wanted / 2**30, free / 2**30)


def available_memory() -> float:
    """Bytes this node can still give, after its own and its control group's accounts."""
    free = float("inf")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, float(limit.read_text()) - float(used.read_text()))
    return free


def mesh_bytes(Nmesh, fields, comm) -> float:
    """Bytes on a rank for so many float64 fields of Nmesh^3 cells."""
    return 8 * fields * float(Nmesh) ** 3 / comm.size


def particle_mesh(Nmesh, BoxSize, comm) -> ParticleMesh:
    """A cubic float64 ParticleMesh; BoxSize in Mpc/h."""
    return ParticleMesh(Nmesh=[Nmesh] * 3, BoxSize=[BoxSize] * 3, dtype="f8", comm=comm)
