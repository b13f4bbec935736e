"""Base class of diagnostics: a statistic that is measured, compared, drawn and described in one class.

To add one, write such a class in a module of its own and a line in `registry.DIAGNOSTICS`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from nbodykit.base.catalog import CatalogSource
from pmesh.pm import ComplexField

from ..provenance import Provenance
from . import drawing
from .halos import Halos
from .results import Results
from .statistic import Statistic


@dataclass
class Subject:
    """A catalogue that is being measured; large arrays are kept only while they are needed."""

    kind: str  # "SR", "HR" or "LR"
    title: str  # the kind, with a number where a box has several
    box: int  # the number of its box
    catalog: CatalogSource
    made: Provenance  # of SR, whose chunks tell where seams are looked for
    edges: np.ndarray  # (n + 1,), of bins of mass in which halos are looked into [Msun/h]
    before: list  # the subjects of its box that come before it: HR, then SR, then LR
    halos: Halos | None = None  # None where no diagnostic needs them
    table: dict | None = None  # of `halo_table`; "centre" at least
    sites: tuple | None = None  # of `halo_sites`, where halos are matched
    delta: ComplexField | None = None  # its density, 1 + delta
    reference: ComplexField | None = None  # that of the catalogue it is compared with
    notes: list = field(default_factory=list)  # what was left out of it
    kept: bool = False  # whether all of it was taken from what an earlier run kept


@dataclass(frozen=True)
class Ratio:
    """Columns of a statistic over those of HR in the same box, under a name of their own."""

    statistic: str
    columns: list
    x: str


@dataclass(frozen=True)
class Criterion:
    """A column of a ratio of SR to HR, 1 in a perfect catalogue, on which a verdict is based."""

    title: str  # what is compared
    statistic: str  # names in `Results`, ...
    column: str
    x: str  # ... and the abscissa
    unit: str  # of the abscissa; masses become particles of HR
    downwards: bool = False  # trusted from the largest x downwards, or from the smallest upwards


def of_halos(title, statistic, column) -> Criterion:
    """A `Criterion` against the mass of halos."""
    return Criterion(title, statistic, column, "mass", "particles", downwards=True)


class Diagnostic:
    """A statistic from catalogue to report. A subclass defines what it needs of the following."""

    part: ClassVar[str]  # of the report, a word of ``validate --only``
    name: ClassVar[str]  # of its figure's file
    title: ClassVar[str]  # of its figure
    shows: ClassVar[tuple[str, ...]]  # it is reported where one of these was measured of SR
    step: ClassVar[str] = ""  # what the progress bar says of `measure`, if that takes time
    needs_halos: ClassVar[bool] = False  # catalogues are linked by friends-of-friends for it
    compares: ClassVar[bool] = False  # `measure` needs the reference's density
    of_lr: ClassVar[bool] = True  # LR is measured too: not on a mesh finer than its lattice
    ratios: ClassVar[dict[str, Ratio]] = {}
    criteria: ClassVar[dict[str, Criterion]] = {}  # by the verdict's name, of ``--require``

    def inside(self, subject: Subject, results: Results) -> dict[str, Statistic]:
        """Statistics by name, measured while the particles of halos are in memory. Collective."""
        return {}

    def measure(self, subject: Subject, results: Results) -> dict[str, Statistic]:
        """Statistics by name, measured while the density is in memory. Collective."""
        return {}

    def finish(self, results: Results, catalogs: list[Subject]) -> None:
        """Add statistics that need every catalogue of every box. Collective."""

    def rows(self, results: Results) -> list[dict]:
        """Rows of the table of single numbers, each of `row`."""
        return []

    def caption(self, results: Results) -> str:
        """Caption of the figure."""
        raise NotImplementedError

    def draw(self, results: Results) -> "drawing.Figure":
        """The figure."""
        raise NotImplementedError


def row(quantity, values, orientation="", digits=3, against=None) -> dict:
    """A row of the table of single numbers: a mean and, of several values, their scatter.

    Parameters
    ----------
    values : list of float
        Of every SR catalogue.
    orientation : str
        How to read the number.
    against : list of float, optional
        Those of HR: the ratio is added.
    """
    value = _number(values, digits)
    if against is not None:
        value += f" / {_number(list(dict.fromkeys(against)), digits)}"
        if min(against) > 0:
            value += f" = {_number(np.divide(values, against), 3)}"
    return {"quantity": quantity, "value": value, "orientation": orientation}


def theory_rows(quantity, shares) -> list[dict]:
    """The row, if there is any share, of what each kind has of what theory expects."""
    value = ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
    orientation = "One box scatters about the mean that theory tells"
    row = {"quantity": quantity, "value": value, "orientation": orientation}
    return [row] if value else []


def _number(values, digits):
    """A number, or mean ± standard deviation of several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    digits = max(digits, 1)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
