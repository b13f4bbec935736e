"""Halos that the walls of a part of a box cut."""

import numpy as np
from mpi4py import MPI

from ..lattice import LagrangianLattice, particle_ids
from ..provenance import Provenance
from .fields import read
from .halos import deal

# Steps from a site to its six neighbours
_BESIDE = np.concatenate([np.eye(3, dtype="i8"), -np.eye(3, dtype="i8")])


def cut_halos(halos, catalog) -> np.ndarray | None:
    """Which halos of a part of a box are cut by its walls. Collective.

    The particles of a halo come from a patch of the Lagrangian lattice. A halo is cut if one of its
    particles has a neighbouring site whose particle is not in the catalogue. A halo that also has
    particles from a second patch, which was left out as a whole, is not recognised.

    Parameters
    ----------
    halos : Halos
    catalog : CatalogSource
        Catalogue of the halos: a region, selection or slice of one of this package, with ID.

    Returns
    -------
    (n,) bool, or None
        The same on every rank. None for a subsample, or for particles whose lattice is not known.
    """
    comm, made = catalog.comm, Provenance.from_attrs(catalog.attrs)
    if made.Nmesh is None or made.subsample is not None or "ID" not in catalog:
        return None
    lattice = LagrangianLattice(made.Nmesh, halos.attrs["BoxSize"])
    site = lattice.site(particle_ids(halos.particles["ID"]))
    beside = np.concatenate([lattice.id(site + step) for step in _BESIDE])
    halo = np.tile(halos.index[halos.owner], len(_BESIDE))
    there = read(catalog, "ID").reshape(-1).astype("u8")
    # each rank looks up the IDs of its share of the lattice
    beside, halo, there = (
        deal(one, _owner(ids, lattice, comm), comm)
        for one, ids in ((beside, beside), (halo, beside), (there, there))
    )
    cut = np.zeros(len(halos.length), dtype=bool)
    cut[halo[~np.isin(beside, there)]] = True
    comm.Allreduce(MPI.IN_PLACE, cut, MPI.LOR)
    return cut


def _owner(ids, lattice, comm):
    return (particle_ids(ids) - 1) * comm.size // lattice.size
