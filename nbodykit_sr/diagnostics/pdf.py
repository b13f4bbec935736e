"""One-point distribution of the density in top-hat spheres."""

import numpy as np

from .fields import complex_field, top_hat
from .statistic import Statistic


def density_pdf(source, radius=10.0, Nmesh=None, edges=None) -> Statistic:
    """Distribution of 1 + delta in spheres (Kodi Ramanah et al. 2020, Fig. 3).

    Parameters
    ----------
    source : CatalogSource, MeshSource or pmesh field
    radius : float
        Of the top-hat, comoving [Mpc/h].
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
        {
            "density": np.sqrt(edges[:-1] * edges[1:]),
            "pdf": fraction / width,
            "voxels": voxels,
        },
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
