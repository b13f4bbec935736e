"""Bias of halos: their cross power with matter on the largest scales."""

import numpy as np

from . import drawing
from .diagnostic import Criterion, Diagnostic, Ratio
from .modes import low_modes
from .statistic import Statistic

LARGE_SCALES = 4.5  # fundamental modes that bias is measured on
LEAST = (32, 100, 300, 1000)  # fewest particles of the halos
BATCH = 2**14  # halos whose modes are summed at a time


def halo_bias(halos, table, delta_k, least=LEAST) -> Statistic:
    """Bias of halos above so many particles, P_hm / P_mm on the largest scales. Collective.

    Parameters
    ----------
    halos : Halos
    table : dict
        The `halo_table`, whose centres are used.
    delta_k : pmesh.pm.ComplexField
        Density of all matter.
    least : sequence of int
        Particles of the smallest halo.

    Returns
    -------
    Statistic
        Columns particles, bias, count; errors of Gaussian fields, sqrt((P_hh / P_mm - b^2) /
        modes). NaN where there is no halo.
    """
    comm, Nmesh = delta_k.pm.comm, int(delta_k.Nmesh[0])
    largest = min(int(LARGE_SCALES), Nmesh // 2 - 1)
    n = np.fft.fftfreq(2 * largest + 1, 1 / (2 * largest + 1))
    square = n[:, None, None] ** 2 + n[:, None] ** 2 + n[: largest + 1] ** 2
    weight = np.where(n[: largest + 1] == 0, 1.0, 2.0) * ((square > 0) & (square < LARGE_SCALES**2))
    matter = low_modes(delta_k, largest)
    rows, errors = [], []
    for number in least:
        many = halos.length >= number
        rows.append([number, np.nan, many.sum()])
        errors.append(np.nan)
        if not many.any():
            continue
        centre = table["centre"][many][comm.rank :: comm.size] / halos.attrs["BoxSize"]
        tracers = comm.allreduce(_painted_modes(centre, Nmesh, n, largest)) / many.sum()
        cross, base, own = (
            (weight * (one * other.conj()).real).sum()
            for one, other in ((tracers, matter), (matter, matter), (tracers, tracers))
        )
        rows[-1][1] = cross / base
        errors[-1] = np.sqrt(max(own / base - (cross / base) ** 2, 0) / weight.sum())
    particles, bias, count = np.array(rows).T
    return Statistic(
        "halo bias",
        {"particles": particles, "bias": bias, "count": count},
        {},
        {"bias": errors},
        {"particle_mass": halos.particle_mass},
    )


class Bias(Diagnostic):
    """Bias of halos above a number of particles."""

    part = "bias"
    name, title = "bias", "Bias of halos"
    shows = ("bias",)
    needs_halos = True
    of_lr = False
    ratios = {"bias ratio": Ratio("bias", ["bias"], "particles")}
    criteria = {
        "bias": Criterion("Bias of halos", "bias ratio", "bias", "particles", "particles", True)
    }

    def measure(self, subject, results) -> dict:
        return {"bias": halo_bias(subject.halos, subject.table, subject.delta)}

    def caption(self, results) -> str:
        caption = (
            "Bias of halos above a number of particles, from their cross power with matter on the "
            "largest scales."
        )
        return caption + results.scatter

    def draw(self, results) -> "drawing.Figure":
        figure, axes = drawing.panels(1, 1, 4.2, 3)
        drawing.curves(axes[0, 0], results, "bias", "particles", "bias", drawing.points)
        axes[0, 0].set(xscale="log", xlabel="particles of a halo, at least", ylabel="bias")
        drawing.legends(axes[0])
        return figure


def _painted_modes(place, Nmesh, n, largest):
    """Sums over points, in units of the box, of exp(-2 pi i n x) as cloud-in-cell paints them."""
    cell = np.floor(place * Nmesh)
    part = place * Nmesh - cell
    total = 0
    for rows in range(0, max(len(place), 1), BATCH):
        here = slice(rows, rows + BATCH)
        waves = [
            np.exp(-2j * np.pi / Nmesh * n[:, None] * cell[here, axis])
            * (1 - part[here, axis] * (1 - np.exp(-2j * np.pi / Nmesh * n[:, None])))
            for axis in range(3)
        ]
        plane = (waves[0][:, None] * waves[1]).reshape(-1, waves[0].shape[1])
        total = total + plane @ waves[2][: largest + 1].T
    return total.reshape(len(n), len(n), largest + 1)
