"""What halos are like inside: radii, profiles, concentrations, motions, shapes and pieces.

Power spectra and even mass functions can be right while halos are smeared (Brennan et al. 2025):
these statistics tell. All are of the particles that friends-of-friends linked.
"""

import numpy as np
from kdcount import cluster

from ..universe import Universe
from .halos import bins, mean_and_error
from .statistic import Statistic

FRACTIONS = (0.2, 0.5, 0.8)  # of a halo's particles, inside its radii
OVERDENSITY = 200  # of a virialised halo, in critical densities
SHRINK = 0.9  # of the sphere, from one centre to the next
CORE = 0.05  # of the particles, at least, define the centre, ...
FEWEST = 16  # ... and never fewer than these
PIECE = 20  # particles of a piece of a halo, at least
SHORTER = (0.5, 0.25)  # linking lengths of the pieces, in that of the halo
CONCENTRATIONS = np.geomspace(0.1, 1000, 400)

UNITS = {
    **{f"r{100 * share:.0f}": "Mpc/h" for share in FRACTIONS},
    "r200": "Mpc/h",
    "dispersion": "km/s",
}


def critical_density(catalog) -> float:
    """Critical density at the catalogue's redshift, per comoving volume [h^2 Msun / Mpc^3]."""
    return Universe.of(catalog.attrs, "a", "Omega0").critical_density


def halo_table(halos, density, comm) -> dict[str, np.ndarray]:
    """Every halo's numbers, one by one. Collective.

    Parameters
    ----------
    halos : Halos
    density : float
        Critical density, per comoving volume [h^2 Msun / Mpc^3]: `critical_density`.
    comm : mpi4py.MPI.Comm
        That of the catalogue.

    Returns
    -------
    dict of str to ndarray
        A row for each halo, in the order of `halos.length`, the same on every rank: length;
        centre (n, 3), comoving [Mpc/h], of the densest part by shrinking spheres (Power et al.
        2003); r20, r50, r80, the radii about it that hold these shares of the particles [Mpc/h];
        r200 [Mpc/h], where the mean density of the halo's particles falls to 200 `density`;
        concentration, of the NFW profile whose half-mass radius within r200 is the halo's; axis,
        c/a, and middle, b/a, the ratios of the axes of the second moments about the centre of
        mass; core_2, core_4, the share of the halo's particles in its largest piece at one half
        and one quarter of the linking length, and pieces_2, pieces_4, the number of others of at
        least 20 particles; with Velocity also dispersion, of one component about their mean
        [km/s]. What a halo has not is NaN.
    """
    position, count, halo = _local(halos)
    start = np.cumsum(count) - count
    box = halos.attrs["BoxSize"]
    offset = position - position[start][halo]
    offset -= box * np.rint(offset / box)
    centre = _centres(offset, halo, len(count))
    table = {"centre": (position[start] + centre) % box}
    radius = np.linalg.norm(offset - centre[halo], axis=1)
    radius = radius[np.lexsort((radius, halo))]  # ascending in each halo
    for share in FRACTIONS:
        inner = np.ceil(share * count - 1e-9).astype("i8")
        table[f"r{100 * share:.0f}"] = radius[start + inner - 1]
    table.update(_virial(radius, halo, start, halos.particle_mass, OVERDENSITY * density))
    table["axis"], table["middle"] = _axes(offset, halo, len(count))
    length = halos.attrs["linking_length"] * halos.attrs["separation"]
    for divisor, shorter in zip((2, 4), SHORTER, strict=True):
        core, pieces = _pieces(position, halo, len(count), box, shorter * length)
        table[f"core_{divisor}"], table[f"pieces_{divisor}"] = core / count, pieces
    if "Velocity" in halos.members:
        velocity = halos.members["Velocity"].astype("f8")
        velocity -= _means(velocity, halo, len(count))[halo]
        square = np.bincount(halo, (velocity**2).sum(axis=1), len(count))
        table["dispersion"] = np.sqrt(square / 3 / (count - 1))
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
    which = bins(halos, edges)
    columns = {"mass": np.sqrt(edges[1:] * edges[:-1])}
    columns["count"] = np.bincount(which[which >= 0], minlength=len(edges) - 1)
    errors = {}
    for name in names:
        known = (which >= 0) & np.isfinite(table[name])
        sums = [
            np.bincount(which[known], table[name][known] ** power, len(edges) - 1)
            for power in (0, 1, 2)
        ]
        columns[name], errors[name] = mean_and_error(*sums)
    return Statistic(
        "halo structure",
        columns,
        {"mass": "Msun/h", **{name: UNITS[name] for name in names if name in UNITS}},
        errors,
        {"edges": edges.tolist(), "particle_mass": halos.particle_mass, **halos.attrs},
    )


def density_profiles(halos, table, edges, radii, density, comm, scaled=False) -> Statistic:
    """Stacked density profiles in bins of mass. Collective.

    Parameters
    ----------
    edges : (n + 1,) array
        Of mass [Msun/h].
    radii : (m + 1,) array
        Edges of the shells [Mpc/h], or in units of each halo's r200 if `scaled`.
    density : float
        Critical density, per comoving volume [h^2 Msun / Mpc^3].

    Returns
    -------
    Statistic
        Columns mass, radius (geometric centres) and density, in critical ones, each (n, m);
        errors of the mean over halos.
    """
    position, count, halo = _local(halos)
    unit = table["r200"][halos.index] if scaled else np.ones(len(count))
    box = halos.attrs["BoxSize"]
    offset = position - table["centre"][halos.index][halo]
    offset -= box * np.rint(offset / box)
    shell = np.searchsorted(radii, np.linalg.norm(offset, axis=1) / unit[halo], "right") - 1
    number = len(radii) - 1
    inside = (shell >= 0) & (shell < number) & np.isfinite(unit)[halo]
    found = np.bincount(halo[inside] * number + shell[inside], minlength=len(count) * number)
    volume = 4 * np.pi / 3 * np.diff(radii**3) * unit[:, None] ** 3
    profile = found.reshape(-1, number) * halos.particle_mass / volume / density
    which = np.where(np.isfinite(unit), bins(halos, edges)[halos.index], -1)
    sums = np.zeros((3, len(edges) - 1, number))
    for power in range(3):
        np.add.at(sums[power], which[which >= 0], profile[which >= 0] ** power)
    mean, error = mean_and_error(*comm.allreduce(sums))
    centres = [np.sqrt(one[1:] * one[:-1]) for one in (edges, radii)]
    mass, radius = np.meshgrid(*centres, indexing="ij")
    return Statistic(
        "density profiles",
        {"mass": mass, "radius": radius, "density": mean},
        {"mass": "Msun/h", "radius": "R200" if scaled else "Mpc/h", "density": "rho_c"},
        {"density": error},
        {"edges": edges.tolist(), "radii": radii.tolist()},
    )


def nfw_half_mass_radius(concentration) -> np.ndarray:
    """Radius that holds half the mass within R200 of an NFW profile, in units of R200."""
    x = np.linspace(0, 1, 2001)[1:, None] * np.atleast_1d(concentration)
    mass = np.log1p(x) - x / (1 + x)
    half = [np.interp(0.5 * one[-1], one, np.linspace(0, 1, 2001)[1:]) for one in mass.T]
    return np.array(half)


def _local(halos):
    """Positions of this rank's members, particles of each halo, and whose each member is."""
    count = halos.length[halos.index]
    return halos.members["Position"], count, np.repeat(np.arange(len(count)), count)


def _means(value, halo, number):
    """Means over the particles of each halo, (number, 3)."""
    count = np.bincount(halo, minlength=number)[:, None]
    sums = np.stack([np.bincount(halo, value[:, i], number) for i in range(3)], axis=1)
    return sums / np.maximum(count, 1)


def _centres(offset, halo, number):
    """Centres of spheres that shrink about the particles they hold, (number, 3)."""
    count = np.bincount(halo, minlength=number)
    least = np.maximum(FEWEST, np.ceil(CORE * count))
    centre = _means(offset, halo, number)
    radius = np.zeros(number)
    np.maximum.at(radius, halo, np.linalg.norm(offset - centre[halo], axis=1))
    while len(halo):
        radius *= SHRINK
        inside = np.linalg.norm(offset - centre[halo], axis=1) < radius[halo]
        going = np.bincount(halo[inside], minlength=number) >= least
        keep = inside & going[halo]
        offset, halo = offset[keep], halo[keep]
        centre = np.where(going[:, None], _means(offset, halo, number), centre)
    return centre


def _virial(radius, halo, start, particle_mass, threshold):
    """r200 and concentration; radii ascend in each halo."""
    rank = np.arange(len(radius)) - start[halo] + 1
    within = rank * particle_mass >= threshold * 4 * np.pi / 3 * radius**3
    number = np.zeros(len(start), dtype="i8")
    np.maximum.at(number, halo[within], rank[within])
    known = number >= FEWEST
    r200 = np.cbrt(number * particle_mass / (threshold * 4 * np.pi / 3))
    half = radius[start + np.maximum((number + 1) // 2, 1) - 1] if len(start) else r200
    with np.errstate(divide="ignore", invalid="ignore"):
        # half-mass radii shrink with concentration
        table = nfw_half_mass_radius(CONCENTRATIONS)
        found = np.interp(-half / r200, -table, np.log(CONCENTRATIONS))
    return {
        "r200": np.where(known, r200, np.nan),
        "concentration": np.where(known, np.exp(found), np.nan),
    }


def _axes(offset, halo, number):
    """Ratios of the shortest and of the middle to the longest axis."""
    offset = offset - _means(offset, halo, number)[halo]
    moments = np.empty((number, 3, 3))
    for i in range(3):
        for j in range(3):
            moments[:, i, j] = np.bincount(halo, offset[:, i] * offset[:, j], number)
    short, middle, long = np.sqrt(np.maximum(np.linalg.eigvalsh(moments), 0)).T
    with np.errstate(divide="ignore", invalid="ignore"):
        return short / long, middle / long


def _pieces(position, halo, number, box, length):
    """Particles of the largest group at a shorter linking length, and how many others there are.

    Particles of two halos are farther apart than the halos' own linking length: all of them can
    be linked at once.
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
