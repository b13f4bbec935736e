"""One-point distribution of the density in top-hat spheres."""

import numpy as np

from ..physics.matter import mean_separation
from . import drawing
from .diagnostic import Diagnostic, Ratio, row
from .fields import complex_field, top_hat
from .results import SPHERE
from .statistic import Statistic


def density_pdf(source, radius=10.0, Nmesh=None, edges=None) -> Statistic:
    """Distribution of 1 + delta in spheres (Kodi Ramanah et al. 2020, Fig. 3).

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    radius : float
        Radius of the top-hat, comoving [Mpc/h].
    edges : (n + 1,) array
        Bins of 1 + delta; by default 60 logarithmic ones from 0.01 to 100.

    Returns
    -------
    Statistic
        Columns density (centre of the bin), pdf = dP / dlog10(1 + delta), voxels. Errors count
        the volume in independent spheres. attrs below and above: fractions outside the bins;
        variance of delta; radius [Mpc/h].
    """
    field = complex_field(source, Nmesh)
    comm = field.pm.comm
    smooth = top_hat(field, radius).value
    edges = np.logspace(-2, 2, 61) if edges is None else np.asarray(edges, dtype=float)
    voxels = comm.allreduce(np.histogram(smooth, edges)[0])
    total = float(np.prod(field.Nmesh))
    mean = comm.allreduce(float(smooth.sum())) / total
    variance = comm.allreduce(float(((smooth - mean) ** 2).sum())) / total
    volume = float(np.prod(field.BoxSize))
    spheres = max(1.0, min(total, volume / (4 / 3 * np.pi * radius**3)))
    fraction = voxels / total
    width = np.diff(np.log10(edges))
    return Statistic(
        "density PDF",
        {"density": np.sqrt(edges[:-1] * edges[1:]), "pdf": fraction / width, "voxels": voxels},
        {},
        {"pdf": np.sqrt(fraction * (1 - fraction) / spheres) / width},
        {
            "radius": float(radius),
            "edges": edges.tolist(),
            "below": comm.allreduce(int((smooth < edges[0]).sum())) / total,
            "above": comm.allreduce(int((smooth > edges[-1]).sum())) / total,
            "mean": mean,
            "variance": variance,
            "Nmesh": int(field.Nmesh[0]),
        },
    )


class DensityPDF(Diagnostic):
    """The density in spheres."""

    part = "pdf"
    name, title = "density_pdf", "Density PDF"
    shows = ("pdf",)
    step = "density PDF"
    ratios = {"pdf ratio": Ratio("pdf", ["pdf"], "density")}

    def measure(self, subject, results) -> dict:
        radius = results.settings.radius
        if radius >= SPHERE * mean_separation(subject.catalog.attrs, subject.catalog.csize):
            return {"pdf": density_pdf(subject.delta, radius)}
        few = f"{subject.kind} has too few particles in spheres of {radius:g} Mpc/h for a density PDF."
        results.note(few, subject)
        return {}

    def rows(self, results) -> list:
        many = results["SR"].get("pdf", [])
        reference = many and results.references("pdf", lambda one: one.attrs["variance"])
        if not reference:
            return []
        quantity = f"Variance of density in spheres of {results.settings.radius:g} Mpc/h, SR/HR"
        return [row(quantity, np.divide([one.attrs["variance"] for one in many], reference))]

    def caption(self, results) -> str:
        caption = (
            f"Distribution of the density in spheres of {results.settings.radius:g} Mpc/h "
            "(Kodi Ramanah et al. 2020, Fig. 3)."
        )
        return caption + (results.scatter or " Bands count the box in independent spheres.")

    def draw(self, results) -> "drawing.Figure":
        labels = r"$1+\delta_R$", r"$dP/d\log_{10}(1+\delta_R)$"
        figure = drawing.with_ratio(results, "pdf", "pdf ratio", "density", "pdf", labels, _filled)
        many = [one for _, one in results.items("pdf")]
        shown = np.concatenate(
            [one["density"][one["pdf"] > 1e-3 * one["pdf"].max()] for one in many]
        )
        top = max(one["pdf"].max() for one in many)
        limits = shown.min() / 1.2, shown.max() * 1.2
        figure.axes[0].set(xlim=limits, ylim=(3e-4 * top, 2 * top))
        drawing.log_ticks(figure.axes[-1])
        return figure


def _filled(axis, one, x, y, kind, reference=None):
    """A band of the bins that hold something."""
    seen = one[y] > 0 if reference is None else slice(None)
    drawing.band(axis, one, x, y, kind, reference, seen)
