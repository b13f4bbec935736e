"""Inner structure of halos: radii, concentrations, velocity dispersions, shapes and pieces.

Power spectra and even mass functions can be right while halos are smeared (Brennan et al. 2025):
these statistics tell. They use the particles that friends-of-friends linked; r200 and the
concentration use all particles in the sphere.
"""

import numpy as np
from kdcount import cluster

from ..lattice import nearest_image
from ..physics.universe import Universe
from . import drawing
from .centres import centre_particles
from .diagnostic import Diagnostic, Ratio, of_halos
from .mass_function import bins, mean_in_bins
from .overdensity import CORE, spheres, threshold_densities
from .statistic import Statistic

FRACTIONS = (0.2, 0.5, 0.8)  # of a halo's particles, inside its radii
PIECE = 20  # particles of a piece of a halo, at least
SHORTER = (0.5, 0.25)  # linking lengths of the pieces, in that of the halo
CONCENTRATIONS = np.geomspace(0.1, 1000, 400)

UNITS = {
    **{f"r{100 * share:.0f}": "Mpc/h" for share in FRACTIONS},
    "r200": "Mpc/h",
    "dispersion": "km/s",
}


def halo_table(halos, catalog) -> dict[str, np.ndarray]:
    """Radii, concentration, shape and other numbers of every halo. Collective.

    Parameters
    ----------
    halos : Halos
    catalog : CatalogSource
        Catalogue of the halos, with attrs BoxSize, Omega0, Time or Redshift.

    Returns
    -------
    dict of str to ndarray
        A row for each halo, in the order of `halos.length`, the same on every rank: length;
        centre (n, 3), comoving [Mpc/h], see `centre_particles`; r20, r50, r80, the radii about it
        that hold these shares of the particles [Mpc/h]; r200 [Mpc/h], that of M200c, see
        `spherical_masses`; concentration, of the NFW profile whose half-mass radius within r200 is
        the halo's; axis, c/a, and middle, b/a, the ratios of the axes of the second moments about
        the centre of mass; core_2, core_4, the share of the halo's particles in its largest piece at one half
        and one quarter of the linking length, and pieces_2, pieces_4, the number of others of at
        least 20 particles; with Velocity also dispersion, of one component about their mean
        [km/s]. NaN where a halo has no such number.
    """
    position, count, halo = halos.particles["Position"], halos.count, halos.owner
    box = halos.attrs["BoxSize"]
    centre = position[centre_particles(halos)]
    table = {"centre": centre % box}
    offset = nearest_image(position - centre[halo], box)
    radius = np.linalg.norm(offset, axis=1)
    radius = radius[np.lexsort((radius, halo))]  # ascending in each halo
    for share in FRACTIONS:
        inner = np.ceil(share * count - 1e-9).astype("i8")
        table[f"r{100 * share:.0f}"] = radius[halos.first + inner - 1]
    table.update(_virial(halos, catalog, table["centre"]))
    table["axis"], table["middle"] = _axes(offset - halos.means(offset)[halo], halo, len(count))
    length = halos.attrs["linking_length"] * halos.attrs["separation"]
    for divisor, shorter in zip((2, 4), SHORTER, strict=True):
        core, pieces = _pieces(position, halo, len(count), box, shorter * length)
        table[f"core_{divisor}"], table[f"pieces_{divisor}"] = core / count, pieces
    if "Velocity" in halos.particles:
        velocity = halos.particles["Velocity"].astype("f8")
        velocity -= halos.means(velocity)[halo]
        square = np.bincount(halo, (velocity**2).sum(axis=1), len(count))
        table["dispersion"] = np.sqrt(square / 3 / (count - 1))
    comm = catalog.comm
    order = np.argsort(np.concatenate(comm.allgather(halos.index)))
    whole = {name: np.concatenate(comm.allgather(one))[order] for name, one in table.items()}
    return {"length": halos.length, **whole}


def structure_by_mass(halos, table, edges) -> Statistic:
    """Means of `halo_table` in bins of mass.

    Parameters
    ----------
    edges : (n + 1,) array
        [Msun/h].

    Returns
    -------
    Statistic
        Columns mass (geometric centre of the bin), count, and the table's; errors of the means,
        from the scatter. Bins that the catalogue does not resolve, or leaves empty, are NaN.
    """
    names = [name for name in table if name not in ("length", "centre")]
    which, number = bins(halos, edges), len(edges) - 1
    columns = {"mass": np.sqrt(edges[1:] * edges[:-1])}
    columns["count"] = np.bincount(which[which >= 0], minlength=number)
    errors = {}
    for name in names:
        known = np.where(np.isfinite(table[name]), which, -1)
        columns[name], errors[name], _ = mean_in_bins(known, table[name], number)
    return Statistic(
        "halo structure",
        columns,
        {"mass": "Msun/h", **{name: UNITS[name] for name in names if name in UNITS}},
        errors,
        {"edges": edges.tolist(), "particle_mass": halos.particle_mass, **halos.attrs},
    )


def nfw_half_mass_radius(concentration) -> np.ndarray:
    """Radius that holds half the mass within R200 of an NFW profile, in units of R200."""
    x = np.linspace(0, 1, 2001)[1:, None] * np.atleast_1d(concentration)
    mass = np.log1p(x) - x / (1 + x)
    half = [np.interp(0.5 * one[-1], one, np.linspace(0, 1, 2001)[1:]) for one in mass.T]
    return np.array(half)


class Radii(Diagnostic):
    """Radii of halos, in bins of mass: smeared halos have larger ones."""

    part = "halos"
    name, title = "halo_radii", "Radii of halos"
    shows = ("structure",)
    needs_halos = True
    criteria = {
        name: of_halos(f"Radius of {name[1:]} % of a halo", "structure ratio", name)
        for name in ("r20", "r50", "r80")
    }

    def caption(self, results) -> str:
        caption = (
            "Means of the radii that hold 20, 50 and 80 % of a halo's particles, about its "
            "centre. Power and numbers of halos can be right while halos are smeared (Brennan et "
            "al. 2025): their radii are not."
        )
        caption += " Below: ratios to HR; grey: within 10 %." if results["HR"] else ""
        return caption + (results.scatter or " Bars: errors of the means.")

    def draw(self, results) -> "drawing.Figure":
        heights = (2, 1) if results["HR"] else (2,)
        shared = {"sharex": True, "sharey": "row", "height_ratios": heights}
        height = 1.4 + 1.1 * sum(heights)
        figure, axes = drawing.panels(len(heights), 3, 8.4, height, **shared)
        what = ("structure", None), ("structure ratio", "HR")
        for column, name in zip(axes.T, self.criteria, strict=True):
            title = f"radius of {name[1:]} % of the particles"
            column[0].set(title=title, xscale="log", yscale="log")
            for axis, (statistic, reference) in zip(column, what):
                for kind, measured in results.items(statistic):
                    drawing.points(axis, measured, "mass", name, kind, reference)
            for axis in column[1:]:
                axis.set_ylim(0, 3)
                drawing.guide(axis)
            column[-1].set_xlabel(r"$M_{\rm FOF}$ [$M_\odot/h$]")
        axes[-1, 0].set_ylabel("ratio to HR")
        axes[0, 0].set_ylabel("$r$ [Mpc/$h$]")
        drawing.legends(axes[0, :1])
        return figure


class Structure(Diagnostic):
    """Concentrations, motions, shapes and pieces of halos, in bins of mass."""

    part = "halos"
    name, title = "halo_structure", "Halos inside"
    shows = ("structure",)
    needs_halos = True
    ratios = {
        "structure ratio": Ratio(
            "structure", [*Radii.criteria, "concentration", "dispersion", "axis", "core_2"], "mass"
        )
    }
    criteria = {
        name: of_halos(title, "structure ratio", column)
        for name, title, column in (
            ("concentration", "Concentration of halos", "concentration"),
            ("dispersion", "Velocity dispersion of halos", "dispersion"),
            ("shape", "Axis ratio c/a of halos", "axis"),
            ("core", "Share of a halo in its core", "core_2"),
        )
    }

    def inside(self, subject, results) -> dict:
        return {"structure": structure_by_mass(subject.halos, subject.table, subject.edges)}

    def caption(self, results) -> str:
        caption = (
            "Means of NFW concentrations from half-mass radii, one-dimensional velocity "
            "dispersions, ratios of the shortest to the longest axis, shares of a halo's "
            "particles in the largest piece when it is linked at half the length, numbers of "
            f"other pieces of at least {PIECE} particles, and R200."
        )
        return caption + (results.scatter or " Bars: errors of the means.")

    def draw(self, results) -> "drawing.Figure":
        columns = {
            "concentration": "concentration $c_{200}$",
            "dispersion": r"$\sigma_{\rm 1D}$ [km/s]",
            "axis": "$c/a$",
            "core_2": "share of the core",
            "pieces_2": "pieces beside the core",
            "r200": "$R_{200}$ [Mpc/$h$]",
        }
        figure = drawing.against_mass(columns, dict(results.items("structure")))
        for axis in (figure.axes[1], figure.axes[5]):
            if axis.has_data():
                axis.set_yscale("log")
        return figure


def _virial(halos, catalog, centre):
    """r200 and concentration; NaN where the sphere has too few particles."""
    density = threshold_densities(Universe.of(catalog.attrs, "a", "Omega0"))["200c"]
    mass, half = (one[:, 0] for one in spheres(halos, catalog, centre, [density]))
    mass[mass < CORE * halos.particle_mass * (1 - 1e-9)] = np.nan
    r200 = np.cbrt(3 * mass / (4 * np.pi * density))
    # half-mass radii shrink with concentration
    table = nfw_half_mass_radius(CONCENTRATIONS)
    found = np.exp(np.interp(-half / r200, -table, np.log(CONCENTRATIONS)))
    return {"r200": r200, "concentration": np.where(np.isfinite(r200), found, np.nan)}


def _axes(offset, halo, number):
    """Ratios of the shortest and of the middle to the longest axis, about the centre of mass."""
    moments = np.empty((number, 3, 3))
    for i in range(3):
        for j in range(3):
            moments[:, i, j] = np.bincount(halo, offset[:, i] * offset[:, j], number)
    short, middle, long = np.sqrt(np.maximum(np.linalg.eigvalsh(moments), 0)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return short / long, middle / long


def _pieces(position, halo, number, box, length):
    """Particles of each halo's largest group at a shorter linking length, and the number of other groups.

    All halos are linked at once: particles of two halos are farther apart than the halos' own
    linking length, so no group joins them.
    """
    if not number:
        return np.zeros(0), np.zeros(0)
    data = cluster.dataset(position % box, boxsize=[box] * 3)
    labels = cluster.fof(data, linking_length=length, np=0).labels
    size = np.bincount(labels)
    owner = np.empty(len(size), dtype="i8")
    owner[labels] = halo
    core = np.zeros(number, dtype="i8")
    np.maximum.at(core, owner, size)
    others = np.bincount(owner[size >= PIECE], minlength=number) - (core >= PIECE)
    return core, others
