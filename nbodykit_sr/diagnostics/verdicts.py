"""Verdicts: up to which wavenumber, or down to how many particles, SR agrees with HR."""

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError, one_line
from . import registry
from .diagnostic import Criterion
from .results import Results
from .statistic import ensemble

TOLERANCES = (0.05, 0.1, 0.25)


@dataclass(frozen=True)
class Verdict:
    """Deviation of SR from HR in bins, the most trustworthy bin first."""

    criterion: Criterion
    x: np.ndarray  # (n,) in order of trust; of bins of mass the lower edge, in particles
    deviation: np.ndarray  # (n,) of the ratio from 1
    # (n,) one sigma: from the scatter between boxes if there are several, else the larger of the
    # statistic's own and of the scatter between realisations
    error: np.ndarray

    def reach(self, within: float, sigmas: float = 0.0) -> float:
        """The last x up to which every bin is within a tolerance; NaN if the first bin is not.

        Bins whose error is larger than the tolerance are left out. `sigmas` errors are added to each
        deviation: 1 and -1 give the ends of the one-sigma interval of the reach.
        """
        known = self.tells(within)
        x = self.x[known]
        broken = np.abs(self.deviation[known]) + sigmas * self.error[known] > within
        first = int(np.argmax(broken)) if broken.any() else len(x)
        return float(x[first - 1]) if first else np.nan

    def tells(self, within: float) -> np.ndarray:
        """Bins whose error is below a tolerance, (n,) bool."""
        return self.error <= within

    @property
    def worst(self) -> int:
        """The bin with the largest deviation less its error."""
        return int(np.nanargmax(np.abs(self.deviation) - self.error))

    def place(self, x: float) -> str:
        """An abscissa in words."""
        symbol = {"particles": "", "h/Mpc": "k = "}.get(self.criterion.unit, "r = ")
        return f"{symbol}{self.number(x)} {self.criterion.unit}"

    def number(self, x: float) -> str:
        """An abscissa without its unit; a dash where there is none."""
        return (
            "–" if np.isnan(x) else f"{x:.0f}" if self.criterion.unit == "particles" else f"{x:.3g}"
        )

    def text(self, within: float) -> str:
        """The verdict in words, with the interval of its reach."""
        if not self.tells(within).any():
            return "too few to tell"
        reach, short, long = (self.reach(within, sigmas) for sigmas in (0, 1, -1))
        if np.isnan(long):
            return "nowhere"
        if np.isnan(reach):
            return f"nowhere (at best {self._to} {self.place(long)})"
        ends = "" if short == long else f" ({self.number(short)} … {self.number(long)})"
        return f"{self._to} {self.place(reach)}{ends}"

    @property
    def _to(self):
        return "down to" if self.criterion.downwards else "to"

    def worst_text(self) -> str:
        """The largest deviation in words."""
        i = self.worst
        value, error = 100 * self.deviation[i], 100 * self.error[i]
        return f"{value:+.0f} ± {error:.0f} % at {self.place(self.x[i])}"

    def to_dict(self) -> dict:
        """For JSON; `reach` holds value, lower and upper end for each tolerance."""
        i = self.worst
        return {
            "title": self.criterion.title,
            "unit": self.criterion.unit,
            "downwards": self.criterion.downwards,
            "reach": {
                f"{within:g}": {
                    "reach": self.reach(within),
                    "one sigma": [self.reach(within, sigmas) for sigmas in (1, -1)],
                    "text": self.text(within),
                }
                for within in TOLERANCES
            },
            "worst": {
                "deviation": self.deviation[i],
                "error": self.error[i],
                "at": self.x[i],
                "text": self.worst_text(),
            },
            "x": self.x,
            "deviation": self.deviation,
            "error": self.error,
        }


def verdicts(results: Results) -> dict[str, Verdict]:
    """All verdicts that the measurements allow; none without HR."""
    if results.reference != "HR":
        return {}
    found = {}
    for name, criterion in registry.criteria().items():
        many = results["SR"].get(criterion.statistic, [])
        if not many or criterion.column not in many[0].columns:
            continue
        x, value, error = _measured(many, criterion)
        known = np.flatnonzero(np.isfinite(value) & np.isfinite(error))
        if len(known):
            order = known[:: -1 if criterion.downwards else 1]
            found[name] = Verdict(criterion, x[order], value[order] - 1, error[order])
    return found


def headline(found: dict[str, Verdict], within: float) -> list[tuple[str, str]]:
    """The verdicts in few words: pairs of a finding and the statistics that share it."""
    good, alike = [], {"nowhere": [], "too few to tell": []}
    for one in found.values():
        title, text = one.criterion.title, one.text(within)
        title = title[0].lower() + title[1:]
        heading = next((key for key in alike if text.startswith(key)), None)
        if heading is None:
            good.append(f"{title} {text}")
        else:
            alike[heading].append(title)
    parts = [(f"Within {100 * within:g} % of HR", "; ".join(good) or "nothing")]
    return parts + [(key.capitalize(), ", ".join(names)) for key, names in alike.items() if names]


def broken(found: dict[str, Verdict], limits: dict) -> list[str]:
    """A line for each limit that is broken; InputError if a limited statistic was not measured."""
    lines = []
    for name, limit in limits.items():
        if name not in found:
            raise InputError(
                f"the limit on {name} is on what was not measured: there is "
                f"{', '.join(found) or 'nothing, without --hr'}"
            )
        verdict, within, to = found[name], limit["within"], limit["to"]
        known = verdict.x[verdict.tells(within)]
        wanted = f"{verdict.criterion.title}: {100 * within:g} % wanted to {verdict.place(to)}"
        sign, slack = -1 if verdict.criterion.downwards else 1, 1e-9 * to
        asked = known[sign * known <= sign * to + slack]
        if sign * to - slack > sign * verdict.x[-1]:
            lines.append(f"{wanted}, measured to {verdict.place(verdict.x[-1])}")
        elif not len(asked):
            lines.append(f"{wanted}, too few to tell")
        elif np.isnan(reach := verdict.reach(within)) or sign * reach < sign * asked[-1]:
            lines.append(f"{wanted}, found {verdict.text(within)}")
    return lines


def read_limits(path) -> dict:
    """Limits from a TOML file: a table for each verdict, with the numbers `within` and `to`.

    Raises
    ------
    InputError
        If the file cannot be read, or holds anything else.
    """
    try:
        limits = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"cannot read the limits in {path}: {error}") from None
    criteria = registry.criteria()
    for name, limit in limits.items():
        if name not in criteria:
            raise InputError(f"{path} limits {name!r}: one of {', '.join(criteria)} is needed")
        numbers = isinstance(limit, dict) and {
            key: value
            for key, value in limit.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
        }
        if not numbers or set(limit) != {"within", "to"} or set(numbers) != set(limit):
            raise InputError(
                f"the limit on {name} in {path} is {limit}: positive numbers `within`, such as "
                f"0.1, and `to` [{criteria[name].unit}] are needed"
            )
    return limits


def read_report(path) -> dict:
    """A report.json of `validate`; InputError for another file, or a report without HR."""
    try:
        document = json.loads(Path(path).read_text())
        found = document["verdicts"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report.json of validate: {one_line(error)}") from None
    if not found:
        raise InputError(f"{path} has no verdicts: it was measured without --hr")
    return document


def side_by_side(documents: list[dict], within: float = 0.1) -> list[tuple]:
    """Rows of a table that compares reports, the first its head.

    Parameters
    ----------
    documents : list of dict
        Contents of report.json files.
    """
    names = list(dict.fromkeys(name for one in documents for name in one["verdicts"]))
    rows = [(f"within {100 * within:g} % of HR", *("" for _ in documents))]
    for heading, key in ((None, "reach"), ("largest deviation", "worst")):
        if heading:
            rows.append((heading, *("" for _ in documents)))
        for name in names:
            found = [one["verdicts"].get(name) for one in documents]
            title = next(one["title"] for one in found if one)
            cells = [
                "–"
                if one is None
                else one["worst"]["text"]
                if key == "worst"
                else one["reach"][f"{within:g}"]["text"]
                for one in found
            ]
            rows.append((title, *cells))
    return rows


def _measured(many, criterion):
    """Abscissa, ratio and error of a statistic of all catalogues."""
    mean = ensemble(many)
    if len({one.attrs["box"] for one in many}) > 1:
        error = mean.errors[criterion.column]
    else:
        own = [one.errors[criterion.column] for one in many]
        error = np.ma.masked_invalid(own).mean(axis=0).filled(np.nan)
        if len(many) > 1:  # what the own one leaves out, as of pairs, realisations may show
            error = np.fmax(error, mean.errors[criterion.column])
    x = mean[criterion.x]
    if criterion.x == "mass":
        x = np.asarray(mean.attrs["edges"])[:-1] / mean.attrs["particle_mass"]
    return x, mean[criterion.column], error
