"""The report: an HTML page of figures with captions, and all numbers as JSON."""

import base64
import io
import json
import logging
from datetime import datetime
from pathlib import Path

import jinja2
import matplotlib

from .. import version as own
from ..provenance import NAMES, Provenance
from ..universe import Universe
from . import figures, halo_figures
from .drawing import RC
from .statistic import plain
from .summary import summary
from .verdicts import TOLERANCES, headline, verdicts

logger = logging.getLogger("nbodykit_sr.diagnostics")

PACKAGES = (
    "nbodykit",
    "pmesh",
    "pfft-python",
    "kdcount",
    "bigfile",
    "mpi4py",
    "numpy",
    "matplotlib",
)
DPI = 150


def write_report(results, boxes, folder, command) -> None:
    """Write report.html, report.json and figures/ as PNG and PDF. Not collective.

    Parameters
    ----------
    results : Results
    boxes : list of dict of str to list of CatalogSource
    folder : str or Path
        Made if it is not there.
    command : str
        That makes this report again.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    described = [
        _describe(kind, one, number)
        for number, box in enumerate(boxes)
        for kind, many in box.items()
        for one in many
    ]
    judged = verdicts(results)
    document = {
        "command": command,
        "made": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"nbodykit_sr": own.__version__, **own.versions(PACKAGES)},
        "catalogues": described,
        "verdicts": {name: one.to_dict() for name, one in judged.items()},
        "summary": summary(results),
        **results.to_dict(),
    }
    text = json.dumps(plain(document), indent=1, allow_nan=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    shown = []
    with matplotlib.rc_context(RC):
        for name, title, figure, caption in _figures(results):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
            (folder / "figures" / f"{name}.png").write_bytes(buffer.getvalue())
            figure.savefig(folder / "figures" / f"{name}.pdf", dpi=DPI)
            data = base64.b64encode(buffer.getvalue()).decode()
            shown.append({"name": name, "title": title, "data": data, "caption": caption})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nbodykit_sr.diagnostics", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html")
    html = page.render(
        document=document,
        figures=shown,
        tolerances=TOLERANCES,
        headline=headline(judged, TOLERANCES[1]),
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def _figures(results):
    """(file name, title, figure, caption) of all that can be drawn."""
    settings, many = results.settings, len(results["SR"]["power"])
    theory = results.statistics.get("theory", {})
    band = f" SR: mean and standard deviation of {many} catalogues." if many > 1 else ""
    single = " Bands: errors of a Gaussian field with as many modes." if many == 1 else ""
    zooms = ", ".join(f"{width:.3g}" for width in settings.zooms[1:])
    ready = [
        (
            "pictures",
            "What it looks like",
            figures.pictures(results.pictures),
            "Projected dark matter density, logarithmic, with particles in FOF halos in orange "
            "(lightness is density alone); as Figs 1, 2 and 5 of Li et al. 2021. Top: a slab a "
            "fifth of the box deep, centred on the most massive halo of "
            f"{'HR' if 'HR' in results.pictures else 'SR'}. Below: cubes of {zooms} Mpc/h, the "
            "frame in the picture above. Each pixel is averaged over its nearest 16 particles "
            "or so.",
        ),
        (
            "power",
            "Power spectrum",
            figures.power(results),
            f"Top: dimensionless matter power spectrum, cloud-in-cell on {settings.Nmesh}³ cells "
            "without deconvolution (Li et al. 2021, Eq. 1 and Fig. 3); it bends down near the "
            f"mesh's Nyquist wavenumber for all alike.{single}{band}"
            + (
                " Grey: halofit (Takahashi et al. 2012) of CLASS's linear power, through the window "
                "of the mesh."
                if "power" in theory
                else ""
            )
            + (
                f" Middle: transfer function against {results.reference}; grey: within 10 %. "
                "Bottom: cross-correlation coefficient, 1 where the phases agree. LR is drawn up "
                "to the Nyquist wavenumber of its lattice."
                if results.reference
                else ""
            ),
        ),
    ]
    if "multipoles" in results["SR"]:
        ready.append(
            (
                "redshift_space",
                "Redshift space",
                figures.redshift_space(results),
                "Monopole and absolute quadrupole with positions moved along z by v(1+z)/H, which "
                "tests the velocities."
                + (
                    f" Right: SR over {results.reference} in wedges of μ, the cosine to the line "
                    "of sight (Ni et al. 2021); grey: within 10 %."
                    if results.reference
                    else ""
                ),
            )
        )
    ready.append(
        (
            "two_points",
            "Pairs",
            figures.two_points(results),
            "Correlation function, mean radial velocity of pairs (negative where they approach) "
            "and its dispersion, from pairs of the same Lagrangian sites in all catalogues; "
            "bias of halos above a number of particles, from their cross power with matter on "
            "the largest scales." + (band or " Bands: errors of the number of pairs."),
        )
    )
    ready.append(
        (
            "halos",
            "Halo mass function",
            figures.halo_mass_function(results),
            f"FOF halos, linking length {settings.linking_length} mean separations, at least "
            f"{settings.nmin} particles (Li et al. 2021, Fig. 4)."
            + (band or " Bars: Poisson errors.")
            + (" Grey band: within 10 %." if "HR" in results.statistics else "")
            + (
                " Grey lines: mass functions of FOF halos (Watson et al. 2013) and, for masses within "
                "200 mean densities, of Tinker et al. 2008 and Bocquet et al. 2016, where the box "
                "holds a halo or more."
                if "halos" in theory
                else ""
            ),
        )
    )
    ready += _halo_figures(results, band)
    if "pdf" in results["SR"]:
        ready.append(
            (
                "density_pdf",
                "Density PDF",
                figures.density_pdf(results),
                f"Distribution of the density in spheres of {settings.radius:g} Mpc/h "
                "(Kodi Ramanah et al. 2020, Fig. 3)."
                + (band or " Bands count the box in independent spheres."),
            )
        )
    ready.append(
        (
            "bispectrum",
            "Bispectrum",
            figures.bispectrum(results),
            "Reduced bispectrum of triangles with two fixed sides against the angle θ between "
            "them (Kodi Ramanah et al. 2020), and of equilateral ones."
            + (band or " Bars: errors of a Gaussian field."),
        )
    )
    ready.append(
        (
            "voids",
            "Voids",
            figures.void_size_function(results),
            "Number density of spherical, non-overlapping voids whose mean density contrast is "
            f"below {settings.void_threshold} (finder of Banerjee & Dalal 2016)."
            + (band or " Bars: Poisson errors."),
        )
    )
    jumps = "jumps" in results["SR"]
    ready.append(
        (
            "seams",
            "Seams and symmetry",
            figures.seams(results),
            (
                "Left: rms difference of the displacements of neighbouring particles against their "
                "place in the chunk they were made in: the last, across the chunk's face, must not "
                "stand out from others of its phase in an LR cell. Right: r"
                if jumps
                else "R"
            )
            + "eal-space quadrupole about each axis of the box: none may be preferred beyond the "
            "chance of the phases"
            + (", which HR shares (dotted)" if "HR" in results.statistics else "")
            + ". Gaussian errors are the least there can be.",
        )
    )
    return ready


def _halo_figures(results, band):
    """Of halos inside, and one by one."""
    ratios = " Below: ratios to HR; grey: within 10 %." if "HR" in results.statistics else ""
    errors = band or " Bars: errors of the means."
    ready = [
        (
            "halo_radii",
            "Radii of halos",
            halo_figures.halo_radii(results),
            "Means of the radii that hold 20, 50 and 80 % of a halo's particles, about its densest "
            "part. Power and numbers of halos can be right while halos are smeared (Brennan et "
            f"al. 2025): their radii are not.{ratios}{errors}",
        ),
        (
            "halo_profiles",
            "Density profiles",
            halo_figures.halo_profiles(results),
            "Stacked density of the particles in halos, in critical densities, against the radius "
            "in units of each halo's R200 (top) and in Mpc/h (bottom), for bins of mass. Bands: "
            f"{'errors of the mean.' if not band else 'standard deviation of catalogues.'}",
        ),
        (
            "halo_structure",
            "Halos inside",
            halo_figures.halo_structure(results),
            "Means of NFW concentrations from half-mass radii, one-dimensional velocity "
            "dispersions, ratios of the shortest to the longest axis, shares of a halo's "
            "particles in the largest piece when it is linked at half the length, numbers of "
            f"other pieces of at least 20 particles, and R200.{errors}",
        ),
    ]
    if "matching HR" in results["SR"] or "matching SR" in results["SR"]:
        ready.append(
            (
                "halo_matching",
                "Halos one by one",
                halo_figures.halo_matching(results),
                "Halos with the same phases, matched by the Lagrangian sites that they share: "
                "share of halos with a partner, scatter of the partners' masses, and distance of "
                "their centres. Small halos differ by the noise: no more can be asked than two "
                f"realisations of SR share with each other.{band}",
            )
        )
    return ready


def _describe(kind, catalog, box):
    """What a catalogue is, with how it was made where it says."""
    attrs, universe = catalog.attrs, Universe.of(catalog.attrs)
    provenance = Provenance.from_attrs(attrs)
    made = {name: getattr(provenance, n) for n, name in NAMES.items() if name in attrs}
    return plain(
        {
            "kind": kind,
            "box": box,
            "path": attrs.get("source", ""),
            "particles": catalog.csize,
            "BoxSize": universe.BoxSize,
            "redshift": universe.redshift,
            "Omega0": universe.Omega0,
            "made": made,
        }
    )
