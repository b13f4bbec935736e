"""How an output was made, as its attributes tell: the one list of the names that begin with SR."""

import json
from dataclasses import dataclass, fields

import numpy as np

from . import version
from .errors import InputError, one_line

# Whose versions an output may depend on
PACKAGES = ("nbodykit", "bigfile", "mpi4py", "torch", "numpy", "dask")

_TABLES = ("card", "region", "versions")  # written as JSON
_WHOLE = ("factor", "chunk", "Nmesh")
_REAL = ("offset", "origin", "mean", "subsample")


@dataclass(frozen=True)
class Provenance:
    """How a catalogue or mesh was made. What is unknown, or does not apply, is None.

    The attribute that holds a field is in `NAMES`: that of `model_hash` is SRModelHash.

    Attributes
    ----------
    layout : str
        Layout of a catalogue: "nbodykit", "mp-gadget" or "gadget-hdf5".
    seed : str
        The realisation of the small scales: decimal, as no attribute has 64 bits without a sign.
    model, model_hash : str
        Name and SHA-256 of the weights and card.
    card : dict
        The model card.
    factor : int
        Resolution ratio.
    chunk : int
        Side of a chunk [LR sites].
    offset : float
        Offset of the SR lattice [SR cells], see `LagrangianLattice`.
    Nmesh : int
        SR sites on a side.
    dtype, device : str
        Number format and device of the network: "float32", "cpu".
    power : str
        The linear power spectrum that the phases were drawn from, in words.
    region : sequence
        Lagrangian part of the box, three (low, high) pairs [Mpc/h]; empty for the whole box.
    columns : str
        Columns that were written, where not all: "Position,ID".
    subsample : float
        The part of the particles that was written, where not all.
    source : str
        The input as the user named it: a path.
    versions : dict
        Versions of this package and of those it depends on.
    command : str
        The command that makes it again.
    input : str
        Identity of the input snapshot, see `SnapshotHeader.identity`.
    initial, initial_redshift : str
        Identity of the initial conditions, and of a mesh their redshift if the user gave it.
    origin : float
        First point of a mesh [HR cells].
    mean : float
        Mean density that the network gave, before it was normalised to one.
    checksums : str
        SHA-256 of the file that lists those of all chunks.
    """

    layout: str | None = None
    origin: float | None = None
    seed: str | None = None
    model: str | None = None
    model_hash: str | None = None
    card: dict | None = None
    factor: int | None = None
    chunk: int | None = None
    offset: float | None = None
    Nmesh: int | None = None
    dtype: str | None = None
    device: str | None = None
    power: str | None = None
    region: tuple | list | None = None
    columns: str | None = None
    subsample: float | None = None
    source: str | None = None
    versions: dict | None = None
    command: str | None = None
    input: str | None = None
    initial: str | None = None
    initial_redshift: str | None = None
    mean: float | None = None
    checksums: str | None = None

    @classmethod
    def from_attrs(cls, attrs: dict) -> "Provenance":
        """Read it from attributes of a catalogue, mesh or file; InputError for an impossible value."""
        return cls(**{field: _read(field, attrs[n]) for field, n in NAMES.items() if n in attrs})

    def to_attrs(self) -> dict:
        """As attributes, those that are known."""
        attrs = {}
        for field, name in NAMES.items():
            value = getattr(self, field)
            if value is not None:
                # an empty region is that of everything
                attrs[name] = json.dumps(value or None) if field in _TABLES else value
        return attrs


def _attribute(field):
    return "SR" + "".join(word[0].upper() + word[1:] for word in field.split("_"))


# Each field of `Provenance` and the attribute that holds it, in the order in which they are written
NAMES = {field.name: _attribute(field.name) for field in fields(Provenance)}


def _read(field, value):
    try:
        if field in _TABLES:
            return json.loads(value) or ()
        if field in _WHOLE:
            return int(np.ravel(value)[0])
        if field in _REAL:
            return float(np.ravel(value)[0])
    except (ValueError, TypeError, IndexError, OverflowError, RecursionError):
        raise InputError(f"{NAMES[field]} is {one_line(value, 60)}: it makes no sense") from None
    return value if isinstance(value, str) else str(value)


def versions(packages=PACKAGES) -> dict[str, str]:
    """Versions of this package and of those that a result depends on."""
    return {"nbodykit_sr": version.__version__, **version.versions(packages)}
