"""The result type of all diagnostics: named columns with units, errors and provenance."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError


@dataclass(frozen=True)
class Statistic:
    """A measured function, the same on every rank.

    Attributes
    ----------
    name : str
        What was measured.
    columns : dict of str to ndarray
        Abscissae and measurements, all of one shape.
    units : dict of str to str
        Unit of each column that has one.
    errors : dict of str to ndarray
        One-sigma uncertainty of a column, in its unit, where one is known.
    attrs : dict
        Parameters and single numbers: plain Python values.
    """

    name: str
    columns: dict
    units: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    attrs: dict = field(default_factory=dict)

    def __post_init__(self):
        for group in ("columns", "errors"):
            arrays = {key: np.asarray(value) for key, value in getattr(self, group).items()}
            object.__setattr__(self, group, arrays)
        shapes = {value.shape for value in (*self.columns.values(), *self.errors.values())}
        if len(shapes) > 1:
            raise ValueError(f"columns and errors of {self.name!r} have several shapes: {shapes}")
        unknown = (set(self.units) | set(self.errors)) - set(self.columns)
        if unknown:
            raise ValueError(f"units or errors of {self.name!r} without a column: {unknown}")

    def __getitem__(self, column):
        return self.columns[column]

    def to_dict(self) -> dict:
        """Plain lists and numbers; what is not finite becomes None, as JSON wants it."""
        return {
            "name": self.name,
            "columns": {key: plain(value) for key, value in self.columns.items()},
            "units": dict(self.units),
            "errors": {key: plain(value) for key, value in self.errors.items()},
            "attrs": plain(self.attrs),
        }

    @classmethod
    def from_dict(cls, state) -> "Statistic":
        """The inverse of `to_dict`; None becomes NaN."""
        restored = dict(state)
        for group in ("columns", "errors"):
            restored[group] = {key: _array(value) for key, value in state[group].items()}
        return cls(**restored)

    def save(self, path) -> None:
        """Write as JSON. Not collective: call it on one rank."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path) -> "Statistic":
        """Read what `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text()))


def ensemble(statistics) -> Statistic:
    """Mean of the same statistic measured on several catalogues, with its error.

    Parameters
    ----------
    statistics : list of Statistic
        With the same columns on the same abscissae; attrs `box` tells realisations of one box
        from independent boxes.

    Returns
    -------
    Statistic
        For one catalogue the statistic itself. For several of one box means, and standard deviations (the
        1-sigma bands of the papers' figures). Of several boxes: means of the boxes' means, and
        their standard errors from the scatter between boxes. attrs realisations, boxes.
    """
    first = statistics[0]
    if len(statistics) == 1:
        return first
    if any(set(other.columns) != set(first.columns) for other in statistics):
        raise ValueError(f"realisations of {first.name!r} have different columns")
    if any(other[key].shape != first[key].shape for other in statistics for key in first.columns):
        raise InputError(
            f"{first.name} of the realisations has different bins: compare catalogues of the "
            "same BoxSize, particle number and mesh"
        )
    boxes = {}
    for one in statistics:
        boxes.setdefault(one.attrs.get("box", 0), []).append(one)
    columns, errors = {}, {}
    for key in first.columns:  # a bin that is empty here may be filled there
        means = [
            np.ma.masked_invalid([one[key] for one in many]).mean(axis=0).filled(np.nan)
            for many in boxes.values()
        ]
        values = np.ma.masked_invalid(means if len(boxes) > 1 else [one[key] for one in statistics])
        columns[key] = values.mean(axis=0).filled(np.nan)
        error = values.std(axis=0, ddof=1)
        if len(boxes) > 1:
            error = error / np.sqrt(values.count(axis=0))
        errors[key] = np.ma.filled(error, np.nan)
    counts = {"realisations": len(statistics), "boxes": len(boxes)}
    return Statistic(first.name, columns, dict(first.units), errors, {**first.attrs, **counts})


def ratio(statistic, reference, columns, abscissae) -> Statistic:
    """Columns over those of a reference, with the relative errors added in quadrature.

    Parameters
    ----------
    statistic, reference : Statistic
        On the same bins.
    columns : list of str
        Columns that are divided; the ratios keep their names.
    abscissae : list of str
        Columns carried over unchanged.
    """
    values, errors = {}, {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in columns:
            base = reference[name]
            values[name] = np.where(base != 0, statistic[name] / base, np.nan)
            if name in statistic.errors and name in reference.errors:
                relative = [one.errors[name] / one[name] for one in (statistic, reference)]
                errors[name] = np.abs(values[name]) * np.hypot(*relative)
    return Statistic(
        f"{statistic.name}, ratio",
        {**{key: statistic[key] for key in abscissae}, **values},
        {key: statistic.units[key] for key in abscissae if key in statistic.units},
        errors,
        {key: reference.attrs[key] for key in ("edges", "particle_mass") if key in reference.attrs},
    )


def plain(value) -> object:
    """`value` without numpy types, for JSON; what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _array(values):
    """Nested lists with None for NaN -> ndarray."""
    array = np.array(values, dtype=object)
    missing = any(value is None for value in array.flat)
    return array.astype(float) if missing else np.array(values)
