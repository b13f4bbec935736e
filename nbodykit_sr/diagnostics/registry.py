"""Every diagnostic of the report, in its order."""

from .bias import Bias
from .bispectrum import Bispectrum
from .diagnostic import Criterion, Diagnostic
from .halo_matching import Matching
from .halo_profiles import Profiles
from .halo_structure import Radii, Structure
from .mass_function import MassFunction
from .pairs import Pairs
from .pdf import DensityPDF
from .pictures import Pictures
from .power import Power
from .redshift_space import RedshiftSpace
from .seams import Seams
from .voids import Voids

DIAGNOSTICS: list[Diagnostic] = [
    Pictures(),
    Power(),
    RedshiftSpace(),
    Pairs(),
    Bias(),
    MassFunction(),
    Radii(),
    Profiles(),
    Structure(),
    Matching(),
    DensityPDF(),
    Bispectrum(),
    Voids(),
    Seams(),
]
QUICK = ("power", "redshift", "halos")  # parts of a first look


def parts() -> tuple[str, ...]:
    """Names of the parts of the report, for ``validate --only``."""
    return tuple(dict.fromkeys(one.part for one in DIAGNOSTICS))


def chosen(wanted) -> list[Diagnostic]:
    """The diagnostics of these parts."""
    return [one for one in DIAGNOSTICS if one.part in wanted]


def reported(results) -> list[Diagnostic]:
    """The diagnostics that have results."""
    found = {*results["SR"], *(["pictures"] if results.pictures else [])}
    return [one for one in DIAGNOSTICS if found & set(one.shows)]


def rows(results) -> list[dict]:
    """The table of single numbers of a report."""
    return [row for one in reported(results) for row in one.rows(results)]


def criteria() -> dict[str, Criterion]:
    """The criterion of each verdict, by the verdict's name."""
    return {name: one for many in DIAGNOSTICS for name, one in many.criteria.items()}
