"""All statistics of one or several boxes, measured one catalogue at a time. Collective.

Halos come first, of every catalogue, and then the meshes: each has the memory for itself. FOF goes
slab by slab, and columns are read piece by piece when they are needed.
"""

from dataclasses import dataclass

import numpy as np

from ..errors import InputError, agreement
from ..provenance import Provenance
from ..universe import Universe
from .bispectrum import angle_triangles, bispectrum, equilateral_triangles
from .fields import complex_field, mesh_bytes, require_memory
from .halo_matching import halo_sites, matching_by_mass, partners
from .halo_structure import critical_density, density_profiles, halo_table, structure_by_mass
from .halos import Halos, find_halos, mass_edges, mass_function, particle_mass
from .linking import SLAB
from .pairs import halo_bias, pair_statistics
from .pdf import density_pdf
from .pictures import picture
from .power import comparison, power_spectrum, redshift_space_power
from .results import SPHERE, Results
from .seams import axis_quadrupoles, displacement_jumps
from .statistic import Statistic, ratio
from .theory import SMALLEST, primordial, theory_mass_function, theory_power
from .voids import find_voids, void_radii, void_size_function

FIELDS = 11  # float64 meshes alive at once in the bispectrum, beside those of the catalogues
PARTICLE_BYTES = 120  # positions, and those in halos, half of all at most
SLAB_BYTES = 130  # more of a particle that is being linked
PIECE_BYTES = 1e8  # of columns that are read piece by piece
NEEDED = ("BoxSize", "a", "Omega0")  # of a catalogue to be compared
SHOWN = 3  # realisations in pictures
STEPS = {"SR": 8, "HR": 8, "LR": 5}  # calls of step for a catalogue
MASS_WIDTH = 0.5  # of bins in which halos are looked into, in log10 M
RATIOS = ["r20", "r50", "r80", "concentration", "dispersion", "axis", "core_2"]
BIASED = (32, 100, 300, 1000)  # fewest particles of halos whose bias is measured
SCALED_RADII = np.geomspace(0.03, 2, 13)  # shells of stacked profiles, in R200, ...
RADII = np.geomspace(0.01, 2, 15)  # ... and in Mpc/h


def check(boxes) -> None:
    """Raise InputError unless the catalogues can be compared.

    Parameters
    ----------
    boxes : list of dict of str to list of CatalogSource
        For each box its SR realisations, and one HR and LR each where there are any.
    """
    here = Universe.of(boxes[0]["SR"][0].attrs, *NEEDED)
    for kind, one in _every(boxes):
        if Provenance.from_attrs(one.attrs).region:
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


def measure(boxes, settings, step=lambda text: None) -> Results:
    """Measure everything. Collective.

    Parameters
    ----------
    boxes : list of dict of str to list of CatalogSource
        As for `check`.
    step : callable
        Told what is done next, `steps` times.

    Returns
    -------
    Results
    """
    comm = boxes[0]["SR"][0].comm
    results = Results(settings)
    results.reference = next((kind for kind in ("HR", "LR") if kind in boxes[0]), None)
    _notes(results, boxes)
    for purpose, needed in memory(boxes, settings).items():
        require_memory(comm, needed, purpose)
    finest = min((one for _, one in _every(boxes)), key=particle_mass)
    whole = particle_mass(finest) * finest.csize
    edges = mass_edges(particle_mass(finest), whole, settings.nmin, MASS_WIDTH)
    found = []
    for number, catalogs in enumerate(boxes):
        here = _halos(results, number, catalogs, edges, step)
        _meshes(results, number, catalogs, here, step)
        found += here
    _mass_functions(results, found)
    _theory(results, boxes)
    _ratios(results)
    return results


def memory(boxes, settings) -> dict[str, float]:
    """Bytes that a rank needs, by what it does with them: the larger is the peak. Collective.

    Linear in what a rank has of either; measured from 128^3 to 512^3 particles.
    """
    comm, largest = boxes[0]["SR"][0].comm, max(one.csize for _, one in _every(boxes))
    own = largest / comm.size
    fields = FIELDS + max(len(box) for box in boxes)
    return {
        f"halos of {largest} particles": PIECE_BYTES
        + PARTICLE_BYTES * own
        + SLAB_BYTES * min(own, SLAB),
        f"measuring on a mesh of {settings.Nmesh}^3 (--mesh)": PIECE_BYTES
        + mesh_bytes(settings.Nmesh, fields, comm),
    }


def steps(boxes) -> int:
    """How often `measure` calls `step`."""
    return sum(STEPS[kind] for kind, _ in _every(boxes))


def _every(boxes):
    """(kind, catalogue) of all boxes."""
    return [(kind, one) for box in boxes for kind, many in box.items() for one in many]


@dataclass
class _Found:
    """What is kept of a catalogue's halos when its particles are let go."""

    kind: str
    box: int
    halos: Halos
    table: dict
    sites: tuple | None


def _halos(results, number, catalogs, edges, step):
    """Halos of one box: inside, one by one, and pictures of them."""
    settings, kept, centre = results.settings, [], None
    for kind in ("HR", "SR", "LR"):  # the pictures' centre is HR's, or else SR's
        for i, catalog in enumerate(catalogs.get(kind, ())):
            step(f"{kind}: halos")
            halos = find_halos(catalog, settings.linking_length, settings.nmin)
            step(f"{kind}: inside halos")
            density = critical_density(catalog)
            table = halo_table(halos, density, catalog.comm)
            results.add(kind, "structure", structure_by_mass(halos, table, edges), number)
            for name, radii, scaled in (
                ("profiles", RADII, False),
                ("scaled profiles", SCALED_RADII, True),
            ):
                stack = density_profiles(halos, table, edges, radii, density, catalog.comm, scaled)
                results.add(kind, name, stack, number)
            one = _Found(kind, number, halos, table, None)
            if kind != "LR" and "ID" in catalog:
                try:
                    one.sites = halo_sites(halos, catalog)
                except InputError as error:
                    results.note(f"Halos of {kind} are not matched: {error}.")
            _match(results, kept, one, edges, catalog.comm)
            if centre is None:
                box = settings.zooms[0]
                centre = halos.centre if halos.centre is not None else np.full(3, box / 2)
            if number == 0 and i < SHOWN:
                title = f"SR {i + 1}" if kind == "SR" and len(catalogs["SR"]) > 1 else kind
                results.pictures[title] = _pictures(catalog, halos, centre, settings)
            halos.members.clear()
            if one.sites is not None and kind == "SR" and i > 0:
                one.sites = None  # only HR and the first SR are matched with others
            kept.append(one)
    if number == 0:
        order = ["LR", "HR", *(one for one in results.pictures if one.startswith("SR"))]
        results.pictures = {one: results.pictures[one] for one in order if one in results.pictures}
    for one in kept:
        one.sites = None
    return kept


def _match(results, kept, one, edges, comm):
    """SR's halos with HR's, and with those of the first SR of its box: the noise floor."""
    if one.kind != "SR" or one.sites is None:
        return
    for other in kept:
        if other.sites is None:
            continue
        if other.halos.particle_mass * (1 + 1e-6) < one.halos.particle_mass:
            results.note("SR and HR have different lattices: their halos are not matched.")
            continue
        partner, shared = partners(
            other.halos.length, other.sites, one.halos.length, one.sites, comm
        )
        matched = matching_by_mass(
            other.halos, other.table, one.halos, one.table, partner, shared, edges
        )
        results.add("SR", f"matching {other.kind}", matched, one.box)


def _meshes(results, number, catalogs, found, step):
    """What is measured on meshes, and pairs, of one box."""
    settings, fields = results.settings, {}
    for kind in ("HR", "LR", "SR"):
        halos = [one for one in found if one.kind == kind]
        for i, catalog in enumerate(catalogs.get(kind, ())):
            fields.pop(kind, None)
            step(f"{kind}: power spectrum")
            fields[kind] = complex_field(catalog, settings.Nmesh)
            _two_point(results, kind, catalog, fields, number)
            step(f"{kind}: pairs")
            results.add(kind, "pairs", pair_statistics(catalog), number)
            step(f"{kind}: density PDF")
            spacing = settings.zooms[0] / catalog.csize ** (1 / 3)
            if settings.radius >= SPHERE * spacing:
                results.add(kind, "pdf", density_pdf(fields[kind], settings.radius), number)
            else:
                results.note(
                    f"{kind} has too few particles in spheres of {settings.radius:g} Mpc/h for a "
                    "density PDF."
                )
            if kind != "LR":
                bias = halo_bias(halos[i].halos, halos[i].table, fields[kind], BIASED)
                results.add(kind, "bias", bias, number)
                step(f"{kind}: bispectrum")
                _bispectra(results, kind, fields[kind], number)
                step(f"{kind}: voids")
                radii = void_radii(settings.zooms[0], settings.Nmesh)
                voids = find_voids(fields[kind], radii, settings.void_threshold)
                results.add(kind, "voids", void_size_function(voids), number)
                step(f"{kind}: seams and axes")
                made = Provenance.from_attrs(catalogs["SR"][0].attrs)
                _seams(results, kind, catalog, fields[kind], made, number)


def _two_point(results, kind, catalog, fields, number):
    """Power of a catalogue, in redshift space too, and against the reference."""
    settings = results.settings
    results.add(kind, "power", power_spectrum(fields[kind], kmax=settings.kmax), number)
    if "Velocity" in catalog:
        poles, wedges = redshift_space_power(catalog, settings.Nmesh, settings.kmax)
        results.add(kind, "multipoles", poles, number)
        results.add(kind, "wedges", wedges, number)
    if results.reference in (None, kind):
        return
    kmax = settings.kmax
    if results.reference == "LR":  # beyond its lattice LR says nothing
        kmax = min(kmax, results.lr_nyquist)
    against = comparison(fields[kind], fields[results.reference], kmax=kmax)
    results.add(kind, "comparison", against, number)


def _bispectra(results, kind, delta_k, number):
    settings = results.settings
    fundamental = 2 * np.pi / delta_k.BoxSize[0]
    theta, triangles = angle_triangles(settings.k1, settings.k2, fundamental)
    one = bispectrum(delta_k, triangles)
    attrs = {**one.attrs, "k1": settings.k1, "k2": settings.k2}
    columns = {"theta": theta, **one.columns}
    against_angle = Statistic(
        "bispectrum", columns, {**one.units, "theta": "rad"}, one.errors, attrs
    )
    results.add(kind, "bispectrum angle", against_angle, number)
    # three shells must not alias: see bispectrum
    limit = min(settings.kmax, 0.99 * settings.Nmesh / 3 * fundamental)
    if limit > 2.5 * fundamental:
        shells = equilateral_triangles(1.5 * fundamental, limit)
        results.add(kind, "bispectrum equilateral", bispectrum(delta_k, shells), number)
    else:
        results.note("The mesh is too coarse for equilateral triangles.")


def _seams(results, kind, catalog, delta_k, made, number):
    """Of SR, and of HR at the same places as a control; `made` is how SR was."""
    quadrupoles = axis_quadrupoles(delta_k, kmax=results.settings.kmax)
    results.add(kind, "quadrupoles", quadrupoles, number)
    if made.chunk is None or made.factor is None or "ID" not in catalog:
        results.note(
            "The SR header does not say in which chunks it was made: jumps across chunk faces "
            "are left out."
        )
        return
    try:
        jumps = displacement_jumps(catalog, made.chunk * made.factor, made.factor)
    except InputError as error:
        results.note(f"Jumps across chunk faces are left out for {kind}: {error}.")
        return
    results.add(kind, "jumps", jumps, number)


def _pictures(catalog, halos, centre, settings):
    """The whole box as a slab of a fifth, zooms as cubes."""
    box = settings.zooms[0]
    return [
        picture(catalog, halos, centre, width, box / 5 if width == box else width)
        for width in settings.zooms
    ]


def _mass_functions(results, found):
    """On common bins, from the smallest halo of any catalogue to the largest."""
    finest = min(one.halos.particle_mass for one in found)
    largest = max(one.halos.mass.max(initial=0) for one in found)
    edges = mass_edges(finest, largest, results.settings.nmin)
    for one in found:
        results.add(one.kind, "halos", mass_function(one.halos, edges), one.box)


def _theory(results, boxes):
    """What theory expects of such boxes, on the bins of what was measured; on rank 0 for all."""
    settings, catalog = results.settings, boxes[0]["SR"][0]
    box = settings.zooms[0]
    with agreement(catalog.comm):
        try:
            universe = primordial(catalog.attrs, settings.sigma8, settings.n_s)
        except InputError as error:
            results.note(f"Theory is left out (see --sigma8 and --ns): {error}.")
            return
    expected = {}
    if catalog.comm.rank == 0:
        edges = results["SR"]["halos"][0].attrs["edges"]
        expected["halos"] = theory_mass_function(universe, edges, box**3)
        if box >= SMALLEST:
            k = results["SR"]["power"][0]["k"]
            expected["power"] = theory_power(universe, k, settings.Nmesh, box)
    for name, one in catalog.comm.bcast(expected).items():
        results.add("theory", name, one, 0)
    if box < SMALLEST:
        results.note(f"The box has less than {SMALLEST:g} Mpc/h: no power of theory for it.")


def _ratios(results):
    """To HR, each box to its own."""
    table = {
        "multipole ratio": ("multipoles", ["power_0"], ["k"]),
        "bispectrum ratio": ("bispectrum equilateral", ["bispectrum"], ["k1"]),
        "halo ratio": ("halos", ["dn_dlogM"], ["mass"]),
        "structure ratio": ("structure", RATIOS, ["mass"]),
        "pairs ratio": ("pairs", ["xi", "v12", "sigma12"], ["r"]),
        "bias ratio": ("bias", ["bias"], ["particles"]),
        "void ratio": ("voids", ["dn_dlnR"], ["radius"]),
        "pdf ratio": ("pdf", ["pdf"], ["density"]),
    }
    for name, (source, columns, abscissae) in table.items():
        for kind in ("LR", "SR"):
            for one in results.statistics.get(kind, {}).get(source, []):
                reference = results.reference_of(source, one)
                if reference is not None:
                    known = [
                        key for key in columns if key in one.columns and key in reference.columns
                    ]
                    both = ratio(one, reference, known, abscissae)
                    results.add(kind, name, both, one.attrs["box"])
    floors = {one.attrs["box"]: one for one in results["SR"].get("matching SR", [])}
    for one in results["SR"].get("matching HR", []):
        if one.attrs["box"] in floors:
            both = ratio(one, floors[one.attrs["box"]], ["matched"], ["mass"])
            results.add("SR", "matching ratio", both, one.attrs["box"])


def _notes(results, boxes):
    first, catalogs = boxes[0]["SR"][0], boxes[0]
    if "LR" in catalogs:
        low = catalogs["LR"][0]
        results.lr_nyquist = float(np.pi * low.csize ** (1 / 3) / results.settings.zooms[0])
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
    if len(boxes) == len(catalogs["SR"]) == 1:
        results.note(
            "Errors of the correlation function and of pairwise velocities count pairs alone: "
            "several realisations or boxes show how they scatter."
        )
    for kind, one in _every(boxes):
        if "Velocity" not in one:
            results.note(f"{kind} has no Velocity: its redshift-space power is left out.")
        densities = [Universe.of(each.attrs, "Omega0").Omega0 for each in (one, first)]
        if abs(densities[0] / densities[1] - 1) > 1e-3:
            results.note(f"Omega0 of {kind} differs from that of SR.")
