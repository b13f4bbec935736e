"""All statistics of one or several boxes, measured one catalogue at a time. Collective.

Halos come first, of every catalogue, and then the meshes: each has the memory for itself. FOF goes
slab by slab, and columns are read piece by piece when they are needed.
"""

from dataclasses import replace

import numpy as np

from ..errors import InputError, agreement
from ..physics import matter
from ..physics.universe import Universe
from ..provenance import Provenance
from . import kept, registry
from .diagnostic import Subject
from .fields import density_field, require_memory
from .halo_structure import halo_table
from .halos import find_halos, particle_mass
from .linking import SLAB
from .mass_function import mass_edges
from .results import KINDS, Results
from .statistic import ratio
from .theory import SMALLEST, primordial, theory_mass_function, theory_power

FIELDS = 11  # float64 meshes alive at once in the bispectrum, beside those of the catalogues
PARTICLE_BYTES = 120  # positions, and those in halos, half of all at most
SLAB_BYTES = 130  # more of a particle that is being linked
PIECE_BYTES = 1e8  # of columns that are read piece by piece
NEEDED = ("BoxSize", "a", "Omega0")  # of a catalogue to be compared
MASS_WIDTH = 0.5  # of bins in which halos are looked into, in log10 M


def check(boxes) -> None:
    """Raise InputError unless the catalogues can be compared.

    Parameters
    ----------
    boxes : list of dict of str to list of CatalogSource
        For each box its SR realisations, and one HR and LR each where there are any.
    """
    here = Universe.of(boxes[0]["SR"][0].attrs, *NEEDED)
    for kind, one in _every(boxes):
        matter.require_whole(one.attrs, one.csize)
        if Provenance.from_attrs(one.attrs).subsample is not None:
            raise InputError(
                f"{one.attrs.get('source', kind)} is only a subsample, and halos need all particles: "
                "generate it without --subsample"
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


def measure(boxes, settings, step=lambda text: None, keep=False) -> Results:
    """Measure everything in boxes as for `check`. Collective.

    `step` is called with what is done next, `steps` times at most. With `keep` what was measured
    of HR, a snapshot whose checksums were compared, is kept beside it, or taken from there.
    """
    comm = boxes[0]["SR"][0].comm
    settings = replace(settings, parts=settings.parts or registry.parts())
    diagnostics = registry.chosen(settings.parts)
    results = Results(settings)
    results.reference = next((kind for kind in ("HR", "LR") if kind in boxes[0]), None)
    _notes(results, boxes)
    for purpose, needed in memory(boxes, settings).items():
        require_memory(comm, needed, purpose)
    catalogs = _catalogs(boxes, settings)
    for number, box in enumerate(boxes):
        many = [one for one in catalogs if one.box == number]
        hr, folder = many[0], None
        if keep and "HR" in box:
            folder = kept.place(hr, settings)
            if folder is not None:
                kept.recall(folder, hr, results)
        if any(one.needs_halos for one in diagnostics):
            _halos(results, many, diagnostics, step)
        _meshes(results, many, diagnostics, step)
        if folder is not None and not hr.kept:
            kept.keep(folder, hr, results)
        for one in many:
            one.sites = None
    for diagnostic in diagnostics:
        diagnostic.finish(results, catalogs)
    _theory(results, boxes)
    _ratios(results, diagnostics)
    return results


def memory(boxes, settings) -> dict[str, float]:
    """Bytes that a rank needs for each step; the peak is the larger. Collective.

    Linear in what a rank has of either; measured from 128^3 to 512^3 particles.
    """
    ranks, largest = boxes[0]["SR"][0].comm.size, max(one.csize for _, one in _every(boxes))
    linked = SLAB_BYTES * min(largest / ranks, SLAB)
    cells = (FIELDS + max(map(len, boxes))) * float(settings.Nmesh) ** 3
    return {
        f"halos of {largest} particles": PIECE_BYTES + PARTICLE_BYTES * largest / ranks + linked,
        f"measuring on a mesh of {settings.Nmesh}^3 (--mesh)": PIECE_BYTES + 8 * cells / ranks,
    }


def steps(boxes, settings) -> int:
    """How often `measure` calls `step`, at most."""
    diagnostics = registry.chosen(settings.parts or registry.parts())
    first = 1 + 2 * any(one.needs_halos for one in diagnostics)
    return sum(
        first + sum(bool(one.step) for one in diagnostics if _seen(one, kind))
        for kind, _ in _every(boxes)
    )


def _every(boxes):
    """(kind, catalogue) of all boxes."""
    return [(kind, one) for box in boxes for kind, many in box.items() for one in many]


def _catalogs(boxes, settings):
    """Every catalogue, as it is before anything is measured: of each box HR, then SR, then LR."""
    finest = min((one for _, one in _every(boxes)), key=particle_mass)
    whole = matter.box_matter(finest.attrs)
    edges = mass_edges(particle_mass(finest), whole, settings.nmin, MASS_WIDTH)
    found = []
    for number, box in enumerate(boxes):
        made, here = Provenance.from_attrs(box["SR"][0].attrs), []
        for kind in ("HR", "SR", "LR"):
            many = box.get(kind, ())
            for i, catalog in enumerate(many):
                title = kind if len(many) == 1 else f"{kind} {i + 1}"
                here.append(Subject(kind, title, number, catalog, made, edges, list(here)))
        found += here
    return found


def _seen(diagnostic, kind):
    return diagnostic.of_lr or kind != "LR"


def _halos(results, many, diagnostics, step):
    """Measure what needs the particles of halos, for the catalogues of one box."""
    settings = results.settings
    for subject in many:
        if not subject.kept:
            step(f"{subject.kind}: halos")
            subject.halos = find_halos(subject.catalog, settings.linking_length, settings.nmin)
            step(f"{subject.kind}: inside halos")
            subject.table = halo_table(subject.halos, subject.catalog)
            for diagnostic in diagnostics:
                if _seen(diagnostic, subject.kind):
                    _add(results, subject, diagnostic.inside(subject, results))
        subject.halos.particles.clear()
        if any(other.kind == subject.kind == "SR" for other in subject.before):
            subject.sites = None  # only HR and the first SR are matched with others


def _meshes(results, many, diagnostics, step):
    """Measure what needs meshes, and pairs, for the catalogues of one box."""
    reference = None
    for subject in sorted(many, key=lambda subject: KINDS.index(subject.kind)):
        if subject.kept and not any(diagnostic.compares for diagnostic in diagnostics):
            continue
        step(f"{subject.kind}: mesh")
        subject.delta = density_field(subject.catalog, results.settings.Nmesh).r2c()
        subject.reference = reference
        if subject.kind == results.reference:
            reference = subject.delta
        for diagnostic in diagnostics:
            if _seen(diagnostic, subject.kind) and not subject.kept:
                if diagnostic.step:
                    step(f"{subject.kind}: {diagnostic.step}")
                _add(results, subject, diagnostic.measure(subject, results))
        subject.delta = subject.reference = None


def _add(results, subject, statistics):
    for name, statistic in statistics.items():
        results.add(subject.kind, name, statistic, subject.box)


def _theory(results, boxes):
    """Add the power and mass function that theory expects, on the bins of the measured ones."""
    settings, catalog = results.settings, boxes[0]["SR"][0]
    box = settings.zooms[0]
    if not {"power", "halos"} & set(results["SR"]):
        return
    with agreement(catalog.comm):
        try:
            universe = primordial(catalog.attrs, settings.sigma8, settings.n_s)
        except InputError as error:
            results.note(f"Theory is left out (see --sigma8 and --ns): {error}.")
            return
    expected = {}
    if catalog.comm.rank == 0:
        if "halos" in results["SR"]:
            edges = results["SR"]["halos"][0].attrs["edges"]
            expected["halos"] = theory_mass_function(universe, edges, box**3)
        if "power" in results["SR"] and box >= SMALLEST:
            k = results["SR"]["power"][0]["k"]
            expected["power"] = theory_power(universe, k, settings.Nmesh, box)
    for name, one in catalog.comm.bcast(expected).items():
        results.add("theory", name, one, 0)
    if "power" in results["SR"] and box < SMALLEST:
        results.note(f"The box has less than {SMALLEST:g} Mpc/h: no power of theory for it.")


def _ratios(results, diagnostics):
    """Add the ratios to HR of the same box."""
    for name, what in ((name, one) for many in diagnostics for name, one in many.ratios.items()):
        for kind in ("LR", "SR"):
            for one in results[kind].get(what.statistic, []):
                reference = results.reference_of(what.statistic, one)
                if reference is not None:
                    both = set(one.columns) & set(reference.columns)
                    columns = [column for column in what.columns if column in both]
                    share = ratio(one, reference, columns, [what.x])
                    results.add(kind, name, share, one.attrs["box"])


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
    if len(boxes) == len(catalogs["SR"]) == 1 and "pairs" in results.settings.parts:
        results.note(
            "Errors of the correlation function and of pairwise velocities count pairs alone: "
            "several realisations or boxes show how they scatter."
        )
    for kind, one in _every(boxes):
        if "Velocity" not in one and "redshift" in results.settings.parts:
            results.note(f"{kind} has no Velocity: its redshift-space power is left out.")
        densities = [Universe.of(each.attrs, "Omega0").Omega0 for each in (one, first)]
        if abs(densities[0] / densities[1] - 1) > 1e-3:
            results.note(f"Omega0 of {kind} differs from that of SR.")
