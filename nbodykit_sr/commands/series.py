"""Several snapshots as a series in time: checks that they are of one simulation, and their models."""

import logging
import os
from dataclasses import dataclass
from itertools import pairwise

from ..errors import InputError, agreement
from ..io.preflight import CATALOGUE, SERIES, prepare_output
from ..io.snapshot import SnapshotCatalog, open_snapshot
from ..lightcone.simulation import Moment, check_same, common_model
from ..particles import find_lattice
from ..physics.universe import Universe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A snapshot of a series: where it is, where its catalogue goes, and the model it is given."""

    input: str
    output: str
    model: str | None
    source: SnapshotCatalog  # the snapshot


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
    sources = [open_snapshot(path, comm, dataset) for path in inputs]
    moments = [_moment(source, path) for source, path in zip(sources, inputs)]
    with agreement(comm):
        ordered = sorted(moments, key=lambda moment: moment.universe.a)
        for early, late in pairwise(ordered):
            check_same(early, late)
        if not models:
            models = [common_model(moments)]
        if len(models) == 1:
            models = len(inputs) * list(models)
    model = {moment.name: name for moment, name in zip(moments, models, strict=True)}
    for early, late in pairwise(ordered):
        if model[early.name] != model[late.name] and comm.rank == 0:
            logger.warning(
                "%s at %s and %s at %s are two models: particles jump between them",
                *(model[early.name], early.redshift, model[late.name], late.redshift),
            )
    outputs = [os.path.join(output, name) for name in _names(moments)]
    return [Member(*four) for four in zip(inputs, outputs, models, sources, strict=True)]


def _check_folder(output, inputs, comm):
    """Refuse an output that is no folder, or is itself a catalogue or an unfinished run. Collective."""
    with agreement(comm):
        there = comm.rank == 0 and os.path.isdir(output)
        if there and any(os.path.exists(os.path.join(output, f)) for f, _ in CATALOGUE.marks):
            raise InputError(f"output {output} is a catalogue: name a folder for those of a series")
    if not comm.bcast(there):
        prepare_output(output, comm, SERIES, inputs=[i for i in inputs if os.path.exists(i)])


def _moment(source, path):
    with agreement(source.comm):
        Universe.of(source.attrs, "BoxSize", "a", "Omega0")
    return Moment.of(find_lattice(source), path)


def _names(moments):
    """Names of the members: of the snapshots' files, or by redshift where these coincide."""
    names = []
    for moment in moments:
        name = os.path.basename(os.path.abspath(moment.name))
        names.append(name.removesuffix(".hdf5").removesuffix(".h5"))
    if len(set(names)) < len(names):
        names = [f"z{moment.universe.redshift:.4g}" for moment in moments]
    return names
