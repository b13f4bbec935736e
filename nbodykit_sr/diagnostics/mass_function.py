"""The halo mass function, and bins of mass."""

import numpy as np

from . import drawing
from .diagnostic import Diagnostic, Ratio, of_halos, row, theory_rows
from .statistic import Statistic

LEAST = (100, 1000)  # particles of halos that are counted, beside the smallest


def mass_edges(particle_mass, largest, nmin=32, width=0.25) -> np.ndarray:
    """Logarithmic bins for halos of at least `nmin` particles [Msun/h].

    The first edge is half a particle below `nmin`, so that no halo lies on it.
    """
    first = np.log10((nmin - 0.5) * particle_mass)
    number = max(1, int(np.ceil((np.log10(max(largest, 10**first)) - first) / width + 1e-9)))
    return 10 ** (first + width * np.arange(number + 1))


def mass_function(halos, edges=None) -> Statistic:
    """Halo mass function dn / dlog10 M (Li et al. 2021, Fig. 4), with Poisson errors.

    The volume of a part of a box is that which its matter fills at the mean density.

    Parameters
    ----------
    halos : Halos
    edges : (n + 1,) array
        Bin edges [Msun/h]. Bins below `nmin` particles are NaN, as nothing is known there.

    Returns
    -------
    Statistic
        Columns mass (geometric centre of the bin), dn_dlogM, count; attrs edges, total,
        at_least (numbers of halos of so many particles), largest and particle_mass [Msun/h].
    """
    nmin = halos.attrs["nmin"]
    if edges is None:
        edges = mass_edges(halos.particle_mass, halos.mass.max(initial=0), nmin)
    edges = np.asarray(edges, dtype=float)
    count = np.histogram(halos.mass, edges)[0]
    volume = halos.attrs["share"] * halos.attrs["BoxSize"] ** 3
    density = 1 / (np.diff(np.log10(edges)) * volume)
    density = np.where(resolved(halos, edges), density, np.nan)
    return Statistic(
        "halo mass function",
        {"mass": np.sqrt(edges[:-1] * edges[1:]), "dn_dlogM": count * density, "count": count},
        {"mass": "Msun/h", "dn_dlogM": "(h/Mpc)^3"},
        {"dn_dlogM": np.sqrt(count) * density, "count": np.sqrt(count)},
        {
            "edges": edges.tolist(),
            "total": int(len(halos.length)),
            "at_least": {
                str(least): int((halos.length >= least).sum())
                for least in sorted({nmin, *LEAST})
                if least >= nmin
            },
            "largest": float(halos.mass.max(initial=0)),
            "particle_mass": halos.particle_mass,
            **halos.attrs,
        },
    )


def resolved(halos, edges) -> np.ndarray:
    """Which bins of mass hold halos of at least `nmin` particles only, (n,) bool."""
    return edges[:-1] * (1 + 1e-9) > (halos.attrs["nmin"] - 0.5) * halos.particle_mass


def bins(halos, edges) -> np.ndarray:
    """Bin of mass of every halo, (n,) int64; -1 outside, and in bins below `nmin` particles."""
    which = np.searchsorted(edges, halos.mass, "right") - 1
    known = resolved(halos, edges)
    inside = (which >= 0) & (which < len(edges) - 1)
    return np.where(inside & known[np.clip(which, 0, len(known) - 1)], which, -1)


def mean_in_bins(which, values, number, comm=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means of halos in each bin, their standard errors, and how many there are.

    Parameters
    ----------
    which : (n,) int64
        Bin of each halo, from 0; -1 for none.
    values : (n, ...) array
    number : int
        Number of bins.
    comm : mpi4py.MPI.Comm, optional
        Where every rank has halos of its own. Collective.
    """
    sums, inside = np.zeros((3, number, *values.shape[1:])), which >= 0
    for power in range(3):
        np.add.at(sums[power], which[inside], values[inside] ** power)
    count, total, square = sums if comm is None else comm.allreduce(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        variance = np.maximum(square / count - mean**2, 0) * count / (count - 1)
        return mean, np.sqrt(variance / count), count


class MassFunction(Diagnostic):
    """Numbers of halos (Li et al. 2021, Fig. 4)."""

    part = "halos"
    name, title = "halos", "Halo mass function"
    shows = ("halos",)
    needs_halos = True
    ratios = {"halo ratio": Ratio("halos", ["dn_dlogM"], "mass")}
    criteria = {"halos": of_halos("Number of halos", "halo ratio", "dn_dlogM")}

    def finish(self, results, catalogs) -> None:
        """On common bins, from the smallest halo of any catalogue to the largest."""
        finest = min(one.halos.particle_mass for one in catalogs)
        largest = max(one.halos.mass.max(initial=0) for one in catalogs)
        edges = mass_edges(finest, largest, results.settings.nmin)
        for one in catalogs:
            results.add(one.kind, "halos", mass_function(one.halos, edges), one.box)

    def rows(self, results) -> list:
        rows, many = [], results["SR"].get("halos", [])
        for least in many[0].attrs["at_least"] if many else ():

            def number(one, least=least):
                return one.attrs["at_least"][least]

            against = results.references("halos", number)
            quantity = f"FOF halos of at least {least} particles in SR"
            quantity += " / in HR" if against else ""
            rows.append(row(quantity, list(map(number, many)), digits=0, against=against))
        for one in results["theory"].get("halos", []):
            shares, expected = {}, one["watson13"]
            for kind, measured in results.items("halos"):
                known = np.isfinite(expected) & np.isfinite(measured["dn_dlogM"])
                if known.any():
                    shares[kind] = measured["dn_dlogM"][known].sum() / expected[known].sum()
            rows += theory_rows("FOF halos over those of Watson et al. 2013", shares)
        return rows

    def caption(self, results) -> str:
        settings = results.settings
        caption = (
            f"FOF halos, linking length {settings.linking_length} mean separations, at least "
            f"{settings.nmin} particles (Li et al. 2021, Fig. 4)."
        )
        caption += results.scatter or " Bars: Poisson errors."
        caption += " Grey band: within 10 %." if results["HR"] else ""
        if "halos" in results["theory"]:
            caption += (
                " Grey lines: mass functions of FOF halos (Watson et al. 2013) and, for masses within "
                "200 mean densities, of Tinker et al. 2008 and Bocquet et al. 2016, where the box "
                "holds a halo or more."
            )
        return caption

    def draw(self, results) -> "drawing.Figure":
        labels = r"$M_{\rm FOF}$ [$M_\odot/h$]", r"$dn/d\log_{10}M$ [$h^3$ Mpc$^{-3}$]"
        figure = drawing.with_ratio(
            results, "halos", "halo ratio", "mass", "dn_dlogM", labels, drawing.points
        )
        names = {"watson13": "Watson+13 (FOF)", "tinker08": "Tinker+08", "bocquet16": "Bocquet+16"}
        drawing.expected(figure.axes[0], results, "halos", "mass", names)
        drawing.legends(figure.axes[:1])
        return figure
