"""From catalogues to density fields: painting, smoothing, and asking for memory first."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource
from nbodykit.base.mesh import MeshSource
from pmesh.pm import ComplexField, ParticleMesh, RealField

from ..errors import InputError
from ..lattice import nearest_image as nearest_image
from ..physics.matter import require_whole
from ..physics.universe import Universe
from .modes import multiplied, squares

ROWS = 2**21  # of a column, read at once

logger = logging.getLogger("nbodykit_sr.diagnostics")


def real_field(source, Nmesh=None) -> RealField:
    """Density 1 + delta on a mesh, in float64, so that results agree between rank counts.

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
        A catalogue is painted by cloud-in-cell without deconvolution, as in Li et al. 2021
        (Eq. 1 and Fig. 3), `whole` as it must be. A mesh or field is taken as it is.
    Nmesh : int
        Cells a side; for catalogues only.

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
    mesh = whole(source).to_mesh(Nmesh=Nmesh, resampler="cic", dtype="f8", compensated=False)
    return mesh.compute(mode="real")


def complex_field(source, Nmesh=None) -> ComplexField:
    """Fourier transform of `real_field`, with the mean (the zero mode) as it is."""
    if isinstance(source, ComplexField):
        return source
    return real_field(source, Nmesh).r2c()


def density_field(catalog, Nmesh) -> RealField:
    """`real_field` of a catalogue's particles, painted piece by piece as they are read. Collective."""
    catalog = whole(catalog)
    pm = particle_mesh(Nmesh, Universe.of(catalog.attrs, "BoxSize").BoxSize, catalog.comm)
    field = pm.create(type="real", value=0)
    for (position,) in batches_together(catalog, "Position"):
        layout = pm.decompose(position, smoothing=1)  # cells, as cloud-in-cell needs
        pm.paint(position, resampler="cic", hold=True, layout=layout, out=field)
    field[...] *= float(Nmesh) ** 3 / catalog.csize
    return field


def top_hat(delta_k, radius) -> RealField:
    """A field smoothed by a spherical top-hat of `radius` [Mpc/h], as a RealField."""
    x = radius * 2 * np.pi / delta_k.BoxSize[0] * np.sqrt(squares(delta_k))
    small = x < 1e-3
    x = np.where(small, 1.0, x)
    window = np.where(small, 1.0, 3 * (np.sin(x) - x * np.cos(x)) / x**3)
    return multiplied(delta_k, window)


def batches(catalog, *names) -> Iterator[list[np.ndarray]]:
    """Columns of this rank, lists of at most `ROWS` rows of each, so that no more are in memory."""
    for start in range(0, catalog.size, ROWS):
        rows = [catalog[name][start : start + ROWS] for name in names]
        found = catalog.compute(*rows)
        yield found if len(names) > 1 else [found]


def batches_together(catalog, *names) -> Iterator[list[np.ndarray]]:
    """`batches`, as many on every rank, the last ones empty where there are no more. Collective."""
    nothing = [np.zeros((0, *catalog[name].shape[1:]), catalog[name].dtype) for name in names]
    parts = batches(catalog, *names)
    for _ in range(catalog.comm.allreduce(-(-catalog.size // ROWS), op=MPI.MAX)):
        yield next(parts, nothing)


def selected(catalog) -> CatalogSource:
    """The particles that Selection keeps. Collective; InputError unless Weight is the same for all."""
    kept, least, most = [np.zeros(0, dtype=bool)], np.inf, -np.inf
    for keep, weight in batches(catalog, "Selection", "Weight"):
        kept.append(np.asarray(keep, dtype=bool))
        least, most = min(least, weight.min()), max(most, weight.max())
    comm = catalog.comm
    least, most = comm.allreduce(least, MPI.MIN), comm.allreduce(most, MPI.MAX)
    if least < most:
        raise InputError(
            f"Weight runs from {least:g} to {most:g}: particles of one weight are counted and linked; "
            "delete the column, or select particles of one weight"
        )
    keep = np.concatenate(kept)
    return catalog if comm.allreduce(bool(keep.all()), MPI.LAND) else catalog[keep]


def whole(catalog) -> CatalogSource:
    """`selected` particles of a whole box, whose number gives the mean density. Collective.

    InputError for a part of a box; tracers without ID, such as halos, are taken as they are.
    """
    catalog = selected(catalog)
    if "ID" in catalog:  # tracers, such as halos, are as many as they are
        require_whole(catalog.attrs, catalog.csize)
    return catalog


def read(catalog, name) -> np.ndarray:
    """A column of this rank, in memory once."""
    column = catalog[name]
    whole, start = np.empty(column.shape, column.dtype), 0
    for (rows,) in batches(catalog, name):
        whole[start : start + len(rows)] = rows
        start += len(rows)
    return whole


def require_memory(comm, needed, purpose) -> None:
    """Refuse to allocate so many bytes on this rank if the node has too little memory. Collective.

    InputError if the ranks of a node need together more than nine tenths of what is free. `purpose` says
    what for, with the option that lowers it.
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
    """Free memory of this node in bytes, by the system and by the limit of the control group."""
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


def particle_mesh(Nmesh, BoxSize, comm) -> ParticleMesh:
    """A cubic float64 ParticleMesh; BoxSize in Mpc/h."""
    return ParticleMesh(Nmesh=[Nmesh] * 3, BoxSize=[BoxSize] * 3, dtype="f8", comm=comm)
