"""Tests for artefacts: jumps at chunk faces, and anisotropy along the lattice axes."""

import numpy as np
from mpi4py import MPI

from ..errors import InputError, agreement
from ..lattice import LagrangianLattice, cube_root, particle_ids
from ..universe import Universe
from .fields import ROWS, complex_field, pieces
from .power import line_of_sight_power
from .statistic import Statistic


def displacement_jumps(catalog, chunk, factor=1) -> Statistic:
    """Jumps of the displacement between neighbouring sites, by their place in a chunk. Collective.

    A catalogue made chunk by chunk must not show where the chunks met: the jump from the last
    site of a chunk to the first of the next is to be like those inside. An upsampled lattice
    has a rhythm of `factor` sites of its own, so faces are compared with interior jumps at the
    same phase of it.

    Parameters
    ----------
    catalog : CatalogSource
        With Position [Mpc/h] and ID (lattice index + 1).
    chunk : int
        Chunk side in sites of this lattice.
    factor : int
        Rhythm of the upsampling in sites.

    Returns
    -------
    Statistic
        Columns place (1 .. chunk; `chunk` is the face) and rms, the root mean square jump [Mpc/h],
        with its error from the scatter over planes; attrs face, interior (rms at the phase of the
        face), excess = face / interior - 1 and its error excess_error, rms_axis (rms jump along
        each axis), skewness_axis (of the longitudinal one). NaN where there is one chunk only.
    """
    box, comm = Universe.of(catalog.attrs, "BoxSize").BoxSize, catalog.comm
    Nmesh = cube_root(catalog.csize)
    if chunk < 1 or chunk % factor or Nmesh % factor:
        raise InputError(
            f"chunks of {chunk} sites and a lattice of {Nmesh} are no multiples of the {factor} "
            "sites of an upsampled cell"
        )
    first, field = _displacement_slab(catalog, LagrangianLattice(Nmesh, box), comm)
    planes = np.zeros((3, Nmesh))  # summed squares of the jumps from plane i to i + 1
    moments = np.zeros((3, 3))
    for i in range(len(field) - 1):  # plane by plane: no second copy of the field
        here = field[i].astype("f8")
        beside = field[i + 1], np.roll(here, -1, axis=0), np.roll(here, -1, axis=1)
        for axis, there in enumerate(beside):
            jump = there - here
            jump -= box * np.rint(jump / box)
            square = (jump**2).sum(axis=-1)
            if axis == 0:
                planes[0, first + i] = square.sum()
            else:
                planes[axis] += square.sum(axis=2 - axis)
            moments[axis] += [(jump[..., axis] ** power).sum() for power in (1, 2, 3)]
    planes = comm.allreduce(planes) / Nmesh**2
    mean, second, third = (comm.allreduce(moments) / Nmesh**3).T
    variance = second - mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = (third - 3 * mean * second + 2 * mean**3) / variance**1.5
    place = np.arange(Nmesh) % chunk + 1
    place[-1] = chunk  # the last chunk may be smaller; its face is a face
    profile = np.array([_rms(planes[:, place == one]) for one in range(1, chunk + 1)])
    alike = (place % factor == 0) & (place < chunk)
    (face, face_error), (interior, error) = profile[-1], _rms(planes[:, alike])
    excess = face / interior - 1
    return Statistic(
        "displacement jumps",
        {"place": np.arange(1, chunk + 1), "rms": profile[:, 0]},
        {"rms": "Mpc/h"},
        {"rms": profile[:, 1]},
        {
            "chunk": int(chunk),
            "factor": int(factor),
            "face": float(face),
            "interior": float(interior),
            "excess": float(excess),
            "excess_error": float(face / interior * np.hypot(face_error / face, error / interior)),
            "rms_axis": np.sqrt(planes.mean(axis=1)).tolist(),
            "skewness_axis": skewness.tolist(),
        },
    )


def axis_quadrupoles(source, Nmesh=None, kmax=None) -> Statistic:
    """Real-space quadrupole P2 / P0 about the three axes: octahedral consistency.

    Space has no preferred axis: all three must vanish within the errors of the few modes.
    A network that treats its axes differently shows here.

    Returns
    -------
    Statistic
        Columns k, x, y, z; errors for a Gaussian field, sqrt(10 / modes).
    """
    field = complex_field(source, Nmesh)
    columns, modes = {}, None
    for axis, name in enumerate("xyz"):
        poles, _ = line_of_sight_power(field, axis, None, kmax)
        columns = {"k": poles["k"], **columns, name: poles["power_2"] / poles["power_0"]}
        modes = poles["modes"]
    error = np.sqrt(10 / modes)
    return Statistic(
        "axis quadrupoles", columns, {"k": "h/Mpc"}, {name: error for name in "xyz"}, {}
    )


def _rms(squares):
    """Root of the mean square over planes, and its standard error; NaN for no plane."""
    if not squares.size:
        return np.nan, np.nan
    rms = np.sqrt(squares.mean())
    error = squares.std() / np.sqrt(max(squares.size - 1, 1)) / (2 * rms) if rms else 0.0
    return rms, error


def _displacement_slab(catalog, lattice, comm):
    """This rank's planes of the displacement and the next one, (planes + 1, N, N, 3) [Mpc/h].

    Returns the number of its first plane with it. In float32, and read and sent piece by piece:
    of all that is measured this takes the most memory for a particle after FOF.
    """
    Nmesh = lattice.Nmesh
    starts = np.arange(comm.size + 1) * Nmesh // comm.size
    owner = np.searchsorted(starts, np.arange(Nmesh), side="right") - 1  # of each plane
    start, stop = starts[comm.rank], starts[comm.rank + 1]
    number = stop - start + (stop > start)
    slab = np.full((number * Nmesh**2, 3), np.nan, dtype="f4")
    parts = pieces(catalog, "Position", "ID")
    nothing = [np.zeros((0, 3)), np.zeros(0, "i8")]
    for _ in range(comm.allreduce(-(-catalog.size // ROWS), op=MPI.MAX)):
        position, ids = next(parts, nothing)
        ids = particle_ids(ids)
        with agreement(comm):
            if len(ids) and (ids.min() < 1 or ids.max() > Nmesh**3):
                raise InputError(
                    f"particle IDs reach from {ids.min()} to {ids.max()}; a lattice of {Nmesh}^3 "
                    f"numbers them 1 to {Nmesh**3}"
                )
        site = lattice.site(ids)
        value = lattice.displacement(site, position).astype("f4")
        flat, parcels = ids - 1, []
        for rank in range(comm.size):
            first, last = starts[rank], starts[rank + 1]
            mine = owner[site[:, 0]] == rank
            ghost = (site[:, 0] == last % Nmesh) & (last > first)
            place = [
                flat[mine] - first * Nmesh**2,
                flat[ghost] % Nmesh**2 + (last - first) * Nmesh**2,
            ]
            parcels.append((np.concatenate(place), np.concatenate([value[mine], value[ghost]])))
        for place, value in comm.alltoall(parcels):
            slab[place] = value
    with agreement(comm):
        if np.isnan(slab).any():
            raise InputError("particle IDs repeat, so some lattice sites have no particle")
    if not number:
        slab, number = np.zeros((Nmesh**2, 3), dtype="f4"), 1
    return start, slab.reshape(number, Nmesh, Nmesh, 3)
