"""The super-resolved light cone: a few snapshots, a model and a seed as an nbodykit catalogue."""

from os import PathLike

import dask.array as da
from nbodykit.base.catalog import CatalogSource

from ..errors import agreement
from ..io.cones import empty, joined
from ..io.snapshot import open_snapshot
from ..preparation import AUTO, ModelOptions
from .cone import Cone
from .worldlines import PIECE, LightCone


class SRLightCone(CatalogSource):
    """A super-resolved light cone as an nbodykit catalogue, computed when it is made.

    It is held in memory; larger ones are written by ``nbodykit-sr lightcone``. The particles depend on
    the snapshots, the model and the seed, not on the number of ranks.

    Columns: Position [comoving Mpc/h, from the observer], Velocity [peculiar km/s], ID (as of
    `SRCatalog`), Replica (of the box in which the particle is seen), Aemit (scale factor), RA, DEC
    [deg], Redshift (cosmological), RedshiftObserved (with the peculiar velocity), Weight (of a
    subsample). Attributes: cosmology, the cone and provenance.

    Parameters
    ----------
    sources : sequence of nbodykit CatalogSource, str or Path
        LR snapshots of one simulation, that reach from `zmin` to `zmax`.
    zmax : float
    observer : three floats
        Comoving, in the box [Mpc/h].
    angle : float, optional
        Largest angle between a line of sight and the axis [deg]; or else `sky`.
    axis : three floats
    sky : {"full", "octant"}, optional
    zmin : float
    columns : tuple of str, optional
        All by default.
    subsample : float
        The part of the particles that is kept, chosen by ID.
    model, seed, device, dtype, chunk, flavour, factor, force, phases, power, sigma8, n_s
        See `SRCatalog`. By default the shipped model that fits all snapshots.

    Raises
    ------
    InputError
        On every rank, see `LightCone`.
    """

    _held: dict | None = None  # slices and copies have none: their columns are those of the source

    def __init__(
        self,
        sources,
        zmax,
        observer=(0.0, 0.0, 0.0),
        angle=None,
        axis=Cone.axis,
        sky=None,
        zmin=0.0,
        columns=None,
        subsample=1.0,
        model=None,
        seed=0,
        device="auto",
        dtype=AUTO,
        chunk=None,
        flavour=None,
        factor=None,
        force=False,
        phases=None,
        power=None,
        sigma8=None,
        n_s=None,
    ):
        if isinstance(phases, str | PathLike):
            phases = open_snapshot(phases)
        cone = Cone(zmin, zmax, observer, angle, axis, sky)
        options = ModelOptions(
            model, flavour, factor, device, dtype, force, phases, power, sigma8, n_s
        )
        light = LightCone(sources, cone, seed, chunk, options)
        self.comm = comm = light.comm
        with agreement(comm):
            selection = light.select(columns, subsample)
        streamed = light.stream(light.chunks, selection)
        pieces = [columns for _, found in streamed for columns in found]
        light.check_margin()
        self._held = joined([empty(selection.columns), *pieces])
        self._size = len(self._held["Position"])
        self.cone, self.nodes = cone, light.nodes
        self.attrs.update(light.attrs)
        self.attrs["ParticleMass"] = light.attrs["ParticleMass"] / selection.subsample
        CatalogSource.__init__(self, comm=comm)

    def __repr__(self):
        return f"SRLightCone(size={self.size}, model={self.attrs['SRModel']!r}, {self.cone})"

    @property
    def hardcolumns(self) -> list[str]:
        return [*(self._held or ()), *CatalogSource.hardcolumns.fget(self)]

    def get_hardcolumn(self, col) -> da.Array:
        if self._held is None or col not in self._held:
            return CatalogSource.get_hardcolumn(self, col)
        return da.from_array(self._held[col], chunks=(PIECE, *self._held[col].shape[1:]))
