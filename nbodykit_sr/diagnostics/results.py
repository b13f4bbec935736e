"""Settings of the measurements of a set of catalogues, and their results."""

from dataclasses import asdict, dataclass, field, replace

import numpy as np

from ..errors import InputError
from .statistic import Statistic, ensemble

PACKAGES = (  # that measure and draw
    "nbodykit",
    "pmesh",
    "pfft-python",
    "kdcount",
    "bigfile",
    "mpi4py",
    "numpy",
    "matplotlib",
)
KINDS = ("HR", "LR", "SR")  # drawn in this order, SR on top
SPHERE = 2  # radius of the PDF's sphere, at least, in mean separations


@dataclass(frozen=True)
class Settings:
    """How the statistics are measured; `choose` fills in what fits a box."""

    Nmesh: int  # cells a side of the mesh of all statistics
    kmax: float  # largest wavenumber [h/Mpc]
    radius: float  # of the top-hat of the density PDF, comoving [Mpc/h]
    zooms: tuple  # widths of the pictures, the whole box first, comoving [Mpc/h]
    k1: float  # sides of the bispectrum's triangles [h/Mpc]
    k2: float
    linking_length: float = 0.2  # of FOF, in mean separations
    nmin: int = 32  # the fewest particles of a halo
    void_threshold: float = -0.7  # mean delta of a void is below this
    sigma8: float | None = None  # for what theory expects, where the catalogues do not tell
    n_s: float | None = None
    parts: tuple = ()  # of `registry.parts`: what is measured; all if empty

    @classmethod
    def choose(
        cls, BoxSize, particles, Nmesh=None, kmax=None, zooms=None, quick=False
    ) -> "Settings":
        """The papers' settings where the box holds them, scaled to the box where not.

        Parameters
        ----------
        BoxSize : float
            [Mpc/h].
        particles : int
            Number of particles of the finest catalogue: the mesh has as many cells (Li et al. 2021).
        quick : bool
            Half as many cells a side.
        """
        if Nmesh is None:
            Nmesh = 2 * int(np.clip(round(particles ** (1 / 3) / (4 if quick else 2)), 8, 512))
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
    """All results of a comparison.

    Statistics by kind (SR, HR, LR) and name, one for each catalogue; attrs `box` is the number of its
    box. The kind "theory" holds the expected "power" and "halos", one each where they are known.
    """

    settings: Settings
    statistics: dict = field(default_factory=dict)
    pictures: dict = field(default_factory=dict)  # of the first box, lists of `Picture` by title
    notes: list = field(default_factory=list)  # what was left out, and why
    reference: str | None = None  # "HR" or "LR": what SR is compared with, mode by mode
    lr_nyquist: float | None = None  # wavenumber where the LR lattice ends [h/Mpc]

    def __getitem__(self, kind):
        return self.statistics.get(kind, {})

    def add(self, kind, name, statistic, box) -> None:
        """Add a statistic of a catalogue; `box` is the number of its box."""
        one = replace(statistic, attrs={**statistic.attrs, "box": box})
        self.statistics.setdefault(kind, {}).setdefault(name, []).append(one)

    def reference_of(self, name, one) -> Statistic | None:
        """HR's statistic of this name in the box of `one`; None if there is none."""
        many = self["HR"].get(name, [])
        return next((other for other in many if other.attrs["box"] == one.attrs["box"]), None)

    def references(self, name, number) -> list | None:
        """``number(statistic)`` of HR in the box of each SR catalogue; None without HR."""
        many = [self.reference_of(name, one) for one in self["SR"][name]]
        return None if None in many else [number(one) for one in many]

    def items(self, name) -> list[tuple[str, Statistic]]:
        """(kind, its `ensemble`) of a statistic, for the kinds that have it."""
        return [(kind, ensemble(self[kind][name])) for kind in KINDS if name in self[kind]]

    @property
    def scatter(self) -> str:
        """Words for captions that say what the bands are; empty for a single SR catalogue."""
        many = max(map(len, self["SR"].values()), default=1)
        return f" SR: mean and standard deviation of {many} catalogues." if many > 1 else ""

    def note(self, text, subject=None) -> None:
        """Add a note on what was left out, and why; `subject` if it concerns one `Subject` alone."""
        if subject is not None:
            subject.notes.append(text)
        if text not in self.notes:
            self.notes.append(text)

    def to_dict(self) -> dict:
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
