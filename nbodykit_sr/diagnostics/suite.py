"""All statistics of a set of catalogues, measured one catalogue at a time. Collective."""

from dataclasses import asdict, dataclass, field

import numpy as np

from ..errors import InputError
from ..universe import Universe
from .bispectrum import angle_triangles, bispectrum, equilateral_triangles
from .fields import complex_field, in_memory, mesh_bytes, require_memory
from .halos import find_halos, mass_edges, mass_function
from .pdf import density_pdf
from .pictures import picture
from .power import comparison, power_spectrum, redshift_space_power
from .seams import axis_quadrupoles, displacement_jumps
from .statistic import Statistic, ensemble, ratio
from .voids import find_voids, void_radii, void_size_function

KINDS = ("HR", "LR", "SR")  # drawn in this order, SR on top
FIELDS = 16  # float64 meshes alive at once: two references, the field, shells of the bispectrum
PARTICLE_BYTES = 250  # columns, the exchange of FOF and its labels
SPHERE = 2  # radius of the PDF's sphere, at least, in mean separations
SHOWN = 3  # realisations in pictures
NEEDED = ("BoxSize", "a", "Omega0")  # of a catalogue to be compared
STEPS = {"SR": 8, "HR": 7, "LR": 4}


@dataclass(frozen=True)
class Settings:
    """How the statistics are measured; `choose` fills in what fits a box.

    Attributes
    ----------
    Nmesh : int
        Cells a side of the mesh of all statistics.
    kmax : float
        Largest wavenumber [h/Mpc].
    radius : float
        Of the top-hat of the density PDF, comoving [Mpc/h].
    zooms : tuple of float
        Widths of the pictures, the whole box first, comoving [Mpc/h].
    k1, k2 : float
        Sides of the bispectrum's triangles [h/Mpc].
    linking_length, nmin
        Of FOF: in mean separations; the fewest particles of a halo.
    void_threshold : float
        Mean delta of a void is below this.
    """

    Nmesh: int
    kmax: float
    radius: float
    zooms: tuple
    k1: float
    k2: float
    linking_length: float = 0.2
    nmin: int = 32
    void_threshold: float = -0.7

    @classmethod
    def choose(cls, BoxSize, particles, Nmesh=None, kmax=None, zooms=None):
        """The papers' settings where the box holds them, scaled to the box where not.

        Parameters
        ----------
        BoxSize : float
            [Mpc/h].
        particles : int
            Of the finest catalogue: the mesh has as many cells, as in Li et al. 2021.
        """
        if Nmesh is None:
            Nmesh = 2 * int(np.clip(round(particles ** (1 / 3) / 2), 8, 512))
        if Nmesh < 8 or Nmesh % 2:
            raise InputError(f"mesh is {Nmesh}: an even number of cells a side from 8 is needed")
        fundamental = 2 * np.pi / BoxSize
        nyquist = np.pi * Nmesh / BoxSize
        kmax = nyquist if kmax is None else kmax
        if not 2 * fundamental < kmax <= nyquist * (1 + 1e-9):
            raise InputError(
                f"kmax is {kmax:g} h/Mpc: between {2 * fundamental:.3g}, two fundamental modes of "
                f"the box, and {nyquist:.3g}, the Nyquist wavenumber of a mesh of {Nmesh}"
            )
        zooms = (BoxSize / 4, BoxSize / 16) if zooms is None else tuple(zooms)
        if any(not 0 < width <= BoxSize for width in zooms):
            raise InputError(f"boxes are {zooms}: widths up to the BoxSize, {BoxSize:g} Mpc/h")
        papers = BoxSize >= 80
        spacing = BoxSize / particles ** (1 / 3)
        limit = 0.3 * Nmesh * fundamental
        return cls(
            int(Nmesh),
            float(kmax),
            10.0 if papers else float(f"{max(BoxSize / 12, 1.1 * SPHERE * spacing):.2g}"),
            (BoxSize, *sorted((float(width) for width in zooms), reverse=True)),
            min(0.15 if papers else 2.4 * fundamental, limit / 3),
            min(0.25 if papers else 4.0 * fundamental, limit / 2),
        )


@dataclass
class Results:
    """What was measured.

    Attributes
    ----------
    settings : Settings
    statistics : dict of str to dict of str to list of Statistic
        By kind (SR, HR, LR) and name, one for each catalogue.
    pictures : dict of str to list of Picture
        By title; the first box.
    notes : list of str
        What was left out, and why.
    reference : "HR", "LR" or None
        What SR is compared with, mode by mode.
    lr_nyquist : float or None
        Wavenumber where the LR lattice ends [h/Mpc].
    """

    settings: Settings
    statistics: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    reference: str | None = None
    lr_nyquist: float | None = None

    def __getitem__(self, kind):
        return self.statistics[kind]

    def add(self, kind, name, statistic):
        self.statistics.setdefault(kind, {}).setdefault(name, []).append(statistic)

    def items(self, name):
        """(kind, mean over the realisations) of a statistic, for the kinds that have it."""
        kinds = [kind for kind in KINDS if name in self.statistics.get(kind, {})]
        return [(kind, ensemble(self.statistics[kind][name])) for kind in kinds]

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def to_dict(self):
        """For JSON."""
        return {
            "settings": asdict(self.settings),
            "reference": self.reference,
            "lr_nyquist": self.lr_nyquist,
            "notes": self.notes,
            "statistics": {
                kind: {name: [one.to_dict() for one in many] for name, many in names.items()}
                for kind, names in self.statistics.items()
            },
        }


def check(catalogs):
    """Raise InputError unless the catalogues can be compared.

    Parameters
    ----------
    catalogs : dict of str to list of CatalogSource
        Of SR, HR and LR.
    """
    first, number = catalogs["SR"][0], len(catalogs["SR"])
    here = Universe.of(first.attrs, *NEEDED)
    for kind, many in catalogs.items():
        if len(many) not in (1, number):
            raise InputError(
                f"{len(many)} {kind} catalogues for {number} SR ones: give one for all of them, "
                "or one for each"
            )
        for one in many:
            if one.attrs.get("SRRegion", "null") != "null":
                raise InputError(
                    f"{one.attrs.get('source', kind)} is only a region of its box, and these "
                    "statistics need the whole: generate it without --region"
                )
            there = Universe.of(one.attrs, *NEEDED)
            if abs(there.BoxSize / here.BoxSize - 1) > 1e-5:
                raise InputError(
                    f"BoxSize is {here.BoxSize} in SR and {there.BoxSize} in {kind} [Mpc/h]"
                )
            if abs(there.a / here.a - 1) > 0.01:
                raise InputError(
                    f"the redshift is {here.redshift:.3f} in SR and {there.redshift:.3f} in {kind}: "
                    "compare snapshots of one time"
                )


def measure(catalogs, settings, step=lambda text: None):
    """Measure everything. Collective.

    Parameters
    ----------
    catalogs : dict of str to list of CatalogSource
        SR: realisations, or several boxes; HR and LR: none, one for all, or one for each.
    step : callable
        Told what is done next, `steps` times.

    Returns
    -------
    Results
    """
    comm = catalogs["SR"][0].comm
    box = Universe.of(catalogs["SR"][0].attrs, "BoxSize").BoxSize
    results = Results(settings)
    results.reference = next((kind for kind in ("HR", "LR") if kind in catalogs), None)
    _notes(results, catalogs)
    largest = max(one.csize for many in catalogs.values() for one in many)
    needed = mesh_bytes(settings.Nmesh, FIELDS, comm) + PARTICLE_BYTES * largest / comm.size
    require_memory(comm, needed, f"measuring on a mesh of {settings.Nmesh}^3 (--mesh)")
    halos = {kind: [] for kind in catalogs}
    fields, lowest, centre = {}, None, None
    for i in range(len(catalogs["SR"])):
        for kind in ("HR", "LR", "SR"):
            if i >= len(catalogs.get(kind, ())):
                continue
            fields.pop(kind, None)
            step(f"{kind}: reading")
            catalog = in_memory(catalogs[kind][i])
            step(f"{kind}: power spectrum")
            fields[kind] = complex_field(catalog, settings.Nmesh)
            _two_point(results, kind, catalog, fields)
            step(f"{kind}: density PDF")
            spacing = box / catalog.csize ** (1 / 3)
            if settings.radius >= SPHERE * spacing:
                results.add(kind, "pdf", density_pdf(fields[kind], settings.radius))
            else:
                results.note(
                    f"{kind} has too few particles in spheres of {settings.radius:g} Mpc/h for a "
                    "density PDF."
                )
            step(f"{kind}: halos")
            found = find_halos(catalog, settings.linking_length, settings.nmin)
            halos[kind].append(found)
            if kind != "LR":
                step(f"{kind}: bispectrum")
                _bispectra(results, kind, fields[kind])
                step(f"{kind}: voids")
                radii = void_radii(box, settings.Nmesh)
                voids = find_voids(fields[kind], radii, settings.void_threshold)
                results.add(kind, "voids", void_size_function(voids))
                step(f"{kind}: seams and axes")
                _seams(results, kind, catalog, fields[kind], catalogs["SR"][0].attrs)
            if centre is None and kind != "LR":
                centre = found.centre if found.centre is not None else np.full(3, box / 2)
            if kind == "SR":
                step("SR: pictures")
                shared = i == 0 or all(len(catalogs.get(other, ())) < 2 for other in ("HR", "LR"))
                if shared and i < SHOWN:
                    title = "SR" if len(catalogs["SR"]) == 1 else f"SR {i + 1}"
                    results.pictures[title] = _pictures(catalog, found, centre, settings)
                fields.pop("SR")
            elif kind == "HR" and i == 0:
                results.pictures["HR"] = _pictures(catalog, found, centre, settings)
            elif kind == "LR" and i == 0:
                lowest = catalog, found
    if lowest is not None:
        results.pictures["LR"] = _pictures(*lowest, centre, settings)
    order = ["LR", "HR", *(title for title in results.pictures if title.startswith("SR"))]
    results.pictures = {one: results.pictures[one] for one in order if one in results.pictures}
    _mass_functions(results, halos)
    _ratios(results)
    return results


def steps(catalogs):
    """How often `measure` calls `step`."""
    return sum(STEPS[kind] * len(many) for kind, many in catalogs.items())


def _two_point(results, kind, catalog, fields):
    """Power of a catalogue, in redshift space too, and against the reference."""
    settings = results.settings
    results.add(kind, "power", power_spectrum(fields[kind], kmax=settings.kmax))
    if "Velocity" in catalog:
        poles, wedges = redshift_space_power(catalog, settings.Nmesh, settings.kmax)
        results.add(kind, "multipoles", poles)
        results.add(kind, "wedges", wedges)
    if results.reference in (None, kind):
        return
    kmax = settings.kmax
    if results.reference == "LR":  # beyond its lattice LR says nothing
        kmax = min(kmax, results.lr_nyquist)
    against = comparison(fields[kind], fields[results.reference], kmax=kmax)
    results.add(kind, "comparison", against)


def _bispectra(results, kind, delta_k):
    settings = results.settings
    fundamental = 2 * np.pi / delta_k.BoxSize[0]
    theta, triangles = angle_triangles(settings.k1, settings.k2, fundamental)
    one = bispectrum(delta_k, triangles)
    attrs = {**one.attrs, "k1": settings.k1, "k2": settings.k2}
    columns = {"theta": theta, **one.columns}
    results.add(
        kind,
        "bispectrum angle",
        Statistic("bispectrum", columns, {**one.units, "theta": "rad"}, one.errors, attrs),
    )
    # three shells must not alias: see bispectrum
    limit = min(settings.kmax, 0.99 * settings.Nmesh / 3 * fundamental)
    if limit > 2.5 * fundamental:
        shells = equilateral_triangles(1.5 * fundamental, limit)
        results.add(kind, "bispectrum equilateral", bispectrum(delta_k, shells))
    else:
        results.note("The mesh is too coarse for equilateral triangles.")


def _seams(results, kind, catalog, delta_k, made):
    """Of SR, and of HR at the same places as a control; `made` are the attrs of SR."""
    results.add(kind, "quadrupoles", axis_quadrupoles(delta_k, kmax=results.settings.kmax))
    if "SRChunk" not in made or "ID" not in catalog:
        results.note(
            "The SR header does not say in which chunks it was made: jumps across chunk faces "
            "are left out."
        )
        return
    factor = int(made["SRFactor"])
    try:
        jumps = displacement_jumps(catalog, int(made["SRChunk"]) * factor, factor)
    except InputError as error:
        results.note(f"Jumps across chunk faces are left out for {kind}: {error}.")
        return
    results.add(kind, "jumps", jumps)


def _pictures(catalog, halos, centre, settings):
    """The whole box as a slab of a fifth, zooms as cubes."""
    box = settings.zooms[0]
    return [
        picture(catalog, halos, centre, width, box / 5 if width == box else width)
        for width in settings.zooms
    ]


def _mass_functions(results, halos):
    """On common bins, from the smallest halo of any catalogue to the largest."""
    every = [one for many in halos.values() for one in many]
    finest = min(one.particle_mass for one in every)
    largest = max(one.mass.max(initial=0) for one in every)
    edges = mass_edges(finest, largest, results.settings.nmin)
    for kind, many in halos.items():
        for one in many:
            results.add(kind, "halos", mass_function(one, edges))


def _ratios(results):
    """To HR, each box to its own."""
    table = {
        "halo ratio": ("halos", "dn_dlogM", ["mass"]),
        "void ratio": ("voids", "dn_dlnR", ["radius"]),
        "pdf ratio": ("pdf", "pdf", ["density"]),
    }
    for name, (source, column, abscissae) in table.items():
        references = results.statistics.get("HR", {}).get(source, [])
        for kind in ("LR", "SR"):
            for i, one in enumerate(results.statistics.get(kind, {}).get(source, [])):
                if references:
                    reference = references[min(i, len(references) - 1)]
                    results.add(kind, name, ratio(one, reference, column, abscissae))


def _notes(results, catalogs):
    first = catalogs["SR"][0]
    if "LR" in catalogs:
        low = catalogs["LR"][0]
        box = Universe.of(low.attrs, "BoxSize").BoxSize
        results.lr_nyquist = float(np.pi * low.csize ** (1 / 3) / box)
    if "HR" not in catalogs:
        missing = "ratios of halos, voids, PDF and bispectrum are left out"
        if "LR" in catalogs:
            missing += "; SR is compared with LR where its lattice resolves modes"
        results.note(f"No HR reference was given: {missing}.")
    elif catalogs["HR"][0].csize != first.csize:
        results.note(
            f"SR has {first.csize} particles and HR {catalogs['HR'][0].csize}: halos and power "
            "near the mesh's Nyquist wavenumber are not of one resolution."
        )
    if "LR" not in catalogs:
        results.note("No LR input was given: its curves and pictures are left out.")
    for kind, many in catalogs.items():
        if any("Velocity" not in one for one in many):
            results.note(f"{kind} has no Velocity: its redshift-space power is left out.")
        densities = [Universe.of(one.attrs, "Omega0").Omega0 for one in (first, *many)]
        if any(abs(density / densities[0] - 1) > 1e-3 for density in densities):
            results.note(f"Omega0 of {kind} differs from that of SR.")
