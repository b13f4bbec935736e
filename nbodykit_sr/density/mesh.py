"""The super-resolved density: an LR density and HR initial conditions as an nbodykit mesh."""

import os
from functools import partial

from bigfile import Error as BigFileError
from mpi4py import MPI
from nbodykit import CurrentMPIComm
from nbodykit.base.catalog import CatalogSource
from nbodykit.base.mesh import MeshSource
from nbodykit.lab import BigFileMesh
from pmesh.pm import RealField

from ..errors import InputError, agreement, one_line, require_same
from ..io.atomic import readable
from ..io.checks import check_block
from ..io.preflight import MESH
from ..io.snapshot import open_snapshot
from ..io.writer import WrongValues
from ..models.card_summary import card_rows, html_table
from ..particles import check_shared
from ..preparation import AUTO
from ..provenance import Provenance
from .network import NetworkDensity
from .painting import Inputs
from .particles import ParticleDensity

# Name of the field in a mesh
DATASET = MESH.header

# How a density can be made
WAYS = {"network": NetworkDensity, "particles": ParticleDensity}


class SRMesh(MeshSource):
    """HR density 1 + delta emulated from LR and HR initial conditions.

    No density is computed before the mesh is looked at (by FFTPower, `compute`, `save`); by
    particles, LR is put on its lattice and the phases are split when the mesh is made.
    Its first point lies in the corner of the box, as in nbodykit's own meshes, if `lr` is a
    catalogue; half an HR cell below if `lr` is a mesh (``attrs["SROrigin"]``, in HR cells). The
    values do not depend on the number of ranks; the mean is normalised to one, and the mean the
    network gave is in ``attrs["SRMean"]`` of the computed field.

    Parameters
    ----------
    lr : nbodykit CatalogSource or MeshSource, or a path
        The evolved LR run: particles, Position [comoving Mpc/h], or its density 1 + delta. The
        communicator is taken from it. A path is opened.
    initial : nbodykit MeshSource or CatalogSource, or a path
        The linear overdensity at any early time on a mesh with twice the Nmesh of LR, or the HR
        run's initial snapshot, from a lattice of as many particles; by particles, `factor` times
        as many a side as LR has particles.
    model : str, optional
        A `.safetensors` file or a shipped model's name; by default `density_moved_z0`, or, where LR is a
        mesh or has no IDs, `density_z0`; by particles `phases`.
    Nmesh : int, optional
        LR cells a side for a catalogue; by default a cell for each particle.
    initial_redshift : float, optional
        Redshift of `initial`, if its attrs have none; 0 if it is extrapolated to today.
    device : {"auto", "cpu", "cuda"}
    dtype : {"auto", "float32", "bfloat16"}
        By particles, see `SRCatalog`; the network of densities computes in float32.
    chunk : int, optional
        Side of a chunk [LR cells]; chosen from the mesh by default.
    force : bool
        Warn, instead of raising, where the fields and the model card, or LR and the initial
        conditions, disagree.
    by : {"network", "particles"}
        Made by a network of densities, or painted from the particles that a model which is given
        the phases makes of an LR snapshot.
    factor : int, optional
        SR particles per LR particle, on a side, by particles: 2 (the default), 4 or 8.

    Raises
    ------
    InputError
        On every rank, now or when the fields are computed: boxes or Nmesh that do not match,
        fields that are negative, not finite, or of a wrong mean, other phases, a wrong model.
    """

    def __init__(
        self,
        lr,
        initial,
        model=None,
        *,
        Nmesh=None,
        initial_redshift=None,
        device="auto",
        dtype=AUTO,
        chunk=None,
        force=False,
        by="network",
        factor=None,
    ):
        lr, initial = (
            open_source(one, CurrentMPIComm.get()) if isinstance(one, str | os.PathLike) else one
            for one in (lr, initial)
        )
        for name, one in (("lr", lr), ("initial", initial)):
            if not isinstance(one, CatalogSource | MeshSource):
                raise InputError(
                    f"{name} is of type {type(one).__name__}: a catalogue, a mesh or a path is needed"
                )
        self.comm = comm = lr.comm
        with agreement(comm):
            if MPI.Comm.Compare(comm, initial.comm) not in (MPI.IDENT, MPI.CONGRUENT):
                raise InputError(
                    f"LR is shared by {comm.size} ranks, the initial conditions by "
                    f"{initial.comm.size}: open both with one communicator"
                )
        for source in (lr, initial):
            if isinstance(source, CatalogSource):
                check_shared(source)
        with agreement(comm):
            inputs = Inputs.of(lr, initial, Nmesh, initial_redshift, force)
            made = _way(by, factor)
        options = dict(
            Nmesh=Nmesh, dtype=dtype, chunk=chunk, force=force, initial_redshift=initial_redshift
        )
        require_same(comm, by=by, factor=factor, **options, **inputs.universe.attrs)
        require_same(comm, **inputs.start.attrs)
        self.lr, self.initial, self.inputs = lr, initial, inputs
        self.way = way = made(inputs, model, device, dtype, chunk)
        self.card, self.device = way.card, way.device
        redshift = inputs.universe.redshift
        self.attrs.update(Redshift=redshift, **way.provenance.to_attrs())
        MeshSource.__init__(self, comm, 2 * inputs.Nmesh, inputs.universe.BoxSize, "f4")

    def __repr__(self):
        return f"SRMesh(Nmesh={2 * self.inputs.Nmesh}, model={self.card.name!r})"

    def _repr_html_(self):
        rows = {
            "cells": f"{2 * self.inputs.Nmesh}³ in {self.inputs.universe.BoxSize:g} Mpc/h",
            "redshift": f"{self.attrs['Redshift']:.4g}",
            "from": f"{self.lr!r} and {self.initial!r}",
            "model": f"{self.card.name} on {self.device.type}",
        }
        return html_table("SRMesh", rows | card_rows(self.card))

    def to_real_field(self) -> RealField:
        """Compute the density. Collective.

        Returns
        -------
        pmesh.pm.RealField
            (2N, 2N, 2N) float32, 1 + delta >= 0 of mean one, with ``attrs["SRMean"]``.
        """
        chunks, compute = self.way.prepare()
        computed, field = compute(chunks), self.pm.create(type="real")
        gathered = self.way.gather(field)
        for _ in range(max(self.comm.allgather(len(chunks)))):
            with agreement(self.comm):
                try:
                    chunk, values = next(computed, (None, None))
                except WrongValues as error:
                    raise InputError(f"{error}: weights and input do not fit together") from None
            gathered.add(chunk, values)
        field.attrs = Provenance(mean=gathered.finish()).to_attrs()
        return field


def _way(by, factor):
    """The class that makes the density: `NetworkDensity`, or `ParticleDensity` with its factor."""
    if by not in WAYS:
        raise InputError(f"by is {one_line(repr(by), 40)}: {' or '.join(WAYS)} is needed")
    if by == "particles":
        return partial(ParticleDensity, factor=2 if factor is None else factor)
    if factor is not None:
        raise InputError(
            f"factor is {factor}, but the network makes an HR mesh of twice LR's cells a side: leave "
            "it out, or make the density by particles"
        )
    return WAYS[by]


def open_source(path, comm, dataset=DATASET) -> CatalogSource | MeshSource:
    """Open a snapshot as a catalogue, or a saved mesh as a mesh, whichever `path` holds. Collective.

    Raises
    ------
    InputError
        On every rank, if `path` holds neither.
    """
    path, kind = os.fspath(path), None
    with agreement(comm):
        if comm.rank == 0:
            with readable(path):
                kind = _kind(path, dataset)
    if comm.bcast(kind) == "snapshot":
        return open_snapshot(path, comm)
    with agreement(comm):
        try:
            # opened by each rank for itself, so that a failure is not collective
            BigFileMesh(path, dataset, comm=MPI.COMM_SELF)
        except (BigFileError, OSError, ValueError, KeyError, AssertionError) as error:
            line = one_line(error)
            raise InputError(
                f"dataset {dataset} of {path} is no mesh of nbodykit: {line}"
            ) from None
    return BigFileMesh(path, dataset, comm=comm)


def _kind(path, dataset):
    folder = os.path.join(path, dataset)
    if not os.path.isdir(path):
        raise InputError(f"{path} does not exist: give a snapshot or a mesh, folders of BigFile")
    if os.path.isfile(os.path.join(folder, "header")):
        check_block(folder)
        return "mesh"
    if os.path.isdir(os.path.join(path, "Header")):
        return "snapshot"
    raise InputError(
        f"{path} has neither a Header nor {dataset}: no snapshot, no mesh of that name"
    )
