"""Halos as nbodykit catalogues that take its halo-occupation models."""

import dask.array as da
import numpy as np
from nbodykit import transform
from nbodykit.base.catalog import column
from nbodykit.lab import ArrayCatalog
from nbodykit.source.catalog.halos import HaloCatalog

from ..physics.distance import Expansion, observed
from ..physics.universe import Universe

# Columns of galaxies that mean nothing on a light cone
_OF_BOXES = (
    "x",
    "y",
    "z",
    "vx",
    "vy",
    "vz",
    "VelocityOffset",
    "Selection",
    "Weight",
    "Value",
    "Index",
)

# Around what a cone has, in a periodic cube for codes that know no cones [Mpc/h]: wider than any halo
MARGIN = 20.0


class Halos(HaloCatalog):
    """An nbodykit HaloCatalog that populates whatever its mass definition.

    The column MassVir [Msun/h] stands beside Mass: halotools wants virial masses and radii in
    every table of halos, and nbodykit's table has those of its own definition alone.
    """

    @property
    def _redshift(self):
        return self.attrs["redshift"]

    @column
    def Radius(self) -> da.Array:
        """By the mass definition, comoving [Mpc/h]: nbodykit's is proper, positions are comoving."""
        return self._radius("Mass", self.attrs["mdef"])

    def _radius(self, mass, mdef):
        proper = transform.HaloRadius(self[mass], self.cosmo, self._redshift, mdef=mdef)
        return proper * (1 + self._redshift)

    def to_halotools(self, BoxSize=None):  # noqa: ANN201, a class of the optional halotools
        """nbodykit's table for halotools, with the columns halo_mvir and halo_rvir in any case."""
        halos = HaloCatalog.to_halotools(self, BoxSize)
        if self.attrs["mdef"] != "vir":
            virial = self.compute(self["MassVir"], self._radius("MassVir", "vir"))
            halos.halo_table["halo_mvir"], halos.halo_table["halo_rvir"] = virial
        return halos


class ConeHalos(Halos):
    """Halos on a light cone, each seen at its own redshift, positions from the observer.

    Radii and concentrations are of each halo's own redshift. What halotools takes of a single one,
    the velocities of satellites in their halos, is of the halos' median.
    """

    @property
    def _redshift(self):
        return self["Redshift"]

    @column
    def Concentration(self) -> da.Array:
        """By the mass definition, at the redshift of each halo (Dutton & Maccio 2014)."""
        mdef = self.attrs["mdef"]
        return transform.HaloConcentration(self["Mass"], self.cosmo, self._redshift, mdef=mdef)

    def populate(self, model, BoxSize=None, seed=None, **params) -> ArrayCatalog:
        """Galaxies of a halo-occupation model on the light cone. Collective.

        Parameters
        ----------
        model : nbodykit.hod.HODModel or a model of halotools
        BoxSize
            Not used: a cone has none.
        seed : int, optional
        params
            Parameters of the model, such as logMmin.

        Returns
        -------
        ArrayCatalog
            halotools' columns of galaxies, Position from the observer [comoving Mpc/h], Velocity
            [peculiar km/s], RA, DEC [deg], Redshift, RedshiftObserved; its Aemit too. For other
            parameters populate again.
        """
        place = np.concatenate(self.comm.allgather(self["Position"].compute()))
        corner = place.min(axis=0) - MARGIN
        side = float((place - corner).max()) + MARGIN
        # halotools knows periodic boxes alone; nothing reaches the walls of this one
        placed = self.copy()
        placed["Position"] = self["Position"] - corner
        found = Halos.populate(placed, model, side, seed, **params)
        columns = {name: found[name].compute() for name in found if name not in _OF_BOXES}
        columns["Position"] = columns["Position"] + corner
        zmax = float(np.ravel(self.attrs["ConeRedshifts"])[1])
        expansion = Expansion.of(Universe.of(self.attrs, "Omega0"), 1 / (1.1 + zmax))
        distance = np.linalg.norm(columns["Position"], axis=1)
        columns["Aemit"] = expansion.scale_factor(distance)
        columns |= observed(columns["Position"], columns["Aemit"], columns["Velocity"])
        return ArrayCatalog(columns, comm=self.comm, **found.attrs)
