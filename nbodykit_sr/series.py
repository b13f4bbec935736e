"""Several snapshots as a series in time: that they are of one simulation, and one model for them."""

import logging
import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .errors import InputError, agreement
from .io.preflight import CATALOGUE, SERIES, prepare_output
from .io.snapshot import open_snapshot
from .lattice import LagrangianLattice
from .particles import find_lattice
from .universe import Universe
from .weights import choose

logger = logging.getLogger(__name__)

# Two snapshots are of different times where their scale factors differ by more than this part
_SAME_TIME = 1e-3

# LR displacements of one simulation correlate by 0.92 from the initial conditions to z = 0, those of
# others by at most 0.46 in boxes of 25 Mpc/h (10 pairs), measured; at so many sites
_SAME_PHASES, _SAMPLE = 0.7, 4096


@dataclass(frozen=True)
class Member:
    """A snapshot of a series: where it is, where its catalogue goes, and the model it is given.

    Attributes
    ----------
    input, output : str
    model : str or None
    """

    input: str
    output: str
    model: str | None


@dataclass(frozen=True)
class _Moment:
    """What a series is judged by: `sample` (n, 3) are displacements at the same few sites [Mpc/h]."""

    path: str
    universe: Universe
    lattice: LagrangianLattice
    channels: int
    sample: np.ndarray

    @property
    def redshift(self):
        return f"z = {self.universe.redshift:.4g}"


def arrange(inputs, output, models, comm, dataset=None) -> list[Member]:
    """The members of a series, in the order of its snapshots. Collective.

    Parameters
    ----------
    inputs : sequence of str
        Snapshots of one simulation at different times.
    output : str
        The folder that gets a catalogue of each: of the snapshot's name, or, where names coincide, of
        its redshift.
    models : sequence of str
        One for each snapshot, one for all, or none: then it is the shipped one that fits them all.
    comm : mpi4py.MPI.Comm
    dataset : str, optional
        See `open_snapshot`.

    Returns
    -------
    list of Member

    Raises
    ------
    InputError
        On every rank: snapshots that differ in box, lattice, Omega0 or phases, or of equal times; no
        model for all; a folder that is no place for a series.
    """
    with agreement(comm):
        if len(models) not in (0, 1, len(inputs)):
            raise InputError(
                f"{len(models)} models for {len(inputs)} snapshots: give one, or one for each"
            )
    _check_folder(output, inputs, comm)
    moments = [_moment(path, comm, dataset) for path in inputs]
    with agreement(comm):
        ordered = sorted(moments, key=lambda moment: moment.universe.a)
        for early, late in pairwise(ordered):
            _check_same(early, late)
        if not models:
            redshifts = [moment.universe.redshift for moment in moments]
            channels = min(moment.channels for moment in moments)
            models = [choose(moments[0].lattice.cell, redshifts, channels).stem]
        if len(models) == 1:
            models = len(inputs) * list(models)
    model = {moment.path: name for moment, name in zip(moments, models, strict=True)}
    for early, late in pairwise(ordered):
        if model[early.path] != model[late.path] and comm.rank == 0:
            logger.warning(
                "%s at %s and %s at %s are two models: particles jump between them",
                *(model[early.path], early.redshift, model[late.path], late.redshift),
            )
    outputs = [os.path.join(output, name) for name in _names(moments)]
    return [Member(*three) for three in zip(inputs, outputs, models, strict=True)]


def _check_folder(output, inputs, comm):
    """Refuse what is no folder, or is a catalogue or a run itself. Collective."""
    with agreement(comm):
        there = comm.rank == 0 and os.path.isdir(output)
        if there and any(os.path.exists(os.path.join(output, f)) for f, _ in CATALOGUE.marks):
            raise InputError(f"output {output} is a catalogue: name a folder for those of a series")
    if not comm.bcast(there):
        prepare_output(output, comm, SERIES, inputs=[i for i in inputs if os.path.exists(i)])


def _moment(path, comm, dataset):
    source = open_snapshot(path, comm, dataset)
    with agreement(comm):
        universe = Universe.of(source.attrs, "BoxSize", "a", "Omega0")
    particles = find_lattice(source)
    lattice = particles.lattice
    site = lattice.id(particles.site, base=0).astype("i8")
    some = site % max(lattice.size // _SAMPLE, 1) == 0
    parts = comm.allgather((site[some], particles.displacement[some]))
    site, sample = (np.concatenate(part) for part in zip(*parts, strict=True))
    channels = 6 if "Velocity" in source.columns else 3
    return _Moment(path, universe, lattice, channels, sample[np.argsort(site)])


def _check_same(early, late):
    """Refuse two snapshots, the next to each other in time, that are not of one simulation."""
    for name, tolerance in (("BoxSize", 1e-6), ("Nmesh", 0), ("offset", 0.01), ("Omega0", 1e-4)):
        one, other = (
            getattr(moment.universe if name == "Omega0" else moment.lattice, name)
            for moment in (early, late)
        )
        if abs(one - other) > tolerance * max(one, 1):
            raise InputError(
                f"{name} is {one:g} in {early.path} but {other:g} in {late.path}: a series is of one "
                "simulation"
            )
    if late.universe.a / early.universe.a - 1 < _SAME_TIME:
        raise InputError(
            f"{early.path} and {late.path} are both of {late.redshift}: a series has each time once"
        )
    one, other = early.sample, late.sample
    alike = len(one) == len(other) and (one * other).sum() / np.sqrt(
        (one**2).sum() * (other**2).sum()
    )
    if not alike > _SAME_PHASES:
        raise InputError(
            f"displacements of the same IDs in {early.path} and {late.path} correlate by {alike:.2f}, "
            f"in one simulation above {_SAME_PHASES}: they are of other phases, or numbered otherwise"
        )


def _names(moments):
    """Names of the members: of the snapshots' files, or by redshift where these coincide."""
    names = []
    for moment in moments:
        name = os.path.basename(os.path.abspath(moment.path))
        names.append(name.removesuffix(".hdf5").removesuffix(".h5"))
    if len(set(names)) < len(names):
        names = [f"z{moment.universe.redshift:.4g}" for moment in moments]
    return names
