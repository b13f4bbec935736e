"""The super-resolved catalogue: a snapshot, a model and a seed as an nbodykit catalogue."""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import torch
from mpi4py import MPI
from nbodykit.base.catalog import CatalogSource

from .chunks import Chunk, ChunkGrid, default_grid, region_of
from .device import choose_device
from .domain import LatticeDomain, node_ranks
from .errors import InputError, agreement, require_same
from .inference import ChunkedInference, prepare, widest_side
from .io.layout import NBODYKIT
from .models.card import ModelCard, fingerprint, interpolating
from .models.displacement import PADDING
from .models.evaluation import card_rows
from .models.html import html_table
from .models.loading import load_generator
from .noise import check_seed
from .particles import find_lattice
from .provenance import Provenance, versions
from .universe import Universe
from .weights import choose, named
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
    source : nbodykit CatalogSource
        Of `open_snapshot`, or any other with Position [Mpc/h], ID and, in attrs, BoxSize (3),
        Redshift or Time, and Omega0. The communicator is taken from it.
    model : str, optional
        A `.safetensors` or `.pt` file, the name of a shipped model, or "interpolate": trilinear
        interpolation. By default the shipped model for the snapshot's LR cell and redshift.
    seed : int
        The realisation of the small scales.
    device : {"auto", "cpu", "cuda"}
    dtype : {"float32", "bfloat16"}, optional
        What the network computes in; float32 by default.
    chunk : int, optional
        Side of a chunk [LR sites]; chosen from the lattice by default.
    region : three (low, high) pairs, optional
        Only the chunks that meet this part of the box, comoving [Mpc/h].
    eulerian : bool
        The region is one of the evolved box, not of the lattice: chunks whose particles can reach it.
    flavour : {"map2map", "srs"}, optional
        For `.pt` files, see `load_generator`.
    cache_size : float
        Bytes of computed chunks that are kept, so that FFTPower and then FOF, or Position and
        then Velocity, run the network once where it fits.
    factor : int, optional
        Resolution ratio: of the interpolation (8 by default), else checked against the model.
    force : bool
        Warn, instead of raising, where snapshot and model card disagree.
    progress : bool
        Show a bar, in a terminal or a notebook, while the network runs: rank 0's share.

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
        device="auto",
        dtype=None,
        chunk=None,
        region=None,
        flavour=None,
        cache_size=1e9,
        factor=None,
        force=False,
        eulerian=False,
        progress=False,
    ):
        self.comm = comm = source.comm
        with agreement(comm):
            check_seed(seed)
            region = region_of(region)
            universe = Universe.of(source.attrs, "BoxSize", "a", "Omega0")
        options = dict(chunk=chunk, dtype=dtype, factor=factor, force=force)
        options.update(region=region, eulerian=eulerian)
        require_same(comm, seed=seed, **options, **universe.attrs)
        particles = find_lattice(source)
        if eulerian and region is not None:
            region = lagrangian_region(particles, region)
        ready = _prepare(model, flavour, factor, particles, device, dtype or "float32", force)
        card, grid = ready.card, _choose_grid(comm, particles.lattice, chunk, region, ready.widest)
        domain = LatticeDomain(grid, comm, PADDING)
        self.card, self.grid, self.chunks = card, grid, domain.chunks
        self.lattice = particles.lattice.refine(card.factor)
        self.inference = ready.inference(particles.lattice, seed)
        self.field = particles.field(domain, card.channels == 6)
        _warn_beyond(card, self.field)
        self._cache = _ChunkCache(self, cache_size, progress and comm.rank == 0)
        self._size = sum(piece.size for piece in self.chunks) * card.factor**3
        self.attrs.update(universe.attrs)
        if "ParticleMass" in source.attrs:
            self.attrs["ParticleMass"] = float(source.attrs["ParticleMass"]) / card.factor**3
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
            dtype=dtype or "float32",
            device=ready.device.type,
            region=region or (),
            source=str(source.attrs.get("source", repr(type(source).__name__))),
            versions=versions(),
        )
        self.attrs.update(provenance.to_attrs())
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


@dataclass(frozen=True)
class _Ready:
    """A model prepared for one snapshot: at its redshift and in its units, on this rank's device."""

    card: ModelCard
    hash: str
    generator: torch.nn.Module
    units: np.ndarray
    device: torch.device
    widest: int

    def inference(self, lattice, seed):
        return ChunkedInference(
            self.generator, self.card.factor, lattice, self.units, seed, self.device
        )


def _prepare(model, flavour, factor, particles, device, dtype, force):
    """Load the model, hold its card against the snapshot and make it ready. Collective."""
    comm, universe = particles.catalog.comm, particles.universe
    node = node_ranks(comm)
    with agreement(comm):
        cell, velocity = particles.lattice.cell, "Velocity" in particles.catalog.columns
        network, card = load_model(
            model, flavour, cell, universe.redshift, 6 if velocity else 3, factor
        )
        _check_fit(card, factor, cell, universe, velocity, force, comm)
        network = network.at(universe.a)
        units = np.ones(card.channels)
        if card.network != "interpolate":
            units = card.normalization(universe.Omega0).units(universe.a, card.channels)
        device = choose_device(device, *node)
        generator = prepare(network, device, dtype)
        widest = widest_side(generator, device)
        identity = fingerprint(network, card)
    require_same(comm, model=identity, device=device.type)
    if card.caution and comm.rank == 0:
        logger.warning("%s: %s", card.name, card.caution)
    return _Ready(card, identity, generator, units, device, comm.allreduce(widest, MPI.MIN))


def _choose_grid(comm, lattice, chunk, region, widest):
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

    Columns are looked at chunk after chunk, so as many chunks are computed together, from the one
    that is wanted on, as there are threads, if there is room for them.
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


def _nbytes(columns):
    return sum(values.nbytes for values in columns.values())


def load_model(
    model, flavour, cell, redshift, channels, factor=None
) -> tuple[torch.nn.Module, ModelCard]:
    """The network and card that a user's `model` stands for.

    Parameters
    ----------
    model : str or None
        A path, the name of a shipped model, "interpolate", or None for the default model for this
        cell and redshift.
    flavour : str or None
    cell, redshift : float
        Of the snapshot: LR spacing [Mpc/h].
    channels : int
        What the snapshot has: 3, or 6 with velocities.
    factor : int, optional
        Of the interpolation.
    """
    interpolate = str(model) == "interpolate"
    if (model is None or interpolate) and flavour is not None:
        raise InputError(f"flavour {flavour!r} goes with a .pt checkpoint: name it by --model")
    if interpolate:
        return interpolating(channels, 8 if factor is None else factor)
    model = choose(cell, redshift, channels) if model is None else named(model)
    return load_generator(model, flavour)


def _check_fit(card, factor, cell, universe, velocity, force, comm):
    problem = card.disagreement(cell, universe.redshift, universe.Omega0)
    if factor is not None and factor != card.factor:
        problem = f"factor {factor} was asked for but model {card.name} has factor {card.factor}"
    if card.channels == 6 and not velocity:
        raise InputError(
            f"model {card.name} has 6 channels but the snapshot has no Velocity, so 3: use a 3-channel model"
        )
    if problem and not force:
        raise InputError(f"{problem}: choose a model that fits, or --force")
    if problem and comm.rank == 0:
        logger.warning("%s: going on as forced", problem)
