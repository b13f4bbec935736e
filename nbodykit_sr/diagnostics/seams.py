"""Tests for artefacts: jumps at chunk faces, and anisotropy along the lattice axes."""

import numpy as np

from ..errors import InputError, agreement
from ..lattice import LagrangianLattice, cube_root, nearest_image, particle_ids
from ..physics.universe import Universe
from . import drawing
from .diagnostic import Diagnostic
from .fields import batches_together, complex_field
from .modes import k_sums, moment, pole
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
            jump = nearest_image(there - here, box)
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
    terms = (moment(0, 0), *(moment(axis, 1) for axis in range(3)))
    k, modes, power, *moments = k_sums([complex_field(source, Nmesh)], kmax, *terms)
    ratios = [pole(2, (power, one)) / power for one in moments]
    error = np.sqrt(10 / modes)
    return Statistic(
        "axis quadrupoles",
        {"k": k, **dict(zip("xyz", ratios, strict=True))},
        {"k": "h/Mpc"},
        {name: error for name in "xyz"},
    )


class Seams(Diagnostic):
    """Jumps at the faces of chunks and quadrupoles about the axes; of HR at the same places, as a control."""

    part = "seams"
    name, title = "seams", "Seams and symmetry"
    shows = ("quadrupoles",)
    step = "seams and axes"
    of_lr = False

    def measure(self, subject, results) -> dict:
        found = {"quadrupoles": axis_quadrupoles(subject.delta, kmax=results.settings.kmax)}
        chunk, factor = subject.made.chunk, subject.made.factor
        if chunk is None or factor is None or "ID" not in subject.catalog:
            missing = (
                "The SR header does not say in which chunks it was made: jumps across chunk faces "
                "are left out."
            )
            results.note(missing, subject)
            return found
        try:
            found["jumps"] = displacement_jumps(subject.catalog, chunk * factor, factor)
        except InputError as error:
            results.note(
                f"Jumps across chunk faces are left out for {subject.kind}: {error}.", subject
            )
        return found

    def rows(self, results) -> list:
        found = []
        for kind in ("SR", "HR"):
            for one in results[kind].get("jumps", [])[:1]:
                if np.isfinite(one.attrs["excess"]):
                    excess, error = (100 * one.attrs[key] for key in ("excess", "excess_error"))
                    found.append(f"{kind} {excess:+.1f} ± {error:.1f} %")
        quantity = "Displacement jumps at chunk faces, excess over interior ones"
        meaning = "0 within the error: no seams"
        row = {"quantity": quantity, "value": ", ".join(found), "orientation": meaning}
        return [row] if found else []

    def caption(self, results) -> str:
        jumps = (
            "Left: rms difference of the displacements of neighbouring particles against their "
            "place in the chunk they were made in: the last, across the chunk's face, must not "
            "stand out from others of its phase in an LR cell. Right: r"
        )
        caption = (
            (jumps if "jumps" in results["SR"] else "R")
            + "eal-space quadrupole about each axis of the box: none may be preferred beyond the "
            "chance of the phases"
            + (", which HR shares (dotted)" if results["HR"] else "")
            + ". Gaussian errors are the least there can be."
        )
        return caption

    def draw(self, results) -> "drawing.Figure":
        jumps = dict(results.items("jumps"))
        figure, axes = drawing.panels(1, 2 if jumps else 1, 7.4 if jumps else 4.2, 3.2)
        left, right = axes[0, 0], axes[0, -1]
        drawing.curves(left, results, "jumps", "place", "rms", drawing.points, shift=0)
        if jumps:
            left.axvline(next(iter(jumps.values())).attrs["chunk"], color="0.6", lw=1, ls="--")
            left.set(xlabel="site in the chunk (dashed: its face)", ylabel="rms jump [Mpc/$h$]")
            left.set_ylim(0, 1.15 * max(one["rms"].max() for one in jumps.values()))
            left.legend(loc="lower left")
        many = dict(results.items("quadrupoles"))
        k, error = many["SR"]["k"], results["SR"]["quadrupoles"][0].errors["x"]
        right.fill_between(k, -2 * error, 2 * error, color="0.9", label=r"$2\sigma$, Gaussian")
        for name, colour in (("x", "#0072B2"), ("y", "#009E73"), ("z", "#CC79A7")):
            right.plot(k, many["SR"][name], color=colour, lw=1.2, label=f"SR, {name}")
            if "HR" in many:
                right.plot(k, many["HR"][name], color=colour, lw=1, ls=":")
        limit = np.nanpercentile(np.abs([many["SR"][name] for name in "xyz"]), 90)
        right.set(xscale="log", xlabel=r"$k$ [$h$/Mpc]", ylabel=r"$P_2/P_0$, real space")
        right.set_ylim(-2 * limit, 2 * limit)
        drawing.log_ticks(right)
        right.legend(ncols=2)
        return figure


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
    for position, ids in batches_together(catalog, "Position", "ID"):
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
