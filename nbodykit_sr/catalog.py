"""The super-resolved catalogue: a snapshot, a model and a seed as an nbodykit catalogue."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from os import PathLike

import dask
import dask.array as da
import numpy as np
from dask.utils import parse_bytes
from nbodykit.base.catalog import CatalogSource

from .chunks import Chunk, ChunkGrid, default_grid, region_of
from .domain import LatticeDomain
from .errors import InputError, agreement, one_line, require_same
from .io.layout import NBODYKIT
from .io.snapshot import open_snapshot
from .models.card import ModelCard
from .models.card_summary import card_rows, html_table
from .noise import check_seed
from .particles import find_lattice
from .physics.matter import MASS, particle_mass
from .physics.universe import Universe
from .preparation import AUTO, ModelOptions, prepare_model
from .provenance import Provenance, versions
from .zoom import lagrangian_region

logger = logging.getLogger(__name__)


class SRCatalog(CatalogSource):
    """A super-resolved catalogue, computed as it is looked at.

    Making one puts the snapshot on its Lagrangian lattice and exchanges the padding; no network
    runs before a column is computed. The particles depend on the snapshot, the model and the
    seed, not on the number of ranks.

    Columns: Position [comoving Mpc/h, in the box], Velocity [peculiar km/s] where the model has
    it, ID (lattice index of the SR lattice, from 1). Particles are stored chunk by chunk.

    Parameters
    ----------
    source : nbodykit CatalogSource, str or Path
        A catalogue of `open_snapshot`, or any other with Position [Mpc/h], ID and, in attrs, BoxSize (3),
        Redshift or Time, and Omega0. The communicator is taken from it. A path is opened by
        `open_snapshot`.
    model : str, optional
        A `.safetensors` or `.pt` file, the name of a shipped model, or "interpolate": trilinear
        interpolation. By default the shipped model for the snapshot's LR cell and redshift.
    seed : int
        Realisation of the small scales.
    device : {"auto", "cpu", "cuda"}
    dtype : {"auto", "float32", "bfloat16"}
        Number format of the network. "auto" takes bfloat16 where the machine has instructions for it and
        the model's card says that P(k) changes by less than 0.1%.
    chunk : int, optional
        Side of a chunk [LR sites]; chosen from the lattice by default.
    region : three (low, high) pairs, optional
        Only the chunks that meet this part of the box, comoving [Mpc/h].
    eulerian : bool
        The region is one of the evolved box, not of the lattice: chunks whose particles can reach it.
    flavour : {"map2map", "srs"}, optional
        For `.pt` files, see `load_generator`.
    cache_size : float or str
        Bytes, or "1GB", of computed chunks that are kept, so that FFTPower and then FOF, or Position and
        then Velocity, run the network once where it fits.
    factor : int, optional
        Resolution ratio: of the interpolation (8 by default), else checked against the model.
    force : bool
        Warn, instead of raising, where snapshot and model card disagree.
    progress : bool
        Show a bar, in a terminal or a notebook, while the network runs: rank 0's share.
    phases : nbodykit CatalogSource, str or Path, optional
        Initial conditions of an HR run of the same box, which a path opens: the catalogue has their
        halos. Drawn from `seed` if not given. For models that are given the phases, as the next are.
    power : str, optional
        File of the linear power spectrum, see `LinearPower.read`.
    sigma8, n_s : float, optional
        Amplitude and index of the linear power spectrum by CLASS, without a file. By default the
        amplitude is measured from the snapshot.

    Raises
    ------
    InputError
        On every rank: a snapshot without a lattice, a model that does not fit it, bad options.
    """

    _cache = None  # slices and copies have none: their columns are those of what they come from

    def __init__(
        self,
        source,
        model=None,
        seed=0,
        *,
        device="auto",
        dtype=AUTO,
        chunk=None,
        region=None,
        flavour=None,
        cache_size=1e9,
        factor=None,
        force=False,
        eulerian=False,
        progress=False,
        phases=None,
        power=None,
        sigma8=None,
        n_s=None,
    ):
        if isinstance(source, str | PathLike):
            source = open_snapshot(source)
        if not isinstance(source, CatalogSource):
            raise InputError(
                f"source is of type {type(source).__name__}: a catalogue or the path of a snapshot is needed"
            )
        self.comm = comm = source.comm
        if isinstance(phases, str | PathLike):
            phases = open_snapshot(phases, comm)
        with agreement(comm):
            seed = check_seed(seed)
            cache_size = _bytes(cache_size)
            region = region_of(region)
            universe = Universe.of(source.attrs, "BoxSize", "a", "Omega0")
        options = dict(chunk=chunk, dtype=dtype, factor=factor, force=force)
        options.update(region=region, eulerian=eulerian)
        require_same(comm, seed=seed, **options, **universe.attrs)
        particles = find_lattice(source)
        if eulerian and region is not None:
            region = lagrangian_region(particles, region)
        ready = prepare_model(
            particles,
            ModelOptions(
                model, flavour, factor, device, dtype, force, phases, power, sigma8, n_s
            ),
        )  # fmt: skip
        card, grid = ready.card, choose_grid(comm, particles.lattice, chunk, region, ready.widest)
        domain = LatticeDomain(grid, comm, ready.generator.padding)
        self.card, self.grid, self.chunks, self.power = card, grid, domain.chunks, ready.power
        self.lattice = particles.lattice.refine(card.factor)
        self.inference = ready.inference(particles, grid, seed, phases)
        self.field = particles.field(domain, card.channels == 6)
        _warn_beyond(card, self.field)
        self._cache = _ChunkCache(self, cache_size, progress and comm.rank == 0)
        self._size = sum(piece.size for piece in self.chunks) * card.factor**3
        self.attrs.update(universe.attrs)
        provenance = Provenance(
            layout=NBODYKIT.name,
            seed=str(seed),
            model=card.name,
            model_hash=ready.hash,
            card=card.entries,
            factor=card.factor,
            chunk=grid.side,
            offset=self.lattice.offset,
            Nmesh=self.lattice.Nmesh,
            dtype=ready.dtype,
            power=ready.power and ready.power.source,
            initial=identity(phases),
            device=ready.device.type,
            region=region or (),
            source=str(source.attrs.get("source", repr(type(source).__name__))),
            versions=versions(),
        )
        self.attrs.update(provenance.to_attrs())
        self.attrs["ParticleMass"] = particle_mass(self.attrs, self.lattice.size) / MASS
        CatalogSource.__init__(self, comm=comm)

    def __repr__(self):
        seed = self.inference.seed
        return f"SRCatalog(size={self.size}, model={self.card.name!r}, seed={seed})"

    def _repr_html_(self):
        made, universe = Provenance.from_attrs(self.attrs), Universe.of(self.attrs)
        card = ModelCard.from_dict(made.card)
        region = f", region {made.region} Mpc/h" if made.region else ""
        rows = {
            "particles": f"of {made.Nmesh}³{region}",
            "box": f"{universe.BoxSize:g} Mpc/h, z = {universe.redshift:.4g}",
            "columns": ", ".join(self.columns),
            "from": made.source,
            "model": f"{card.name}, seed {made.seed}, {made.dtype} on {made.device}",
        }
        return html_table("SRCatalog", rows | card_rows(card))

    def stream(self, chunks, position_dtype="f4") -> Iterator[tuple[Chunk, dict]]:
        """Run the network on some of this rank's chunks; see `ChunkedInference.stream`."""
        return self.inference.stream(chunks, self.field.padded, position_dtype)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that the model gives."""
        return ("Position", "Velocity", "ID") if self.card.channels == 6 else ("Position", "ID")

    @property
    def hardcolumns(self) -> list[str]:
        own = [] if self._cache is None else list(self.names)
        return own + CatalogSource.hardcolumns.fget(self)

    def get_hardcolumn(self, col) -> da.Array:
        if self._cache is None or col not in self.names:
            return CatalogSource.get_hardcolumn(self, col)
        dtype = {"Position": "f4", "Velocity": "f4", "ID": "u8"}[col]
        pieces = []
        for chunk in self.chunks:
            n = chunk.size * self.card.factor**3
            task = dask.delayed(self._cache.column, pure=False, traverse=False)(chunk, col)
            pieces.append(da.from_delayed(task, (n,) if col == "ID" else (n, 3), dtype))
        return da.concatenate(pieces)


def choose_grid(comm, lattice, chunk, region, widest) -> ChunkGrid:
    """The chunks, of the side that was asked for or that fits. Collective."""
    with agreement(comm):
        if chunk is None:
            grid = default_grid(lattice.Nmesh, comm.size, widest, region, lattice.cell)
        else:
            grid = ChunkGrid(lattice.Nmesh, chunk).select(region, lattice.cell)
        grid.blocks(comm.size)
    if comm.rank == 0 and chunk is None:
        alone = default_grid(lattice.Nmesh, 1, widest, region, lattice.cell)
        if grid.side < alone.side:
            logger.warning("chunks made smaller, %d^3 sites, for %d ranks", grid.side, comm.size)
    return grid


def identity(phases) -> str | None:
    """Identity of the snapshot file that initial conditions come from; None if there is no file."""
    return phases.header.identity if hasattr(phases, "header") else None


def _warn_beyond(card, field):
    largest = field.largest / field.lattice.cell
    if largest > (card.displacement_range or np.inf) and field.domain.comm.rank == 0:
        logger.warning(
            "largest LR displacement is %.3g cells, the model was trained up to %.3g",
            largest,
            card.displacement_range,
        )


class _ChunkCache:
    """The latest chunks computed, up to a number of bytes.

    Columns are read chunk after chunk. So the wanted chunk and those after it are computed together,
    one in each thread, as far as the cache has room for them.
    """

    def __init__(self, catalog, limit, progress=False):
        self.catalog, self.limit = catalog, limit
        self.progress, self.bar = progress, None
        self.place = {chunk.index: place for place, chunk in enumerate(catalog.chunks)}
        self.kept, self.bytes = OrderedDict(), 0

    def column(self, chunk, name):
        if chunk.index in self.kept:
            self.kept.move_to_end(chunk.index)
            return self.kept[chunk.index][name]
        wanted = None
        for one, columns in self.catalog.stream(self._together(chunk)):
            wanted = columns if one.index == chunk.index else wanted
            self._show()
            self.kept[one.index] = columns
            self.bytes += _nbytes(columns)
            while self.bytes > self.limit and self.kept:
                self.bytes -= _nbytes(self.kept.popitem(last=False)[1])
        return wanted[name]

    def _show(self):
        """Move the bar on by a chunk; a new one begins when all chunks were computed."""
        if not self.progress:
            return
        if self.bar is None:
            # here, since importing it warns in a notebook that has no widgets
            from tqdm.auto import tqdm

            self.bar = tqdm(total=len(self.place), unit="chunk", desc="super-resolving")
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()
            self.bar = None

    def _together(self, chunk):
        """This chunk and those after it that are computed with it."""
        card, first = self.catalog.card, self.place[chunk.index]
        size = chunk.size * card.factor**3 * NBODYKIT.particle_bytes(self.catalog.names)
        count = max(1, min(self.catalog.inference.workers, int(self.limit // size)))
        following = self.catalog.chunks[first : first + count]
        return [one for one in following if one.index not in self.kept]


def _bytes(size):
    """A number of bytes, which may be in words: "1GB"."""
    try:
        number = float(parse_bytes(size) if isinstance(size, str) else size)
    except (TypeError, ValueError):
        number = np.nan
    if not number >= 0:
        raise InputError(
            f"cache_size is {one_line(repr(size), 40)}: a number of bytes, such as 1e9 or '1GB', is needed"
        )
    return min(number, 2.0**62)


def _nbytes(columns):
    return sum(values.nbytes for values in columns.values())
